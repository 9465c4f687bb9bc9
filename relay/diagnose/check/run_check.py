"""Runs every check, stores the outcome, and compares it with the last healthy one.

Invariant: nothing is written but the outcome itself; a part that cannot be reached makes one failed
result and the other parts go on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import asyncpg
import orjson
from aiokafka.errors import KafkaError

from relay.diagnose.check.broker_rules import KafkaNeeds
from relay.diagnose.check.database_facts import DatabaseFacts, gather_database
from relay.diagnose.check.database_rules import judge_database, judge_pooler
from relay.diagnose.check.decoder import check_decoder
from relay.diagnose.check.duties import check_duties
from relay.diagnose.check.exporter import check_exporter
from relay.diagnose.check.held_returns import check_held_returns
from relay.diagnose.check.kafka_changes import judge_changed_topics
from relay.diagnose.check.kafka_facts import gather_kafka
from relay.diagnose.check.kafka_rules import judge_kafka
from relay.diagnose.check.orders_facts import gather_orders
from relay.diagnose.check.orders_rules import judge_orders
from relay.diagnose.check.placing import check_placing
from relay.diagnose.check.pooler import gather_pooler
from relay.diagnose.check.publisher import check_publisher
from relay.diagnose.check.result import (
    Change,
    Result,
    as_rows,
    changes,
    failed,
    is_healthy,
    ok,
    unknown,
    warning,
)
from relay.diagnose.check.session_facts import gather_sessions
from relay.diagnose.check.session_rules import judge_server, judge_sessions
from relay.diagnose.check.set_aside import check_set_aside
from relay.diagnose.check.status_words import check_status_words
from relay.diagnose.check.table_rights import check_table_rights
from relay.kafka.refusal import KafkaRefusedError
from relay.runtime.database import DatabaseError, connect
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection, KafkaSettingsError
from relay.runtime.migration_files import MigrationError
from relay.runtime.migrations import require_schema
from relay.runtime.schema_drift import schema_differences
from relay.runtime.server_requirements import server_encoding
from relay.runtime.settings import Settings

APPLICATION_NAME: Final = "relay-check"
_DIFFERENCES_SHOWN: Final = 5

_LAST_HEALTHY: Final = """
SELECT run_at, results::text FROM relay.check_run WHERE healthy ORDER BY check_run_id DESC LIMIT 1
"""
_STORE: Final = "INSERT INTO relay.check_run (healthy, results) VALUES ($1, $2::text::jsonb)"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a run found.

    Attributes:
        changed: against the last healthy run, which was at `healthy_at`; None: there was none.
        not_stored: why the outcome could not be kept; None: it was.
    """

    results: tuple[Result, ...]
    changed: tuple[Change, ...]
    healthy_at: datetime | None
    not_stored: str | None

    @property
    def healthy(self) -> bool:
        """Whether nothing failed and nothing is unknown."""
        return is_healthy(self.results)


async def check_settings(settings: Settings) -> CheckReport:
    """Check everything that the settings name."""
    return await run_check(
        settings.database.dsn,
        settings.kafka,
        settings.flow,
        outbox_days=settings.maintenance.outbox_days,
        batch_bytes=settings.publish.batch_bytes,
        session_seconds=settings.confirm.session_timeout_seconds,
        inbox_days=settings.maintenance.inbox_days,
    )


async def run_check(
    dsn: str | None,
    kafka: KafkaConnection,
    flow: Flow,
    *,
    outbox_days: int,
    batch_bytes: int,
    session_seconds: float = 10.0,
    inbox_days: int = 60,
    environment: Mapping[str, str] | None = None,
) -> CheckReport:
    """Check everything.

    Args:
        dsn: the database; None: libpq's variables say where.
        kafka: the broker.
        flow: names tables, topics and groups.
        outbox_days: retention of the outbox.
        batch_bytes: the largest batch that the relay sends.
        session_seconds: after so long Kafka is to give up a silent consumer of ours.
        inbox_days: how long returns are remembered.
        environment: the `OTEL_*` variables; None: this process's own.
    """
    needs = KafkaNeeds(outbox_days, batch_bytes, session_seconds, inbox_days)
    around = [
        *await _kafka(kafka, flow, needs),
        *await check_decoder(flow),
        await check_exporter(os.environ if environment is None else environment),
    ]
    try:
        connection = await connect(dsn, APPLICATION_NAME, command_timeout_seconds=15.0)
    except DatabaseError as error:
        down = failed(
            "database.connection", str(error), "correct DATABASE_URL, or start the server"
        )
        return CheckReport((down, *around), (), None, "the database cannot be reached")
    try:
        poolers = await gather_pooler(connection, partial(_another, dsn))
        results = [ok("database.connection", "a primary answers"), *judge_pooler(poolers)]
        if poolers.shared is not None:
            # Nothing that is asked through it could be trusted.
            return CheckReport((*results, *around), (), None, "connections share sessions")
        results += await _database(connection, kafka, flow)
        return await _compared(connection, (*results, *around), flow)
    finally:
        await connection.close()


async def _another(dsn: str | None, settings: Mapping[str, str]) -> asyncpg.Connection:
    return await connect(
        dsn, APPLICATION_NAME, command_timeout_seconds=15.0, server_settings=settings
    )


async def _database(
    connection: asyncpg.Connection, kafka: KafkaConnection, flow: Flow
) -> list[Result]:
    major = connection.get_server_version().major
    results = judge_server(major, server_encoding(connection))
    if not is_healthy(results):
        return results
    results += judge_sessions(await gather_sessions(connection))
    try:
        await require_schema(connection)
        results.append(ok("database.schema", "of this version"))
    except (MigrationError, asyncpg.PostgresError) as error:
        results.append(failed("database.schema", str(error), "relay migrate"))
        return results
    try:
        results.append(_drift(await schema_differences(connection)))
    except MigrationError as error:
        fix = "relay migrate --verify lists what differs; put each back"
        results.append(failed("database.schema_drift", str(error), fix))
    tables = ["relay.outbox"]
    if flow.orders_columns is not None:
        tables.append(flow.orders_columns.table)
    results += await check_duties(connection)
    results += await check_publisher(connection, kafka, flow)
    results += await check_set_aside(connection, flow)
    results += await check_held_returns(connection, flow.confirm_group)
    facts = await gather_database(connection, tuple(tables))
    results.extend(judge_database(facts))
    try:
        orders = await gather_orders(connection, flow, _users(facts))
    except asyncpg.PostgresError as error:
        as_operator = "run `relay check` as a member of relay_operator"
        results.append(unknown("orders.table", str(error), as_operator))
    else:
        results.extend(judge_orders(orders, flow))
        results += await check_placing(connection, flow)
        results += await check_table_rights(connection, flow)
        results += await check_status_words(connection, flow)
    return results


def _drift(differences: Sequence[str]) -> Result:
    name = "database.schema_drift"
    if not differences:
        return ok(name, "as the migrations made it")
    few = "; ".join(differences[:_DIFFERENCES_SHOWN])
    more = f"; and {len(differences) - _DIFFERENCES_SHOWN} more" * (
        len(differences) > _DIFFERENCES_SHOWN
    )
    return failed(name, f"{few}{more}", "relay migrate --verify lists them; put each back")


def _users(facts: DatabaseFacts) -> Mapping[str, tuple[str, ...]]:
    """Tell which users the relay and the confirmation consumer are connected as."""
    found: dict[str, set[str]] = {"relay": set(), "confirm": set()}
    for row in facts.service_users or ():
        kind = row["application"].removeprefix("relay-").split("-")[0].split(":")[0]
        kind = {"run": "relay", "publish": "relay"}.get(kind, kind)
        if kind in found:
            found[kind].add(row["username"])
    return {kind: tuple(sorted(users)) for kind, users in found.items()}


def _password_in_clear(kafka: KafkaConnection) -> list[Result]:
    if (kafka.security_protocol, kafka.sasl_mechanism) != ("SASL_PLAINTEXT", "PLAIN"):
        return []
    fix = "KAFKA_SECURITY_PROTOCOL=SASL_SSL, or KAFKA_SASL_MECHANISM=SCRAM-SHA-512"
    return [warning("kafka.password", "is sent in the clear: PLAIN without TLS", fix)]


async def _kafka(kafka: KafkaConnection, flow: Flow, needs: KafkaNeeds) -> Sequence[Result]:
    try:
        facts = await gather_kafka(kafka, flow)
    except (KafkaError, KafkaSettingsError, OSError, TimeoutError) as error:
        said = str(error) or type(error).__name__
        if isinstance(error, KafkaRefusedError):
            return [failed("kafka.connection", said, error.hint)]
        return [
            failed(
                "kafka.connection",
                f"{kafka.bootstrap_servers}: {said}",
                "correct KAFKA_BOOTSTRAP_SERVERS and KAFKA_SECURITY_PROTOCOL, or start the broker",
            )
        ]
    return [
        ok("kafka.connection", f"{kafka.bootstrap_servers} answers"),
        *_password_in_clear(kafka),
        *judge_kafka(facts, flow, needs),
    ]


async def _compared(
    connection: asyncpg.Connection, results: tuple[Result, ...], flow: Flow
) -> CheckReport:
    try:
        last: Any = await connection.fetchrow(_LAST_HEALTHY)
    except asyncpg.PostgresError as error:
        return CheckReport(results, (), None, str(error))
    before = orjson.loads(last["results"]) if last else []
    results = (*results, *judge_changed_topics(before, results, flow))
    changed = changes(before, results) if last else ()
    not_stored = None
    try:
        body = orjson.dumps(as_rows(results)).decode()
        await connection.execute(_STORE, is_healthy(results), body)
    except asyncpg.PostgresError as error:
        not_stored = str(error)
    return CheckReport(results, changed, last["run_at"] if last else None, not_stored)
