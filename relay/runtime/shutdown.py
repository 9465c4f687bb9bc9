"""SIGTERM and SIGINT become an event that the services watch.

Invariant: the first signal only asks (the service drains and exits 0); a second one of any kind
ends the process at once, as an impatient operator expects. Neither acknowledges unfinished work.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

_LOG = structlog.get_logger("relay")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopEvent(asyncio.Event):
    """Set once the process is asked to stop; `reason` then says by what."""

    reason: str | None = None

    def ask(self, reason: str) -> None:
        """Ask the process to stop; the first reason stands."""
        if self.reason is None:
            self.reason = reason
        self.set()


async def stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for some time, or until the process is asked to stop; tell which it was."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


@contextmanager
def stop_on_signals() -> Iterator[StopEvent]:
    """Yield the event that SIGTERM and SIGINT set; restore the loop's handlers afterwards."""
    loop = asyncio.get_running_loop()
    stop = StopEvent()

    def received(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        _LOG.info("stop_requested", signal=number.name)
        stop.ask(number.name)

    for number in _SIGNALS:
        loop.add_signal_handler(number, received, number)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
