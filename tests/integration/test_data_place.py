"""Where an app's data lie, and what the commands that check them do if they are not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.process import serve

from perdure.api.cli import main
from perdure.api.loading import load_config
from perdure.schemas.errors import ConfigError
from perdure.streams.datadir import DataDir

APP = "from perdure import DurableObject\n\nclass Counter(DurableObject):\n    async def one(self) -> int:\n        return 1\n"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; exit code, stdout, stderr."""

    def run_here(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return run_here


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app in a folder below the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = Path("shop")
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    return folder


def found(path: Path, app: str, partitions: int = 8) -> None:
    """Make a data directory of an app that never ran."""
    DataDir(path, app=app, partitions=partitions, new_uuid=lambda: "uuid").close()


def files(path: Path) -> set[Path]:
    return set(path.rglob("*"))


@pytest.mark.parametrize("command", [("verify",), ("state", "rebuild")], ids=" ".join)
@pytest.mark.parametrize("place", ["missing", "empty", "another's", "never ran"])
def test_what_is_not_there_cannot_be_checked(
    command: tuple[str, ...], place: str, app: Path, here: Run, tmp_path: Path
) -> None:
    """A typo in the path fails with the whole path, and makes nothing."""
    data = tmp_path / "typo"
    if place != "missing":
        data.mkdir()
    if place == "another's":
        (data / "letter.txt").write_text("mine")
    if place == "never ran":
        found(data, "app")
    before = files(tmp_path)
    code, out, err = here(*command, str(app / "app.py"), "--data", "typo")
    assert code == 1
    assert str(data) in err
    assert files(tmp_path) - before <= {data / "LOCK"}
    assert out == ("FAILED\n" if command == ("verify",) else "")


def test_verify_ends_in_ok_or_failed(app: Path, here: Run, tmp_path: Path) -> None:
    """Its last line, or `result` in JSON; a lost log is a failure that is named."""
    with serve(app / "app.py", app / ".perdure"):
        pass
    code, out, _ = here("verify", str(app / "app.py"))
    assert (code, out.splitlines()[-1]) == (0, "OK")
    assert "differences: 0" in out
    code, out, _ = here("verify", str(app / "app.py"), "--json")
    told: dict[str, Any] = json.loads(out)
    assert (code, told["result"], len(told["chain"])) == (0, "OK", 8)
    code, out, _ = here("state", "rebuild", str(app / "app.py"))
    assert (code, out.splitlines()[-1]) == (0, "OK")
    (app / ".perdure" / "log").rename(tmp_path / "elsewhere")
    code, out, err = here("verify", str(app / "app.py"))
    assert (code, out.splitlines()[-1]) == (1, "FAILED")
    code, out, _ = here("verify", str(app / "app.py"), "--json")
    told = json.loads(out)
    assert (code, told["result"], told["code"]) == (1, "FAILED", "log-corrupt")
    assert told["reason"] in err


def test_verify_of_no_app_fails_plainly(here: Run, tmp_path: Path) -> None:
    """The wrong folder is the caller's mistake: exit code 2."""
    code, out, err = here("verify", str(tmp_path / "nothing"))
    assert (code, out) == (2, "FAILED\n")
    assert "no such file or folder" in err


def test_the_data_lie_beside_the_app(app: Path) -> None:
    """Wherever the command runs; a place that was named stands."""
    assert load_config(app).data_dir == app / ".perdure"
    assert load_config(app / "app.py").data_dir == app / ".perdure"
    assert load_config(app, environ={"PERDURE_DATA_DIR": "x"}).data_dir == Path("x")
    (app / "perdure.toml").write_text('data_dir = "here"\n')
    assert load_config(app).data_dir == app / "here"


def test_data_left_in_the_working_directory_are_not_started_without(app: Path, here: Run) -> None:
    """What an older perdure made there is named, with how to move it or use it;
    nothing begins empty beside it.
    """
    found(Path(".perdure"), "shop")
    for command in (("serve", "--port", "0"), ("dev", "--port", "0"), ("verify",), ("state", "rebuild")):
        code, _, err = here(*command, str(app))
        assert code == 2, command
        assert f"the data of the app shop are in {Path('.perdure').absolute()}" in err
        assert "mv .perdure shop/.perdure" in err
        assert "--data .perdure" in err
    assert not (app / ".perdure").exists()
    assert load_config(app, flags={"data_dir": Path(".perdure")}, opens_data=True).data_dir == Path(
        ".perdure"
    )
    assert here("config", "show", str(app))[0] == 0
    Path(".perdure").rename(app / ".perdure")
    assert load_config(app, opens_data=True).data_dir == app / ".perdure"


def test_data_of_other_apps_in_the_working_directory_are_nobodys_business(app: Path) -> None:
    """Nor is the directory of this app, if the app lies in the working directory."""
    found(Path(".perdure"), "another")
    assert load_config(app, opens_data=True).data_dir == app / ".perdure"
    Path("app.py").write_text(APP)
    found(Path("shop/.perdure"), "shop")
    assert load_config(Path("app.py"), opens_data=True).data_dir == Path(".perdure")


def test_data_in_both_places_are_named(app: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Those beside the app are used."""
    found(Path(".perdure"), "shop")
    found(app / ".perdure", "shop")
    assert load_config(app, opens_data=True).data_dir == app / ".perdure"
    assert f"{Path('.perdure').absolute()} also holds data of the app shop" in caplog.text


def test_a_lost_place_is_refused_by_the_environment_as_well(app: Path) -> None:
    """Each environment is an app of its own name."""
    (app / "perdure.toml").write_text('name = "shop"\n[env.live]\n')
    found(Path(".perdure"), "shop-live")
    assert load_config(app, opens_data=True).data_dir == app / ".perdure"
    with pytest.raises(ConfigError, match="shop-live"):
        load_config(app, env_name="live", opens_data=True)


def test_the_secret_is_shown_by_its_id_and_rotated_while_the_app_is_stopped(app: Path, here: Run) -> None:
    """Never itself; with a running server, or one that is configured, rotation says what to do instead."""
    path, data = str(app / "app.py"), app / ".perdure"
    assert here("secret", "show", path)[0] == 1
    with serve(app / "app.py", data):
        code, _, err = here("secret", "rotate", path)
        assert (code, "is in use by process" in err) == (1, True)
    first = json.loads(here("secret", "show", path, "--json")[1])
    assert (first["app"], len(first["ids"])) == ("app", 1)
    assert here("secret", "rotate", path)[0] == 0
    told = here("secret", "show", path)[1]
    assert f"{first['ids'][0]}  accepted" in told
    secret = (data / "secret").read_text().splitlines()[1]
    assert secret not in told + here("config", "show", path)[1]
    with serve(app / "app.py", data) as server:
        assert server.stop() == 0


def test_a_configured_secret_is_rotated_where_it_is(
    app: Path, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that was made is good for it."""
    monkeypatch.setenv("PERDURE_SEAL_SECRET", here("secret", "create")[1].strip())
    path = str(app / "app.py")
    assert "PERDURE_SEAL_SECRET" in here("secret", "show", path)[1]
    code, _, err = here("secret", "rotate", path)
    assert (code, "PERDURE_SEAL_SECRET" in err, "`new,old`" in err) == (2, True, True)


def test_each_mistake_is_one_line_that_says_what_to_do(app: Path, here: Run) -> None:
    """Nothing is tried with a value that cannot be meant, and what does not answer
    is not said to have gone away.
    """
    mistakes = (
        (
            ("call", "Counter/a", "one", "--timeout", "-1"),
            2,
            "--timeout -1: give a number of seconds above 0",
        ),
        (("bench", "--url", "http://127.0.0.1:9"), 1, "no server answers at http://127.0.0.1:9"),
        (
            ("secret", "show", str(app)),
            1,
            f"there is no data directory of perdure at {(app / '.perdure').absolute()}",
        ),
    )
    for command, code, said in mistakes:
        ended, out, err = here(*command)
        assert (ended, out) == (code, ""), command
        assert said in err
        assert err.count("\n") == 1


def test_who_has_the_data_says_how_to_stop_it(app: Path, here: Run) -> None:
    """Under `dev` a killed server comes again: it is `dev` that is to be stopped."""
    with serve(app / "app.py", app / ".perdure", "--dev"):
        _, _, err = here("verify", str(app / "app.py"))
    assert "Ctrl-C where `perdure dev` runs" in err
    with serve(app / "app.py", app / ".perdure") as server:
        assert f"kill {server.pid})" in here("verify", str(app / "app.py"))[2]
        told = here("objects", "list", "--url", server.url)[1]
        assert "name=Counter  class=Counter" in told
