"""The log of a server: what its lines say, how they look, and what never stands in one."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from tests.process import serve

from perdure.api.telemetry import logs
from perdure.api.telemetry.redact import Scrubber
from perdure.schemas.config import Config
from perdure.streams.owner import log_lines

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
SECRET = "s3cr3t-of-the-app"
APP = """
import asyncio
import logging

import structlog

from perdure import DurableObject, Request, Response

logging.getLogger(__name__).info("imported")


class Noisy(DurableObject):
    async def say(self, what: str) -> None:
        logging.getLogger(__name__).info("said %s", what, extra={"size": len(what)})
        await asyncio.sleep(0)
        await asyncio.to_thread(structlog.get_logger("thread").warning, "in a thread", what=what)

    async def fail(self) -> None:
        self.helper({})

    def helper(self, table):
        return table["nope"]

    async def strange(self) -> object:
        return object()

    async def leak(self, token: str) -> None:
        log = logging.getLogger("leaks")
        log.warning("the key is %s", self.env.API_KEY)
        log.warning("asked with", extra={"headers": {"Authorization": f"Bearer {token}", "Cookie": "sid=abcdef"}})
        log.warning("GET http://user:hunter2@example.com/?access_token=%s&page=2", token)
        try:
            raise ValueError(f"bad credentials {self.env.API_KEY}")
        except ValueError:
            log.exception("caught")
        raise RuntimeError(f"Authorization: Bearer {token}")


async def fetch(request: Request, env) -> Response:
    logging.getLogger("worker").info("asked for %s", request.path)
    raise KeyError(request.headers["cookie"] + env.API_KEY)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "noisy"
    folder.mkdir()
    (folder / "perdure.toml").write_text('main = "app.py"\nexpose = true\nsecrets = ["API_KEY"]\n')
    (folder / "app.py").write_text(APP)
    return folder


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_is_json_and_says_what_it_concerns(app: Path, tmp_path: Path) -> None:
    """Object, offset and trace stand in what the app logs, by whichever way,
    and in what perdure says of it.
    """
    with serve(app, tmp_path / "data", environ={"PERDURE_SECRETS__API_KEY": SECRET}) as server:
        asked = httpx.post(f"{server.url}/rpc/Noisy/a/say", json={"args": ["hello"]}, headers=PARENT)
        failed = httpx.post(f"{server.url}/rpc/Noisy/a/fail", headers=PARENT)
        assert httpx.get(f"{server.url}/x", headers=PARENT | {"cookie": "sid=1"}).status_code == 500
        assert (asked.status_code, failed.status_code) == (200, 500)
        assert server.stop() == 0
        told = {line["event"]: line for line in lines(server.stderr())}
    concerns = {"object": "Noisy/a", "offset": asked.headers["perdure-command"], "trace": TRACE}
    assert told["imported"]["logger"] == "app"
    said = told["said hello"]
    assert said == concerns | {"event": "said hello", "level": "info", "logger": "app", "size": 5} | {
        "timestamp": said["timestamp"]
    }
    assert told["in a thread"].items() >= (concerns | {"level": "warning", "what": "hello"}).items()
    line = APP[: APP.index('return table["nope"]')].count("\n") + 1
    blamed = told["a handler failed"]
    assert (
        blamed.items()
        >= {
            "object": "Noisy/a",
            "offset": failed.headers["perdure-command"],
            "trace": TRACE,
            "error": "KeyError: 'nope'",
            "at": f"{app / 'app.py'}:{line}",
            "code": 'return table["nope"]',
        }.items()
    )
    assert [place.rpartition(":")[0] for place in blamed["via"]] == [str(app / "app.py")]
    assert told["asked for /x"]["trace"] == told["the Worker failed"]["trace"] == TRACE


def test_an_answer_that_is_none_is_told_too(app: Path, tmp_path: Path) -> None:
    """Nothing was raised, and yet the handler failed: its author is to see it."""
    with serve(app, tmp_path / "data", environ={"PERDURE_SECRETS__API_KEY": SECRET}) as server:
        assert httpx.post(f"{server.url}/rpc/Noisy/a/strange").status_code == 500
        assert server.stop() == 0
        (told,) = [line for line in lines(server.stderr()) if line["event"] == "a handler failed"]
    assert (told["object"], told["what"]) == ("Noisy/a", "call strange")
    assert "what strange returned is not JSON" in told["error"]


def test_no_secret_stands_in_a_line(app: Path, tmp_path: Path) -> None:
    """Not the app's own, no token, no cookie, no header, whoever logs them and however."""
    token, password = "tok-0123456789", "hunter2"
    with serve(app, tmp_path / "data", environ={"PERDURE_SECRETS__API_KEY": SECRET}) as server:
        headers = {"authorization": f"Bearer {token}", "cookie": "sid=abcdef"}
        httpx.post(f"{server.url}/rpc/Noisy/a/leak", json={"args": [token]}, headers=headers)
        httpx.get(f"{server.url}/x?token={token}", headers=headers)
        assert server.stop() == 0
        text = server.stderr()
    assert len(lines(text)) >= 7
    for hidden in (SECRET, token, password, "abcdef"):
        assert hidden not in text
    assert "page=2" in text


def test_people_see_their_own_lines(app: Path, tmp_path: Path) -> None:
    """In a terminal an error has the place and the line of code, and none of perdure's frames."""
    options = ("--log-format", "pretty", "--log-level", "warning")
    environ = {"PERDURE_SECRETS__API_KEY": SECRET}
    with serve(app, tmp_path / "data", *options, environ=environ) as server:
        httpx.post(f"{server.url}/rpc/Noisy/a/say", json={"args": ["hello"]})
        httpx.post(f"{server.url}/rpc/Noisy/a/fail")
        assert server.stop() == 0
        text = server.stderr()
    assert "said hello" not in text
    line = APP[: APP.index('return table["nope"]')].count("\n") + 1
    assert f"\n    KeyError: 'nope'\n    {app / 'app.py'}:{line - 3}\n    {app / 'app.py'}:{line}\n" in text
    assert '\n        return table["nope"]\n' in text
    for inside in ("Traceback", "streams/", "objects/"):
        assert inside not in text


# Without a server


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    partitions = logging.getLogger(log_lines.__name__)
    yield
    partitions.setLevel(logging.NOTSET)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def logged(config: Config, *, dev: bool = False) -> str:
    stream = io.StringIO()
    logs.set_up(config, dev=dev, stream=stream)
    try:
        raise ValueError("no good")
    except ValueError:
        logging.getLogger("any").exception("it failed\nbadly")
    return stream.getvalue()


@pytest.mark.usefixtures("restored")
def test_the_format_follows_who_looks_on() -> None:
    """JSON by itself, one line even of a traceback; for people with `dev`; and as configured."""
    (only,) = lines(logged(Config()))
    assert only["event"] == "it failed\nbadly"
    assert "Traceback" in only["exception"]
    line = sys._getframe().f_code.co_filename
    for text in (logged(Config(), dev=True), logged(Config(log_format="pretty"))):
        assert "Traceback" not in text
        assert f"    {line}:" in text
        assert '        raise ValueError("no good")\n' in text
    assert lines(logged(Config(log_format="json"), dev=True))


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("dev", "level", "shown"),
    [
        (False, "info", ["begins", "lost"]),
        (True, "info", ["lost"]),
        (True, "error", []),
        (True, "debug", ["begins", "lost"]),
    ],
)
def test_dev_leaves_out_the_steps_of_partitions(dev: bool, level: str, shown: list[str]) -> None:
    """With `dev` a start shows no line for each partition, except at level debug; a loss is shown."""
    stream = io.StringIO()
    settings = Config.model_validate({"log_format": "json", "log_level": level})
    logs.set_up(settings, dev=dev, stream=stream)
    logger = structlog.get_logger(log_lines.__name__)
    logger.info("begins")
    logger.warning("lost")
    assert [each["event"] for each in lines(stream.getvalue())] == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: ********"),
        ("cookie=a=b; c=d", "cookie=********"),
        ("{'Set-Cookie': 'sid=1; Path=/', 'x': 1}", "{'Set-Cookie': '********', 'x': 1}"),
        ("(b'cookie', b'sid=1')", "(b'cookie', b'********')"),
        ("/objects/A/b?ticket=abc.def&x=1", "/objects/A/b?ticket=********&x=1"),
        ("got pdr_Abc-123 there", "got ******** there"),
        ("jwt eyJhbGciOi.eyJzdWIi.c2ln", "jwt ********"),
        ("https://u:p@host/", "https://********@host/"),
        ("unexpected token: <", "unexpected token: <"),
        ("Counter/alice has no key", "Counter/alice has no key"),
        ("the value is opensesame!", "the value is ********!"),
    ],
)
def test_what_looks_like_a_secret_is_hidden_and_nothing_else(text: str, shown: str) -> None:
    """In a text of any kind, and as a part of a value."""
    scrub = Scrubber(Config(vars={"DOOR_SECRET": "opensesame"}))
    assert scrub.text(text) == shown
    pairs = [(b"cookie", b"sid=1"), ("x-token", "t"), ["age", 7]]
    assert scrub.event(None, "", {"event": [text, {"x": text}], "password": 7, "pairs": pairs}) == {
        "event": [shown, {"x": shown}],
        "password": "********",
        "pairs": [["b'cookie'", "********"], ["x-token", "********"], ["age", 7]],
    }
