"""The command line against real servers: what it prints, how it ends, what it says when it cannot."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import httpx
import pytest
from tests.process import COMMAND, clean_environ, run, serve

from perdure.api.cli import main

COMMANDS = (
    (),
    ("init",),
    ("serve",),
    ("dev",),
    ("call",),
    ("verify",),
    ("state", "rebuild"),
    ("bench",),
    ("config", "show"),
    ("openapi",),
    ("secret", "create"),
    ("secret", "show"),
    ("secret", "rotate"),
)


class Done(NamedTuple):
    """How a command ended that ran in this process."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run a command that serves nothing in this process: a fresh one costs a second each."""
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)

    def run_here(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, *capfd.readouterr())

    return run_here


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...], here: Callable[..., Done]) -> None:
    """`--help` of each command works and shows an example."""
    done = here(*command, "--help")
    assert done.returncode == 0
    assert not command or f"perdure {' '.join(command)}" in done.stdout.split("Example", 1)[1]


COMPLETE = r"""
eval "$(perdure --show-completion)"
function=$(complete -p perdure | sed 's/.*-F \([^ ]*\).*/\1/')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$function perdure
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("perdure", "s"), {"secret", "serve", "snapshot", "sql", "state"}),
        (("perdure", "state", ""), {"adopt", "rebuild", "show"}),
        (("perdure", "serve", "--log-l"), {"--log-level"}),
    ],
    ids=["commands", "commands of a group", "options"],
)
def test_bash_completes_commands_and_options(
    typed: tuple[str, ...], offered: set[str], tmp_path: Path
) -> None:
    """With the script that `--show-completion` prints, in a real bash."""
    (tmp_path / "perdure").write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    (tmp_path / "perdure").chmod(0o755)
    environ = clean_environ(PATH=f"{tmp_path}:{os.environ['PATH']}", HOME=str(tmp_path))
    command = ["bash", "-c", COMPLETE, "bash", *typed]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert set(done.stdout.split()) == offered, done.stderr


def test_version(here: Callable[..., Done]) -> None:
    """`--version` names the version and nothing else."""
    assert here("--version").stdout == f"perdure {metadata.version('perdure')}\n"


@pytest.mark.parametrize(
    "arguments",
    [("objects", "list", "Chat", "--prefix"), ("call", "Counter/a", "x"), ("serve",)],
    ids=" ".join,
)
def test_an_argument_that_is_no_text_is_told_in_one_line(
    arguments: tuple[str, ...], here: Callable[..., Done]
) -> None:
    """By its place, before anything is done."""
    told = f"perdure: config-error: argument {len(arguments) + 1} is not UTF-8: '\\udcff'\n"
    assert here(*arguments, os.fsdecode(b"\xff")) == (2, "", told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (('"\\ud800"',), "the arguments of x for Counter/a are not JSON"),
        (("--idempotency-key", "a\nb"), "'idempotency-key'"),
        (("--idempotency-key", "k" * 256), "1 to 255 printable"),
    ],
    ids=["argument", "key", "long key"],
)
def test_what_no_call_can_carry_is_told_in_one_line(
    arguments: tuple[str, ...], told: str, here: Callable[..., Done]
) -> None:
    """A wrong argument as every other."""
    done = here("call", "Counter/a", "x", *arguments, "--url", "http://127.0.0.1:9")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("perdure: config-error: ")
    assert told in done.stderr


def test_serve_counts_and_ends_with_the_signal(counter: Path, tmp_path: Path) -> None:
    """A served counter counts, SIGTERM ends it with 0, and the next server goes on where it was."""
    for expected in (1, 2):
        with serve(counter, tmp_path / "data") as server:
            assert server.namespaces == ["Counter"]
            assert httpx.post(f"{server.url}/objects/Counter/a").json() == {"count": expected}
            assert server.stop() == 0
            assert {json.loads(line)["level"] for line in server.stderr().splitlines()} <= {"info"}


def test_what_was_answered_survives_a_kill(counter: Path, tmp_path: Path) -> None:
    """SIGKILL right after an answer loses nothing."""
    for expected in (1, 2, 3):
        with serve(counter, tmp_path / "data") as server:
            assert httpx.post(f"{server.url}/objects/Counter/a").json() == {"count": expected}
            server.kill()


def test_call_prints_what_the_method_returns(counter: Path, tmp_path: Path) -> None:
    """Arguments are JSON or texts; the result is JSON on stdout; an error is one line and exit code 1."""
    with serve(counter, tmp_path / "data") as server:
        done = run("call", "Counter/a b", "increment", "2", "--url", server.url)
        assert (done.returncode, json.loads(done.stdout)) == (0, 2)
        for arguments, said in (
            (("Counter/a", "increment", "two"), "invalid-arguments"),
            (("Counter/a", "nothing"), "unknown-method"),
            (("Nobody/a", "increment"), "unknown-namespace"),
        ):
            done = run("call", *arguments, "--url", server.url)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
            assert done.stderr.startswith(f"perdure: {said}: ")


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("-1", [-1]),
        ("--timeout 5 -1 2 -0.5e-3", [-1, 2, -0.0005]),
        ("--timeout=5 -1", [-1]),
        ("-1 --timeout 5 -2", [-1, -2]),
        ("-1 -- -2 --timeout", [-1, -2, "--timeout"]),
        ("--idempotency-key -1", []),
    ],
)
def test_numbers_below_zero_are_arguments_of_a_call(
    typed: str, sent: list[Any], here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and behind options, as an option's value, and behind the mark that ends all options."""
    asked: list[Any] = []

    def answered(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["args"])
        return httpx.Response(200, json={"result": None}, headers={"perdure-command": "0:1"})

    made = partial(httpx.AsyncClient, transport=httpx.MockTransport(answered))
    monkeypatch.setattr(httpx, "AsyncClient", made)
    assert here("call", "Counter/a", "add", *typed.split()) == (0, "null\n", "")
    assert asked == [sent]


def test_an_option_that_call_does_not_have_is_no_argument(here: Callable[..., Done]) -> None:
    """A slip of the fingers is told and nothing is sent, beside a number below zero too."""
    for typed in ("--timeut", "-x", "-1x"):
        done = here("call", "Counter/a", "add", "-1", typed, "5")
        assert done.returncode == 2
        assert "No such option" in done.stderr


def test_call_without_a_server_says_how_to_start_one(here: Callable[..., Done]) -> None:
    """Nobody listening is the operator's to mend, in one line."""
    done = here("call", "Counter/a", "increment", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr == (
        "perdure: operator-error: no server answers at http://127.0.0.1:9; start one with: perdure serve APP\n"
    )


@contextlib.contextmanager
def answering(said: bytes) -> Iterator[str]:
    """The URL of a server that says this again and again, whatever it is asked."""
    enough = Event()

    def answer(listener: socket.socket) -> None:
        with listener.accept()[0] as client:
            while not enough.wait(0.01):
                client.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:
        threads.submit(answer, listener)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            enough.set()


@contextlib.contextmanager
def never_connecting() -> Iterator[str]:
    """The URL of a port that takes no more connections."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as waiting:
        for _ in range(3):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("server", "timeout", "said"),
    [
        (partial(answering, b""), "0.2", "outcome-unknown: POST /rpc/Counter/a/increment"),
        (partial(answering, b"H"), "0.2", "outcome-unknown: POST /rpc/Counter/a/increment"),
        # connecting has nine tenths of it: a tenth must be long enough for a busy machine to see which of
        # both is over
        (never_connecting, "3", "operator-error: no server answers at http://127.0.0.1:"),
    ],
    ids=["silent", "trickling", "not connecting"],
)
def test_call_takes_no_longer_than_its_timeout(
    server: Callable[[], contextlib.AbstractContextManager[str]],
    timeout: str,
    said: str,
    here: Callable[..., Done],
) -> None:
    """What never answers is given up in time, and told: it may be done if it may
    have arrived, else it is not.
    """
    with server() as url:
        begun_s = time.monotonic()
        done = here("call", "Counter/a", "increment", "--timeout", timeout, "--url", url)
        took_s = time.monotonic() - begun_s
    assert done.returncode == 1
    assert done.stderr.startswith(f"perdure: {said}")
    assert took_s < 30  # far from the 60 s without it, however slowly a process starts


def test_config_show_is_the_effective_one(
    tmp_path: Path, here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """File and environment are merged as the server would, and secrets are hidden."""
    (tmp_path / "perdure.toml").write_text(
        'port = 9000\n[vars]\nAPI_TOKEN = "very"\n[env.live]\nhost = "::1"\n'
    )
    monkeypatch.setenv("PERDURE_LIMITS__MAILBOX", "7")
    shown = json.loads(here("config", "show", str(tmp_path), "--json").stdout)
    assert (shown["port"], shown["limits"]["mailbox"], shown["vars"]) == (9000, 7, {"API_TOKEN": "********"})
    text = here("config", "show", str(tmp_path), "--env", "live").stdout
    assert 'host = "::1"\n' in text


def test_config_show_is_toml(tmp_path: Path, here: Callable[..., Done]) -> None:
    """What is printed reads as what `--json` prints: tables, names with odd letters, texts with quotes."""
    (tmp_path / "perdure.toml").write_text(
        '[vars]\nTEXT = "a\\"b\\\\c\\n\\u007fü"\nTREE = [{ x = 1, "y z" = [true] }]\nMAP = { "a.b" = 0.5 }\n'
        '[quotas."*"]\nrequests_per_s = 2.0\n[[tokens]]\nname = "t"\nscopes = ["metrics"]\n'
        f'sha256 = "{"0" * 64}"\n[[durable_objects.bindings]]\nname = "R"\nclass_name = "Room"\n'
        '[[durable_objects.bindings]]\nname = "S"\nclass_name = "Shop"\n'
    )
    text = here("config", "show", str(tmp_path)).stdout
    shown = json.loads(here("config", "show", str(tmp_path), "--json").stdout)
    assert tomllib.loads(text) == _without_nothing(shown)
    assert '\n[[durable_objects.bindings]]\nname = "R"\nclass_name = "Room"\n' in text
    assert "# main is not set\n" in text


def _without_nothing(value: Any, nothing: tuple[object, ...] = (None, {})) -> Any:
    """As TOML shows it: without null and, in a row of a table, without an empty list."""
    if isinstance(value, dict):
        found = {name: _without_nothing(each, nothing) for name, each in value.items()}
        return {name: each for name, each in found.items() if each not in nothing}
    if isinstance(value, list):
        return [_without_nothing(each, (None, {}, [])) for each in value]
    return value


def one_line(done: Done | subprocess.CompletedProcess[str]) -> str:
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_mistakes_are_one_line_and_exit_code_2(
    counter: Path, tmp_path: Path, here: Callable[..., Done]
) -> None:
    """What the caller can correct ends with 2, names the thing and the remedy."""
    bad = tmp_path / "bad.py"
    bad.write_text("import nothing_like_that\n")
    for arguments, said in (
        (("/no/such/app.py",), "perdure: config-error: /no/such/app.py: no such file or folder"),
        ((str(bad),), f"{bad}:1: ModuleNotFoundError: No module named 'nothing_like_that'"),
        ((str(counter), "--host", "0.0.0.0"), "pass --insecure-public to allow it"),
        ((str(counter), "--log", "redis://x:1"), 'use "embedded" or "kafka://host:port'),
        ((str(counter), "--port", "70000"), "--port: input should be less than or equal to 65535"),
    ):
        done = here("serve", *arguments, "--data", str(tmp_path / "data"))
        assert said in one_line(done)
        assert done.returncode == 2
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_is_one_line_and_exit_code_1(
    counter: Path, tmp_path: Path, here: Callable[..., Done]
) -> None:
    """The commonest failure of a start names port and remedy, and touches no data."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = here("serve", str(counter), "--port", str(port), "--data", str(tmp_path / "data"))
    assert f"port {port} on 127.0.0.1 is in use" in one_line(done)
    assert done.returncode == 1
    assert not (tmp_path / "data").exists()


def test_a_kafka_that_is_not_there_is_one_line_and_exit_code_1(counter: Path, tmp_path: Path) -> None:
    """An address where nobody answers is told with that address."""
    options = ("--log", "kafka://127.0.0.1:9", "--data", str(tmp_path / "data"), "--port", "0")
    done = run("serve", str(counter), *options)
    assert "127.0.0.1:9" in one_line(done)
    assert done.stderr.startswith("perdure: log-unreachable: ")
    assert done.returncode == 1


def test_data_of_another_app_is_refused(counter: Path, tmp_path: Path) -> None:
    """A data directory belongs to the app that made it; a second process is told who has it."""
    other = tmp_path / "other.py"
    other.write_text(counter.read_text())
    with serve(counter, tmp_path / "data") as server:
        done = run("serve", str(counter), "--data", str(tmp_path / "data"), "--port", "0")
        assert str(server.pid) in one_line(done)
        assert done.returncode == 1
        server.stop()
    done = run("serve", str(other), "--data", str(tmp_path / "data"), "--port", "0")
    assert "counter" in one_line(done)
    assert done.stderr.startswith("perdure: data-dir-error: ")
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--expires 2020-01-01T00:00:00Z", '--expires "2020-01-01T00:00:00Z" is in the past'),
        ("--expires 2020-01-01T00:00:00+14:00", "is in the past"),
        ("--expires 2999-01-01T00:00:00", "needs a time zone"),
        ("--scope calls:Cart", '"calls:Cart" is not a scope; use call:NAMESPACE'),
        ("--scope call:", '"call:" is not a scope'),
        ("--scope admin:Cart", '"admin:Cart" is not a scope'),
    ],
)
def test_a_token_that_could_do_nothing_is_not_made(
    options: str, said: str, here: Callable[..., Done]
) -> None:
    """One that is over when it is made, and one with a scope that is none: what is
    wrong is named, with the remedy.
    """
    done = here("token", "create", "shop", "--scope", "admin", *options.split())
    assert said in one_line(done)
    assert done.returncode == 2


def test_bench_tells_what_requests_cost(tmp_path: Path) -> None:
    """A short bench prints writes and reads per core-second and bytes on disk, without an error."""
    options = ("--seconds", "0.5", "--connections", "8", "--objects", "10", "--json")
    done = run("bench", *options, environ={"TMPDIR": str(tmp_path)})
    figures = json.loads(done.stdout)
    for kind in ("writes", "reads"):
        assert figures[kind]["errors"] == 0
        assert figures[kind]["requests_per_core_second"] > 0
    assert figures["writes"]["bytes_per_request_on_disk"] > 0
    assert os.listdir(tmp_path) == []
