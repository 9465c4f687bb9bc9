"""The wheel beside packages of somebody else, and the checkout's environment from cached wheels."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(400)

IMPORT_ALL = """
import importlib, pkgutil, sys
import consumers, relay
import django, django.conf

# A model of Django is imported by a project that has settings.
django.conf.settings.configure(INSTALLED_APPS=["relay.outbox.django"])
django.setup()
for module in pkgutil.walk_packages(relay.__path__, "relay."):
    importlib.import_module(module.name)
assert consumers.OWNER == "the company", consumers
loaded = [name for name in sys.modules if name.startswith("consumers.")]
assert not loaded, loaded
print(sys.modules["relay.consumers.confirm.service"].__file__)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Install the wheel into an environment that has a package `consumers` of its own."""
    environment = tmp_path / "service"
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin/python", "install"]
    for command in (
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        [sys.executable, "-m", "venv", "--without-pip", environment],
        [*pip, "--quiet", "--no-index", "--no-deps", "--find-links", tmp_path, "outbox-relay"],
    ):
        subprocess.run(command, check=True, timeout=120, cwd=ROOT)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "consumers").mkdir()
    (packages / "consumers/__init__.py").write_text("OWNER = 'the company'\n")
    # What the wheel depends on; a .pth file there, such as the checkout's own, is not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return environment


def test_a_package_of_the_same_name_is_left_alone(installed: Path) -> None:
    python = installed / "bin/python"
    done = subprocess.run(
        [python, "-c", IMPORT_ALL], cwd=installed,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)
    done = subprocess.run(
        [installed / "bin/relay", "confirm", "--help"], cwd=installed,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def set_up(checkout: Path, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "tools/setup.sh", sys.executable],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_NO_INDEX": "1", "XDG_CACHE_HOME": str(cache), **environment},
        timeout=200,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    copy = tmp_path / "checkout"
    for name in ("relay", "consumers", "schemas", "tools"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements-dev.txt"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def test_without_an_index_it_says_what_to_set(checkout: Path, tmp_path: Path) -> None:
    done = set_up(checkout, tmp_path / "cache", PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.strip().endswith("set PIP_INDEX_URL to a mirror if there is one")
    assert not (checkout / ".venv/made-from").exists()


def test_the_wheels_of_another_checkout_are_enough(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "cache/outbox-relay").mkdir(parents=True)
    (tmp_path / "cache/outbox-relay/wheels").symlink_to((Path(sys.prefix) / "wheels").resolve())
    done = set_up(checkout, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "fetching" not in done.stderr
    relay = subprocess.run(
        [checkout / ".venv/bin/relay", "--version"], capture_output=True, text=True, check=True
    )
    assert relay.stdout.startswith("relay ")
    assert set_up(checkout, tmp_path / "cache").stderr == ""
