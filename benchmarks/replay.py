"""Published events sent again: how fast, how long a plan takes, and what live orders notice of it.

The relay runs throughout: it is what publishes a replay. Rates are by the broker's append times of
the second copies. A plan is timed as its command, from start to end, as somebody waits for it.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from benchmarks import orders
from benchmarks.drain import retained
from benchmarks.measure import Window, percentiles
from benchmarks.report import Report
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from benchmarks.systems import OURS, RELAY, TOPIC, WARM
from benchmarks.topic import Appended, Topic, verify
from benchmarks.writer import Job, writing

_WAIT_SECONDS = 300
_LIVE = 500
_BESIDE_ROWS = 50_000
_WHY = ("--reason", "benchmark", "--yes", "--no-wait", "--first", "0")


def run(servers: Servers, settings: Settings) -> None:
    """Events replayed a second, planning of ten million rows, live orders beside a replay."""
    report = Report("replay", f"{settings.rows:,} published events sent again; the relay runs.")
    url = retained(servers, settings)
    for _ in range(settings.runs):
        _fast(servers, report, settings.rows)
        _plan(servers, report, url, settings.retained)
        for beside in (False, True):
            _beside(servers, report, settings.seconds, beside=beside)
    report.show()


def _fast(servers: Servers, report: Report, rows: int) -> None:
    url = servers.database("bench_replay")
    orders.fill(url, orders.OUTBOX, rows)
    topic = Topic(servers.bootstrap_servers, TOPIC)
    with OURS.start(servers, url) as program:
        assert topic.wait_for(rows, _WAIT_SECONDS, [program]), program.log
        window = Window(servers, [program])
        started = time.perf_counter()
        said = _relay(servers, url, "replay", "--all", "--execute", "--rate", "0", *_WHY)
        seconds = time.perf_counter() - started
        used = window.end()
    records = topic.read()
    topic.close()
    assert said["sent"] == said["events"] == rows, said
    again = _second_copies(records)
    appended = [one.appended_ms for one in again]
    verified = verify(records, range(rows))
    report.add(
        "replayed, no limit",
        events_per_s=round(rows / ((max(appended) - min(appended)) / 1000)),
        command_s=round(seconds, 2),
        **used,
        missing=verified.missing,
        order_violations=verified.order_violations + verify(again, range(rows)).order_violations,
    )


def _second_copies(records: Sequence[Appended]) -> list[Appended]:
    """Return what was sent again, in the order of each partition."""
    seen: set[int] = set()
    return [one for one in records if one.seq in seen or seen.add(one.seq)]  # type: ignore[func-returns-value]


def _plan(servers: Servers, report: Report, url: str, rows: int) -> None:
    started = time.perf_counter()
    said = _relay(servers, url, "replay", "--all", "--until", "1s")
    seconds = time.perf_counter() - started
    assert said["events"] >= rows * 0.99, said
    report.add(f"a plan of {said['events']:,} events", command_s=round(seconds, 2))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE relay.replay_part, relay.replay_refused, relay.replay_job")
        connection.execute("CHECKPOINT")


def _beside(servers: Servers, report: Report, seconds: int, *, beside: bool) -> None:
    """Live orders, with and without a replay at its default rate."""
    url = servers.database("bench_beside")
    orders.fill(url, orders.OUTBOX, _BESIDE_ROWS, start=WARM)
    topic = Topic(servers.bootstrap_servers, TOPIC)
    statement = orders.PLACED + orders.OUTBOX
    with OURS.start(servers, url) as program:
        assert topic.wait_for(_BESIDE_ROWS, _WAIT_SECONDS, [program]), program.log
        with _replaying(servers, url, beside=beside):
            with writing(Job(url, statement, seconds, 0, rate=_LIVE)) as writer:
                window = Window(servers, [program], [writer.pid])
                written = writer.join()
            used = window.end()
        topic.wait_for(_BESIDE_ROWS + written.count, 60, [program])
    records = topic.read()
    topic.close()
    live = [one for one in records if one.seq < WARM]
    replayed = len(records) - len(live) - _BESIDE_ROWS
    assert (replayed > 0) == beside, replayed
    report.add(
        f"{_LIVE} live orders/s, {'a replay beside them' if beside else 'alone'}",
        **percentiles(one.appended_ms - one.at_ms for one in live),
        replayed=replayed,
        **used,
        missing=verify(live, range(written.count)).missing,
    )


@contextmanager
def _replaying(servers: Servers, url: str, *, beside: bool) -> Iterator[None]:
    if not beside:
        yield
        return
    command = [RELAY, "replay", "--all", "--execute", *_WHY, "--json"]
    process = subprocess.Popen(
        command, env=OURS.environment_of(servers, url), stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def _relay(servers: Servers, url: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [RELAY, *arguments, "--json"],
        check=False,
        capture_output=True,
        text=True,
        env=OURS.environment_of(servers, url),
        timeout=_WAIT_SECONDS,
    )
    if done.returncode:
        raise RuntimeError(f"relay {' '.join(arguments)}: {done.stdout}{done.stderr}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said
