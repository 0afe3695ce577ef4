"""TLS and SASL of the connections to Kafka: from the `[kafka]` table to the options of aiokafka's clients.

Every client of a log is made from one `Endpoint` (clients.py), which carries these options.

Laws
- Passwords, keys and certificates are read once, at start; tokens of OAUTHBEARER for each connection, since
  they expire. [test_kafka_security.py]
- Brokers' certificates are always verified, with the name that the broker is
  reached by. [test_kafka_security.py]
- No error quotes a secret, or what a token command or token server printed. [test_kafka_security.py]
"""

from __future__ import annotations

import asyncio
import json
import shlex
import ssl
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError

from perdure.schemas.errors import ConfigError
from perdure.schemas.kafka import Kafka

TOKEN_TIMEOUT_S = 10.0
TOKEN_MAX_BYTES = 1 << 16
RENEWED_BEFORE_S = 30.0  # a token of a server is used until so long before it expires
DEFAULT_LIFE_S = 60.0  # of one whose server does not say


class TokenUnavailable(KafkaError):  # type: ignore[misc]  # aiokafka ships no types
    """No OAUTHBEARER token could be had."""


class SecurityOptions(dict[str, Any]):
    """The options of aiokafka's clients. `has_certificate`: True if this client shows one."""

    has_certificate = False


def security_options(kafka: Kafka) -> SecurityOptions:
    """The options of aiokafka's clients. Raises `ConfigError` for settings or files that cannot be used."""
    if problem := kafka.problem():
        raise ConfigError(problem)
    options = SecurityOptions(security_protocol=kafka.security_protocol)
    options.has_certificate = kafka.cert_file is not None
    if kafka.uses_tls:
        options["ssl_context"] = _tls(kafka)
    if kafka.uses_sasl:
        options["sasl_mechanism"] = kafka.sasl_mechanism
        if kafka.sasl_mechanism == "OAUTHBEARER":
            options["sasl_oauth_token_provider"] = Tokens(_token_source(kafka))
        else:
            options["sasl_plain_username"] = kafka.username
            options["sasl_plain_password"] = _secret(kafka, "password")
    return options


def _secret(kafka: Kafka, name: str) -> str | None:
    """A secret, from the environment or from its file. Raises `ConfigError`."""
    given, file = getattr(kafka, name), getattr(kafka, f"{name}_file")
    if file is None:
        return None if given is None else str(given.get_secret_value())
    text = _read(f"kafka.{name}_file", file).strip()
    if not text:
        raise ConfigError(f"kafka.{name}_file: {file} is empty")
    return text


def _read(setting: str, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{setting}: {file} cannot be read: {error.strerror}") from None
    except UnicodeError:
        raise ConfigError(f"{setting}: {file} is not UTF-8") from None


def _tls(kafka: Kafka) -> ssl.SSLContext:
    if kafka.ca_file is None:
        context = ssl.create_default_context()
    else:
        text = _read("kafka.ca_file", kafka.ca_file)
        try:
            context = ssl.create_default_context(cadata=text)
        except (ssl.SSLError, ValueError):
            raise ConfigError(f"kafka.ca_file: {kafka.ca_file} holds no certificate in PEM form") from None
    # Python 3.13 refuses certificates without a key identifier, which keytool and openssl often leave out.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if kafka.cert_file is not None:
        key = kafka.key_file or kafka.cert_file
        _read("kafka.cert_file", kafka.cert_file)
        _read("kafka.key_file", key)
        password = _secret(kafka, "key_password")
        try:
            # without a password OpenSSL would ask at the terminal
            context.load_cert_chain(kafka.cert_file, key, password or "")
        except (ssl.SSLError, ValueError) as error:
            mismatch = "KEY_VALUES_MISMATCH" in str(error)
            raise ConfigError(
                f"kafka.cert_file {kafka.cert_file} with key {key}: "
                + (
                    "the key is not that of the certificate"
                    if mismatch
                    else "not a certificate and its key in PEM form, or the key needs another password "
                    "(PERDURE_KAFKA__KEY_PASSWORD, kafka.key_password_file)"
                )
            ) from None
    return context


class Tokens(AbstractTokenProvider):  # type: ignore[misc]  # as above
    """The OAUTHBEARER tokens of this process. `fetch` returns one; it raises `TokenUnavailable`."""

    def __init__(self, fetch: Callable[[], Awaitable[str]]) -> None:
        self._fetch = fetch

    async def token(self) -> str:
        """A token that is valid now. Raises `TokenUnavailable`."""
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT_S):
                token = await self._fetch()
        except TimeoutError:
            raise TokenUnavailable(f"no token within {TOKEN_TIMEOUT_S:.0f} s") from None
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise TokenUnavailable("what was returned is not a token")
        return token


def _token_source(kafka: Kafka) -> Callable[[], Awaitable[str]]:
    file, command = kafka.token_file, kafka.token_command
    if file is not None:

        async def from_file() -> str:
            try:
                return (await asyncio.to_thread(_read, "kafka.token_file", file)).strip()
            except ConfigError as error:
                raise TokenUnavailable(str(error)) from None

        return from_file
    if command is not None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"kafka.token_command cannot be split into words: {error}") from None
        if not words:
            raise ConfigError("kafka.token_command is empty")
        return lambda: _printed(words)
    return _Server(kafka, _secret(kafka, "oauth_client_secret") or "").token


async def _printed(words: list[str]) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise TokenUnavailable(f"kafka.token_command {words[0]}: {error.strerror}") from None
    try:
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise TokenUnavailable(f"kafka.token_command {words[0]} ended with exit code {process.returncode}")
    return printed[:TOKEN_MAX_BYTES].decode("utf-8", "replace").strip()


class _Server:
    """A token server, for client credentials; each of its tokens is used until it expires."""

    def __init__(self, kafka: Kafka, secret: str) -> None:
        assert kafka.oauth_url is not None
        self._url = kafka.oauth_url
        fields = {"grant_type": "client_credentials"}
        if kafka.oauth_scope is not None:
            fields["scope"] = kafka.oauth_scope
        self._body = urllib.parse.urlencode(fields).encode()
        # RFC 6749, 2.3.1: both are encoded as in a form before they are joined
        pair = ":".join(urllib.parse.quote_plus(each) for each in (kafka.oauth_client_id or "", secret))
        self._basic = f"Basic {b64encode(pair.encode()).decode()}"
        self._lock = asyncio.Lock()
        self._token, self._until_s = "", 0.0

    async def token(self) -> str:
        """The token in use, or a new one. Raises `TokenUnavailable`."""
        async with self._lock:
            if not self._token or monotonic() >= self._until_s:
                started_s = monotonic()
                self._token, life_s = await asyncio.to_thread(self._request)
                self._until_s = started_s + max(life_s - RENEWED_BEFORE_S, life_s / 2)
            return self._token

    def _request(self) -> tuple[str, float]:
        headers = {"Authorization": self._basic, "Accept": "application/json"}
        request = urllib.request.Request(self._url, self._body, headers)
        try:
            with _OPENER.open(request, timeout=TOKEN_TIMEOUT_S / 2) as response:
                answer = json.loads(response.read(TOKEN_MAX_BYTES))
            return str(answer["access_token"]), float(answer.get("expires_in", DEFAULT_LIFE_S))
        except urllib.error.HTTPError as error:
            raise TokenUnavailable(f"kafka.oauth_url {self._url} answers {error.code}") from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise TokenUnavailable(f"kafka.oauth_url {self._url}: {reason}") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise TokenUnavailable(f"kafka.oauth_url {self._url} answers without a token") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would send the client's secret elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)
