"""A consumer that cannot say farewell is cut off, and nothing of that looks like our own end."""

import asyncio
from types import SimpleNamespace

import pytest

from relay.kafka.consumer.leaving import leave


class Consumer:
    """What `leave` touches of an AIOKafkaConsumer whose broker does not answer."""

    def __init__(self, closing: BaseException | None) -> None:
        self.closed = 0
        self._closing = closing
        self._coordinator = SimpleNamespace()
        self._fetcher = SimpleNamespace()
        self._client = SimpleNamespace(close=self._close)

    async def stop(self) -> None:
        await asyncio.Event().wait()

    async def _close(self) -> None:
        self.closed += 1
        if self._closing is not None:
            raise self._closing


@pytest.mark.parametrize(
    "closing", [None, asyncio.CancelledError(), OSError("gone"), TimeoutError()]
)
async def test_whatever_a_connection_raises_as_it_is_cut_the_process_ends_well(
    closing: BaseException | None,
) -> None:
    """aiokafka gathers its connections' tasks: one that was cancelled looked like our own end."""
    consumer = Consumer(closing)
    await leave(consumer, 0.01)
    assert consumer.closed == 1
