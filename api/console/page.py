"""The pages of the console: each asks `/admin` and has a template show the answer.

GET  /console                               what is wrong: parked, failed, dead, partitions that do not serve
GET  /console/objects[?namespace=&prefix=]  objects by their name
GET  /console/objects/{namespace}/{name}    an object now, or `at` a journal offset, with its history
POST /console/objects/{namespace}/{name}    `act`: call, pause, resume or delete
GET  /console/log[?where=…]                 the last records, and those to come
GET  /console/partitions
GET  /console/sql[?query=&at=]              a question over all objects and records
POST /console/parked/{id}                   `act`: redrive or drop
POST /console/dead/{id}                     `act`: redrive
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from perdure.api.admin.audit_pages import journal_offset
from perdure.api.console.rendering import ASSETS, asset, object_path, rendered
from perdure.api.gateway import Gateway
from perdure.api.pages import Page, PageRequest, Refused, known_only, nothing_behind, only
from perdure.api.problems import Problem, problem_of, problem_of_reply
from perdure.api.replies import ReplyFuture
from perdure.schemas.commands import CALL, call_body, parse_json
from perdure.schemas.errors import MalformedCommand, PerdureError
from perdure.schemas.keys import object_key

SHOWN = 50  # turns, failures, objects on a page
ROWS, BARS = 500, 40  # of an answer in SQL, and how many of them are drawn
_DONE = 300  # the first status of a response that is not a success
_OBJECT_ACTS = {
    "pause": "Its commands wait until it is resumed; nothing is lost.",
    "resume": "Its commands that wait run.",
    "delete": "All its values, alarms and sockets are removed. The journal keeps its history.",
}
_PARKED_ACTS = {
    "redrive": "It runs again, as a new command.",
    "drop": "It is given up: it will not run. Its record stays on the log.",
}
_DEAD_ACTS = {"redrive": "It is sent again, as a command."}


def console_page(admin: Page, gateway: Gateway, app: str, *, guarded: bool) -> Page:
    """The handler of /console.

    admin: the handler of /admin, which answers what is shown.
    gateway: calls of a person are submitted to it.
    app: the app's name.
    guarded: True with access control: a person can sign out.
    """
    return _Console(admin, gateway, app, guarded=guarded).page


class _Console:
    def __init__(self, admin: Page, gateway: Gateway, app: str, *, guarded: bool) -> None:
        self._admin = admin
        self._gateway = gateway
        self._app = app
        self._guarded = guarded

    async def page(self, request: PageRequest) -> Problem:
        """The response to a request; of an error a page that shows it."""
        try:
            return await self._page(request)
        except (Refused, PerdureError) as error:
            status, headers, body = error.problem if isinstance(error, Refused) else problem_of(error)
            kept = [(name, value) for name, value in headers if name in (b"allow", b"retry-after")]
            shown = rendered("error", status, **self._frame(request, ""), problem=json.loads(body))
            return status, [*shown[1], *kept], shown[2]

    async def _page(self, request: PageRequest) -> Problem:
        match request.parts:
            case ():
                only(request, "GET")
                return await self._problems(request)
            case (name,) if name in ASSETS:
                only(request, "GET")
                return asset(name)
            case ("objects",):
                only(request, "GET")
                return await self._objects(request)
            case ("objects", namespace, name):
                only(request, "GET", "POST")
                if request.method == "POST":
                    return await self._act_on_object(request, namespace, name)
                return await self._object(request, namespace, name)
            case ("parked" | "dead" as what, id_):
                only(request, "POST")
                return await self._settle(request, what, id_)
            case ("log",):
                only(request, "GET")
                return await self._log(request)
            case ("log", "events"):
                return await self._admin(request)
            case ("partitions",):
                only(request, "GET")
                content = await self._ask(request, "partitions")
                return rendered("partitions", **self._frame(request, "partitions"), **content)
            case ("sql",):
                only(request, "GET")
                return await self._sql(request)
        raise nothing_behind("console", request)

    def _frame(self, request: PageRequest, here: str) -> dict[str, Any]:
        """What each page shows around its content; `here` is its place in the navigation."""
        principal = "" if request.grant is None else request.grant.principal
        return {"app": self._app, "here": here, "principal": principal, "guarded": self._guarded}

    # What /admin answers

    async def _ask(self, request: PageRequest, *parts: str, **query: str) -> Any:
        """The content of a page of administration. Raises what it raises."""
        return json.loads((await self._admin_answers(request, "GET", parts, query))[2])

    async def _admin_answers(
        self,
        request: PageRequest,
        method: str,
        parts: tuple[str, ...],
        query: Mapping[str, str],
        body: bytes = b"",
    ) -> Problem:
        async def whole() -> bytes:
            return body

        given = {name: value for name, value in query.items() if value}
        answer = await self._admin(PageRequest(method, parts, given, request.grant, whole))
        if answer[0] >= _DONE:
            raise Refused(answer)
        return answer

    # Pages

    async def _problems(self, request: PageRequest) -> Problem:
        failed = "outcome in ['failed', 'parked', 'unavailable']"
        parked, dead, partitions, log = await asyncio.gather(
            self._ask(request, "parked", limit=str(SHOWN)),
            self._ask(request, "dead", limit=str(SHOWN)),
            self._ask(request, "partitions"),
            self._ask(request, "log", where=failed, limit=str(SHOWN)),
        )
        stuck = [each for each in partitions["partitions"] if each["state"] not in ("serving", "elsewhere")]
        codes: dict[str, dict[str, Any]] = {}
        for record in log["records"]:
            code = record.get("error", {}).get("code", record.get("outcome", ""))
            of_code = codes.setdefault(code, {"count": 0, "objects": {}, "newest": record})
            of_code["count"] += 1
            of_code["objects"].setdefault(record.get("object", ""), record)
        content = {"parked": parked["parked"], "dead": dead["dead"], "stuck": stuck, "codes": codes}
        paused = sum(each["paused"] for each in partitions["partitions"])
        return rendered(
            "problems", **self._frame(request, "problems"), **content, paused=paused, where=failed
        )

    async def _objects(self, request: PageRequest) -> Problem:
        query = _known(request, "namespace", "prefix", "cursor")
        names = [each["name"] for each in (await self._ask(request, "namespaces"))["namespaces"]]
        wanted = query.get("prefix", "")
        namespace = query.get("namespace") or (names[0] if names else "")
        if "/" in wanted:  # a whole key was typed
            namespace, _, wanted = wanted.partition("/")
        page: dict[str, Any] = {"objects": [], "cursor": None}
        if namespace:
            page = await self._ask(
                request, "objects", namespace, prefix=wanted, cursor=query.get("cursor", ""), limit=str(SHOWN)
            )
        keys = [f"{namespace}/{name}" for name in page["objects"]]
        frame = self._frame(request, "objects")
        content: dict[str, Any] = {"names": names, "namespace": namespace, "prefix": wanted, "keys": keys}
        return rendered("objects", **frame, **content, cursor=page["cursor"])

    async def _object(
        self, request: PageRequest, namespace: str, name: str, called: dict[str, Any] | None = None
    ) -> Problem:
        query = {} if called else _known(request, "at", "cursor", "confirm")
        key, at = object_key(namespace, name), query.get("at", "")
        history, summary, alarms = await asyncio.gather(
            self._ask(request, "history", namespace, name, limit=str(SHOWN), cursor=query.get("cursor", "")),
            self._ask(request, "objects", namespace, name),
            self._ask(request, "objects", namespace, name, "alarms"),
        )
        turns = history["turns"]
        for turn in turns:
            turn["offset"] = int(turn["journal"].partition(":")[2])
        if at:  # the journal offset of a turn: the state behind it
            state = await self._ask(request, "state", namespace, name, at=f"offset:{journal_offset(at) + 1}")
            shown = next((turn for turn in turns if turn["offset"] == int(at)), None)
        else:
            state, shown = await self._ask(request, "objects", namespace, name, "state"), None
        confirm = query.get("confirm", "")
        return rendered(
            "object",
            **self._frame(request, "objects"),
            key=key,
            at=int(at) if at else None,
            turns=turns,
            shown=shown,
            values=state["values"],
            more=state.get("cursor"),
            history=history,
            summary=summary,
            alarms=alarms["alarms"],
            called=called,
            confirm=(confirm, _OBJECT_ACTS[confirm]) if confirm in _OBJECT_ACTS else None,
        )

    async def _log(self, request: PageRequest) -> Problem:
        names = ("topics", "namespace", "object", "method", "caller", "outcome", "since", "where", "cursor")
        query = _known(request, *names)
        page = await self._ask(request, "log", **{**query, "limit": str(SHOWN)})
        filters = {name: value for name, value in query.items() if value and name != "cursor"}
        content = {"records": page["records"][::-1], "cursor": page["cursor"], "filters": filters}
        return rendered("log", **self._frame(request, "log"), **content, newest=not query.get("cursor"))

    async def _sql(self, request: PageRequest) -> Problem:
        fields = _known(request, "query", "at")
        given = {name: value for name, value in fields.items() if value}
        answer, error = None, ""
        if "query" in given:
            body = json.dumps({**given, "limit": ROWS}).encode()
            try:
                answer = json.loads((await self._admin_answers(request, "POST", ("sql",), {}, body))[2])
            except PerdureError as refused:  # the query stays in the form
                error = str(refused)
        frame = self._frame(request, "sql")
        bars = [] if answer is None else bars_of(answer["rows"])
        return rendered(
            "sql",
            **frame,
            query=given.get("query", ""),
            at=given.get("at", ""),
            answer=answer,
            error=error,
            bars=bars,
        )

    # Changes

    async def _act_on_object(self, request: PageRequest, namespace: str, name: str) -> Problem:
        form = await _form(request)
        act = form.get("act", "")
        if act == "call":
            return await self._object(
                request, namespace, name, await self._call(request, namespace, name, form)
            )
        if act not in _OBJECT_ACTS:
            raise MalformedCommand("an act on an object is call, pause, resume or delete")
        method, parts = ("DELETE", ()) if act == "delete" else ("POST", (act,))
        await self._admin_answers(request, method, ("objects", namespace, name, *parts), {})
        return _see_other(object_path(object_key(namespace, name)))

    async def _call(
        self, request: PageRequest, namespace: str, name: str, form: Mapping[str, str]
    ) -> dict[str, Any]:
        """Call a method as the person; returns what the page shows of it."""
        method, text = form.get("method", ""), form.get("args", "").strip() or "[]"
        args = parse_json(text.encode())
        if not method or type(args) is not list:
            raise MalformedCommand(
                'a call needs a method, and its arguments as a JSON list such as ["ann", 5]'
            )
        key, reply = object_key(namespace, name), ReplyFuture()
        principal = "" if request.grant is None else request.grant.principal
        body = call_body(method, args, {})
        self._gateway.submit(reply, key, CALL, method, body=body, principal=principal)
        answer = await reply.future
        error, result = answer.reply.error, answer.reply.body
        if error is not None:
            shown = json.loads(problem_of_reply(answer.reply.outcome, error)[2])
            return {
                "method": method,
                "args": text,
                "error": f"{error.code}: {shown['detail']}",
                "result": None,
            }
        return {"method": method, "args": text, "error": "", "result": result.decode("utf-8", "replace")}

    async def _settle(self, request: PageRequest, what: str, id_: str) -> Problem:
        form = await _form(request)
        act, acts = form.get("act", ""), _PARKED_ACTS if what == "parked" else _DEAD_ACTS
        if act not in acts:
            raise MalformedCommand(f"an act on what is {what} is {' or '.join(acts)}")
        if form.get("sure") != "yes":
            frame = self._frame(request, "problems")
            return rendered("confirm", **frame, what=what, id=id_, act=act, text=acts[act])
        await self._admin_answers(request, "POST", (what, id_, act), {})
        return _see_other("/console")


def bars_of(rows: list[list[Any]]) -> list[tuple[str, float, int]]:
    """(label, number, length in percent) for each row of an answer that is a chart; nothing if it is not one.

    A chart has two columns, the second of them numbers, and at most `BARS` rows.
    """
    if not 1 < len(rows) <= BARS or any(
        len(row) != 2 or type(row[1]) not in (int, float) or row[1] < 0 for row in rows
    ):
        return []
    most = max(row[1] for row in rows) or 1
    return [(str(row[0]), row[1], round(100 * row[1] / most)) for row in rows]


def _known(request: PageRequest, *names: str) -> dict[str, str]:
    known_only(request.query, frozenset(names))
    return dict(request.query)


async def _form(request: PageRequest) -> dict[str, str]:
    try:
        return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=20))
    except ValueError as error:
        raise MalformedCommand(f"the form cannot be read: {error}") from error


def _see_other(path: str) -> Problem:
    return 303, [(b"location", path.encode()), (b"cache-control", b"no-store")], b""
