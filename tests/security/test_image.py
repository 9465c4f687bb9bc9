"""The image's steps run: here in a folder of their own, with the wheels of the checkout.

No container engine is needed: COPY copies into the folder, RUN runs in it with /src and /opt moved
there, and a registry is never asked.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
KNOWN = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "STOPSIGNAL", "ENTRYPOINT", "CMD"}

pytestmark = pytest.mark.timeout(400)


def steps() -> Iterator[tuple[str, str]]:
    """Return the Dockerfile's instructions."""
    for line in DOCKERFILE.read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            assert name in KNOWN, line
            yield name, rest


def run_steps(folder: Path) -> None:
    """Do what the first stage does, in `folder` as if it were the root."""
    here = folder
    wheels = str((Path(sys.prefix) / "wheels").resolve())
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": wheels,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    for name, rest in steps():
        if name == "WORKDIR":
            here = folder / rest.lstrip("/")
            here.mkdir(parents=True)
        elif name == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                copy(ROOT / source, here / target, into_folder=target.endswith("/"))
        elif name == "RUN":
            command = rest.replace("/opt/", f"{folder}/opt/")
            done = subprocess.run(
                ["/bin/sh", "-c", command], cwd=here, env=environment, capture_output=True,
                text=True, timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def copy(source: Path, target: Path, *, into_folder: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
    else:
        target = target / source.name if into_folder else target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def test_the_steps_make_an_installation_that_runs(tmp_path: Path) -> None:
    run_steps(tmp_path)
    program = tmp_path / "opt" / "relay" / "bin" / "relay"
    for arguments, code, said in (
        (["--version"], 0, "relay 0."),
        (["migrate", "--sql"], 0, "CREATE SCHEMA relay"),
        (["demo"], 1, "outbox-relay[demo]"),
    ):
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=60, check=False,
            cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == code, (arguments, done.stdout[-500:], done.stderr)
        assert said in done.stdout + done.stderr, (arguments, done.stderr)


def test_all_that_is_copied_is_in_the_build_context() -> None:
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        source
        for name, rest in steps()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / one).exists() for one in copied)
