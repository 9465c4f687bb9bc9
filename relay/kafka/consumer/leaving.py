"""Hop 5: leaves a consumer group within a deadline.

Invariant: afterwards nothing of the consumer runs any more. With the broker away, aiokafka's
`stop()` can hang for 20 s and more, or raise the CancelledError of its own fetch, which would look
like ours; cut short, it leaves the heartbeat running, and with it a dead member that keeps its
partitions for as long as the process lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from relay.kafka.failures import BROKER_FAILURES
from relay.runtime.tasks import awaited

log = structlog.get_logger(__name__)

_FORCED_SECONDS = 2.0


async def leave(consumer: Any, seconds: float) -> None:
    """Stop an `AIOKafkaConsumer`; after `seconds`, cut its connections and tasks."""
    stopping = awaited(consumer.stop(), "leave")
    await asyncio.wait({stopping}, timeout=seconds)
    if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
        return
    log.info("left_group_without_farewell")
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    await _cut(consumer)


async def _cut(consumer: Any) -> None:
    # No public way: stop() does nothing the second time.
    coordinator, fetcher = consumer._coordinator, consumer._fetcher  # noqa: SLF001
    names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task")
    tasks = [getattr(coordinator, name, None) for name in names]
    tasks += [getattr(fetcher, "_fetch_task", None), *getattr(fetcher, "_pending_tasks", ())]
    live = [task for task in tasks if task is not None and not task.done()]
    for task in live:
        task.cancel()
    try:
        async with asyncio.timeout(_FORCED_SECONDS):
            await asyncio.gather(*live, return_exceptions=True)
            # The CancelledError of a connection's own task is not ours, and no failure.
            closing = consumer._client.close()  # noqa: SLF001
            ended: Sequence[Any] = await asyncio.gather(closing, return_exceptions=True)
            if isinstance(ended[0], Exception):
                raise ended[0]
    except BROKER_FAILURES as error:
        log.warning("kafka_connection_not_closed", error=str(error) or "no answer")
