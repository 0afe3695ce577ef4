"""perdure behind nginx and Caddy, with TLS: the configurations that
docs/deployment.md shows, run as they stand.

Only addresses, the certificate and folders are put in. Without nginx they are skipped, or fail under
`PERDURE_REQUIRE_PROXIES=1`; Caddy takes part where it is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from tests.kafka import free_ports
from tests.process import Server, serve, until
from websockets.sync.client import connect

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
NAME = "app.example.com"
BODY_BYTES = 1 << 20
PATIENCE_S = 20

APP = """
import asyncio
from typing import ClassVar

from perdure import DurableObject, Request, Response, WebSocket


class Echo(DurableObject):
    opened: ClassVar[asyncio.Event | None] = None

    async def fetch(self, request: Request) -> Response:
        if "upgrade" in request.headers:
            await self.state.accept_websocket(request)
            return Response.upgrade()
        if request.path == "/wait":
            Echo.opened = asyncio.Event()
            await Echo.opened.wait()
        if request.path == "/open":
            if Echo.opened is None:
                return Response("nobody waits", 404)
            Echo.opened.set()
        count = await self.state.get("count", 0) + 1
        if request.method != "GET":
            await self.state.put("count", count)
        body = {"name": self.state.id.name, "path": request.path, "size": len(request.body), "count": count}
        return Response.json(body)

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        ws.send(message)
"""


class Front(NamedTuple):
    """A proxy with perdure behind it."""

    server: Server
    port: int
    trust: ssl.SSLContext

    def client(self) -> httpx.Client:
        """A client that takes the proxy for app.example.com."""
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}", headers={"Host": NAME}, verify=self.trust
        )

    def ask(self, method: str, path: str, **options: object) -> httpx.Response:
        """One request through the proxy."""
        with self.client() as client:
            request = client.build_request(method, path, timeout=PATIENCE_S, **options)  # type: ignore[arg-type]
            request.extensions["sni_hostname"] = NAME
            return client.send(request)


def nginx(folder: Path, port: int, upstream: str) -> list[str]:
    """nginx's command, with the server block of the documents inside of a whole configuration."""
    block = (DEPLOY / "nginx.conf").read_text()
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/app.example.com", str(folder / "cert")),
        ("127.0.0.1:8787;", f"{upstream};"),
    ):
        assert old in block
        block = block.replace(old, new)
    temporary = "\n".join(
        f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "whole.conf").write_text(
        f"{user}\ndaemon off;\npid {folder}/pid;\nerror_log stderr;\nworker_processes 1;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}\n{block}\n}}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "whole.conf")]


def caddy(folder: Path, port: int, upstream: str) -> list[str]:
    """Caddy's command, with the file of the documents and a certificate of our own."""
    text = (DEPLOY / "Caddyfile").read_text()
    for old, new in (
        (f"\n{NAME} {{", f"\nhttps://{NAME}:{port} {{\n\ttls {folder}/cert.pem {folder}/cert.key"),
        ("127.0.0.1:8787 {", f"{upstream} {{"),
    ):
        assert old in text
        text = text.replace(old, new)
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tdefault_bind 127.0.0.1\n}\n"
    (folder / "Caddyfile").write_text(options + text)
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


def certificate(folder: Path) -> ssl.SSLContext:
    """A certificate for app.example.com in the folder, and a client's trust in it."""
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    made += ["-keyout", str(folder / "cert.key"), "-out", str(folder / "cert.pem")]
    subprocess.run(made, check=True, capture_output=True)
    return ssl.create_default_context(cafile=str(folder / "cert.pem"))


def listens(port: int) -> bool:
    """True if something accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# Caddy is in no Debian release that CI runs on, and takes minutes to build: it is tested where it is
# installed
PROXIES = [proxy for proxy in (nginx, caddy) if proxy is nginx or shutil.which("caddy") is not None]


@pytest.fixture(scope="module", params=PROXIES, ids=lambda proxy: proxy.__name__)
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Each proxy in turn, as the documents configure it."""
    proxy: Callable[[Path, int, str], list[str]] = request.param
    for tool in (proxy.__name__, "openssl"):
        if shutil.which(tool) is None:
            if os.environ.get("PERDURE_REQUIRE_PROXIES") == "1":
                pytest.fail(f"PERDURE_REQUIRE_PROXIES=1, but there is no {tool} on the PATH")
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp(proxy.__name__)
    (folder / "app").mkdir()
    (folder / "app" / "app.py").write_text(APP)
    (folder / "app" / "perdure.toml").write_text(
        f'name = "proxied"\nmain = "app.py"\nallowed_hosts = ["{NAME}"]\n'
    )
    trust = certificate(folder)
    (port,) = free_ports(1)
    with serve(folder / "app", folder / "data") as server, (folder / "stderr").open("w") as errors:
        command = proxy(folder, port, server.url.removeprefix("http://"))
        home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        process = subprocess.Popen(command, stdout=errors, stderr=errors, env=os.environ | home)
        try:
            until(lambda: listens(port) or process.poll() is not None)
            assert process.poll() is None, (folder / "stderr").read_text()
            yield Front(server, port, trust)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


def test_requests_pass_and_a_key_is_done_once(front: Front) -> None:
    """A POST is one turn; the same idempotency key twice is one effect; a read sees it."""
    keyed = {"Idempotency-Key": "a"}
    first, second = (front.ask("POST", "/objects/Echo/once", headers=keyed).json() for _ in range(2))
    assert first == second == {"name": "once", "path": "/", "size": 0, "count": 1}
    assert front.ask("GET", "/objects/Echo/once").json()["count"] == 2
    assert front.ask("POST", "/rpc/Echo/once/nothing").headers["content-type"] == "application/problem+json"


def test_names_arrive_as_they_were_written(front: Front) -> None:
    """A name is decoded once, by perdure: spaces, percent signs, other alphabets."""
    for name, written in (("a b", "a%20b"), ("50%", "50%25"), ("naïve", "na%C3%AFve"), ("a+b", "a+b")):
        answer = front.ask("POST", f"/objects/Echo/{written}/x%20y")
        assert answer.json()["name"] == name, answer.text


def test_bodies_pass_up_to_the_bound(front: Front) -> None:
    """1 MiB arrives whole; one byte more gets perdure's own 413; much more gets the proxy's."""
    assert front.ask("POST", "/objects/Echo/large", content=b"x" * BODY_BYTES).json()["size"] == BODY_BYTES
    over = front.ask("POST", "/objects/Echo/large", content=b"x" * (BODY_BYTES + 1))
    assert (over.status_code, over.json()["type"]) == (413, "urn:perdure:problem:too-large")
    assert front.ask("POST", "/objects/Echo/large", content=b"x" * (3 * BODY_BYTES)).status_code == 413
    assert front.ask("GET", "/objects/Echo/large").json()["count"] == 2


def test_chunked_bodies_pass(front: Front) -> None:
    """A body whose length is not said beforehand."""
    pieces = iter([b"x" * 70_000, b"y" * 70_000])
    assert front.ask("POST", "/objects/Echo/chunks", content=pieces).json()["size"] == 140_000


def test_a_websocket_passes(front: Front) -> None:
    """Also from a page of this site, also with messages of a size; a page of another site is refused."""
    raw = socket.create_connection(("127.0.0.1", front.port))
    origin = f"https://{NAME}"
    with connect(
        f"wss://{NAME}/objects/Echo/socket", sock=raw, ssl=front.trust, server_hostname=NAME, origin=origin
    ) as ws:
        for message in ("hello", b"\0" * 100_000, "ü" * 1000):
            ws.send(message)
            assert ws.recv(timeout=PATIENCE_S) == message
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Origin": "https://elsewhere.example",
    }  # fmt: skip
    assert front.ask("GET", "/objects/Echo/socket", headers=upgrade).status_code == 403


def test_what_is_for_operators_is_not_outside(front: Front) -> None:
    """Metrics and administration are at perdure's own address only."""
    for path in ("/metrics", "/admin/partitions"):
        assert front.ask("GET", path).status_code == 404
        assert httpx.get(front.server.url + path, timeout=PATIENCE_S).status_code == 200
    assert front.ask("GET", "/readyz").status_code == 200


def test_a_name_that_is_not_allowed_is_refused_with_the_remedy(front: Front) -> None:
    """A proxy that passes on another name gets a 403 that names allowed_hosts."""
    answer = httpx.get(
        f"{front.server.url}/objects/Echo/x", headers={"Host": "other.example.com"}, timeout=PATIENCE_S
    )
    assert answer.status_code == 403
    assert "allowed_hosts" in answer.text


def answered_after_half_close(front: Front) -> bytes:
    """What comes for a request whose client ends its sending side (below TLS) while its turn runs."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = front.trust.wrap_bio(incoming, outgoing, server_hostname=NAME)
    with socket.create_connection(("127.0.0.1", front.port), timeout=PATIENCE_S) as raw:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(65536))
        tls.write(
            b"POST /objects/Echo/half/wait HTTP/1.1\r\nHost: app.example.com\r\nContent-Length: 0\r\n\r\n"
        )
        raw.sendall(outgoing.read())
        raw.shutdown(socket.SHUT_WR)
        with ThreadPoolExecutor(1) as aside:
            opening = aside.submit(
                until, lambda: front.ask("POST", "/objects/Echo/other/open").status_code == 200
            )
            while data := raw.recv(65536):
                incoming.write(data)
            opening.result()
    try:
        return tls.read(65536)
    except (ssl.SSLError, OSError):
        return b""


def test_a_client_that_closed_its_sending_side_gets_its_answer(front: Front) -> None:
    """The turn runs and its answer arrives, though the client sends no more."""
    answer = answered_after_half_close(front)
    until(lambda: front.ask("GET", "/objects/Echo/half").json()["count"] == 2)
    assert answer.startswith(b"HTTP/1.1 200")
