"""Setup: `make setup` does nothing twice, mends what is half made, and says why it cannot."""

import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with what the environment is made from and nothing else."""
    copy = tmp_path / "checkout"
    (copy / "tools").mkdir(parents=True)
    for name in ("pyproject.toml", "uv.lock", "tools/setup_environment.py"):
        shutil.copy(CHECKOUT / name, copy / name)
    return copy


@pytest.fixture
def setup(checkout: Path) -> ModuleType:
    spec = spec_from_file_location("setup_environment", checkout / "tools/setup_environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(setup: ModuleType) -> str:
    """Pretend that the environment has been made, and return what from."""
    (setup.VENV / "bin").mkdir(parents=True)
    (setup.VENV / "bin/relay").touch()
    wanted: str = setup._fingerprint()
    setup.STAMP.write_text(wanted, "utf-8")
    return wanted


def test_nothing_to_do_is_seen_at_once(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    made(setup)
    monkeypatch.setattr(setup.subprocess, "run", lambda *_: pytest.fail("a program was started"))
    assert setup._set_up() == 0


@pytest.mark.parametrize("name", ["uv.lock", "pyproject.toml", "tools/setup_environment.py"])
def test_whatever_it_is_made_from_makes_it_again(
    setup: ModuleType, checkout: Path, name: str
) -> None:
    made(setup)
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert not setup._is_made_from(setup._fingerprint())


def test_an_environment_without_its_program_is_made_again(setup: ModuleType) -> None:
    wanted = made(setup)
    (setup.VENV / "bin/relay").unlink()
    assert not setup._is_made_from(wanted)


def test_wheels_lead_to_the_cache_again_after_it_has_moved(
    setup: ModuleType, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        cache = tmp_path / name
        cache.mkdir()
        assert setup._wheels_folder(cache) == cache / "wheels"
        assert setup.WHEELS_LINK.resolve() == (cache / "wheels").resolve()


def test_settings_of_the_users_uv_change_nothing(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "elsewhere")
    monkeypatch.setenv("UV_CACHE_DIR", "kept")
    environment = setup._uv_environment()
    assert "UV_DEFAULT_INDEX" not in environment
    assert environment["UV_CACHE_DIR"] == "kept"


def test_an_old_python_is_told_so(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.sys, "version_info", (3, 9, 1))
    with pytest.raises(setup.SetupError, match=r"3\.11 or newer is needed.* is 3\.9\.1"):
        setup._refuse_this_python()


def test_a_full_disk_is_told_so(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "NEEDED_BYTES", 10**18)
    with pytest.raises(setup.SetupError, match="GB are needed"):
        setup._set_up()


def test_without_a_registry_it_says_what_to_set(checkout: Path, tmp_path: Path) -> None:
    away = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_NO_CACHE_DIR": "1",
    }
    done = subprocess.run(
        [sys.executable, checkout / "tools/setup_environment.py"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **away},
        timeout=100,
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith("set PIP_INDEX_URL to a mirror if there is one")
    assert "Traceback" not in done.stderr
    assert not (checkout / ".venv").exists()
