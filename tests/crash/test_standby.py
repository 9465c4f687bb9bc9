"""A standby takes over: within 5 s of a crash of the active relay, within 1 s of a clean stop.

Measured from the signal to the broker's acknowledgement of an event that was placed right after it,
as its users would feel it, with the settings' defaults.
"""

import asyncio
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

PLACE = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ('order', gen_random_uuid()::text, 'order.placed', '{}') RETURNING id
"""
PUBLISHED = "SELECT count(*) FROM relay.delivery_ledger WHERE id_range @> $1::bigint"
ACTIVE = """
SELECT split_part(p.instance, ':', 2)::int FROM relay.lease l
  JOIN relay.process_record p ON p.process_id::text = l.owner
 WHERE l.duty = 'relay' AND l.released_at IS NULL AND l.expires_at > clock_timestamp()
"""
TIMES = 4


class Pair:
    """Two relays, one of them active; whoever ends is replaced."""

    def __init__(self, pg: asyncpg.Connection, start: Callable[[], Any], eventually: Any) -> None:
        self.pg, self.start, self.eventually = pg, start, eventually
        self.relays = [start(), start()]

    async def active(self) -> Any:
        """Wait until one is active and the other stands by."""

        async def found() -> Any:
            pid = await self.pg.fetchval(ACTIVE)
            other_stands_by = any(r.pid != pid and '"standby"' in r.stderr for r in self.relays)
            return other_stands_by and [one for one in self.relays if one.pid == pid]

        (one,) = await self.eventually(found, 40)
        return one

    async def seconds_without(self, how: signal.Signals) -> float:
        """End the active relay; return how long an event placed then took."""
        active = await self.active()
        await self.published()
        began = time.monotonic()
        active.send_signal(how)
        await self.published()
        seconds = time.monotonic() - began
        await asyncio.to_thread(active.wait, 20)
        self.relays.remove(active)
        self.relays.append(self.start())
        return seconds

    async def published(self) -> None:
        outbox_id = await self.pg.fetchval(PLACE)
        async with asyncio.timeout(30):
            while not await self.pg.fetchval(PUBLISHED, outbox_id):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@pytest.fixture
def pair(
    pg: asyncpg.Connection, relay_process: Callable[..., Any], topics: Any, eventually: Any
) -> Pair:
    env = {
        "RELAY_FLOW_EVENTS_TOPIC": topics.create("orders.events", 3),
        "RELAY_FLOW_RETURNS_TOPIC": topics.create("orders.returns", 3),
        "RELAY_METRICS_ENABLED": "false",
    }
    return Pair(pg, lambda: relay_process("run", env=env), eventually)


async def test_after_a_crash_within_five_seconds(pair: Pair) -> None:
    seconds = [await pair.seconds_without(signal.SIGKILL) for _ in range(TIMES)]
    sys.stdout.write(f"takeover after a crash: {seconds} s\n")
    assert max(seconds) < 5.0, seconds
    # The lease had to lapse: whoever is quicker took it from a relay that might live.
    assert min(seconds) > 1.0, seconds


async def test_after_a_clean_stop_within_a_second(pair: Pair) -> None:
    seconds = [await pair.seconds_without(signal.SIGTERM) for _ in range(TIMES)]
    sys.stdout.write(f"takeover after a clean stop: {seconds} s\n")
    assert statistics.median(seconds) < 1.0, seconds
    assert max(seconds) < 2.0, seconds  # other tests run at the same time
