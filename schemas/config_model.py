"""The shape of a configuration, after all sources are merged.

Laws
- A `Config` that exists is usable as far as it can be judged without the app's classes, files or network.
- It is frozen, and nothing in it was converted silently: types are strict, unknown keys are refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)

from perdure.schemas.access import Jwt, Quota, Token
from perdure.schemas.config_migrations import (
    Identifier,
    MigrationConfig,
    fold_migrations,
    identifier,
    migration_steps,
)
from perdure.schemas.durations import parse_duration_s
from perdure.schemas.events import Events
from perdure.schemas.kafka import Kafka, log_address
from perdure.schemas.listen import Address, Listen
from perdure.schemas.migrations import Step
from perdure.schemas.projections import ProjectionConfig
from perdure.schemas.seal import SealSecrets, SecretIds
from perdure.schemas.section import Section
from perdure.schemas.snapshots import SnapshotConfig
from perdure.schemas.web import HostNames, Origins

KIB = 1024
MIB = 1024 * KIB
# The topics take records up to 10 MiB; what is around a body or a delta must fit beside it.
MAX_RECORD_PART_BYTES = 8 * MIB

_APP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def _app_name(name: str) -> str:
    if _APP_NAME.fullmatch(name) is None:
        raise ValueError(
            f'"{name}" cannot name an app; topics carry it: use letters, digits, ".", "_" and "-"'
        )
    return name


def _keep(text: str) -> str:
    if text != "forever" and parse_duration_s(text) <= 0:
        raise ValueError('must be longer than 0; use "forever" to keep everything')
    return text


AppName = Annotated[str, AfterValidator(_app_name)]
Seconds = Annotated[float, Field(ge=0.05, le=86400, allow_inf_nan=False)]


class Limits(Section):
    """Bounds that keep one caller, object or turn from harming the others."""

    body_bytes: Annotated[PositiveInt, Field(le=MAX_RECORD_PART_BYTES)] = 1 * MIB
    """Body of a request or a WebSocket message."""
    header_bytes: Annotated[PositiveInt, Field(ge=1 * KIB, le=1 * MIB)] = 64 * KIB
    """Request line and headers together."""
    key_bytes: Annotated[PositiveInt, Field(le=64 * KIB)] = 2 * KIB
    """A key in an object's state, as UTF-8."""
    value_bytes: Annotated[PositiveInt, Field(le=MAX_RECORD_PART_BYTES)] = 1 * MIB
    """A value in an object's state, encoded."""
    turn_bytes: Annotated[PositiveInt, Field(le=MAX_RECORD_PART_BYTES)] = 8 * MIB
    """All that one turn puts, sends and replies, encoded."""
    fetch_bytes: Annotated[PositiveInt, Field(le=64 * MIB)] = 8 * MIB
    """Body of a response to `perdure.fetch`, unpacked."""
    mailbox: PositiveInt = 10_000
    """Commands waiting for one object before doors answer 503."""
    undone: PositiveInt = 1_000_000
    """Commands of one partition read and not done before reading pauses."""
    idle_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    """An object without a turn for so long leaves memory."""
    memory_bytes: NonNegativeInt = 0
    """Over so much memory of the process objects leave it, those first that were used longest ago. 0: half of
    what the machine, or the control group, has."""
    object_bytes: PositiveInt = 128 * MIB
    """An object that takes more memory (estimated) leaves it after its turn."""
    step_s: Seconds = 1.0
    """A handler that runs so long without awaiting is interrupted."""
    hold_s: Seconds = 10.0
    """A call into C that holds on for so long, and cannot be interrupted, ends the process."""
    fsync_s: Annotated[float, Field(ge=1, le=86400, allow_inf_nan=False)] = 60.0
    """An fsync of the embedded log that takes so long ends the process."""
    charges: PositiveInt = 3
    """A command that was running so often when the process died is parked."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.value_bytes > self.turn_bytes:
            raise ValueError(
                f"value_bytes ({self.value_bytes}) must not be above turn_bytes ({self.turn_bytes})"
            )
        if self.mailbox > self.undone:
            raise ValueError(f"mailbox ({self.mailbox}) must not be above undone ({self.undone})")
        return self


class BindingConfig(Section):
    """A binding: the name by which `env` has a namespace."""

    name: Identifier
    class_name: Identifier
    script_name: str | None = None
    """Accepted and ignored, so that a `wrangler.toml` loads as it stands: one app holds all classes."""
    environment: str | None = None
    """Accepted and ignored, like `script_name`."""


class DurableObjects(Section):
    """The table `[durable_objects]`: the app's bindings."""

    bindings: Annotated[tuple[BindingConfig, ...], Field(strict=False)] = ()  # a TOML array is a list


class Config(Section):
    """The effective configuration of one app."""

    name: AppName = "app"
    main: str | None = None
    data_dir: Annotated[Path, Field(strict=False)] = Path(".perdure")  # TOML has no paths, only strings
    log: Annotated[str, AfterValidator(log_address)] = "embedded"
    kafka: Kafka = Kafka()
    events: Events = Field(default_factory=dict)
    """By the type of a CloudEvent: the method that it calls."""
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8787
    kafka_listen: Listen = "auto"
    """HOST:PORT where the embedded log answers Kafka clients, or `off`; `auto`: 127.0.0.1:9092 of `perdure
    dev`.
    """
    kafka_advertised: Address = ""
    """HOST:PORT that Kafka clients are sent to; empty: the address by which each of them has connected."""
    partitions: Annotated[int, Field(ge=1, le=1024)] = 8
    insecure_public: bool = False
    expose: bool = False
    """With a Worker in front: open `/objects` and `/rpc` without a token too."""
    allowed_origins: Origins = ()
    """Other sites whose pages may open WebSockets and send what changes something; `*` is all."""
    allowed_hosts: HostNames = ()
    """Names by which this server is reached, besides localhost, addresses and names without a dot; `*` is
    all. None: these alone if only this machine reaches it, otherwise all."""
    tokens: Annotated[tuple[Token, ...], Field(strict=False)] = ()
    jwt: Jwt | None = None
    quotas: dict[str, Quota] = Field(default_factory=dict)
    """By principal; `*` is for each that is not named."""
    seal_secret: SealSecrets | None = None
    """What perdure's own commands are sealed with, from the environment; None: `seal_secret_file` has it."""
    seal_secret_file: Annotated[Path, Field(strict=False)] | None = None
    seal_lost: SecretIds = ()
    """Ids of secrets that are lost for good: commands sealed with them become dead letters."""
    deadline_s: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] = 30.0
    standbys: Annotated[int, Field(ge=0, le=8)] = 0  # nodes that keep a partition warm beside its owner
    rebuild_helpers: Annotated[int, Field(ge=0, le=64)] | None = None
    """Processes that help to rebuild the state; None: one for each further processor, three at most."""
    keep_commands: Annotated[str, AfterValidator(_keep)] = "24h"
    snapshots: SnapshotConfig | None = None
    keep_journal: Annotated[str, AfterValidator(_keep)] = "forever"
    """How long journal records are kept once a verified snapshot holds what they say."""
    log_format: Literal["auto", "json", "pretty"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    access_log: bool | None = None
    """True for a line per request; None: with `perdure dev` in a terminal only."""
    limits: Limits = Limits()
    projections: ProjectionConfig = ProjectionConfig()
    durable_objects: DurableObjects = DurableObjects()
    vars: dict[str, JsonValue] = Field(default_factory=dict)
    secrets: dict[str, SecretStr | None] = Field(default_factory=dict)
    """By name; None: the app needs it and it is not set. In a file they are a list of names."""
    migrations: Annotated[tuple[MigrationConfig, ...], Field(strict=False)] = ()  # a TOML array is a list

    @field_validator("main")
    @classmethod
    def _python(cls, main: str | None) -> str | None:
        if main is not None and not main.endswith(".py"):
            raise ValueError(
                f'"{main}" is not a Python file; name the module that holds the app, such as "app.py"'
            )
        return main

    @field_validator("vars", "secrets")
    @classmethod
    def _var_names(cls, variables: dict[str, Any]) -> dict[str, Any]:
        for name in variables:
            identifier(name)
        return variables

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        seen: set[str] = set()
        for binding in self.durable_objects.bindings:
            if binding.name in seen:
                raise ValueError(f'two bindings are named "{binding.name}"; give each its own name')
            if binding.name in self.vars or binding.name in self.secrets:
                raise ValueError(f'"{binding.name}" is both a binding and a var or secret; rename one')
            seen.add(binding.name)
        made = set(self.namespaces().values())
        for binding in self.durable_objects.bindings if self.migrations else ():
            if binding.class_name not in made:
                raise ValueError(
                    f'binding "{binding.name}" names class "{binding.class_name}", which no migration made; '
                    f'add a [[migrations]] with a new tag and new_classes = ["{binding.class_name}"]'
                )
        return self

    @model_validator(mode="after")
    def _access_agrees(self) -> Self:
        for field in ("name", "sha256"):
            seen = [getattr(token, field) for token in self.tokens]
            if twice := next((each for each in seen if seen.count(each) > 1), None):
                raise ValueError(f'two tokens have the {field} "{twice}"; each needs its own')
        if self.quotas and not self.guarded:
            raise ValueError("quotas count by principal: add [[tokens]] or [jwt], or take them out")
        return self

    @model_validator(mode="after")
    def _journal_is_kept(self) -> Self:
        if self.keep_journal != "forever" and self.snapshots is None:
            raise ValueError(
                "keep_journal removes what a verified snapshot holds: add [snapshots], or keep it forever"
            )
        return self

    @property
    def guarded(self) -> bool:
        """True if every request needs a right."""
        return bool(self.tokens) or self.jwt is not None

    def is_closed(self, has_worker: bool, *, dev: bool = False) -> bool:
        """True if nothing but the Worker is reachable: it is alone in front.

        `dev` opens administration on loopback.
        """
        return has_worker and not (self.expose or self.guarded or (dev and not self.is_public))

    @property
    def bindings(self) -> tuple[BindingConfig, ...]:
        return self.durable_objects.bindings

    @property
    def missing_secrets(self) -> list[str]:
        """Names of the secrets that the app needs and that are not set."""
        return [name for name, value in self.secrets.items() if value is None]

    @property
    def secret_values(self) -> dict[str, str]:
        """The secrets themselves, for `env`; nothing else may look."""
        return {name: value.get_secret_value() for name, value in self.secrets.items() if value is not None}

    @property
    def kafka_brokers(self) -> tuple[str, ...]:
        """`host:port` of each Kafka broker to ask first; empty with the embedded log."""
        return () if self.log == "embedded" else tuple(self.log.removeprefix("kafka://").split(","))

    @property
    def keep_commands_s(self) -> float | None:
        """How long commands are kept, in seconds; None is forever."""
        return None if self.keep_commands == "forever" else parse_duration_s(self.keep_commands)

    @property
    def keep_journal_s(self) -> float | None:
        """How long the journal is kept behind a verified snapshot, in seconds; None is forever."""
        return None if self.keep_journal == "forever" else parse_duration_s(self.keep_journal)

    @property
    def is_public(self) -> bool:
        """True if other machines can reach the host this app binds to; so for any name other than
        localhost."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True

    def namespaces(self) -> Mapping[str, str]:
        """Namespace → name of its class today, by the migrations; empty if there are none.

        Raises `ValueError` naming the tag of a step that does not follow from those before it.
        """
        return fold_migrations(self.migrations, self.name)

    def steps(self) -> tuple[Step, ...]:
        """The step of each migration. Raises like `namespaces`."""
        return migration_steps(self.migrations, self.name)
