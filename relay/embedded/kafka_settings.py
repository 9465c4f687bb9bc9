"""The embedded broker's settings as data, and the one question asked of it without a client.

Invariant: pure, but for `live_brokers`, which opens one connection to loopback and closes it.
"""

import base64
import socket
import struct
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from relay.embedded.ports import LOOPBACK

DEFAULT_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "auto.create.topics.enable": "false",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        # A quarter of the default heap would otherwise go to the cleaner's buffer.
        "log.cleaner.dedupe.buffer.size": "8388608",
    }
)

# Up soonest, with the least memory: the demo and the tests.
QUICK = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
# Fastest in the long run: benchmarks.
STEADY = ("-Xms1g", "-Xmx1g")

LOGGING = """\
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=OUT
appender.out.type=Console
appender.out.name=OUT
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{1} %m%n
"""

# Metadata version 4: correlation id 1, no client id, no topics, no auto-creation.
_METADATA_REQUEST = struct.pack(">hhihib", 3, 4, 1, -1, 0, 0)
_METADATA_HEAD = struct.Struct(">4i")  # length, correlation id, throttle time, number of brokers
_ANSWER_TIMEOUT_SECONDS = 2.0


def server_properties(
    data: Path, port: int, controller_port: int, overrides: Mapping[str, str]
) -> str:
    """Return server.properties for one node that is broker and controller; the frame is ours."""
    broker = f"PLAINTEXT://{LOOPBACK}:{port}"
    settings = {
        **DEFAULT_SETTINGS,
        **overrides,
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": f"{broker},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": broker,
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def meta_properties() -> str:
    """Return meta.properties of a new cluster: the file that says that a folder is formatted."""
    return f"version=1\nnode.id=1\ncluster.id={kafka_id()}\ndirectory.id={kafka_id()}\n"


def kafka_id() -> str:
    """Return a new id as Kafka writes them: a UUID in 22 characters, the first one no dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def live_brokers(port: int) -> int:
    """Return how many brokers the cluster behind a local port knows to be alive; 0: no answer.

    Source: the Kafka protocol's Metadata request, version 4.
    """
    try:
        with socket.create_connection((LOOPBACK, port), _ANSWER_TIMEOUT_SECONDS) as connection:
            connection.settimeout(_ANSWER_TIMEOUT_SECONDS)
            connection.sendall(struct.pack(">i", len(_METADATA_REQUEST)) + _METADATA_REQUEST)
            with connection.makefile("rb") as answer:
                head = answer.read(_METADATA_HEAD.size)
    except OSError:
        return 0
    return int(_METADATA_HEAD.unpack(head)[3]) if len(head) == _METADATA_HEAD.size else 0
