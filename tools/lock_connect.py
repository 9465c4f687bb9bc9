"""Resolves Kafka Connect, Debezium and its server again (`make lock`): tests/*.lock.

The tests of external publishers run a real worker; what users run is never one of these files.
Runs in the checkout's environment, because jgo resolves. Needs the network.
"""

from __future__ import annotations

import hashlib
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
# Its jars are built together, and come together: 800 MB.
SERVER = "io.debezium:debezium-server-dist:3.6.0.Final"
LOCK = Path(__file__).resolve().parent.parent / "tests/connect.lock"
SERVER_LOCK = LOCK.with_name("debezium-server.lock")
SERVER_HEADER = """\
# Debezium Server's own distribution: group:artifact:version, SHA-256, size. It comes as a tar.gz.
"""
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
        SERVER_LOCK.write_text(SERVER_HEADER + _server_line(context), "ascii")
    return 0


def _server_line(context: MavenContext) -> str:
    group, artifact, version = SERVER.split(":")
    component = context.project(group, artifact).at_version(version)
    archive = Path(component.artifact(packaging="tar.gz").resolve())
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{SERVER} {digest} {archive.stat().st_size}\n"


if __name__ == "__main__":
    sys.exit(main())
