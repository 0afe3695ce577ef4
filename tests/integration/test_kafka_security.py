"""TLS and SASL to a real broker: each way in is used by all of perdure's clients,
and each wrong setting is named.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.contract.logs import PATIENCE_S
from tests.guarded_kafka import (
    CLIENT,
    CLIENT_PASSWORD,
    KEY_PASSWORD,
    PASSWORD,
    USER,
    Authority,
    GuardedKafka,
    unsecured_token,
)
from tests.kafka import or_skip, tools_or_skip
from tests.process import COMMAND, clean_environ, serve

from perdure.schemas.errors import ConfigError
from perdure.schemas.kafka import Kafka
from perdure.streams.log.base import Record, Topic, durable
from perdure.streams.log.kafka.log import KafkaLog
from perdure.streams.log.kafka.read_only import KafkaReading
from perdure.streams.log.kafka.security import Tokens, TokenUnavailable, security_options
from perdure.streams.opening import clock_ms

pytestmark = pytest.mark.kafka
DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
SECRETS = (PASSWORD, CLIENT_PASSWORD, KEY_PASSWORD)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    """The broker, on which USER has the documented rights on topics of apps named
    `test-…`, CLIENT those of a client.
    """
    kafka = or_skip(lambda: GuardedKafka(tmp_path_factory.mktemp("guarded") / "kafka"))
    tools_or_skip(kafka)
    try:
        tools = kafka.directory / "tools"
        tools.mkdir()
        line = " ".join(f"'{word}'" for word in kafka.tool("org.apache.kafka.tools.AclCommand"))
        (tools / "kafka-acls.sh").write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (tools / "kafka-acls.sh").chmod(0o755)
        granted = subprocess.run(
            [DEPLOY / "make-acls.sh", "test", USER, CLIENT, kafka.bootstrap],
            env=clean_environ(PATH=f"{tools}:/usr/bin:/bin"), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert granted.returncode == 0, granted.stdout + granted.stderr
        yield kafka
    finally:
        kafka.stop()


def app_name() -> str:
    return f"test.{uuid.uuid4().hex[:12]}"


def made(**settings: Any) -> Kafka:
    return Kafka.from_revealed(settings)


@contextmanager
def token_server(answer: tuple[int, dict[str, Any]]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A server of tokens: its address, and the credentials and bodies that it got."""
    requests: list[tuple[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            requests.append((self.headers["Authorization"], body))
            self.send_response(answer[0])
            self.end_headers()
            self.wfile.write(json.dumps(answer[1]).encode())

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/token", requests
    finally:
        server.shutdown()
        server.server_close()


async def uses_every_client(kafka: GuardedKafka, address: str, settings: Kafka) -> None:
    """Topics are made, a record is appended, read by a tail and by a bounded read, trimmed and measured."""
    app, security = app_name(), security_options(settings)
    log = KafkaLog(address, app, 1, clock_ms=clock_ms, security=security)
    await log.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            await durable(log.append(Topic.COMMANDS, 0, Record(b"k", b"v")))
            got: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
            tail = log.tail(Topic.COMMANDS, 0, 0, lambda record: got.done() or got.set_result(record.value))
            assert await got == b"v"
            tail.close()
            assert (await log.bounds(Topic.COMMANDS, 0)).end == 1
            assert [r.value async for chunk in log.read(Topic.COMMANDS, 0, 0, 1) for r in chunk] == [b"v"]
            assert (await log.sizes())[Topic.COMMANDS] > 0
            await log.trim(Topic.COMMANDS, 0, 1)
            assert (await log.bounds(Topic.COMMANDS, 0)).start == 1
    finally:
        await log.close()


PLAIN = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN"}
SCRAM = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "username": USER}


def test_each_way_in_serves_every_client(guarded: GuardedKafka, tmp_path: Path) -> None:
    """PLAIN, SCRAM, OAUTHBEARER from a file, a command and a token server, with TLS
    and without, and mutual TLS.
    """
    ca, token = str(guarded.authority.file), unsecured_token(USER)
    (tmp_path / "token").write_text(f"{token}\n")
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    cert, key = guarded.authority.issue(USER, password=KEY_PASSWORD)
    oauth = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER"}
    user = {"username": USER, "password": PASSWORD}
    with token_server((200, {"access_token": token, "expires_in": 3600})) as (url, requests):
        client = {
            "oauth_url": url,
            "oauth_client_id": "a b",
            "oauth_client_secret": "s:1",
            "oauth_scope": "x",
        }
        ways: list[dict[str, Any]] = [
            {**PLAIN, **user},
            {**PLAIN, **user, "sasl_mechanism": "SCRAM-SHA-256"},
            {**PLAIN, "sasl_mechanism": "SCRAM-SHA-512", "username": USER, "password_file": str(tmp_path / "password")},
            {**SCRAM, "password": PASSWORD, "ca_file": ca},
            {**oauth, "token_file": str(tmp_path / "token")},
            {**oauth, "token_command": f"{sys.executable} -c 'print(\"{token}\")'"},
            {**oauth, **client},
            {"security_protocol": "SSL", "ca_file": ca, "cert_file": str(cert), "key_file": str(key),
             "key_password": KEY_PASSWORD},
        ]  # fmt: skip

        async def story() -> None:
            for way in ways:
                await uses_every_client(guarded, guarded.at[way["security_protocol"]], made(**way))

        asyncio.run(story())
    assert requests == [("Basic YStiOnMlM0Ex", "grant_type=client_credentials&scope=x")]  # once: it is kept


def wrong_settings(guarded: GuardedKafka) -> list[tuple[str, dict[str, Any], str]]:
    """For each wrong setting: the address, the settings, and what the error must say."""
    ca, pki, at = str(guarded.authority.file), guarded.directory / "pki", guarded.at
    stranger = Authority(pki / "stranger", "stranger")
    cert, key = (str(file) for file in stranger.issue("mallory"))
    mutual = {"security_protocol": "SSL", "ca_file": ca}
    user = {"username": USER, "password": PASSWORD}
    at_address = at["SASL_SSL"].replace("localhost", "127.0.0.1")
    return [
        (at["SASL_SSL"], {}, 'speaks TLS.*"SASL_SSL"'),
        (at["SSL"], {}, 'speaks TLS.*"SSL"'),
        (at["SASL_PLAINTEXT"], {}, 'asks for SASL: set kafka.security_protocol to "SASL_PLAINTEXT"'),
        (at["SASL_PLAINTEXT"], mutual, 'does not speak TLS: .*"PLAINTEXT"'),
        (at["SASL_PLAINTEXT"], {**SCRAM, "password": PASSWORD, "ca_file": ca}, 'not speak TLS.*"SASL_PLAINTEXT"'),
        (guarded.bootstrap, {**PLAIN, **user}, 'does not ask for SASL: .* to "PLAINTEXT"'),
        (at["SASL_PLAINTEXT"], {**PLAIN, "username": USER, "password": "wrong-1"},
         f"refuses user '{USER}' \\(PLAIN\\).*PERDURE_KAFKA__PASSWORD or kafka.password_file"),
        (at["SASL_SSL"], {**SCRAM, "password": "wrong-1", "ca_file": ca}, f"refuses user '{USER}' \\(SCRAM-SHA-512"),
        (at["SASL_SSL"], {**SCRAM, **user, "sasl_mechanism": "SCRAM-SHA-256", "ca_file": ca}, "does not offer SCRAM-SHA-256"),
        (at["SASL_SSL"], {**SCRAM, "password": PASSWORD}, "authority that is not known here .*set kafka.ca_file"),
        (at["SASL_SSL"], {**SCRAM, "password": PASSWORD, "ca_file": str(stranger.file)}, "authority that is not known"),
        (at_address, {**SCRAM, "password": PASSWORD, "ca_file": ca}, "certificate of another name .*subjectAltName"),
        (at["SSL"], mutual, "asks for a certificate of this client: set kafka.cert_file"),
        (at["SSL"], {**mutual, "cert_file": cert, "key_file": key}, "refuses the certificate of this client"),
        (at["SASL_PLAINTEXT"], {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER",
                                "token_command": "false"}, "kafka.token_command false ended with exit code 1"),
    ]  # fmt: skip


def test_each_wrong_setting_is_named_with_the_right_one(guarded: GuardedKafka) -> None:
    """A start fails at once, and the error says which listener, what is wrong and
    what to set; never a secret.
    """

    async def story() -> None:
        for address, settings, expected in wrong_settings(guarded):
            log = KafkaLog(
                address, app_name(), 1, clock_ms=clock_ms, security=security_options(made(**settings))
            )
            with pytest.raises(ConfigError, match=f"(?s){address} .*{expected}") as caught:
                await log.start()
            assert not any(secret in repr(caught.value) for secret in (*SECRETS, "wrong-1"))
            assert "secret" not in repr(log._endpoint)
            assert not any(secret in repr(log._endpoint) for secret in SECRETS)
        reading = KafkaReading(guarded.at["SASL_PLAINTEXT"], app_name(), client_id="reading")
        with pytest.raises(ConfigError, match="asks for SASL"):
            await reading.start()

    asyncio.run(story())


def test_missing_rights_are_named_with_the_command_that_grants_them(guarded: GuardedKafka) -> None:
    """Topics of an app on which the user has no rights, and those on which it has a client's."""
    user = {**SCRAM, "password": PASSWORD, "ca_file": str(guarded.authority.file)}
    client = {**user, "username": CLIENT, "password": CLIENT_PASSWORD}

    async def start(app: str, settings: dict[str, Any]) -> None:
        security = security_options(made(**settings))
        log = KafkaLog(guarded.at["SASL_SSL"], app, 1, clock_ms=clock_ms, security=security)
        await log.start()
        await log.close()

    async def story() -> None:
        with pytest.raises(ConfigError, match=r"may not see topic other\.commands: .*kafka-acls\.sh"):
            await start("other", user)
        await start("test", user)
        with pytest.raises(
            ConfigError,
            match=rf"may not Read on topic test\.commands: .*User:{CLIENT} --operation Read --topic",
        ):
            await start("test", client)

    asyncio.run(story())


def test_a_node_serves_with_the_documented_rights_and_shows_no_secret(
    guarded: GuardedKafka, counter: Path, tmp_path: Path
) -> None:
    """Configured by file and environment: it counts, is verified, and rebuilt by
    helpers; no output holds the password.
    """
    app, file = app_name(), counter.parent / "perdure.toml"
    file.write_text(
        f'name = "{app}"\nmain = "counter.py"\npartitions = 2\nlog = "kafka://{guarded.at["SASL_SSL"]}"\n'
        "rebuild_helpers = 1\n"
        f'[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "SCRAM-SHA-512"\nusername = "{USER}"\n'
        f'ca_file = "{guarded.authority.file}"\n'
    )
    environ, data = clean_environ(PERDURE_KAFKA__PASSWORD=PASSWORD), tmp_path / "data"
    with serve(counter.parent, data, environ=environ) as server:
        for expected in (1, 2):
            counted = httpx.post(f"{server.url}/objects/Counter/a", timeout=PATIENCE_S)
            assert counted.json() == {"count": expected}
        assert server.stop() == 0
        said = server.stderr()
    shown = []
    for command in (["verify"], ["state", "rebuild"], ["config", "show"]):
        where = [] if command[0] == "config" else ["--data", str(data)]
        done = subprocess.run(
            [*COMMAND, *command, str(counter.parent), *where],
            env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        shown.append(done.stdout + done.stderr)
    assert 'kafka.password = "********"' in shown[-1]
    assert PASSWORD not in "".join([said, *shown])


def test_a_token_source_that_fails_is_named_without_its_output() -> None:
    """A missing file and program, an error, nonsense, and a server that refuses: never what was printed."""
    oauth = {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}
    client = {"oauth_client_id": "me", "oauth_client_secret": "hush-hush"}
    with (
        token_server((401, {"error": "hush"})) as (refuses, _),
        token_server((200, {"no": "token"})) as (odd, _),
    ):
        cases = [
            ({"token_file": "/nowhere/token"}, "kafka.token_file: /nowhere/token cannot be read"),
            ({"token_command": "/nowhere/get"}, "/nowhere/get: No such file"),
            ({"token_command": "echo hush and more"}, "is not a token"),
            ({"oauth_url": refuses, **client}, "answers 401"),
            ({"oauth_url": odd, **client}, "answers without a token"),
        ]
        for settings, expected in cases:
            tokens = security_options(made(**oauth, **settings))["sasl_oauth_token_provider"]
            assert isinstance(tokens, Tokens)
            with pytest.raises(TokenUnavailable, match=expected) as caught:
                asyncio.run(tokens.token())
            assert "hush" not in str(caught.value)
