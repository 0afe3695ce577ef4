"""How the Kafka brokers are reached: the `log` setting names their addresses, the
`[kafka]` table TLS and SASL.

Laws
- A secret (password, key's password, client secret) comes from the environment or from a file that the table
  names, never from the table itself, and never from an address. [test_kafka_settings.py]
- Settings that contradict each other are an error that names both. Nothing is guessed: with a setting of TLS
  and `security_protocol` left out, the connection would be a plain one. [test_kafka_settings.py]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, field_serializer

from perdure.schemas.access import is_https_or_loopback
from perdure.schemas.secrecy import MASK, without_credentials
from perdure.schemas.section import Section

_BROKER = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_USE = '"kafka://host:port[,host:port]"'

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
SECRETS = ("password", "key_password", "oauth_client_secret")
_SECRET_FILES = ("password_file", "key_password_file", "oauth_client_secret_file")
FILES = ("ca_file", "cert_file", "key_file", "token_file", *_SECRET_FILES)
_TLS = ("ca_file", "cert_file", "key_file", "key_password", "key_password_file")
_LOGIN = ("username", "password", "password_file")
_OAUTH = ("oauth_client_id", "oauth_client_secret", "oauth_client_secret_file", "oauth_scope")
_TOKEN = ("token_file", "token_command", "oauth_url", *_OAUTH)


def log_address(text: str) -> str:
    """`embedded`, or the address of Kafka brokers. Raises `ValueError`, which quotes no credentials."""
    if text == "embedded":
        return text
    scheme, separator, brokers = text.partition("://")
    named, hint = without_credentials(text), f'use "embedded" or {_USE}'
    if not separator or scheme != "kafka":
        if scheme.startswith("kafka"):
            hint += '; TLS and SASL are settings of the [kafka] table, such as security_protocol = "SASL_SSL"'
        raise ValueError(f'"{named}" is not a log; {hint}')
    if named != text:
        raise ValueError(
            f'"{named}" has credentials or parameters: an address is printed and logged. Use {_USE}, and set user, '
            "password and TLS in the [kafka] table (PERDURE_KAFKA__PASSWORD or password_file)"
        )
    for broker in brokers.split(","):
        match = _BROKER.fullmatch(broker)
        if match is None or not 0 < int(match[1]) < 65536:
            raise ValueError(f'"{broker}" is not a Kafka address; use {_USE}')
    return text


def _token_url(text: str) -> str:
    if without_credentials(text) != text:
        raise ValueError(f'"{without_credentials(text)}" must not hold credentials or parameters')
    if not is_https_or_loopback(text):
        raise ValueError(f'"{text}" must begin with https://: the client secret is sent there')
    return text


File = Annotated[Path, Field(strict=False)]


class Kafka(Section):
    """The `[kafka]` table: TLS and SASL of every connection to the brokers. All
    files but tokens are read at start.
    """

    reply_topics: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Topics, or patterns such as `shop.*`, that replies may go to if a record asks for it, beside
    `{app}.replies`.
    """
    security_protocol: Protocol = "PLAINTEXT"
    ca_file: File | None = None
    """Certificates (PEM) of the authorities that sign the brokers'; None: those of the system."""
    cert_file: File | None = None
    """This client's certificate chain (PEM), for brokers that require one; it may hold the key too."""
    key_file: File | None = None
    key_password: SecretStr | None = None
    key_password_file: File | None = None
    sasl_mechanism: Mechanism | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: File | None = None
    token_file: File | None = None
    """A file that holds the token of OAUTHBEARER; read for each connection."""
    token_command: Annotated[str | None, Field(repr=False)] = None
    """A command that prints the token; run for each connection, without a shell."""
    oauth_url: Annotated[str, AfterValidator(_token_url)] | None = None
    """Where tokens are had for client credentials (RFC 6749, 4.4)."""
    oauth_client_id: str | None = None
    oauth_client_secret: SecretStr | None = None
    oauth_client_secret_file: File | None = None
    oauth_scope: str | None = None

    @field_serializer(*SECRETS)
    def _masked(self, secret: SecretStr | None) -> str | None:
        return None if secret is None else MASK

    @field_serializer("token_command")
    def _without_arguments(self, command: str | None) -> str | None:
        """Arguments may be secret."""
        program, *arguments = (command or "").split(maxsplit=1)[:2] or [""]
        return f"{program} {MASK}" if arguments else command

    @property
    def uses_tls(self) -> bool:
        return self.security_protocol in ("SSL", "SASL_SSL")

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    @property
    def secret_values(self) -> list[str]:
        """The secrets that the environment gave, for masking them."""
        secrets = (getattr(self, name) for name in SECRETS)
        return [each.get_secret_value() for each in secrets if each is not None]

    def revealed(self) -> Mapping[str, Any]:
        """All settings as JSON types, secrets too: for a process that this one
        starts, and for nothing else.
        """
        plain = self.model_dump(mode="json", exclude_none=True)
        if self.token_command is not None:
            plain["token_command"] = self.token_command
        return plain | {
            name: secret.get_secret_value() for name in SECRETS if (secret := getattr(self, name)) is not None
        }

    @classmethod
    def from_revealed(cls, plain: Mapping[str, Any]) -> Kafka:
        """The settings of which `revealed` made these."""
        return cls.model_validate(
            {name: SecretStr(value) if name in SECRETS else value for name, value in plain.items()}
        )

    def problem(self) -> str | None:
        """What is contradictory or missing, and what to do; None if the settings fit together."""
        protocol = f'security_protocol = "{self.security_protocol}"'
        if not self.uses_tls and (extra := self._set(_TLS)):
            return f'kafka.{extra[0]} has no effect with {protocol}: set security_protocol to "SSL" or "SASL_SSL"'
        if not self.uses_sasl and (extra := self._set(("sasl_mechanism", *_LOGIN, *_TOKEN))):
            wanted = "SASL_SSL" if self.uses_tls else 'SASL_SSL" or "SASL_PLAINTEXT'
            return f'kafka.{extra[0]} has no effect with {protocol}: set security_protocol to "{wanted}"'
        if self.cert_file is None and (extra := self._set(("key_file", "key_password", "key_password_file"))):
            return (
                f"kafka.{extra[0]} belongs to a client certificate: set kafka.cert_file too, or take it out"
            )
        for name in ("password", "key_password", "oauth_client_secret"):
            if len(self._set((name, f"{name}_file"))) == 2:
                return f"kafka.{name} and kafka.{name}_file are both set: take one out"
        return self._problem_of_sasl(protocol) if self.uses_sasl else None

    def _problem_of_sasl(self, protocol: str) -> str | None:
        mechanism = self.sasl_mechanism
        if mechanism is None:
            return f'{protocol} needs kafka.sasl_mechanism, such as "SCRAM-SHA-512"'
        if mechanism != "OAUTHBEARER":
            if extra := self._set(_TOKEN):
                return f'kafka.{extra[0]} belongs to sasl_mechanism = "OAUTHBEARER", and it is "{mechanism}"'
            if not self.username:
                return f"{mechanism} needs kafka.username"
            if not self._set(("password", "password_file")):
                return f"{mechanism} needs a password: set PERDURE_KAFKA__PASSWORD, or kafka.password_file"
            return None
        if extra := self._set(_LOGIN):
            return f"kafka.{extra[0]} is not used with OAUTHBEARER, which needs a token: take it out"
        if len(sources := self._set(("token_file", "token_command", "oauth_url"))) != 1:
            given = " and ".join(f"kafka.{name}" for name in sources) or "none"
            return f"OAUTHBEARER needs one of token_file, token_command and oauth_url; set: {given}"
        if self.oauth_url is None:
            extra = self._set(_OAUTH)
            return f"kafka.{extra[0]} needs kafka.oauth_url" if extra else None
        if not self.oauth_client_id or not self._set(_OAUTH[1:3]):
            return (
                "kafka.oauth_url needs oauth_client_id, and a secret: set PERDURE_KAFKA__OAUTH_CLIENT_SECRET, or "
                "kafka.oauth_client_secret_file"
            )
        return None

    def _set(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]
