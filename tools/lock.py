"""Locks the dependencies again: `make lock`.

uv resolves pyproject.toml against the index (`UV_DEFAULT_INDEX`, else pip's `PIP_INDEX_URL`, else
its own default), keeping the versions of the present lock where they still fit (`--upgrade` takes
the newest), and `offline_lock` then takes the index out of the result. Needs the network.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from offline_lock import LockError, without_registries

CHECKOUT = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    """Write uv.lock anew; the options (`--upgrade`, `--upgrade-package NAME`) are uv's own."""
    tools = [sys.executable, str(CHECKOUT / "tools/setup_environment.py"), "--tool"]
    uv = subprocess.run(tools, check=True, capture_output=True, text=True).stdout.strip()
    environment = {name: text for name, text in os.environ.items() if name != "UV_FROZEN"}
    if "PIP_INDEX_URL" in environment:
        environment.setdefault("UV_DEFAULT_INDEX", environment["PIP_INDEX_URL"])
    path = CHECKOUT / "uv.lock"
    before = path.read_text(encoding="utf-8") if path.exists() else None
    command = [uv, "lock", "--project", str(CHECKOUT), *arguments]
    try:
        if subprocess.run(command, check=False, env=environment).returncode != 0:
            return 1
        path.write_text(without_registries(path.read_text(encoding="utf-8")), encoding="utf-8")
    except LockError as error:
        sys.stderr.write(f"lock: {error}\n")
        if before is not None:
            path.write_text(before, encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
