"""kill -9 in the middle of a drain, then started again: what is sent twice?"""

from __future__ import annotations

import time

from benchmarks import orders
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from benchmarks.systems import NAIVE, OURS, TOPIC, System
from benchmarks.topic import Topic, verify

_ROWS = 100_000
_SETTLE_SECONDS = 2.0


def run(servers: Servers, settings: Settings) -> None:
    """Records sent twice after kill -9 in a drain of 100,000, killed at a third."""
    report = Report("crash", f"{_ROWS:,} rows; killed with a third of them sent, started again.")
    for _ in range(settings.runs):
        for system in (OURS, NAIVE):
            _crash(servers, report, system)
    report.show()


def _crash(servers: Servers, report: Report, system: System) -> None:
    url = servers.database("bench_crash")
    orders.fill(url, system.insert, _ROWS)
    topic = Topic(servers.bootstrap_servers, TOPIC)
    first = system.start(servers, url)
    while first.alive and topic.count() < _ROWS // 3:
        time.sleep(0.002)
    first.kill()
    sent = topic.count()
    again = time.time()
    with system.restart(servers, url) as second:
        topic.wait_for(_ROWS, 120, [second])
        count = -1
        while count != topic.count():  # until it stands still
            count = topic.count()
            time.sleep(_SETTLE_SECONDS)
    records = topic.read()
    topic.close()
    verified = verify(records, range(_ROWS))
    after = [one.appended_ms / 1000 for one in records if one.appended_ms / 1000 > again]
    report.add(
        system.name,
        killed_at=sent,
        restart_to_first_s=round(min(after) - again, 2) if after else None,
        missing=verified.missing,
        duplicates=verified.duplicates,
        order_violations=verified.order_violations,
    )
