"""Writes what the image installs: `deploy/requirements.txt`, `deploy/requirements-build.txt`.

Both are a part of uv.lock with its hashes and without an address: pip fetches them from wherever it
is set up to, and refuses anything else. The first is what the services need, the second what builds
this project's own wheel. `make lock` does it after uv.lock has changed.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
HEADER = "# From uv.lock, by tools/lock_image.py: do not edit.\n"
BACKEND = "hatchling"


def main() -> int:
    """Write both files."""
    for name, text in requirements().items():
        (CHECKOUT / "deploy" / name).write_text(text, encoding="utf-8")
    return 0


def requirements() -> dict[str, str]:
    """Return both files, by name."""
    return {
        "requirements.txt": HEADER + _exported("--no-dev", "--extra", "cli"),
        "requirements-build.txt": HEADER + _only(_exported("--only-dev"), _needed_by(BACKEND)),
    }


def _exported(*what: str) -> str:
    tools = [sys.executable, str(CHECKOUT / "tools/setup_environment.py"), "--tool"]
    uv = subprocess.run(tools, check=True, capture_output=True, text=True).stdout.strip()
    given = ("--frozen", "--offline", "--no-emit-project", "--no-header", "--no-annotate")
    command = [uv, "export", "--project", str(CHECKOUT), *given, *what]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=CHECKOUT)
    return done.stdout


def _needed_by(name: str) -> set[str]:
    """Return a package and all that it depends on, as uv.lock says."""
    lock = tomllib.loads((CHECKOUT / "uv.lock").read_text(encoding="utf-8"))
    depends = {
        one["name"]: [other["name"] for other in one.get("dependencies", ())]
        for one in lock["package"]
    }
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += depends[one]
    return found


def _only(text: str, names: set[str]) -> str:
    """Return the requirements of these packages: each begins a line, and its hashes follow."""
    kept: list[str] = []
    wanted = False
    for line in text.splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            wanted = line.partition("==")[0].strip() in names
        if wanted:
            kept.append(line)
    return "".join(kept)


if __name__ == "__main__":
    sys.exit(main())
