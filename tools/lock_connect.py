"""Resolves the jars of Kafka Connect and Debezium again (`make lock`): tests/connect.lock.

The tests of external publishers run a real worker; what users run is never one of these files.
Runs in the checkout's environment, because jgo resolves. Needs the network.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from jgo.maven import MavenContext
from lock_kafka import LOGGING, asked_for, line_of

CONNECT = (
    "org.apache.kafka:connect-runtime:4.3.0",
    "io.debezium:debezium-connector-postgres:3.6.0.Final",
    "io.debezium:debezium-connect-plugins:3.6.0.Final",
)
LOCK = Path(__file__).resolve().parent.parent / "tests/connect.lock"
HEADER = """\
# Kafka Connect's and Debezium's jars: group:artifact:version, SHA-256, size. Made by `make lock`.
"""


def main() -> int:
    """Write the lock anew."""
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as repository:
        context = MavenContext(repo_cache=Path(repository))
        asked = [asked_for(context, one) for one in (*CONNECT, LOGGING)]
        inputs, transitive = context.resolver.resolve(asked)
        kept = [d for d in transitive if d.scope in ("compile", "runtime")]
        LOCK.write_text(HEADER + "".join(sorted({line_of(d) for d in [*inputs, *kept]})), "ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
