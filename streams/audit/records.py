"""Records of the log, decoded for people and programs: `AuditRecord`, the same for all four topics.

decoding.py makes one of a record of the log. The cheap fields are there at once; arguments, values and
replies are decoded when they are first asked for, so that a scan that filters costs little.

Laws [test_audit.py]
- A record that cannot be decoded is still a record: of type `unreadable`, with the reason in `error`.
- What a property or `as_json` returns has its secrets masked. `detail` is the record as it lies on the log,
  for programs that fold or rerun it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec

from perdure.schemas.calls import call_key
from perdure.schemas.commands import CALL, Command, parse_admitted, parse_call
from perdure.schemas.errors import CallerError
from perdure.schemas.journal import (
    Base,
    Claim,
    Entry,
    EntryRecord,
    Header,
    JournalRecord,
    Migration,
    NoOp,
    in_runs,
)
from perdure.schemas.json_preview import json_preview
from perdure.schemas.masking import mask_text, mask_value
from perdure.schemas.replies import Reply
from perdure.schemas.values import decode_value
from perdure.streams.log.base import LogRecord, Topic

COMMAND, ENTRY, REPLY, DEAD, UNREADABLE = "command", "entry", "reply", "dead", "unreadable"
_NEVER_SHOWN = frozenset(("seal", "perdure-seal"))
Detail = Command | JournalRecord | Reply | LogRecord | None


class AuditRecord(msgspec.Struct, eq=False, kw_only=True):
    """One record of the log.

    topic, partition, offset: its place.
    time_ms: of an entry the log time of its turn, otherwise the stamp of the record, in ms since 1970.
    type: `command`, `entry`, `reply`, `dead`; of the journal also `header`, `claim`, `no-op`, `migration`,
        `base`; `frame` and `other` among the replies; `unreadable`.
    object: the object's key `Namespace/name`; empty if it names none.
    kind: of a command or entry: fetch, call, alarm, socket or admin.
    method: HTTP's, the RPC method's or the alarm's name.
    path: of a fetch.
    caller: the principal, or `@` and the key of the object that called; empty: anonymous.
    outcome: of an entry or reply: ok, refused, failed, rejected, parked, unavailable, forwarded.
    id: the command's id.
    command: the offset of the command of an entry or reply, in its partition; -1: none.
    epoch, seq: of a record of the journal that the chain links; -1 for others.
    void: True for a record of the journal that does not count: it is of an epoch that was over.
    detail: the record as it lies on the log, with nothing masked.
    """

    topic: str
    partition: int
    offset: int
    time_ms: int
    type: str
    object: str = ""
    kind: str = ""
    method: str = ""
    path: str = ""
    caller: str = ""
    outcome: str = ""
    id: str = ""
    command: int = -1
    epoch: int = -1
    seq: int = -1
    void: bool = False
    unreadable: str = ""
    detail: Detail = None

    @property
    def place(self) -> str:
        """Its place as `topic:partition:offset`."""
        return f"{self.topic}:{self.partition}:{self.offset}"

    @property
    def shown_path(self) -> str:
        """The path with secrets masked, for display."""
        return mask_text(self.path) if self.path else ""

    @property
    def namespace(self) -> str:
        """The object's namespace."""
        return self.object.partition("/")[0]

    @property
    def name(self) -> str:
        """The object's name."""
        return self.object.partition("/")[2]

    @property
    def time(self) -> datetime:
        """Its time."""
        return datetime.fromtimestamp(self.time_ms / 1000, UTC)

    @property
    def entry(self) -> Entry | None:
        """The entry, of a record that is one."""
        return self.detail.entry if isinstance(self.detail, EntryRecord) else None

    # What was requested

    @property
    def body(self) -> bytes | None:
        """The body of the request as it was sent, not masked; None if it is not on record."""
        if isinstance(self.detail, Command):
            return self.detail.body
        return None if (entry := self.entry) is None else entry.body

    @property
    def request(self) -> Any:
        """The body of the request for display: JSON as its value, other text as str, bytes as `$bytes`; None
        if there is none or it is not on record."""
        body = self.body
        return None if not body else shown_body(body)

    @property
    def args(self) -> list[Any] | None:
        """The arguments of a call; None of anything else, and where they are not on record."""
        call = self._call()
        return None if call is None else call[0]

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """The named arguments of a call, as `args`."""
        call = self._call()
        return None if call is None else call[1]

    def _call(self) -> tuple[list[Any], dict[str, Any]] | None:
        body = self.body
        if self.kind != CALL or not body:
            return None
        try:
            _, args, kwargs = parse_call(body)
        except CallerError:
            return None
        return mask_value(args), mask_value(kwargs)

    # What it did

    @property
    def values(self) -> dict[str, Any]:
        """The values that the turn put, decoded, by name; without perdure's own hidden ones."""
        entry = self.entry
        return {} if entry is None else shown_values(entry.puts)

    @property
    def deletes(self) -> list[str]:
        """The names of the values that the turn deleted."""
        entry = self.entry
        return [] if entry is None else [name for name in entry.deletes if not name.startswith("\0")]

    @property
    def cleared(self) -> bool:
        """True if the turn removed all values and alarms, before what it put."""
        entry = self.entry
        return entry is not None and entry.clear

    @property
    def sends(self) -> list[dict[str, Any]]:
        """The messages that the turn sent to other objects: object, kind, method, args, kwargs, partition."""
        entry = self.entry
        return [] if entry is None else [sent for out in entry.outbox if (sent := _sent(out)) is not None]

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """The alarms that the turn set, put off or removed (`due_ms` None)."""
        entry = self.entry
        if entry is None:
            return []
        changes = (each for each in entry.alarms if not each.name.startswith("\0"))
        return [{"name": each.name, "due_ms": each.due_ms, "attempt": each.attempt} for each in changes]

    @property
    def reply(self) -> Reply | None:
        """The reply as it lies on the log, not masked."""
        if isinstance(self.detail, Reply):
            return self.detail
        return None if (entry := self.entry) is None else entry.reply

    @property
    def status(self) -> int:
        """The HTTP status of the reply; 0 if it is an error or there is none."""
        return 0 if (reply := self.reply) is None else reply.status

    @property
    def result(self) -> Any:
        """The body of the reply for display; of a call what its method returned."""
        if (reply := self.reply) is None or not reply.body:
            return None
        shown = shown_body(reply.body)
        return shown["result"] if self.kind == CALL and type(shown) is dict and len(shown) == 1 else shown

    @property
    def error(self) -> dict[str, Any] | None:
        """The error of the reply, code, message and detail; or why a record is unreadable or dead."""
        if self.unreadable:
            return {"code": self.type, "message": mask_text(self.unreadable)}
        if (reply := self.reply) is None or reply.error is None:
            return None
        error = reply.error
        return {
            "code": error.code,
            "message": mask_text(error.message),
            **({} if error.detail is None else {"detail": mask_value(error.detail)}),
        }

    @property
    def cause(self) -> dict[str, Any] | None:
        """The turn that called or sent this command: its object, and the place of its own command.

        None for a command of a client, and where only the object that called is known (`caller`).
        """
        detail = self.detail
        if isinstance(detail, Command):
            waiting, client_key = detail.chain[-1] if detail.chain else "", detail.client_key
        else:
            entry = self.entry
            waiting, client_key = ("", None) if entry is None else (entry.cause, entry.client_key)
        if waiting:
            key, _, place = waiting.rpartition("@")
            partition, _, offset = place.partition(":")
            return {"object": key, "partition": int(partition), "offset": int(offset)}
        key_ = None if client_key is None else call_key(self.caller, client_key)
        if key_ is None or key_.partition < 0:
            return None
        return {"object": self.caller[1:], "partition": key_.partition, "offset": key_.offset}

    def as_json(self) -> dict[str, Any]:
        """The record as types of JSON, without fields that are empty; secrets are masked."""
        fields: dict[str, Any] = {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "time": self.time.isoformat(timespec="milliseconds"),
            "time_ms": self.time_ms,
            "type": self.type,
            "object": self.object,
            "kind": self.kind,
            "method": self.method,
            "path": self.shown_path,
            "args": self.args,
            "kwargs": self.kwargs,
            "request": None if self.kind == CALL else self.request,
            "caller": self.caller,
            "id": self.id,
            "command": f"{self.partition}:{self.command}" if self.command >= 0 else None,
            "cause": self.cause,
            "outcome": self.outcome,
            "puts": self.values,
            "deletes": self.deletes,
            "cleared": self.cleared,
            "alarms": self.alarms,
            "sends": self.sends,
            "status": self.status,
            "result": self.result,
            "error": self.error,
            "void": self.void,
        }
        if self.epoch >= 0:
            fields |= {"epoch": self.epoch, "seq": self.seq}
        fields |= _more(self.detail)
        empty = ("", None, False)
        kept = {
            name: value
            for name, value in fields.items()
            if not (value in empty if type(value) in (str, bool, type(None)) else value in ([], {}))
        }
        kept |= {name: fields[name] for name in ("partition", "offset")}
        if self.args is not None:
            kept["args"] = self.args  # also if there are none: it was called
        if not self.status:
            kept.pop("status", None)
        preview: dict[str, Any] = json_preview(kept)
        return preview


def _more(detail: Detail) -> dict[str, Any]:
    """What only some records have, by name."""
    if isinstance(detail, EntryRecord | NoOp):
        return {"done": in_runs(detail.done)}
    if isinstance(detail, Header):
        return {"app": detail.app, "partitions": detail.partitions}
    if isinstance(detail, Claim):
        return {"node": detail.node, "host": detail.host, "pid": detail.pid}
    if isinstance(detail, Migration):
        return {"migration": msgspec.to_builtins(detail.step)}
    if isinstance(detail, Base):
        return {"start": detail.start, "snapshot": detail.snapshot}
    if isinstance(detail, Command):
        headers = {name: value for name, value in detail.headers if name not in _NEVER_SHOWN}
        return {"headers": mask_value(headers)}
    return {}


def shown_body(body: bytes) -> Any:
    """A body for display: JSON as its value, other text as str, anything else as bytes; secrets masked."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return body
    try:
        return mask_value(json.loads(text))
    except (ValueError, RecursionError):
        return mask_text(text)


def shown_values(puts: dict[str, bytes]) -> dict[str, Any]:
    """Stored values for display, by name: decoded, masked, without perdure's own hidden ones."""
    return {
        name: mask_value(stored_value(encoded), name)
        for name, encoded in puts.items()
        if not name.startswith("\0")
    }


def stored_value(encoded: bytes) -> Any:
    """A stored value; its bytes if this version cannot decode it."""
    try:
        return decode_value(encoded)
    except Exception:  # noqa: BLE001 - of bytes that any version may have written
        return encoded


def _sent(out: Any) -> dict[str, Any] | None:
    """A message in an outbox; None if the record is a frame or a dead letter."""
    if out.topic != Topic.COMMANDS.value:
        return None
    try:
        command = parse_admitted(out.key, out.value, out.headers)
    except CallerError as error:
        return {"object": (out.key or b"").decode("utf-8", "replace"), "error": str(error)}
    sent = {"object": command.key, "kind": command.kind, "method": command.method, "partition": out.partition}
    if command.kind == CALL:
        _, args, kwargs = parse_call(command.body)
        sent |= {"args": mask_value(args), "kwargs": mask_value(kwargs)}
    return sent
