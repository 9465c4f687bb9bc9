"""Hop 5: waits for Kafka, but never for ever, and not after the process is asked to stop.

Invariant: what Kafka's client raises is translated here, once; a caller sees `BrokerError`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka.errors import IllegalStateError, KafkaError, OffsetOutOfRangeError

from relay.runtime.shutdown import stopped_within
from relay.runtime.tasks import awaited, awaited_answer

ResultT = TypeVar("ResultT")


class BrokerError(Exception):
    """The broker cannot be reached, or refuses: worth another attempt, for as long as it takes."""


class StalledError(BrokerError):
    """Fetches get no answer although the connection stands: only a new consumer helps."""


class StoppedError(Exception):
    """The process is asked to stop."""


@dataclass(frozen=True, slots=True)
class StoppableCalls:
    """Asks Kafka while `stop` is not set."""

    stop: asyncio.Event

    async def ask(self, question: Awaitable[ResultT], seconds: float) -> ResultT:
        """Wait for an answer of aiokafka's.

        Raises:
            StoppedError: `stop` was set first; the question is cancelled.
            OffsetOutOfRangeError: passed on: it is about the log, not about the broker.
            BrokerError: any other error of Kafka's, or no answer within `seconds`.
        """
        asked = awaited_answer(question)
        stopped: asyncio.Future[Any] = awaited(self.stop.wait(), "stop")
        try:
            await asyncio.wait(
                [asked, stopped], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if asked.done():
                return asked.result()
            if stopped.done():
                raise StoppedError
            raise BrokerError(f"no answer from the broker within {seconds:.0f} s")
        except OffsetOutOfRangeError:
            raise
        except (KafkaError, IllegalStateError, OSError) as error:
            raise BrokerError(f"{type(error).__name__}: {error}") from error
        finally:
            stopped.cancel()
            asked.cancel()

    async def pause(self, seconds: float) -> None:
        """Wait for some time, or until `stop`."""
        await stopped_within(self.stop, seconds)
