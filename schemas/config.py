"""From texts to a `Config`: the file, then the environment, then the flags; the later wins.

Laws
- No I/O: texts and mappings come in, a `Config` or a `ConfigError` comes out.
- An error names its source (file and key, variable, flag), what is wrong and the nearest known name.
- `perdure.toml` is perdure's own: every key must be known. In `wrangler.toml` perdure reads `name`, `main`,
  `vars`, `durable_objects`, `migrations` and `[perdure]`, and leaves the rest to wrangler.
- A secret's value comes from the environment (or `.dev.vars`), never from the file, which names it at most;
  it is never shown, in an error neither. Like wrangler's it wins over a var of its name.
- An environment (`[env.NAME]`) inherits every key except `durable_objects`, `vars` and `secrets`, as in
  wrangler, and its app is called `{name}-{NAME}` unless it says otherwise, so that environments never share a
  log.

The merge is own code, about 300 lines: pydantic-settings names neither the source of a wrong value nor the
nearest known key, and does not know how wrangler's environments inherit.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from perdure.schemas.access import Jwt, Token
from perdure.schemas.config_migrations import (
    MigrationConfig,
    RenamedClass,
    TransferredClass,
    fold_migrations,
    migration_steps,
)
from perdure.schemas.config_model import BindingConfig, Config, DurableObjects, Limits
from perdure.schemas.durations import parse_duration_s
from perdure.schemas.errors import ConfigError
from perdure.schemas.foreign import RecordRules
from perdure.schemas.kafka import FILES, SECRETS, Kafka
from perdure.schemas.secrecy import MASK, SECRET_NAME, shown, without_credentials
from perdure.schemas.section import Section
from perdure.schemas.snapshots import SnapshotConfig

__all__ = [
    "BindingConfig",
    "Config",
    "DurableObjects",
    "Limits",
    "MigrationConfig",
    "RenamedClass",
    "SnapshotConfig",
    "TransferredClass",
    "fold_migrations",
    "masked",
    "migration_steps",
    "parse_config",
    "parse_duration_s",
    "secrets_in",
]

Table = dict[str, Any]

ENV_PREFIX = "PERDURE_"
_FOR_TESTS = ("PERDURE_TEST_", "PERDURE_REQUIRE_")  # read by the test suite, not settings
_FOR_CLIENTS = ("PERDURE_TOKEN", "PERDURE_URL")  # read by `perdure call`; a server may live in the same shell
_NOT_INHERITED = ("durable_objects", "vars", "secrets")
_READ_IN_WRANGLER = ("name", "main", "vars", "durable_objects", "migrations")
_TABLES: Mapping[str, type[Section]] = {
    "limits": Limits,
    "durable_objects": DurableObjects,
    "jwt": Jwt,
    "kafka": Kafka,
    "snapshots": SnapshotConfig,
}
_FLAGS = {"data_dir": "--data", "kafka_listen": "--kafka"}  # others are called as the setting
_ARRAYS: Mapping[str, type[Section]] = {
    "bindings": BindingConfig,
    "migrations": MigrationConfig,
    "tokens": Token,
    "renamed_classes": RenamedClass,
    "transferred_classes": TransferredClass,
}


def parse_config(
    text: str,
    filename: str,
    *,
    env_name: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    secrets: Mapping[str, str] | None = None,
    default_name: str = "app",
) -> Config:
    """The effective configuration.

    text: the content of the file; may be empty.
    filename: its last part decides whether it is read as `wrangler.toml`; a relative `data_dir` in it starts
        at its folder.
    env_name: the environment, `[env.NAME]` in the file; None for none.
    environ: environment variables, of which `PERDURE_PORT` or `PERDURE_LIMITS__BODY_BYTES` count.
    flags: dotted keys (`port`, `limits.body_bytes`) to values; None means not given.
    secrets: those of a `.dev.vars` file; the environment's (`PERDURE_SECRETS__NAME`) win over them.
    default_name: the app's name if the file has none.

    Raises `ConfigError`.
    """
    table = _file_table(text, filename, env_name)
    _validated(table, filename)  # so that an error in the file names the file
    table.setdefault("secrets", {}).update(secrets or {})
    table.setdefault("name", _with_env(_as_app_name(default_name), env_name))
    for path, text_value in _from_environ(environ or {}):
        source = f"environment variable {ENV_PREFIX}{'__'.join(path).upper()}"
        _put(table, path, _typed(source, path, text_value))
    for key, value in (flags or {}).items():
        if value is not None:
            path = tuple(key.split("."))
            _put(table, path, _typed(_FLAGS.get(path[-1], f"--{path[-1].replace('_', '-')}"), path, value))
    config = _validated(table, "configuration")
    if problem := config.kafka.problem():
        raise ConfigError(problem)
    return config


def masked(config: Config) -> dict[str, Any]:
    """The configuration as JSON types, with every value hidden whose name looks secret."""
    effective: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    variables = effective.pop("vars")
    effective["vars"] = _mask(variables)
    effective["kafka"] = {name: value for name, value in effective["kafka"].items() if value is not None}
    effective["secrets"] = {name: None if value is None else MASK for name, value in config.secrets.items()}
    return effective


def secrets_in(text: str, filename: str) -> dict[str, str]:
    """The names and values in a `.dev.vars` file: `NAME=value` lines, quotes and `export` allowed, `#` a
    comment.

    Raises `ConfigError` naming the line, not what it holds.
    """
    secrets: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name.isidentifier():
            raise ConfigError(f"{filename}:{number}: write NAME=value")
        if len(value) >= 2 and value[0] in "\"'" and value[-1] == value[0]:
            value = value[1:-1]
        secrets[name] = value
    return secrets


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: MASK if SECRET_NAME.search(name) else _mask(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_mask(inner) for inner in value]
    return without_credentials(value) if isinstance(value, str) and "://" in value else value


# --- the file ---


def _file_table(text: str, filename: str, env_name: str | None) -> Table:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{filename}: not valid TOML: {error}") from None
    is_wrangler = PurePath(filename).name == "wrangler.toml"
    environments = raw.pop("env", {})
    if not isinstance(environments, dict) or not all(isinstance(t, dict) for t in environments.values()):
        raise ConfigError(f"{filename}: env must hold tables; write [env.production]")
    base = _own_keys(raw, filename, "", is_wrangler)
    per_env = {
        name: _own_keys(table, filename, f"env.{name}.", is_wrangler) for name, table in environments.items()
    }
    if env_name is not None:
        if env_name not in per_env:
            known = ", ".join(sorted(per_env)) or "none"
            raise ConfigError(
                f'{filename}: no environment "{env_name}"; known: {known}. Add [env.{env_name}]'
            )
        base = _in_environment(base, per_env[env_name], env_name)
    if "secrets" in base:
        base["secrets"] = _named_secrets(base["secrets"], filename)
    if "seal_secret" in base:
        raise ConfigError(
            f"{filename}: a secret does not belong in the file: set PERDURE_SEAL_SECRET, or name a file with "
            "seal_secret_file"
        )
    kafka = base.get("kafka")
    if isinstance(kafka, dict) and (secret := next((key for key in SECRETS if key in kafka), None)):
        raise ConfigError(
            f"{filename}: a secret does not belong in the file: set PERDURE_KAFKA__{secret.upper()}, or name a file "
            f"with kafka.{secret}_file"
        )
    places = [(base, "data_dir"), (base, "seal_secret_file"), (base.get("jwt"), "jwks_file")]
    for table, key in (*places, *((kafka, key) for key in FILES)):
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = str(Path(filename).parent / table[key])
    for step in base.get("migrations", ()):
        for each in step.get("transferred_classes", ()) if isinstance(step, dict) else ():
            if isinstance(each, dict) and isinstance(each.get("data"), str):
                each["data"] = str(Path(filename).parent / each["data"])
    return base


def _named_secrets(names: object, filename: str) -> Table:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f'{filename}: secrets is a list of the names that the app needs, such as ["API_KEY"]; their values come from '
            "PERDURE_SECRETS__NAME, or .dev.vars with `perdure dev`"
        )
    return dict.fromkeys(names)


def _own_keys(raw: Table, filename: str, where: str, is_wrangler: bool) -> Table:
    """The part of one table that is perdure's, with every key known."""
    if not is_wrangler:
        _check_keys(raw, Config, filename, where)
        return raw
    table = {key: raw[key] for key in _READ_IN_WRANGLER if key in raw}
    if not str(table.get("main", ".py")).endswith(".py"):
        del table["main"]  # a JavaScript Worker's: wrangler's business
    _check_keys(table, Config, filename, where)
    own = raw.get("perdure", {})
    if not isinstance(own, dict):
        raise ConfigError(f"{filename}: {where}perdure must be a table; write [{where}perdure]")
    _check_keys(own, Config, filename, f"{where}perdure.")
    return table | own


def _in_environment(base: Table, override: Table, env_name: str) -> Table:
    merged = {key: value for key, value in base.items() if key not in _NOT_INHERITED}
    if "name" in base:
        merged["name"] = _with_env(base["name"], env_name)
    for key, value in override.items():
        inherited = merged.get(key)
        if isinstance(inherited, dict) and isinstance(value, dict):
            value = inherited | value
        merged[key] = value
    return merged


def _with_env(name: object, env_name: str | None) -> object:
    return f"{name}-{env_name}" if env_name is not None and isinstance(name, str) else name


def _as_app_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-_")[:200] or "app"


def _check_keys(table: Table, section: type[Section], filename: str, where: str) -> None:
    """Raise a `ConfigError` for the first key, at any depth, that no section knows."""
    known = [field.alias or name for name, field in section.model_fields.items()]
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f'{filename}: unknown key "{where}{key}"; {_nearest(key, known, where)}')
        if key in _TABLES and isinstance(value, dict):
            _check_keys(value, _TABLES[key], filename, f"{where}{key}.")
        elif key in _ARRAYS and isinstance(value, list):
            for index, row in enumerate(value):
                if isinstance(row, dict):
                    _check_keys(row, _ARRAYS[key], filename, f"{where}{key}[{index}].")


def _nearest(key: str, known: Iterable[str], where: str) -> str:
    names = list(known)
    near = difflib.get_close_matches(key, names, n=1)
    return f'did you mean "{where}{near[0]}"?' if near else f"known here: {', '.join(names)}"


# --- the environment and the flags ---


def _from_environ(environ: Mapping[str, str]) -> list[tuple[tuple[str, ...], str]]:
    settings = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or variable.startswith(_FOR_TESTS) or variable in _FOR_CLIENTS:
            continue
        head, *rest = variable.removeprefix(ENV_PREFIX).split("__")
        # the name of a var keeps its case; perdure's own keys are lower-case
        path = (head.lower(), *(rest if head in ("VARS", "SECRETS") else (part.lower() for part in rest)))
        if _field(path) is not None:
            settings.append((path, text))
            continue
        section: type[Section] = _TABLES.get(path[0], Config) if rest else Config
        known = [name.upper() for name in section.model_fields]
        near = difflib.get_close_matches((rest or [head])[-1], known, n=1, cutoff=0.7)
        # Other PERDURE_ variables may belong to others (a service link, a client's); a typo may not.
        if near or rest:
            hint = f'"{near[0]}"' if near else f"one of {', '.join(known)}"
            raise ConfigError(f"environment variable {variable}: no such setting; did you mean {hint}?")
    return settings


def _field(path: tuple[str, ...]) -> FieldInfo | None:
    """The field a path leads to, if a single text can set it."""
    match path:
        case ("vars" | "secrets", _):
            return FieldInfo(annotation=str)
        case ("limits", name):
            return Limits.model_fields.get(name)
        case ("kafka", name):
            return Kafka.model_fields.get(name)
        case ("snapshots", name):
            return SnapshotConfig.model_fields.get(name)
        case ("vars" | "secrets" | "migrations" | "tokens",):
            return None
        case (name,) if name in _TABLES or name == "quotas":
            return None
        case (name,):
            return Config.model_fields.get(name)
    return None


def _typed(source: str, path: tuple[str, ...], value: object) -> object:
    field = _field(path)
    if field is None:
        raise ConfigError(f"{source}: no such setting")
    # mypy knows no type form for a type that is computed
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field, *field.metadata])  # type: ignore[arg-type]
    try:
        return adapter.validate_strings(value) if isinstance(value, str) else adapter.validate_python(value)
    except ValidationError as error:
        message, got = _message(error.errors()[0]), shown(".".join(path), value)
        is_said = path == ("seal_secret",) or got.strip("'\"") in message
        raise ConfigError(f"{source}: {message}{'' if is_said else f', got {got}'}") from None


def _put(table: Table, path: tuple[str, ...], value: object) -> None:
    for part in path[:-1]:
        table = table.setdefault(part, {})
    table[path[-1]] = value


# --- the words of an error ---


def _validated(table: Table, source: str) -> Config:
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        problems = []
        for detail in error.errors():
            key = _dotted(detail["loc"])
            problems.append(f"{key}: {_message(detail)}" if key else _message(detail))
        raise ConfigError(f"{source}: {'; '.join(problems)}") from None


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _message(detail: Any) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:] if message.startswith(("Input ", "Field ")) else message


def record_rules(config: Config) -> RecordRules:
    """What the configuration says of records of other systems."""
    events = {kind: each.rule for kind, each in config.events.items()}
    return RecordRules(config.name, config.kafka.reply_topics, events)
