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
# The broker logs through SLF4J 1.7; this leads to the log4j that is among its own jars.
LOGGING = f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J_VERSION}"
LOCK = Path(__file__).resolve().parent.parent / "relay/embedded/kafka.lock"
HEADER = """\
# The embedded broker's jars: group:artifact:version, SHA-256, size in bytes. Made by `make lock`.
"""


def main() -> int:
    """Write the lock anew."""
    logging.basicConfig(level=logging.WARNING)
    lock_release(KAFKA_VERSION, LOCK)
    return 0


def lock_release(version: str, lock: Path) -> None:
    """Resolve a release's jars and write their lock."""
    with tempfile.TemporaryDirectory() as repository:
        context = MavenContext(repo_cache=Path(repository))
        # Raw: none of the two may impose its managed versions upon the other's dependencies.
        coordinates = (f"org.apache.kafka:kafka_2.13:{version}", LOGGING)
        asked = [asked_for(context, coordinate) for coordinate in coordinates]
        inputs, transitive = context.resolver.resolve(asked)
        kept = [d for d in transitive if d.scope in ("compile", "runtime")]
        lines = sorted(line_of(dependency) for dependency in [*inputs, *kept])
    _refuse_mixed_releases(lines, version)
    lock.write_text(HEADER + "".join(lines), encoding="ascii")


def lock_line(context: MavenContext, coordinate: str) -> str:
    """Return the line of one file alone."""
    return line_of(asked_for(context, coordinate))


def asked_for(context: MavenContext, coordinate: str) -> Dependency:
    """Return a file to be resolved, with nothing imposed upon what it depends on."""
    group, artifact, version = coordinate.split(":")
    return Dependency(context.project(group, artifact).at_version(version).artifact(), raw=True)


def line_of(dependency: Dependency) -> str:
    """Return a file's line of a lock."""
    content = Path(dependency.artifact.resolve()).read_bytes()
    coordinate = f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}"
    return f"{coordinate} {hashlib.sha256(content).hexdigest()} {len(content)}\n"


def _refuse_mixed_releases(lines: list[str], version: str) -> None:
    mixed = [
        line
        for line in lines
        if line.startswith("org.apache.kafka:") and f":{version} " not in line
    ]
    if mixed:
        raise SystemExit(f"not of Kafka {version}: {mixed}")


if __name__ == "__main__":
    sys.exit(main())
