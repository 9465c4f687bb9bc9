"""The longest wait of an INSERT while partitions are made and dropped under load.

The relay's own maintenance, made to do in seconds what it does in weeks: each step makes one day
more ahead and drops one old day. Beside it the same load with nobody at the partitions.
"""

from __future__ import annotations

import asyncio
import time

import asyncpg
import uvloop

from benchmarks import orders
from benchmarks.measure import Window, percentiles
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from benchmarks.systems import OURS, TOPIC, WARM
from benchmarks.topic import Topic, verify
from benchmarks.writer import Job, writing
from relay.publish.maintenance.partition_days import keep_partitions

_RATE = 2000
_STEPS = 20
_KEPT_DAYS = 23
_AHEAD_DAYS = 7
_RETAINED = 230_000  # the old days hold something, so that dropping one is what it is in life


def run(servers: Servers, settings: Settings) -> None:
    """An INSERT's longest wait while 20 partitions are made and 20 dropped, 2,000 orders/s."""
    report = Report("partitions", f"{_RATE} orders/s for {settings.seconds} s, relay running.")
    for _ in range(settings.runs):
        for changing in (False, True):
            _measure(servers, report, settings.seconds, changing=changing)
    report.show()


def _measure(servers: Servers, report: Report, seconds: int, *, changing: bool) -> None:
    url = servers.database("bench_partitions")
    orders.retain(url, _RETAINED)
    topic = Topic(servers.bootstrap_servers, TOPIC)
    done: dict[str, int] = {}
    job = Job(url, orders.PLACED + orders.OUTBOX, seconds, 0, rate=_RATE)
    with OURS.start(servers, url) as program:
        warm = OURS.warm_up(program, topic, url)
        with writing(job) as writer:
            window = Window(servers, [program], [writer.pid])
            if changing:
                done = uvloop.run(_change(url, seconds / _STEPS * 0.9))
            written = writer.join()
            used = window.end()
        topic.wait_for(warm + written.count, 60, [program])
    records = [one for one in topic.read() if one.seq < WARM]
    topic.close()
    published = percentiles(one.appended_ms - one.at_ms for one in records)
    report.add(
        "partitions made and dropped" if changing else "nobody at the partitions",
        **percentiles(written.took_ms),
        **done,
        **{f"publish_{name}": ms for name, ms in published.items()},
        **used,
        missing=verify(records, range(written.count)).missing,
    )


async def _change(url: str, every_seconds: float) -> dict[str, int]:
    connection = await asyncpg.connect(url)
    made = dropped = blocked = 0
    for step in range(1, _STEPS + 1):
        began = time.perf_counter()
        report = await keep_partitions(
            connection, days_ahead=_AHEAD_DAYS + step, keep_days=_KEPT_DAYS - step, attempts=20
        )
        made += len(report.created)
        dropped += len(report.dropped)
        blocked += len(report.blocked)
        await asyncio.sleep(max(0.0, every_seconds - (time.perf_counter() - began)))
    await connection.close()
    return {"made": made, "dropped": dropped, "gave_up": blocked}
