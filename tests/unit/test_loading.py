"""Loading an app: what is imported, under which names, what counts, and whose fault an error is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from perdure.api import loading
from perdure.api.loading import LoadedApp, load_app, load_config
from perdure.objects.registry import Registry
from perdure.schemas.errors import ConfigError

BASE = "from perdure.objects.durable import DurableObject\n"
COUNTER = f"{BASE}class Counter(DurableObject): pass\n"


@pytest.fixture(autouse=True)
def _leave_no_names() -> Iterator[None]:
    """The names and the path an app borrows end with the test."""
    yield
    loading._forget_last_app()


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text)
    return folder


def refusal(path: Path, **sources: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_app(path, **sources)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_file_is_an_app_of_its_name(tmp_path: Path) -> None:
    """`perdure dev shop.py` needs nothing else: the file names the app, its classes are served."""
    app = load_app(write(tmp_path, shop_py=COUNTER) / "shop.py")
    assert (app.config.name, app.config.main, list(app.classes)) == ("shop", "shop.py", ["Counter"])
    assert app.config_file is None


def test_a_folder_without_main_is_all_its_modules(tmp_path: Path) -> None:
    """Every module counts, except those that are plainly none of the app's."""
    room = f"{BASE}class Room(DurableObject): pass\n"
    bad = "raise RuntimeError('not to be imported')"
    write(
        tmp_path, counter_py=COUNTER, room_py=room, test_x_py=bad, conftest_py=bad, _old_py=bad, setup_py=bad
    )
    app = load_app(tmp_path)
    assert sorted(app.classes) == ["Counter", "Room"]
    assert (app.config.name, app.worker) == (tmp_path.name, None)


def test_main_alone_is_imported_and_brings_its_siblings(tmp_path: Path) -> None:
    """With a main module only that one is imported; a class it imports from the folder is the app's too."""
    main = "from rooms import Room\nfrom perdure.objects.durable import DurableObject as Base\n"
    rooms = f"{BASE}class Room(DurableObject): pass\n"
    write(tmp_path, perdure_toml='main = "main.py"', main_py=main, rooms_py=rooms, other_py="1 / 0")
    assert list(load_app(tmp_path).classes) == ["Room"]


def test_siblings_share_one_copy_of_each_module(tmp_path: Path) -> None:
    """Modules that import each other by plain name, in either order, see the same classes."""
    for first, second in (("a", "b"), ("b", "a")):
        folder = tmp_path / f"{first}{second}"
        folder.mkdir()
        thing = f"{BASE}class Thing(DurableObject): pass\n"
        user = f"from {first} import Thing\nclass More(Thing): pass\n"
        app = load_app(write(folder, **{f"{first}_py": thing, f"{second}_py": user}))
        assert issubclass(app.classes["More"], app.classes["Thing"])


def test_two_apps_do_not_share_modules_of_one_name(tmp_path: Path) -> None:
    """Loading another app, or the same one again, gives that app's own code."""
    apps: list[LoadedApp] = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        main = "from helper import WHERE\n" + COUNTER + "Counter.where = WHERE\n"
        apps.append(load_app(write(folder, main_py=main, helper_py=f"WHERE = '{name}'\n") / "main.py"))
    assert [getattr(app.classes["Counter"], "where", None) for app in apps] == ["one", "two"]


def test_a_module_named_like_the_library_hides_nothing(tmp_path: Path) -> None:
    """A user's queue.py or wave.py is loaded; to all others these names are still the standard library's."""
    sys.modules.pop("wave", None)  # one that is in use already, and one that is not
    app = load_app(write(tmp_path, queue_py=COUNTER, wave_py="x = 1"))
    assert list(app.classes) == ["Counter"]
    for name, what in (("queue", "SimpleQueue"), ("wave", "Wave_read")):
        assert hasattr(importlib.import_module(name), what)


def test_configuration_beside_a_file_is_read(tmp_path: Path) -> None:
    """A file given by hand is main; the rest of the folder's configuration holds."""
    write(tmp_path, perdure_toml='name = "shop"\nport = 9000', counter_py=COUNTER)
    config = load_config(tmp_path / "counter.py")
    assert (config.name, config.port, config.main) == ("shop", 9000, "counter.py")


def test_a_file_beside_the_main_one_is_served_without_the_bindings_of_others(tmp_path: Path) -> None:
    """And what is left out is told, with the remedy; the main one has to have them."""
    bindings = "".join(
        f'[[durable_objects.bindings]]\nname = "{name.upper()}"\nclass_name = "{name}"\n'
        for name in ("One", "Two")
    )
    write(tmp_path, a_py=COUNTER.replace("Counter", "One"), b_py=COUNTER.replace("Counter", "Two"))
    write(tmp_path, perdure_toml=f'name = "both"\nmain = "a.py"\n{bindings}')
    with capture_logs() as logged:
        app = load_app(tmp_path / "b.py", environ={})
    assert [each.name for each in app.config.bindings] == ["TWO"]
    Registry.build(app.classes, app.config)
    assert "are ignored: ONE" in logged[0]["event"]
    assert f"perdure serve {tmp_path}" in logged[0]["event"]
    app = load_app(tmp_path / "a.py", environ={})
    with pytest.raises(ConfigError, match=r"the binding TWO names the class Two.*serve the folder"):
        Registry.build(app.classes, app.config)


def test_perdure_toml_comes_before_wrangler_toml(tmp_path: Path) -> None:
    """Of two configurations perdure's own is read; a file named by hand is read whatever it is called."""
    write(tmp_path, perdure_toml="port = 1", wrangler_toml="[perdure]\nport = 2", counter_py=COUNTER)
    assert load_config(tmp_path).port == 1
    assert load_config(tmp_path / "wrangler.toml").port == 2


def test_an_error_in_the_app_is_told_with_its_line(tmp_path: Path) -> None:
    """Whatever the app's code raises while it loads, the message leads to the user's line."""
    helper = "def f():\n    return {}['missing']\n"
    write(tmp_path, helper_py=helper, main_py="import helper\nhelper.f()\n")
    assert f"{tmp_path}/helper.py:2: KeyError: 'missing'" in refusal(tmp_path / "main.py")
    assert "bad.py:2: SyntaxError" in refusal(write(tmp_path, bad_py="x = 1\nclass\n") / "bad.py")
    assert "leave.py:2: SystemExit: 3" in refusal(
        write(tmp_path, leave_py="import sys\nsys.exit(3)\n") / "leave.py"
    )
    assert "gone.py:1: ModuleNotFoundError" in refusal(
        write(tmp_path, gone_py="import not_there\n") / "gone.py"
    )


def test_a_failed_load_leaves_nothing_behind(tmp_path: Path) -> None:
    """After a correction the app loads: no half-made module answers for it."""
    write(tmp_path, helper_py="1 / 0", main_py="import helper\n" + COUNTER)
    assert "helper.py:1: ZeroDivisionError" in refusal(tmp_path / "main.py")
    write(tmp_path, helper_py="")
    assert list(load_app(tmp_path / "main.py").classes) == ["Counter"]


def test_two_classes_of_one_name_are_told_with_both_places(tmp_path: Path) -> None:
    """A class names its namespace, so its name must be single."""
    said = refusal(write(tmp_path, a_py=COUNTER, b_py=COUNTER))
    assert "two classes are named Counter" in said
    assert f"{tmp_path}/a.py:2" in said
    assert f"{tmp_path}/b.py:2" in said


def test_private_and_foreign_classes_are_not_served(tmp_path: Path) -> None:
    """What begins with an underscore is a helper; what is imported from elsewhere is not this app's."""
    app = load_app(
        write(tmp_path, main_py=f"{COUNTER}class _Base(DurableObject): pass\nOther = DurableObject\n")
        / "main.py"
    )
    assert list(app.classes) == ["Counter"]


def test_paths_that_hold_no_app_are_told(tmp_path: Path) -> None:
    """A path that is wrong is named with what it should have been."""
    assert f"{tmp_path}/x.py: no such file or folder" in refusal(tmp_path / "x.py")
    assert "no Python module there" in refusal(tmp_path)
    assert "neither a Python file" in refusal(write(tmp_path, a_txt="") / "a.txt")
    assert "no durable object there" in refusal(write(tmp_path, a_py="x = 1") / "a.py")
    assert "there is no file" in refusal(write(tmp_path, perdure_toml='main = "b.py"'))
    (tmp_path / "perdure.toml").unlink()
    assert "--env x: " in refusal(tmp_path / "a.py", env_name="x")


def test_the_worker_is_the_main_module_s_own(tmp_path: Path) -> None:
    """`async def fetch(request, env)` of the main module is the Worker; an imported `fetch` is not."""
    worker = f"{COUNTER}async def fetch(request, env): return 'hello'\n"
    app = load_app(write(tmp_path, main_py=worker) / "main.py")
    assert app.worker is not None
    imported = load_app(write(tmp_path, other_py=f"{COUNTER}from main import fetch\n") / "other.py")
    assert imported.worker is None


def test_a_worker_of_the_wrong_shape_is_told(tmp_path: Path) -> None:
    """A Worker that cannot be called is an error at start."""
    plain = write(tmp_path, plain_py=f"{COUNTER}def fetch(request, env): pass\n") / "plain.py"
    assert "must be: async def fetch(request, env)" in refusal(plain)
    one = write(tmp_path, one_py=f"{COUNTER}async def fetch(request): pass\n") / "one.py"
    assert "one.py:3: the Worker takes (request, env), this one takes (request)" in refusal(one)


def test_a_secret_that_is_missing_is_told_at_start(tmp_path: Path) -> None:
    """The error names the secret, the variable and the file; with `dev` that file is read, by environment."""
    write(
        tmp_path,
        app_py=COUNTER,
        perdure_toml='main = "app.py"\nsecrets = ["KEY"]\n[env.live]\nsecrets = ["KEY"]',
    )
    said = refusal(tmp_path)
    assert "the app needs the secret KEY: set PERDURE_SECRETS__KEY, or write it to .dev.vars" in said
    (tmp_path / ".dev.vars").write_text("KEY=for all")
    assert "the app needs the secret KEY" in refusal(tmp_path), "only `perdure dev` reads it"
    assert load_app(tmp_path, dev=True).config.secret_values == {"KEY": "for all"}
    assert load_app(tmp_path, dev=True, env_name="live").config.secret_values == {"KEY": "for all"}
    (tmp_path / ".dev.vars.live").write_text("KEY=live")
    assert load_app(tmp_path, dev=True, env_name="live").config.secret_values == {"KEY": "live"}
    environ = {"PERDURE_SECRETS__KEY": "set"}
    assert load_app(tmp_path, dev=True, environ=environ).config.secret_values == {"KEY": "set"}
