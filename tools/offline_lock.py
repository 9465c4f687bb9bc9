"""Rewrites uv.lock so that it names files instead of registries: `offline_lock.py uv.lock`.

A lock as uv writes it carries the address of the index it was made against in every line. A
checkout must install from whichever mirror its machine has, so every package is made to come from
the folder `.wheels` (a flat index, relative to the checkout), which `tools/setup_environment.py`
fills through pip. The hashes and sizes stay: what is installed is still exactly what was locked.

Source distributions are dropped: nothing is compiled at setup. A package without a wheel is an
error here, not a surprise on somebody else's machine.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import unquote

WHEELS_FOLDER = ".wheels"

_REGISTRY = re.compile(r'registry = "[^"]*"')
_SDIST = re.compile(r"^sdist = \{.*\}\n", re.MULTILINE)
_UPLOADED = re.compile(r', upload-time = "[^"]*"')
_WHEEL = re.compile(r'\{ (?:url|path) = "(?:[^"]*/)?(?P<name>[^"/]+\.whl)"')


class LockError(Exception):
    """The lock cannot be made independent of its index; the text says which package and why."""


def without_registries(lock: str) -> str:
    """Return the text of a uv lock with every package coming from `.wheels`, wheels only.

    Rewriting a rewritten lock changes nothing.

    Raises:
        LockError: a package has no wheel, or an address is left that this script does not know.
    """
    text = _REGISTRY.sub(f'registry = "{WHEELS_FOLDER}"', lock)
    text = _SDIST.sub("", text)
    text = _UPLOADED.sub("", text)
    text = _WHEEL.sub(lambda match: f'{{ path = "{unquote(match["name"])}"', text)
    _refuse_packages_without_wheels(text)
    left = [line for line in text.splitlines() if "://" in line]
    if left:
        raise LockError(f"an address is left in the lock: {left[0].strip()}")
    return text


def _refuse_packages_without_wheels(text: str) -> None:
    for package in text.split("[[package]]\n")[1:]:
        if "source = { registry" in package and "\nwheels = [" not in package:
            name = package.partition("\n")[0]
            raise LockError(f"no wheel for {name}: choose a version or a package that has one")


def main(arguments: list[str]) -> int:
    """Rewrite the lock file named on the command line in place."""
    path = Path(arguments[0])
    text = path.read_text(encoding="utf-8")
    try:
        rewritten = without_registries(text)
    except LockError as error:
        sys.stderr.write(f"{path}: {error}\n")
        return 1
    path.write_text(rewritten, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
