"""PostgreSQL and Kafka together for as long as a `with` block lasts.

Invariant: leaving the block, or dying in it, leaves no process and no file. A server that the
environment already names is used as it is: neither started nor stopped.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from relay.embedded.folders import run_folder
from relay.embedded.kafka import EmbeddedKafka
from relay.embedded.kafka_settings import QUICK
from relay.embedded.postgres import EmbeddedPostgres
from relay.embedded.server import EmbeddedServer, Report, silent

_NONE: Mapping[str, str] = MappingProxyType({})


class Cluster:
    """A context manager that gives a PostgreSQL and a Kafka.

    Attributes (inside of the block):
        database_url: the PostgreSQL, as its superuser if it is our own.
        kafka_bootstrap_servers: the Kafka.
        postgres: our own server, None if one was given.
        kafka: our own broker, None if one was given.
    """

    def __init__(
        self,
        *,
        database_url: str | None = None,
        kafka_bootstrap_servers: str | None = None,
        postgres_settings: Mapping[str, str] = _NONE,
        kafka_settings: Mapping[str, str] = _NONE,
        java_options: tuple[str, ...] = QUICK,
        report: Report = silent,
    ) -> None:
        """Describe the pair; entering the block starts what is not given.

        Args:
            database_url: a PostgreSQL to use instead of one of our own.
            kafka_bootstrap_servers: a Kafka to use instead of one of our own.
            postgres_settings: for postgresql.conf of our own.
            kafka_settings: for server.properties of our own.
            java_options: see EmbeddedKafka.
            report: told when something is fetched or prepared that takes a while.
        """
        self.database_url = database_url or ""
        self.kafka_bootstrap_servers = kafka_bootstrap_servers or ""
        self.postgres: EmbeddedPostgres | None = None
        self.kafka: EmbeddedKafka | None = None
        self._postgres_settings = postgres_settings
        self._kafka_settings = kafka_settings
        self._java_options = java_options
        self._report = report
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as started:
            folder = started.enter_context(run_folder())
            servers = self._describe(folder)
            for server in servers:
                started.callback(server.kill)  # the data goes with the folder: no need to ask
            start_together(servers)
            self._stack = started.pop_all()
        if self.postgres is not None:
            self.database_url = self.postgres.dsn()
        if self.kafka is not None:
            self.kafka_bootstrap_servers = self.kafka.bootstrap_servers
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _describe(self, folder: Path) -> list[EmbeddedServer]:
        servers: list[EmbeddedServer] = []
        if not self.database_url:
            self.postgres = EmbeddedPostgres(folder / "postgres", settings=self._postgres_settings)
            servers.append(self.postgres)
        if not self.kafka_bootstrap_servers:
            self.kafka = EmbeddedKafka(
                folder / "kafka",
                settings=self._kafka_settings,
                java_options=self._java_options,
                report=self._report,
            )
            servers.append(self.kafka)
        return servers


def start_together(servers: list[EmbeddedServer]) -> None:
    """Start servers at the same time and wait for all of them; raise the first one's error."""
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        starts = [pool.submit(server.start) for server in servers]
    for start in starts:
        start.result()
