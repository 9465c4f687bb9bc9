"""Resolves the embedded Kafka's jars again and writes relay/embedded/kafka.lock (`make lock`).

Runs in the checkout's environment, because jgo resolves. Needs the network.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import tempfile
from pathlib import Path

from jgo.maven import Dependency, MavenContext

KAFKA_VERSION = "4.4.0"
LOG4J_VERSION = "2.25.5"  # the release that this Kafka names for log4j-core
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    # The broker logs through SLF4J 1.7; this leads to the log4j that is among its own jars.
    f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J_VERSION}",
)
LOCK = Path(__file__).resolve().parent.parent / "relay/embedded/kafka.lock"
HEADER = """\
# The embedded broker's jars: group:artifact:version, SHA-256, size in bytes. Made by `make lock`.
"""


def main() -> int:
    """Write the lock anew."""
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as repository:
        context = MavenContext(repo_cache=Path(repository))
        # Raw: none of the two may impose its managed versions upon the other's dependencies.
        asked = [_dependency(context, coordinate) for coordinate in COORDINATES]
        inputs, transitive = context.resolver.resolve(asked)
        kept = [d for d in transitive if d.scope in ("compile", "runtime")]
        lines = sorted(_line(dependency) for dependency in [*inputs, *kept])
    _refuse_mixed_releases(lines)
    LOCK.write_text(HEADER + "".join(lines), encoding="ascii")
    return 0


def _dependency(context: MavenContext, coordinate: str) -> Dependency:
    group, artifact, version = coordinate.split(":")
    return Dependency(context.project(group, artifact).at_version(version).artifact(), raw=True)


def _line(dependency: Dependency) -> str:
    content = Path(dependency.artifact.resolve()).read_bytes()
    coordinate = f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}"
    return f"{coordinate} {hashlib.sha256(content).hexdigest()} {len(content)}\n"


def _refuse_mixed_releases(lines: list[str]) -> None:
    mixed = [
        line
        for line in lines
        if line.startswith("org.apache.kafka:") and f":{KAFKA_VERSION} " not in line
    ]
    if mixed:
        raise SystemExit(f"not of Kafka {KAFKA_VERSION}: {mixed}")


if __name__ == "__main__":
    sys.exit(main())
