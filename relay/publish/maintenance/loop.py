"""Hop 2: runs maintenance now and then, beside the active relay, on a connection of its own.

Invariant: nothing here disturbs publishing: a run that fails is logged and tried again later, and
one that is cancelled ends at once, whatever the database does.
"""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg
import structlog

from relay.publish.maintenance.duties import MaintenanceOptions, MaintenanceReport, run_once
from relay.runtime.database import DATABASE_FAILURES, connect
from relay.runtime.duty_record import UPKEEP, duty_completed, duty_failed
from relay.runtime.tasks import awaited
from relay.telemetry.metrics import Metrics, known

_LOG: Final = structlog.get_logger("relay.publish")
_RECORD_SECONDS: Final = 5.0


async def maintain(
    dsn: str | None, options: MaintenanceOptions, metrics: Metrics | None = None
) -> None:
    """Run until cancelled: a run that fails, by whatever, is said, recorded and tried again."""
    if metrics is not None:
        known(metrics.duties.failures, (UPKEEP,))
    try:
        await _run_repeatedly(dsn, options, metrics)
    finally:
        if metrics is not None:
            metrics.duties.completed_at.clear()  # the next owner shows its own


async def _run_repeatedly(
    dsn: str | None, options: MaintenanceOptions, metrics: Metrics | None
) -> None:
    while True:
        try:
            await _run(dsn, options)
        except Exception as error:  # noqa: BLE001 - logged, counted, recorded, and tried again
            if isinstance(error, DATABASE_FAILURES):
                _LOG.warning("upkeep_failed", error=str(error) or repr(error))
            else:
                _LOG.exception("upkeep_failed", error=repr(error))
            if metrics is not None:
                metrics.duties.failures.labels(UPKEEP).inc()
            await _record_failure(dsn, error)
        else:
            if metrics is not None:
                metrics.duties.completed_at.labels(UPKEEP).set_to_current_time()
        await asyncio.sleep(options.every_seconds)


async def _record_failure(dsn: str | None, error: Exception) -> None:
    try:
        connection = await connect(dsn, "relay-run-upkeep", command_timeout_seconds=_RECORD_SECONDS)
        try:
            await duty_failed(connection, UPKEEP, error)
        finally:
            connection.terminate()
    except DATABASE_FAILURES as away:
        # The record's age tells it.
        _LOG.info("duty_not_recorded", duty=UPKEEP, why=str(away))


async def _complete(
    connection: asyncpg.Connection, options: MaintenanceOptions
) -> MaintenanceReport:
    report = await run_once(connection, options)
    if not report.busy:
        await duty_completed(connection, UPKEEP, again_within_seconds=2 * options.every_seconds)
    return report


async def _run(dsn: str | None, options: MaintenanceOptions) -> None:
    connection = await connect(dsn, "relay-run-upkeep")
    running = awaited(_complete(connection, options), "upkeep run")
    try:
        # Cancelled itself, it would wait for a ROLLBACK that a frozen server never answers.
        report = await asyncio.shield(running)
        if report.busy:
            _LOG.warning("upkeep_busy", waiting_for="another process that does the upkeep")
        else:
            _LOG.debug("upkeep", report=report)
    finally:
        connection.terminate()
        await asyncio.gather(running, return_exceptions=True)
