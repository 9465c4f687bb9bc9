"""The wheel: typed, one top-level name, and one line from `relay` where an extra is missing."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[3]
WITHOUT_EXTRAS = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"click", "asyncpg", "aiokafka", "pydantic_settings"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

sys.meta_path.insert(0, Hidden())
sys.path.insert(0, sys.argv.pop(1))
from relay.command import main
main()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it as `pip install` of the checkout does."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_is_typed_and_has_the_contract(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    assert {"relay/py.typed", "relay/schemas/sql/0001_relay.sql"} <= names
    top_level = {name.partition("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"relay"}
    assert "relay/consumers/confirm/service.py" in names
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "relay = relay.command:main" in ZipFile(wheel).read(entry).decode()


@pytest.mark.parametrize("arguments", [["--help"], ["run"], []])
def test_without_the_extra_one_line_names_it(wheel: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, wheel, *arguments],
        capture_output=True, text=True, timeout=60, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error[not_installed]: No module named 'click': pip install 'outbox-relay[cli]'"
    ]
