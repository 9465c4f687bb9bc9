"""The PostgreSQL and Kafka that are measured: real ones, fsync on, with room to be fast.

Nothing is shared with other work: they live for one run of `python -m benchmarks`. Databases are
clones of a migrated template whose outbox has 31 daily partitions and DEFAULT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import psycopg

from benchmarks import orders
from relay.embedded import Cluster
from relay.embedded.kafka_settings import STEADY
from relay.runtime.migrations import migrate

POSTGRES = {
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "min_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    "max_connections": "300",
    # Debezium reads the WAL.
    "wal_level": "logical",
}
_TEMPLATE = "bench_template"


@dataclass(slots=True)
class Servers:
    """Both servers, and their process ids.

    Attributes:
        patience_seconds: how long to wait for quiet cores before something is measured.
    """

    postgres_url: str
    bootstrap_servers: str
    postgres_pid: int
    kafka_pid: int
    patience_seconds: float = 0.0
    _made: set[str] = field(default_factory=set)

    def database(self, name: str, template: str = _TEMPLATE) -> str:
        """Return the URL of a new database; one of the same name goes."""
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
            connection.execute("CHECKPOINT")
        self._made.add(name)
        return self.url(name)

    def has(self, name: str) -> bool:
        """Tell whether a database was made in this run."""
        return name in self._made

    def drop(self, name: str) -> None:
        """Give a database's disk space back."""
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self._made.discard(name)

    def url(self, name: str) -> str:
        """Return the URL of a database."""
        return urlunsplit(urlsplit(self.postgres_url)._replace(path=f"/{name}"))


@contextmanager
def servers(patience_seconds: float = 0.0) -> Iterator[Servers]:
    """Start both, with the template migrated."""
    with Cluster(postgres_settings=POSTGRES, java_options=STEADY) as cluster:
        assert cluster.postgres is not None
        assert cluster.kafka is not None
        pair = Servers(
            cluster.database_url,
            cluster.kafka_bootstrap_servers,
            cluster.postgres.pid,
            cluster.kafka.pid,
            patience_seconds,
        )
        url = pair.database(_TEMPLATE, "template1")
        asyncio.run(migrate(url, sample=True))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(orders.PREPARE)
        yield pair
