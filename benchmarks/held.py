"""One transaction that inserted into the outbox stays open for 10 s: who has to wait for it?"""

from __future__ import annotations

import math
import time

import psycopg

from benchmarks import orders
from benchmarks.measure import percentiles
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from benchmarks.systems import NAIVE, OURS, TOPIC, WARM, System
from benchmarks.topic import Topic, verify
from benchmarks.writer import Job, writing

_RATE = 200
_HELD_SECONDS = 10
_HELD = 900_000_000
_BEFORE_SECONDS = 3


def run(servers: Servers, settings: Settings) -> None:
    """The delay of others' orders while one transaction is held open for 10 s."""
    about = f"{_RATE} orders/s by others; before, while and after one transaction is held."
    report = Report("held", about)
    for _ in range(settings.runs):
        for system in (OURS, NAIVE):
            _hold(servers, report, system)
    report.show()


def _hold(servers: Servers, report: Report, system: System) -> None:
    url = servers.database("bench_held")
    statement = orders.PLACED + system.insert
    topic = Topic(servers.bootstrap_servers, TOPIC)
    seconds = _BEFORE_SECONDS + _HELD_SECONDS + 3
    with system.start(servers, url) as program, psycopg.connect(url) as holder:
        warm = system.warm_up(program, topic, url)
        with writing(Job(url, statement, seconds, 0, rate=_RATE, connections=4)) as writer:
            time.sleep(_BEFORE_SECONDS)
            holder.execute(statement.replace("$1", str(_HELD)))
            began = time.time() * 1000
            time.sleep(_HELD_SECONDS)
            holder.commit()
            ended = time.time() * 1000
            written = writer.join()
        topic.wait_for(warm + written.count + 1, 60, [program])
    records = [one for one in topic.read() if one.seq < WARM]
    topic.close()
    verified = verify(records, [*range(written.count), _HELD])
    others = [one for one in records if one.seq != _HELD]
    held = [one for one in records if one.seq == _HELD]
    phases = {"before": (0.0, began), "while held": (began, ended), "after": (ended, math.inf)}
    for phase, (begins, ends) in phases.items():
        at_that_time = [one for one in others if begins <= one.at_ms < ends]
        report.add(
            f"{system.name}, {phase}",
            **percentiles(one.appended_ms - one.at_ms for one in at_that_time),
            held_row_ms_after_its_commit=round(held[0].appended_ms - ended, 1) if held else None,
            missing=verified.missing,
            duplicates=verified.duplicates,
        )
