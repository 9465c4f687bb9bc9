"""Runs benchmarks: `python -m benchmarks NAME...`; without a name it lists them.

Each prints a table and appends its measurements to `.build/benchmarks.jsonl`. They start a
PostgreSQL and a Kafka of their own and need two quiet cores to mean anything.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields

from benchmarks import (
    contended,
    crash,
    diagnosis,
    drain,
    held,
    idle,
    latency,
    limits,
    page,
    partitions,
    polls,
    replay,
    returns,
    witness,
    writers,
)
from benchmarks.report import say
from benchmarks.servers import Servers, servers
from benchmarks.settings import Settings
from benchmarks.tracing import measure


def tracing(_servers: Servers, _settings: Settings) -> None:
    """What tracing costs an event: its context, its span, its export; beside the SDK."""
    measure.main()


WORKLOADS: dict[str, Callable[[Servers, Settings], None]] = {
    "drain": drain.run,
    "drain-bytes": drain.run_bytes,
    "drain-behind": drain.run_behind,
    "latency": latency.run,
    "polls": polls.run,
    "writers": writers.run,
    "held": held.run,
    "contended": contended.run,
    "crash": crash.run,
    "partitions": partitions.run,
    "returns": returns.run,
    "replay": replay.run,
    "witness": witness.run,
    "diagnosis": diagnosis.run,
    "page": page.run,
    "idle": idle.run,
    "memory": idle.run_memory,
    "tracing": tracing,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*WORKLOADS, "all", []])
    for size in fields(Settings):
        option = f"--{size.name.replace('_', '-')}"
        parser.add_argument(option, type=type(size.default), default=size.default)
    given = parser.parse_args()
    if not given.names:
        for name, run in WORKLOADS.items():
            print(f"  {name:16} {(run.__doc__ or '').splitlines()[0]}")
        return
    names = list(WORKLOADS) if "all" in given.names else given.names
    settings = Settings(**{size.name: getattr(given, size.name) for size in fields(Settings)})
    with servers(settings.patience_seconds) as pair:
        limits.warm_up(pair)
        for name in names:
            say(f"--- {name}")
            WORKLOADS[name](pair, settings)


if __name__ == "__main__":
    main()
