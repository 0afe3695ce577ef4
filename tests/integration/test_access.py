"""Access on a real server, from outside: who may what over HTTP, RPC, WebSockets
and the pages, and what is never kept.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from tests.integration.door import Client, asking
from tests.process import Server, run, serve, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from perdure.api.access.guard import PAGES

PATIENCE_S = 20
APP = """
from perdure import DurableObject, Response

class Room(DurableObject):
    async def fetch(self, request):
        if request.headers.get("upgrade") == "websocket":
            await self.state.accept_websocket(request)
            return Response.upgrade()
        if request.method != "GET":
            await self.add()
        return Response.json([request.path, request.query_string, dict(request.headers), await self.count()])

    async def websocket_message(self, ws, message):
        await self.add()
        ws.send(message)

    async def add(self, by: int = 1):
        count = await self.count() + by
        await self.state.put("count", count)
        return count

    async def count(self):
        return await self.state.get("count", 0)

    async def empty(self):
        await self.state.delete_all()

    async def who(self):
        return self.state.principal

class Cart(Room):
    pass
"""
WORKER = """
async def fetch(request, env):
    return Response.json([request.headers.get("authorization"), request.principal])
"""
RIGHTS = ("call:Room", "read:Room", "subscribe:Room", "metrics", "admin")
ISSUER, AUDIENCE = "https://login.example", "rooms"


def token(name: str) -> str:
    """A token that is as random as a hash, and the same each time."""
    return "pdr_" + base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).rstrip(b"=").decode()


def lines(name: str, *scopes: str, more: str = "") -> str:
    digest = hashlib.sha256(token(name).encode()).hexdigest()
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\nscopes = {json.dumps(scopes)}\n{more}\n'


def deployed(folder: Path, *config: str, worker: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "app.py").write_text(APP + (WORKER if worker else ""))
    head = 'main = "app.py"\nname = "guarded"\npartitions = 2\n'
    (folder / "perdure.toml").write_text(head + "\n".join(config))
    return folder


class Issuer:
    """Who issues JWTs: three keys, and a server that hands out the public ones as long as `up`."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.keys: dict[str, Any] = {
            "RS256": self.rsa,
            "ES256": ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate(),
        }
        makers: dict[str, Callable[..., Any]] = {
            "RS256": RSAAlgorithm.to_jwk,
            "ES256": ECAlgorithm.to_jwk,
            "EdDSA": OKPAlgorithm.to_jwk,
        }
        public = [
            {**makers[name](key.public_key(), as_dict=True), "kid": name} for name, key in self.keys.items()
        ]
        self.jwks = json.dumps({"keys": public}).encode()
        self.fetched = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetched += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(issuer.jwks)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def made(
        self, algorithm: str = "RS256", *, key: Any = None, head: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token that is good but for what is said here; a claim that is None is left out."""
        good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": int(time.time()) + 600}
        told = good | {"scope": "openid call:Room read:Room subscribe:Room"} | claims
        told = {name: value for name, value in told.items() if value is not None}
        header = {"kid": algorithm} | (head or {})
        return jwt.encode(told, key or self.keys[algorithm], algorithm=algorithm, headers=header)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def server(place: Path, issuer: Issuer) -> Iterator[Server]:
    """One server, with a token for each right alone and one for all but that."""
    config = [lines(f"only-{right}", right) for right in RIGHTS]
    for right in RIGHTS:
        others = [each for each in RIGHTS if each != right and (right, each) != ("metrics", "admin")]
        config.append(lines(f"but-{right}", *others, "call:Cart", "read:Cart", "subscribe:Cart"))
    config.append(lines("whole", "call:*", "read:*", "subscribe:*", "admin"))
    config.append(lines("over", "call:*", "read:*", "subscribe:*", more="expires = 2020-01-01T00:00:00Z"))
    config.append(lines("slow", "call:*", "read:*", "subscribe:*"))
    config.append(f'[jwt]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\njwks_url = "{issuer.url}"\n')
    config.append("[quotas.slow]\nrequests_per_s = 0.01\nburst = 3\n")
    config.append("[quotas.slow2]\nrequests_per_s = 0.01\nburst = 2\n")
    config += [lines(each, "call:*", "subscribe:*") for each in ("chat", "bulk", "slow2", "maker")]
    config.append("[quotas.maker]\nobjects = 2\n")
    config.append("[quotas.chat]\nrequests_per_s = 2\nburst = 3\n")
    config.append("[quotas.bulk]\nrequests_per_s = 1000\nbody_bytes_per_s = 10\n")
    with serve(deployed(place / "app", *config), place / "data") as running:
        yield running


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def code_of(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    return str(response.json()["type"]).rpartition(":")[2]


def joined(server: Server, path: str, **options: Any) -> ClientConnection:
    url = server.url.replace("http", "ws") + path
    return connect(url, open_timeout=PATIENCE_S, close_timeout=PATIENCE_S, **options)


def asked(server: Server, request: str, credentials: str | None) -> int:
    """The status of a request of the table; 101 for a WebSocket."""
    method, path = request.split(" ")
    headers = {} if credentials is None else bearer(credentials)
    if method == "WEBSOCKET":
        try:
            joined(server, path, additional_headers=headers).close()
        except InvalidStatus as error:
            return error.response.status_code
        return 101
    body = b'{"object": "Room/a"}' if path == "/ticket" else b""
    answer = httpx.request(method, server.url + path, headers=headers, content=body, timeout=PATIENCE_S)
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
    return answer.status_code


# The table

DOCUMENT = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
TABLE = re.findall(r"^\| `(\w+ /[^`]*)` \| `?([\w:]+)`? \|$", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize(("request_", "right"), TABLE)
def test_each_row_of_the_table_both_ways(server: Server, request_: str, right: str) -> None:
    """The right alone is enough; all others together are not; no credentials, or
    ones that are over, are not.
    """
    refused = (401, 403)
    if right == "all":
        assert asked(server, request_, None) == asked(server, request_, token("unknown")) == 200
        return
    assert asked(server, request_, None) == 401
    assert asked(server, request_, token("over")) == 401
    assert asked(server, request_, token("unknown")) == 401
    if right == "known":
        assert asked(server, request_, token("only-metrics")) not in refused
        return
    assert asked(server, request_, token(f"only-{right}")) not in refused
    assert asked(server, request_, token(f"but-{right}")) == 403


def test_the_table_has_every_page_of_perdures_own() -> None:
    """And each verb and door of objects."""
    paths = {request.split("/")[1] for request, _ in TABLE} - {"anything"}
    assert paths == set(PAGES)
    assert {right for _, right in TABLE} >= {*RIGHTS, "known", "all"}
    assert len(TABLE) == len(set(TABLE)) == 22


# HTTP


def test_what_is_not_there_cannot_be_told_from_what_is_forbidden(server: Server) -> None:
    """A namespace that is not there is 403 for whoever has no right to it, and 404 for who has one to all."""
    with httpx.Client(base_url=server.url) as client:
        for path in ("/objects/Nope/a", "/objects/Cart/a", "/objects//a", "/objects/%52oom/a"):
            told = client.get(path, headers=bearer(token("only-read:Room")))
            assert (told.status_code, code_of(told)) == (403, "forbidden"), path
        told = client.get("/objects/Nope/a", headers=bearer(token("whole")))
        assert (told.status_code, code_of(told)) == (404, "unknown-namespace")


def test_a_connection_is_as_good_as_each_of_its_requests(server: Server) -> None:
    """What was found out about one token is not used for the next, on one connection, pipelined or not."""
    good = f"authorization: Bearer {token('only-read:Room')}".encode()
    wrong = f"authorization: Bearer {token('only-read:Roo')}".encode()
    port = int(server.url.rpartition(":")[2])
    with Client(port) as client:
        again = [((good,), 200)] * 4
        for headers, status in (*again, ((), 401), ((wrong,), 401), *again):
            assert client.ask(b"GET /objects/Room/conn", *headers).status == status
        assert client.ask(b"POST /objects/Room/conn", good).status == 403
        assert client.ask(b"GET /objects/Cart/conn", good).status == 403
        assert client.ask(b"GET /objects/Room/conn", good, good).status == 401
        client.send(
            *(
                asking(b"POST /objects/Room/conn", *each, body=b"x" * 100)
                for each in ((), (good,), (wrong,), ())
            ),
            asking(b"GET /objects/Room/conn", good),
        )
        assert [client.answer().status for _ in range(5)] == [401, 403, 401, 401, 200]


def test_the_way_by_asgi_is_guarded_alike(server: Server) -> None:
    """`Expect` takes a request off the direct way: the same rights, quotas and principals hold there."""
    with httpx.Client(base_url=server.url, headers={"expect": "100-continue"}) as client:

        def status(credentials: str, path: str = "/rpc/Room/asgi/add", **more: Any) -> int:
            return client.post(path, headers=bearer(credentials) | more, content=b" ").status_code

        assert client.post("/rpc/Room/asgi/add").status_code == 401
        assert status(token("unknown")) == status(token("over")) == 401
        assert status(token("but-call:Room")) == 403
        assert status(token("only-call:Room")) == 200
        assert [status(token("slow2")) for _ in range(3)] == [200, 200, 429]
        keyed = [
            client.post("/rpc/Room/asgi/add", headers={"idempotency-key": "k", **bearer(token(each))}).json()
            for each in ("whole", "only-call:Room", "whole")
        ]
        assert [each["result"] for each in keyed] == [4, 5, 4]


def test_a_request_without_the_right_appends_nothing(server: Server) -> None:
    """The count stays, and a command that may is the next one on its partition's log."""
    with httpx.Client(base_url=server.url, headers=bearer(token("whole"))) as client:
        before = client.post("/objects/Room/none").headers["perdure-command"]
        for _ in range(3):
            assert client.post("/objects/Room/none", headers=bearer(token("only-metrics"))).status_code == 403
            assert client.post("/rpc/Room/none/add", headers={"authorization": "none"}).status_code == 401
        after = client.post("/objects/Room/none").headers["perdure-command"]
        assert int(after.split(":")[1]) == int(before.split(":")[1]) + 1


def test_keys_are_each_principals_own(server: Server, issuer: Issuer) -> None:
    """The same idempotency key of two of them is two requests; nobody gets another's stored answer."""
    with httpx.Client(base_url=server.url) as client:
        counts = [
            client.post("/rpc/Room/keyed/add", headers={"idempotency-key": "k", **bearer(each)}).json()
            for each in (token("whole"), issuer.made(), token("whole"), issuer.made(), issuer.made(sub="bob"))
        ]
        assert [each["result"] for each in counts] == [1, 2, 1, 2, 3]


def test_a_token_ends_on_a_connection_that_stays(server: Server, issuer: Issuer) -> None:
    """A JWT that has been good a moment ago is refused once its time and the leeway are over."""
    short = issuer.made(exp=int(time.time()) - 28)
    statuses: list[int] = []
    with httpx.Client(base_url=server.url, headers=bearer(short)) as client:
        until = time.monotonic() + PATIENCE_S
        while not statuses or statuses[-1] == 200:
            assert time.monotonic() < until
            statuses.append(client.get("/objects/Room/short").status_code)
    assert statuses[0] == 200
    assert statuses[-1] == 401


def test_the_command_line_has_a_token(server: Server) -> None:
    """`perdure call` takes it from the environment, and is refused without."""
    environ = {"PERDURE_URL": server.url, "PERDURE_TOKEN": token("only-call:Room")}
    told = run("call", "Room/cli", "add", "2", environ=environ)
    assert (told.returncode, told.stdout) == (0, "2\n"), told.stderr
    told = run("call", "Room/cli", "add", environ={"PERDURE_URL": server.url})
    assert told.returncode == 1
    assert "unauthenticated" in told.stderr


def test_a_token_is_made(tmp_path: Path) -> None:
    """What `perdure token create` prints can be used: the lines know the token, and do not hold it."""
    told = run("token", "create", "maker", "--scope", "call:Room", "--expires", "2090-01-01T00:00:00Z")
    made = re.search(r"pdr_[\w-]{43}", told.stderr)
    assert made is not None, told
    config = told.stdout
    assert made[0] not in config
    with serve(deployed(tmp_path / "app", config), tmp_path / "data") as server:
        assert asked(server, "POST /rpc/Room/a/add", made[0]) == 200
        assert asked(server, "GET /objects/Room/a", made[0]) == 403
    assert run("token", "create", "maker").returncode == 2
    assert run("token", "create", "@maker", "--scope", "admin").returncode == 2
    assert run("token", "create", "maker", "--scope", "everything").returncode == 2
    assert run("token", "create", "maker", "--scope", "admin", "--expires", "soon").returncode == 2


def test_a_quota_is_kept(server: Server) -> None:
    """After the burst 429, with when to come again, and nothing appended; others are not concerned."""
    slow = bearer(token("slow"))
    with httpx.Client(base_url=server.url) as client:
        told = [client.post("/objects/Room/quota", headers=slow) for _ in range(5)]
        assert [each.status_code for each in told] == [200, 200, 200, 429, 429]
        assert code_of(told[3]) == "over-quota"
        assert 90 < int(told[3].headers["retry-after"]) <= 100
        assert client.post("/ticket", headers=slow, content=b"{}").status_code == 429
        count = client.get("/objects/Room/quota", headers=bearer(token("whole"))).json()[3]
        assert count == 3


def turn_of_message(server: Server, key: str) -> dict[str, Any] | None:
    """What the journal says of the last message of a WebSocket."""
    told = httpx.get(f"{server.url}/admin/objects/{key}/turns", headers=bearer(token("whole"))).json()
    return next((each for each in told["turns"] if each["summary"].startswith("socket message")), None)


def test_a_quota_of_objects_is_kept(server: Server) -> None:
    """Of many at once two are made; 429 for the others, by HTTP and by a message of
    a WebSocket, until one is emptied.
    """
    maker = bearer(token("maker"))
    with httpx.Client(base_url=server.url, headers=maker) as client, ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda n: client.post(f"/rpc/Room/made{n}/add"), range(8)))
        assert sorted(each.status_code for each in told) == [200, 200] + [429] * 6
        over = next(n for n in range(8) if told[n].status_code == 429)
        made = next(n for n in range(8) if told[n].status_code == 200)
        assert (code_of(told[over]), told[over].headers["retry-after"]) == ("over-quota", "60")
        assert "maker has made 2 objects, and may have made 2" in told[over].json()["detail"]
        with joined(server, f"/objects/Room/made{over}", additional_headers=maker) as socket:
            socket.send("write")
            until(lambda: turn_of_message(server, f"Room/made{over}") is not None)
        told_of = turn_of_message(server, f"Room/made{over}")
        assert told_of is not None
        assert (told_of["principal"], told_of["code"]) == ("maker", "over-quota")
        assert client.post(f"/rpc/Room/made{over}/count").json() == {"result": 0}
        assert client.post(f"/rpc/Room/made{over}/who").json() == {"result": "maker"}
        assert client.post(f"/rpc/Room/made{made}/add").json() == {"result": 2}
        assert client.post(f"/rpc/Room/made{made}/empty").status_code == 200
        assert client.post(f"/rpc/Room/made{over}/add").json() == {"result": 1}


def test_bodies_count_in_a_quota(server: Server) -> None:
    """A large one passes, and the next waits for it, with its size said or in
    chunks; without a body it may.
    """
    with httpx.Client(base_url=server.url, headers=bearer(token("bulk"))) as client:
        assert client.post("/objects/Room/bulk", content=b"x" * 5000).status_code == 200
        said = client.post("/objects/Room/bulk", content=b"x")
        assert (said.status_code, 400 < int(said.headers["retry-after"]) <= 500) == (429, True)
        assert client.post("/objects/Room/bulk", content=iter([b"x"])).status_code == 429
        assert client.post("/objects/Room/bulk").json()[3] == 2


def test_messages_count_in_a_quota(server: Server) -> None:
    """A socket that is over it is read from later; nothing is lost, and it stays open."""
    begun_s = time.monotonic()
    with joined(server, "/objects/Room/chat", additional_headers=bearer(token("chat"))) as client:
        for number in range(6):  # two at once beside the request that opened it, then two a second
            client.send(str(number))
        assert [client.recv(timeout=PATIENCE_S) for _ in range(6)] == [str(number) for number in range(6)]
    assert time.monotonic() - begun_s > 1.9


# JSON Web Tokens


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_jwt_is_taken(server: Server, issuer: Issuer, algorithm: str) -> None:
    """Each allowed algorithm, with its scopes and no others."""
    made = issuer.made(algorithm)
    assert asked(server, "POST /rpc/Room/a/add", made) == 200
    assert asked(server, "WEBSOCKET /objects/Room/a", made) == 101
    assert asked(server, "GET /objects/Cart/a", made) == 403
    assert asked(server, "GET /metrics", made) == 403
    listed = issuer.made(algorithm, aud=["other", AUDIENCE], scope=["metrics"])
    assert asked(server, "GET /metrics", listed) == 200


def unsigned(head: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """A token made by hand: what a library refuses to make."""

    def part(raw: bytes) -> bytes:
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    told = part(json.dumps(head).encode()) + b"." + part(json.dumps(claims).encode())
    return (told + b"." + part(sign(told))).decode()


def forged(issuer: Issuer) -> dict[str, str]:
    """Tokens that must not be taken, by what is wrong with them."""
    now, other = int(time.time()), rsa.generate_private_key(public_exponent=65537, key_size=2048)
    good = issuer.made()
    claims = jwt.decode(good, options={"verify_signature": False})
    public = issuer.rsa.public_key()
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, body, signature = good.split(".")
    return {
        "expired": issuer.made(exp=now - 31),
        "no exp": issuer.made(exp=None),
        "not yet": issuer.made(nbf=now + 60),
        "another audience": issuer.made(aud="others"),
        "no audience": issuer.made(aud=None),
        "another issuer": issuer.made(iss="https://evil.example"),
        "an issuer that begins so": issuer.made(iss=ISSUER + ".evil.example"),
        "no issuer": issuer.made(iss=None),
        "no subject": issuer.made(sub=None),
        "an object's name": issuer.made(sub="@Room/a"),
        "a token's name": issuer.made(sub="whole"),
        "unknown key": issuer.made(head={"kid": "nobody"}),
        "another's key": issuer.made(key=other),
        "another key's name": issuer.made(head={"kid": "ES256"}),
        "another algorithm of the key": issuer.made("RS512", key=issuer.rsa, head={"kid": "RS256"}),
        "critical": issuer.made(head={"crit": ["x"], "x": 1}),
        "none": unsigned({"alg": "none", "kid": "RS256"}, claims, lambda _: b""),
        "None": unsigned({"alg": "None", "kid": "RS256"}, claims, lambda _: b""),
        "no algorithm": unsigned({"kid": "RS256"}, claims, lambda _: b""),
        "no key named": unsigned({"alg": "none"}, claims, lambda _: b""),
        "public key as secret": unsigned(
            {"alg": "HS256", "kid": "RS256"}, claims, lambda told: hmac.digest(pem, told, "sha256")
        ),
        "other claims": f"{head}.{body[:-8]}{'A' * 8}.{signature}",
        "no signature": f"{head}.{body}.",
        "too long": issuer.made(pad="x" * 9000),
        "no token": "a.b.c",
    }


def test_forged_and_foreign_jwts_are_refused_and_all_told_the_same(server: Server, issuer: Issuer) -> None:
    """401 at each door, with one text for all: nobody learns which part was wrong. (A client that sent none
    gets another text.)
    """
    assert asked(server, "GET /objects/Room/a", issuer.made()) == 200  # the keys are there
    texts = set()
    wrong = forged(issuer)
    for why, each in wrong.items():
        for path in ("/objects/Room/a", "/metrics"):
            answer = httpx.get(server.url + path, headers=bearer(each))
            assert answer.status_code == 401, why
            texts.add(answer.text)
        assert asked(server, "WEBSOCKET /objects/Room/a", each) == 401, why
    assert len(texts) == 1, texts
    assert "Bearer TOKEN" in httpx.get(server.url + "/objects/Room/a").text
    assert issuer.fetched <= 3  # unknown keys do not make it fetch at will


def test_without_the_issuers_keys_nobody_is_let_in(tmp_path: Path) -> None:
    """503 and no reason for the client, the reason on stderr; tokens of the
    configuration work all the same.
    """
    issuer = Issuer()
    issuer.close()
    config = f'[jwt]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\njwks_url = "{issuer.url}"\n'
    app = deployed(tmp_path / "app", lines("one", "call:*", "read:*"), config)
    with serve(app, tmp_path / "data") as server:
        answer = httpx.get(server.url + "/objects/Room/a", headers=bearer(issuer.made()))
        assert (answer.status_code, code_of(answer)) == (503, "unavailable")
        assert "127.0.0.1" not in answer.text
        assert asked(server, "WEBSOCKET /objects/Room/a", issuer.made()) == 503
        assert asked(server, "GET /objects/Room/a", token("one")) == 200
        assert "the keys of [jwt] cannot be fetched" in server.stderr()
    file = tmp_path / "app" / "keys.json"
    config = f'[jwt]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\njwks_file = "keys.json"\n'
    deployed(tmp_path / "app", config)
    told = run("serve", str(app), "--data", str(tmp_path / "data"), "--port", "0")
    assert told.returncode == 2
    assert "keys.json" in told.stderr
    file.write_bytes(issuer.jwks)
    with serve(app, tmp_path / "data") as server:
        assert asked(server, "GET /objects/Room/a", issuer.made()) == 200


# WebSockets


def ticket_of(server: Server, credentials: str, key: str = "Room/a") -> httpx.Response:
    return httpx.post(server.url + "/ticket", json={"object": key}, headers=bearer(credentials))


def test_a_ticket_opens_one_socket(server: Server) -> None:
    """Once, for its object; the object sees the rest of the query, and its messages reach it."""
    told = ticket_of(server, token("only-subscribe:Room"), "Room/tick")
    assert told.headers["cache-control"] == "no-store"
    assert told.json()["expires_in"] == 30
    ticket = told.json()["ticket"]
    assert asked(server, f"WEBSOCKET /objects/Room/other?ticket={ticket}", None) == 401
    assert asked(server, f"WEBSOCKET /objects/Cart/tick?ticket={ticket}", None) == 401
    assert asked(server, f"GET /objects/Room/tick?ticket={ticket}", None) == 401
    with joined(server, f"/objects/Room/tick?a=1&ticket={ticket}") as client:
        client.send("hello")
        assert client.recv(timeout=PATIENCE_S) == "hello"
    assert asked(server, f"WEBSOCKET /objects/Room/tick?ticket={ticket}", None) == 401
    assert asked(server, "WEBSOCKET /objects/Room/tick?ticket=nonsense", None) == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"object": "Cart/a"}', 403),
        (b'{"object": "Nope/a"}', 403),
        (b'{"object": "Room"}', 400),
        (b'{"object": 5}', 400),
        (b'{"object": "Room/a", "for": "bob"}', 400),
        (b"", 400),
    ],
)
def test_a_ticket_is_for_what_its_owner_may(server: Server, body: bytes, status: int) -> None:
    """And for an object, of one form."""
    headers = bearer(token("only-subscribe:Room"))
    assert httpx.post(server.url + "/ticket", content=body, headers=headers).status_code == status
    assert httpx.get(server.url + "/ticket", headers=headers).status_code == 405


def test_a_socket_ends_with_its_token(server: Server, issuer: Issuer) -> None:
    """1008 when the token's time is over, opened with the token or with a ticket."""
    short = issuer.made(exp=int(time.time()) - 27)
    ticket = ticket_of(server, short).json()["ticket"]
    first = joined(server, "/objects/Room/ends", additional_headers=bearer(short))
    second = joined(server, f"/objects/Room/a?ticket={ticket}")
    for client in (first, second):
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=PATIENCE_S)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008


# With a Worker


def test_with_a_worker_its_paths_are_its_own_and_objects_need_a_token(tmp_path: Path) -> None:
    """It gets every path and the credentials as they came; beside it objects
    need a token, or to be exposed.
    """
    one = lines("one", "call:Room", "metrics")
    app = deployed(tmp_path / "app", one, worker=True)
    with serve(app, tmp_path / "data") as server:
        assert httpx.get(server.url + "/any", headers=bearer("mine")).json() == ["Bearer mine", ""]
        assert httpx.get(server.url + "/any").json() == [None, ""]
        assert httpx.get(server.url + "/any", headers=bearer(token("one"))).json()[1] == "one"
        with pytest.raises(InvalidStatus) as refused:
            joined(server, "/any", additional_headers=bearer(token("one")))
        assert json.loads(refused.value.response.body or b"")[1] == "one"
        assert asked(server, "POST /rpc/Room/a/add", None) == 401
        assert asked(server, "POST /rpc/Room/a/add", token("one")) == 200
        assert asked(server, "GET /metrics", None) == 401
    with serve(app, tmp_path / "data", environ={"PERDURE_EXPOSE": "true"}) as server:
        assert asked(server, "POST /rpc/Room/a/add", None) == 200
        assert asked(server, "WEBSOCKET /objects/Room/a", None) == 101
        assert asked(server, "POST /rpc/Room/a/add", "wrong") == 401
        assert asked(server, "GET /objects/Room/a", token("one")) == 403
        assert asked(server, "GET /metrics", None) == 401
        assert asked(server, "POST /ticket", None) == 401


# What is never kept


def test_no_credential_reaches_the_log_or_the_output(tmp_path: Path, issuer: Issuer) -> None:
    """Of all that was shown, in good requests and in bad ones, nothing is in the
    data directory or was said.
    """
    config = f'[jwt]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\njwks_url = "{issuer.url}"\n'
    app = deployed(tmp_path / "app", lines("one-principal", "call:*", "read:*", "subscribe:*"), config)
    secrets = [token("one-principal"), token("wrong"), issuer.made(), issuer.made(exp=1), "cookie-9f3b"]
    with serve(app, tmp_path / "data") as server:
        assert asked(server, "WEBSOCKET /objects/Room/a", issuer.made()) == 101  # which waited for the keys
        ticket = ticket_of(server, token("one-principal")).json()["ticket"]
        secrets += [ticket, unused := ticket_of(server, token("one-principal")).json()["ticket"]]
        for each in secrets[:4]:
            more = {"cookie": "id=cookie-9f3b", "proxy-authorization": f"Bearer {each}", "x-seen": "seen-77"}
            headers = bearer(each) | more
            for path in ("/objects/Room/a?visible=visible-42", f"/objects/Room/a?ticket={unused}", "/none"):
                httpx.post(server.url + path, headers=headers)
                httpx.post(server.url + path, headers=headers, content=iter([b"chunk", b"ed"]))
                httpx.post(server.url + path, headers=headers | {"expect": "100-continue"}, content=b"x")
                httpx.post(server.url + path, headers=headers | {"connection": "upgrade", "upgrade": "h2c"})
            httpx.post(server.url + f"/rpc/Room/a/add?ticket={unused}", headers=headers)
            with_headers = {"additional_headers": headers}
            for path in ("/objects/Room/a", f"/objects/Room/a?ticket={unused}"):
                try:
                    joined(server, path, **with_headers).close()
                except InvalidStatus:
                    continue
        joined(server, f"/objects/Room/a?ticket={ticket}").close()
        server.kill()  # what a clean stop writes out is compressed, and could not be searched
        said = server.stderr()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
    for visible in ("visible-42", "seen-77", "one-principal"):
        assert visible.encode() in kept, "what is kept cannot be read so"
    for secret in secrets:
        part = secret if "." not in secret else secret.rpartition(".")[2]
        assert part.encode() not in kept, secret
        assert part not in said, secret


def test_a_command_is_there_for_who_sent_it_and_for_admin(server: Server) -> None:
    """For everybody else it is as if it were not, and without credentials nothing is told."""
    later = {"prefer": "respond-async"}
    sent = httpx.post(f"{server.url}/objects/Room/later", headers=bearer(token("chat")) | later)
    assert sent.status_code == 202
    url = f"{server.url}{sent.headers['location']}?wait=30"
    for name, status in (
        ("chat", 200),
        ("whole", 200),
        ("bulk", 404),
        ("only-metrics", 404),
        ("unknown", 401),
    ):
        answer = httpx.get(url, headers=bearer(token(name)), timeout=PATIENCE_S * 2)
        assert answer.status_code == status, name
    assert httpx.get(url).status_code == 401
