"""Kafka with a listener for each role, so that one process's network can fail alone.

A client is told the addresses that belong to the listener it asked: each leads through a proxy.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relay.embedded import EmbeddedKafka
from relay.embedded.kafka_settings import DEFAULT_SETTINGS, kafka_id, live_brokers
from relay.embedded.ports import LOOPBACK, free_port
from relay.embedded.process import ServerProcess

ROLES = ("relay", "confirm", "processor")
# A broker that was killed may register again only after its session: 9 s by default.
QUICKLY_BACK = {
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "group.min.session.timeout.ms": "1000",
}


class RoleBroker(EmbeddedKafka):
    """One of `count` nodes, each broker and controller, with a port for each role."""

    def __init__(
        self, folder: Path, number: int, cluster_id: str, controllers: list[int], **options: Any
    ) -> None:
        super().__init__(folder, **options)
        self.number = number
        self.role_ports = {role: free_port() for role in ROLES}
        self.advertised: dict[str, int] = {}
        self._cluster_id = cluster_id
        self._controllers = controllers

    def _install(self) -> None:
        new = not (self._data / "meta.properties").exists()
        super()._install()
        if new:
            (self._data / "meta.properties").write_text(
                f"version=1\nnode.id={self.number}\ncluster.id={self._cluster_id}\n"
                f"directory.id={kafka_id()}\n",
                encoding="ascii",
            )

    def _configure(self) -> None:
        count = len(self._controllers)
        mine = self._controllers[self.number - 1]
        listeners = {"DIRECT": self.port} | {
            role.upper(): port for role, port in self.role_ports.items()
        }
        advertised = {"DIRECT": self.port} | {
            role.upper(): port for role, port in self.advertised.items()
        }
        kinds = [f"{name}:PLAINTEXT" for name in (*listeners, "CONTROLLER")]
        voters = [f"{n}@{LOOPBACK}:{port}" for n, port in enumerate(self._controllers, 1)]
        settings = {
            **DEFAULT_SETTINGS,
            **QUICKLY_BACK,
            **_replicated(count),
            **self.settings,
            "process.roles": "broker,controller",
            "node.id": str(self.number),
            "controller.quorum.voters": ",".join(voters),
            "listeners": f"{_addresses(listeners)},CONTROLLER://{LOOPBACK}:{mine}",
            "advertised.listeners": _addresses(advertised),
            "listener.security.protocol.map": ",".join(kinds),
            "inter.broker.listener.name": "DIRECT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self._data),
        }
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        (self.folder / "server.properties").write_text(text, encoding="utf-8")

    def _answers(self, server: ServerProcess) -> bool:
        return server.is_running() and live_brokers(self.port) == len(self._controllers)


def _addresses(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in ports.items())


def _replicated(count: int) -> dict[str, str]:
    factor, least = str(count), str(min(2, count))
    return {
        "default.replication.factor": factor,
        "min.insync.replicas": least,
        "offsets.topic.replication.factor": factor,
        "transaction.state.log.replication.factor": factor,
        "transaction.state.log.min.isr": least,
        "unclean.leader.election.enable": "false",
    }


def describe_brokers(folder: Path, count: int, **options: Any) -> list[RoleBroker]:
    """Return the brokers of a new cluster, not started; `options` are those of EmbeddedKafka."""
    cluster_id, controllers = kafka_id(), [free_port() for _ in range(count)]
    return [
        RoleBroker(folder / f"kafka-{number}", number, cluster_id, controllers, **options)
        for number in range(1, count + 1)
    ]
