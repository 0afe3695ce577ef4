"""Loads an app from a path: its configuration, its classes, its Worker.

The command line calls `load_app` before it starts a node, and `load_config` where the configuration is
enough.

Laws [test_loading.py]
- The app's modules get names of their own (`perdure_app1_counter`), so that an app's `queue.py` cannot hide
  the standard library and is not hidden by it. They import each other by plain name, and each is loaded once.
- An exception of the app's code while it is loaded becomes a `ConfigError` with the file and line of that
  code.
- An app has the classes that its own folder defines: classes imported from elsewhere are not served.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog

from perdure.objects.durable import DurableObject
from perdure.objects.projection import Projection
from perdure.schemas.config import ENV_PREFIX, Config, DurableObjects, parse_config, secrets_in
from perdure.schemas.errors import ConfigError, DataDirError
from perdure.streams.datadir import app_in, is_data_dir
from perdure.streams.projections.shipped import used_by
from perdure.streams.turns.supervision.failure_log import place_of

CONFIG_FILES = ("perdure.toml", "wrangler.toml")
DEV_VARS = ".dev.vars"
_NO_MODULES_OF_AN_APP = ("_", "test_", "conftest.", "setup.")

_logger = structlog.get_logger("perdure")
_numbers = itertools.count(1)
_borrowed: dict[str, ModuleType] = {}  # plain names in sys.modules that belong to the app loaded last
_folders: list[str] = []  # its entry in sys.path


@dataclass(frozen=True)
class LoadedApp:
    """An app, loaded. `worker` is the optional `async def fetch(request, env)` of the main module."""

    config: Config
    classes: Mapping[str, type[DurableObject]]
    worker: Callable[..., Any] | None
    folder: Path
    config_file: Path | None
    projections: Mapping[str, Projection[Any]]


def load_app(
    path: Path | None,
    *,
    env_name: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    dev: bool = False,
    opens_data: bool = False,
) -> LoadedApp:
    """Read the configuration of `path` (see `load_config`), import its modules, collect what they define.

    A file is the main module. The configuration of a folder names its main module; without one all modules in
    it are loaded, except `_*.py`, `test_*.py`, `conftest.py` and `setup.py`.

    The arguments are those of `load_config`. Raises `ConfigError`.
    """
    config = load_config(
        path, env_name=env_name, environ=environ, flags=flags, dev=dev, opens_data=opens_data
    )
    if missing := config.missing_secrets:
        raise ConfigError(
            f"the app needs the secret {missing[0]}: set {ENV_PREFIX}SECRETS__{missing[0]}, "
            f"or write it to {DEV_VARS} beside the configuration and use `perdure dev`"
        )
    folder, config_file, _ = _places(path)
    if config.main is not None:
        files = [folder / config.main]
        if not files[0].is_file():
            raise ConfigError(f'main = "{config.main}": there is no file {files[0]}')
    else:
        files = sorted(
            file for file in folder.glob("*.py") if not file.name.startswith(_NO_MODULES_OF_AN_APP)
        )
    if not files:
        raise ConfigError(
            f"{folder}: no Python module there; name the app's file, or write main = in {CONFIG_FILES[0]}"
        )
    modules = _import_all(files, folder)
    worker = _worker(modules[0]) if config.main is not None else None
    classes = _classes(modules, folder)
    if config_file is not None and _is_another_than_main(path, env_name, environ):
        config = _bound_here(config, classes, config_file)
    return LoadedApp(config, classes, worker, folder, config_file, _projections(modules, config))


def _is_another_than_main(path: Path | None, env_name: str | None, environ: Mapping[str, str] | None) -> bool:
    """True if `path` is a file, and not the main module that the configuration names."""
    if path is None or path.suffix != ".py":
        return False
    own = load_config(path.parent, env_name=env_name, environ=environ).main
    return own is not None and Path(own).name != path.name


def _bound_here(config: Config, classes: Mapping[str, object], config_file: Path) -> Config:
    """The configuration without bindings of classes that are in other files."""
    kept = tuple(each for each in config.bindings if each.class_name in classes)
    if left := [each.name for each in config.bindings if each not in kept]:
        _logger.warning(
            f"{config_file} configures the app in {config_file.parent}; its bindings to classes of other "
            f"files are ignored: {', '.join(left)}. To use them: perdure serve {config_file.parent}"
        )
    return config.model_copy(update={"durable_objects": DurableObjects(bindings=kept)})


def load_config(
    path: Path | None,
    *,
    env_name: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    dev: bool = False,
    opens_data: bool = False,
) -> Config:
    """The effective configuration of the app at a path.

    `perdure.toml` is read from the app's folder, or from `wrangler.toml` in its absence; both may be missing.
    The data directory is `.perdure` in that folder, unless it is configured.

    Args:
        path: a `.py` file, which is then `main` and names an app without a name; a `.toml` file; or a folder.
            None is the working directory.
        env_name: the environment of the configuration to use; None for the top level.
        environ: the environment variables; None for those of the process.
        flags: settings of the command line, which win over all others.
        dev: True to read secrets from `.dev.vars` too, or from `.dev.vars.NAME` of the environment.
        opens_data: True if the data directory is about to be opened. If its data are where an older perdure
            had them, in the working directory, that is an error that says what to do.

    Raises `ConfigError`.
    """
    folder, config_file, main = _places(path)
    given = dict(flags or {})
    if main is not None:
        given["main"] = main
    try:
        text = config_file.read_text(encoding="utf-8") if config_file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config_file}: cannot be read: {error}") from None
    if config_file is None and env_name is not None:
        raise ConfigError(
            f"--env {env_name}: {folder.absolute()} has neither {' nor '.join(CONFIG_FILES)} to define it"
        )
    config = parse_config(
        text,
        str(config_file or folder / CONFIG_FILES[0]),
        env_name=env_name,
        environ=environ,
        flags=given,
        secrets=_dev_vars(folder, env_name) if dev else None,
        default_name=Path(main).stem if main else folder.resolve().name,
    )
    if "data_dir" in config.model_fields_set:
        return config
    default = Config.model_fields["data_dir"].default
    config = config.model_copy(update={"data_dir": folder / default})
    if opens_data:
        _refuse_data_left_behind(config, default)
    return config


def _refuse_data_left_behind(config: Config, before: Path) -> None:
    """Refuse to start empty while the app's data are in the former default place, the working directory.

    Raises `ConfigError` if they are only there. If both places have data, a warning names the one that is not
    used.
    """
    place = config.data_dir
    try:
        if place.absolute() == before.absolute() or app_in(before).app != config.name:
            return
        if place.exists() and place.samefile(before):
            return
        there = is_data_dir(place)
    except (DataDirError, OSError):
        return  # not a data directory, or an error that opening it will report
    if there:
        logging.getLogger("perdure").warning(  # appears on stderr even if logging is not set up
            f"{before.absolute()} also holds data of the app {config.name}, and is not used: the data "
            f"directory is {place.absolute()}, beside the app. To use the other one: --data {before}"
        )
        return
    raise ConfigError(
        f"the data of the app {config.name} are in {before.absolute()}, the working directory; the default "
        f"place is now beside the app, {place}, which is empty. Move them (mv {before} {place}), or pass --data {before}"
    )


def _dev_vars(folder: Path, env_name: str | None) -> dict[str, str]:
    own = folder / f"{DEV_VARS}.{env_name}"
    file = own if env_name is not None and own.is_file() else folder / DEV_VARS
    if not file.is_file():
        return {}
    try:
        return secrets_in(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {type(error).__name__}") from None


def _places(path: Path | None) -> tuple[Path, Path | None, str | None]:
    """The app's folder, its configuration file (None without one), and the main module if `path` names it."""
    path = path or Path()
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder; name the app's Python file or its folder")
    if path.suffix == ".toml" and path.is_file():
        return path.parent, path, None
    folder, main = (path, None) if path.is_dir() else (path.parent, path.name)
    if main is not None and path.suffix != ".py":
        raise ConfigError(f"{path}: neither a Python file, nor a TOML file, nor a folder")
    candidates = (folder / name for name in CONFIG_FILES)
    return folder, next((file for file in candidates if file.is_file()), None), main


# --- modules ---


def _import_all(files: list[Path], folder: Path) -> list[ModuleType]:
    _forget_last_app()
    number = next(_numbers)
    before = set(sys.modules)
    entry = str(folder.resolve())
    if entry not in sys.path:
        sys.path.append(entry)  # last: an installed package wins over a file of the same name
        _folders.append(entry)
    importlib.invalidate_caches()
    try:
        return [_import(file.resolve(), f"perdure_app{number}_{file.stem}", folder) for file in files]
    finally:
        for name in set(sys.modules) - before:
            if _is_in(sys.modules[name], folder) and not name.startswith("perdure_app"):
                _borrowed[name] = sys.modules[name]


def _import(file: Path, name: str, folder: Path) -> ModuleType:
    plain = file.stem
    loaded = sys.modules.get(plain)
    if loaded is not None and getattr(loaded, "__file__", None) == str(file):
        return loaded  # another module of the app imported it
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # the file ends with .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if loaded is None and plain not in sys.stdlib_module_names:
        sys.modules[plain] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        if sys.modules.get(plain) is module:
            del sys.modules[plain]
        raise ConfigError(_failure_line(error, file)) from error
    return module


def _forget_last_app() -> None:
    """Remove the plain names and the path of the previous app, so that this one gets its own modules."""
    for name, module in _borrowed.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    _borrowed.clear()
    while _folders:
        entry = _folders.pop()
        if entry in sys.path:
            sys.path.remove(entry)


def _failure_line(error: BaseException, file: Path) -> str:
    """One line: file and line in the app's code, and the exception."""
    what = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {what}"
    return f"{place_of(error) or file}: {what}"


# --- what they define ---


def _classes(modules: list[ModuleType], folder: Path) -> dict[str, type[DurableObject]]:
    classes: dict[str, type[DurableObject]] = {}
    for module in modules:
        for cls in vars(module).values():
            if not (isinstance(cls, type) and issubclass(cls, DurableObject)) or cls.__name__.startswith("_"):
                continue
            if cls is DurableObject or not _is_in(sys.modules.get(cls.__module__), folder):
                continue
            if classes.setdefault(cls.__name__, cls) is not cls:
                raise ConfigError(
                    f"two classes are named {cls.__name__}: {_place(classes[cls.__name__])} and {_place(cls)}; "
                    "a class names its namespace, so rename one"
                )
    if not classes:
        names = ", ".join(str(module.__file__) for module in modules[:3])
        raise ConfigError(
            f"{names}: no durable object there; define a class that inherits perdure.DurableObject"
        )
    return classes


def _projections(modules: list[ModuleType], config: Config) -> dict[str, Projection[Any]]:
    """What the app declares, and what it uses of those that perdure brings, by name."""
    own = (each for module in modules for each in vars(module).values() if isinstance(each, Projection))
    return used_by(own, config.projections.use)


def _worker(module: ModuleType) -> Callable[..., Any] | None:
    worker: Callable[..., Any] | None = vars(module).get("fetch")
    # `from perdure import fetch` is the HTTP client, not a Worker
    if worker is None or getattr(worker, "__module__", None) != module.__name__:
        return None
    if not inspect.iscoroutinefunction(worker):
        raise ConfigError(f"{module.__file__}: the Worker must be: async def fetch(request, env)")
    parameters = inspect.signature(worker).parameters
    if len(parameters) != 2:
        raise ConfigError(
            f"{module.__file__}:{worker.__code__.co_firstlineno}: the Worker takes (request, env), "
            f"this one takes ({', '.join(parameters)})"
        )
    return worker


def _is_in(module: ModuleType | None, folder: Path) -> bool:
    """True if a module is the app's, not perdure's or those of a virtual environment in the folder."""
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__.partition(".")[0] == "perdure":
        return False
    path, root = Path(file).resolve(), folder.resolve()
    return path.is_relative_to(root) and "site-packages" not in path.relative_to(root).parts


def _place(cls: type) -> str:
    module = sys.modules.get(cls.__module__)
    return f"{getattr(module, '__file__', cls.__module__)}:{inspect.getsourcelines(cls)[1]}"
