"""Builds the checkout's own environment: `python3 tools/setup_environment.py`, or `make setup`.

Needs Python 3.11+ with venv and the package registry that pip is set up for (its options and
`PIP_*` variables are honoured); nothing else, and no rights beyond the user's own.

1. A small environment in the user's cache holds pip and one pinned uv.
2. `uv sync` installs exactly what uv.lock names into `.venv`, hashes checked, from the folder
   `.wheels`. The wheels are kept in the user's cache, so that the next checkout needs no network.
3. Wheels that are not there yet are fetched by pip, because pip is what machines behind a mirror
   have been set up for. Nothing is ever compiled, and nothing is ever resolved again.

Running it twice is cheap: a stamp in `.venv` says what it was made from. Two at once wait for each
other. Interrupted, it starts again where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

UV_VERSION = "0.13.9"
OLDEST_PYTHON = (3, 11)
# The wheels, their unpacked copies in uv's cache and the environment itself: 0.7 GB measured.
NEEDED_BYTES = 1_200_000_000

CHECKOUT = Path(__file__).resolve().parent.parent
VENV = CHECKOUT / ".venv"
WHEELS_LINK = CHECKOUT / ".wheels"
STAMP = VENV / ".made-from"


class SetupError(Exception):
    """The environment cannot be made; the text says what to do."""


def main() -> int:
    """Make `.venv` what uv.lock says, or say why not."""
    parser = argparse.ArgumentParser(description="Build the checkout's own environment in .venv")
    parser.add_argument("--tool", action="store_true", help="only print the path of the pinned uv")
    arguments = parser.parse_args()
    try:
        _refuse_this_python()
        if arguments.tool:
            sys.stdout.write(f"{_uv(_cache_folder())}\n")
            return 0
        return _set_up()
    except SetupError as error:
        sys.stderr.write(f"setup: {error}\n")
        return 1


def _set_up() -> int:
    wanted = _fingerprint()
    if _is_made_from(wanted):
        return 0
    started = time.monotonic()
    _refuse_full_disk()
    cache = _cache_folder()
    with _one_at_a_time(cache / "setup.lock"):
        if _is_made_from(wanted):
            return 0
        uv = _uv(cache)
        wheels = _wheels_folder(cache)
        _make_venv(uv)
        # Most often every wheel is in the cache already; only when one is not is pip asked.
        if _sync(uv, quiet=True) != 0:
            _download(uv, wheels)
            if _sync(uv, quiet=False) != 0:
                raise SetupError("uv could not install what uv.lock names; its words are above")
        STAMP.write_text(wanted, encoding="utf-8")
    _say(f"environment ready in .venv ({time.monotonic() - started:.0f} s)")
    return 0


def _refuse_this_python() -> None:
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        raise SetupError(
            f"Python 3.11 or newer is needed, {sys.executable} is {found}; "
            "choose another with `make setup PYTHON=/path/to/python3.11`"
        )


def _refuse_full_disk() -> None:
    free = shutil.disk_usage(CHECKOUT).free
    if free < NEEDED_BYTES:
        raise SetupError(
            f"{NEEDED_BYTES / 1e9:.1f} GB are needed where the checkout is, "
            f"{free / 1e9:.1f} GB are free"
        )


def _fingerprint() -> str:
    """Return what `.venv` depends on; the same fingerprint means that there is nothing to do."""
    digest = hashlib.sha256(f"{UV_VERSION} {sys.version} {CHECKOUT}".encode())
    for name in ("uv.lock", "pyproject.toml", "tools/setup_environment.py"):
        digest.update((CHECKOUT / name).read_bytes())
    return digest.hexdigest()


def _is_made_from(wanted: str) -> bool:
    try:
        return STAMP.read_text(encoding="utf-8") == wanted and (VENV / "bin/relay").exists()
    except OSError:
        return False


def _cache_folder() -> Path:
    """Return a writable folder that outlives the checkout, else one inside the checkout."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    home_cache = Path(chosen) if chosen.startswith("/") else Path.home() / ".cache"
    for folder in (home_cache / "outbox-relay", CHECKOUT / ".build" / "cache"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise SetupError(f"neither {home_cache} nor {CHECKOUT} can be written to by this user")


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    with path.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another setup is running; waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _uv(cache: Path) -> Path:
    """Return the pinned uv, in an environment of its own beside pip: it never removes itself."""
    version = "{}.{}".format(*sys.version_info)
    tools = cache / "tools" / f"uv-{UV_VERSION}-python{version}"
    if not _answers([str(tools / "bin/uv"), "--version"]) or not _answers(_pip(tools, "--version")):
        shutil.rmtree(tools, ignore_errors=True)
        _run(
            [sys.executable, "-m", "venv", str(tools)],
            "this Python has no working venv module; on Debian and Ubuntu: "
            f"apt-get install python{version}-venv",
        )
        _run(
            _pip(tools, "install", "--quiet", f"uv=={UV_VERSION}"),
            "pip cannot reach a package registry; set PIP_INDEX_URL to a mirror if there is one",
        )
    return tools / "bin/uv"


def _pip(tools: Path, *arguments: str) -> list[str]:
    return [str(tools / "bin/python"), "-m", "pip", "--disable-pip-version-check", *arguments]


def _wheels_folder(cache: Path) -> Path:
    """Return the folder of wheels and make `.wheels`, which uv.lock names, lead to it."""
    if WHEELS_LINK.is_dir() and not WHEELS_LINK.is_symlink():
        return WHEELS_LINK
    wheels = cache / "wheels"
    wheels.mkdir(exist_ok=True)
    if not WHEELS_LINK.is_symlink() or WHEELS_LINK.resolve() != wheels.resolve():
        WHEELS_LINK.unlink(missing_ok=True)
        WHEELS_LINK.symlink_to(wheels)
    return wheels


def _make_venv(uv: Path) -> None:
    ours = "import sys; sys.exit(sys.version != " + repr(sys.version) + ")"
    if not _answers([str(VENV / "bin/python"), "-c", ours]):
        _run(
            [str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)],
            f"cannot make {VENV}",
        )
    STAMP.unlink(missing_ok=True)


def _sync(uv: Path, *, quiet: bool) -> int:
    """Install the lock from the wheels alone: no index is asked, not even for the build backend."""
    # Compiled once, here: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every start
    # of `relay` would compile everything again, 1.0 s of CPU (benchmarks/drain).
    command = [str(uv), "sync", "--quiet", "--frozen", "--offline", "--no-index"]
    command += ["--compile-bytecode"]
    command += ["--find-links", str(WHEELS_LINK), "--project", str(CHECKOUT)]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(
        command, check=False, env=_uv_environment(), stdout=output, stderr=output
    ).returncode


def _download(uv: Path, wheels: Path) -> None:
    _say("fetching the wheels that uv.lock names (120 MB, once)")
    export = [str(uv), "export", "--quiet", "--frozen", "--no-emit-project"]
    export += ["--format", "requirements.txt", "--project", str(CHECKOUT)]
    with tempfile.NamedTemporaryFile("w+", suffix=".txt") as requirements:
        subprocess.run(export, check=True, env=_uv_environment(), stdout=requirements)
        download = _pip(uv.parent.parent, "download", "--quiet", "--require-hashes", "--no-deps")
        download += ["--only-binary", ":all:", "--dest", str(wheels), "-r", requirements.name]
        _run(
            download,
            "pip could not fetch the wheels; behind a mirror, set PIP_INDEX_URL and try again: "
            "what has arrived is kept",
        )


def _uv_environment() -> dict[str, str]:
    """Return the environment for uv without settings of the user's that would change the result."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "UV_CACHE_DIR" or not name.startswith(("UV_", "VIRTUAL_ENV"))
    }
    return kept | {"UV_PROJECT_ENVIRONMENT": str(VENV), "UV_PYTHON_DOWNLOADS": "never"}


def _answers(command: list[str]) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def _run(command: list[str], on_failure: str) -> None:
    if subprocess.run(command, check=False, env=_uv_environment()).returncode != 0:
        raise SetupError(on_failure)


def _say(text: str) -> None:
    sys.stderr.write(f"setup: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
