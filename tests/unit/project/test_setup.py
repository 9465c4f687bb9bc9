"""Setup: `make setup` does nothing twice, and says why it cannot; the locked files fit together."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))
LOCKED = CHECKOUT / "requirements-dev.txt"
IMAGE = CHECKOUT / "deploy/requirements.txt"
BUILD = CHECKOUT / "deploy/requirements-build.txt"
A_PYTHON = """#!/bin/sh
case $1 in
    -c) exit {new_enough} ;;
    -VV) echo "Python 3.x" ;;
    *) echo "asked: $*" >&2; exit 9 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with what the environment is made from and nothing else."""
    copy = tmp_path / "checkout"
    (copy / "tools").mkdir(parents=True)
    for name in ("pyproject.toml", "requirements-dev.txt", "tools/setup.sh"):
        shutil.copy(CHECKOUT / name, copy / name)
    return copy


@pytest.fixture
def python(checkout: Path) -> Path:
    """A Python that makes nothing, and says that it was asked."""
    program = checkout / "python"
    program.write_text(A_PYTHON.format(new_enough=0))
    program.chmod(0o755)
    return program


def set_up(
    checkout: Path, python: Path | str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "tools/setup.sh", python],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(checkout / "cache"), **environment},
        timeout=100,
    )


def pretend_made(checkout: Path) -> None:
    """Write what a completed setup with that Python leaves."""
    venv = checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/relay").touch(0o755)
    with (checkout / "requirements-dev.txt").open() as file:
        sum_ = subprocess.run(["cksum"], stdin=file, check=True, capture_output=True, text=True)
    (venv / "made-from").write_text(f"Python 3.x {checkout} {sum_.stdout}")


def test_nothing_to_do_is_seen_at_once(checkout: Path, python: Path) -> None:
    pretend_made(checkout)
    done = set_up(checkout, python)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (checkout / "cache").exists()


def test_other_requirements_make_it_again(checkout: Path, python: Path) -> None:
    pretend_made(checkout)
    with (checkout / "requirements-dev.txt").open("a") as file:
        file.write("# changed\n")
    assert "asked: -m venv --clear .venv" in set_up(checkout, python).stderr


def test_an_environment_that_was_moved_is_made_again(checkout: Path, python: Path) -> None:
    pretend_made(checkout)
    moved = checkout.rename(checkout.with_name("moved"))
    assert "asked: -m venv --clear .venv" in set_up(moved, moved / python.name).stderr


def test_an_old_python_is_told_so(checkout: Path, python: Path) -> None:
    python.write_text(A_PYTHON.format(new_enough=1))
    done = set_up(checkout, python)
    assert done.returncode == 1
    assert "is no Python 3.11 or newer; choose another: make setup PYTHON=" in done.stderr


def pinned(path: Path) -> dict[str, str]:
    """Return each pin of a file of requirements, and all that was said of it."""
    entries = re.split(r"^(?=\w)", path.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {re.split(r"\s", entry, maxsplit=1)[0]: entry for entry in entries}


@pytest.mark.parametrize("path", [LOCKED, IMAGE, BUILD], ids=lambda path: path.name)
def test_what_is_locked_has_hashes_and_no_address(path: Path) -> None:
    assert "://" not in path.read_text("utf-8")
    for pin, entry in pinned(path).items():
        assert re.fullmatch(r"[\w.-]+==[\w.]+", pin)
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), pin


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", text)[0].lower() for text in requirements}


def test_all_that_is_asked_for_is_locked() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    services = names(PROJECT["project"]["dependencies"]) | names(extras["cli"])
    everything = services | names(extras["demo"]) | names(PROJECT["dependency-groups"]["dev"])
    for path, asked in ((IMAGE, services), (LOCKED, everything - {"outbox-relay"})):
        assert asked <= {pin.partition("==")[0] for pin in pinned(path)}, f"{path}: make lock"


def test_the_image_has_what_the_tests_ran_with() -> None:
    locked = pinned(LOCKED)
    for pin, entry in (pinned(IMAGE) | pinned(BUILD)).items():
        assert set(re.findall(r"sha256:\w+", entry)) == set(
            re.findall(r"sha256:\w+", locked[pin])
        ), pin
