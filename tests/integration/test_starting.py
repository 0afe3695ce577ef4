"""`perdure init`: what it makes, and what it leaves alone. The wheel's own is tried in test_package.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perdure.api.cli import main
from perdure.api.loading import load_app

ROOT = Path(__file__).parents[2]


def init(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["init", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_project_is_an_app_in_the_style_of_the_house(tmp_path: Path) -> None:
    """It loads under its folder's name, and ruff has nothing to say."""
    assert init(str(tmp_path / "my-shop")) == 0
    app = load_app(tmp_path / "my-shop", environ={})
    assert (app.config.name, list(app.classes)) == ("my-shop", ["Counter"])
    for check in (("check",), ("format", "--check")):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *check,
            "--config",
            str(ROOT / "pyproject.toml"),
            str(tmp_path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says what is there and how to go on; nothing is written. A repository without files is empty."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "app.py").write_text("mine\n")
    assert init(str(tmp_path)) == 2
    told = capsys.readouterr().err
    assert "is not empty (app.py)" in told
    assert "--force" in told
    assert sorted(each.name for each in tmp_path.iterdir()) == [".git", "app.py"]
    (tmp_path / "app.py").unlink()
    assert init(str(tmp_path)) == 0


def test_with_force_what_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is missing is added, and what was left is told."""
    (tmp_path / "README.md").write_text("mine\n")
    assert init(str(tmp_path), "--force") == 0
    told = capsys.readouterr().out
    assert "left unchanged: README.md\n" in told
    assert "is ready" in told
    assert (tmp_path / "README.md").read_text() == "mine\n"
    assert (tmp_path / "tests" / "test_app.py").exists()


def test_with_an_app_of_ones_own_nothing_is_made_or_said_of_the_counter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tests and what is to be called are its author's to know; an app.py as it
    was made is none of one's own.
    """
    (tmp_path / "app.py").write_text("x = 1\n")
    assert init(str(tmp_path), "--force") == 0
    told = capsys.readouterr().out
    assert "left unchanged: app.py\n" in told
    assert (
        "not made, because they describe the app.py of `perdure init`: README.md, tests/test_app.py\n" in told
    )
    assert not any(word in told for word in ("is ready", "Counter", "-m pytest"))
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        ".gitignore",
        "app.py",
        "perdure.toml",
        "pyproject.toml",
    ]
    (tmp_path / "app.py").unlink()
    for _ in range(2):
        assert init(str(tmp_path), "--force") == 0
        assert "is ready" in capsys.readouterr().out
    assert (tmp_path / "tests" / "test_app.py").exists()


@pytest.mark.parametrize("kind", ["folder", "link to nothing"])
def test_what_stands_for_a_file_and_is_none_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is made."""
    if kind == "folder":
        (tmp_path / "app.py").mkdir()
    else:
        (tmp_path / "app.py").symlink_to("nowhere")
    assert init(str(tmp_path), "--force") == 2
    assert "app.py exists and is not a file" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["app.py"]


@pytest.mark.parametrize("name", ["two words", "-dash", "ü", "x" * 101])
def test_a_name_that_no_app_can_have_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics and packages carry it. That it is the folder's is told, which may have been given as a dot."""
    assert init("--", str(tmp_path / name)) == 2
    assert list(tmp_path.iterdir()) == []
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    capsys.readouterr()
    assert init(".") == 2
    assert f'the name of the folder, "{name}", cannot name an app' in capsys.readouterr().err
