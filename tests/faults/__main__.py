"""Rounds of real faults against the whole loop: `python -m tests.faults --rounds 200`.

Prints the seed; the same seed draws the same faults, orders and pauses again.
"""

import argparse
import asyncio
import os
import secrets
import signal
import sys
import time
from pathlib import Path

from tests.faults.client import Habits
from tests.faults.kinds import KINDS, Kind, draw
from tests.faults.report import Report
from tests.faults.rounds import Result, Round
from tests.faults.small_disk import NoOwnMountsError, enter_own_mounts
from tests.faults.stage import Stage, a_stage, luck_of, until


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--orders", type=int, default=500, help="in each round")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    parser.add_argument(
        "--small-disks",
        action="store_true",
        help="servers on file systems in memory that are filled to the last byte, too",
    )
    parser.add_argument("--kind", action="append", choices=sorted(KINDS), help="only these faults")
    parser.add_argument("--first", type=int, default=1, help="number of the first round")
    parser.add_argument("--minutes", type=float, help="begin no round after so long")
    parser.add_argument("--keep", type=Path, help="folder for the journal and the logs")
    parser.add_argument("--json", type=Path, help="file for the report as JSON")
    given = parser.parse_args()
    given.small_disks |= any(KINDS[kind].small_disks for kind in given.kind or ())
    return given


async def play(options: argparse.Namespace, report: Report) -> Report:
    """Play the rounds and return the report, which is kept up to date meanwhile."""
    seed = report.seed
    _say(f"seed {seed}: {options.rounds} rounds, {options.brokers} broker(s)")
    last_start = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    small = options.small_disks
    async with a_stage(brokers=options.brokers, keep=options.keep, small_disks=small) as stage:
        for number in range(options.first, options.first + options.rounds):
            if time.monotonic() >= last_start:
                break
            luck = luck_of(seed, f"{number}/kinds")
            kinds = _of(options.kind) or draw(luck, options.brokers, small_disks=small)
            habits = Habits(orders=options.orders, bad=int(luck.random() < 0.25))
            result = await Round(stage, seed, number, kinds, habits).play()
            report.add(result)
            _say(_line(result, options.first + options.rounds - 1))
            for violation in result.violations:
                _say(f"    VIOLATION {violation}")
        report.exit_codes = await _stop(stage)
    return report


def _of(names: list[str] | None) -> list[Kind]:
    return [KINDS[name] for name in names or ()]


async def _stop(stage: Stage) -> dict[str, int]:
    """Ask every program to end, once it has come up: before that SIGTERM just ends Python."""
    await until(stage.all_came_up, 30)
    return {one.name: await asyncio.to_thread(one.stop) for one in stage.programs.values()}


def _line(result: Result, last: int) -> str:
    recovery = ", ".join(f"{seconds:.1f} s" for seconds in result.recovery.values())
    return (
        f"round {result.number}/{last}: {' + '.join(result.kinds)}; {result.seconds:.0f} s"
        f"{f', recovered in {recovery}' if recovery else ''}; in all {result.orders} orders,"
        f" {result.events} events, {result.duplicates} repeated"
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def end_on_sigterm() -> None:
    """Take SIGTERM as an interrupt: everything that was started is ended, and reported."""
    # In the background of a shell it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))


def main() -> int:
    options = _arguments()
    if options.small_disks:
        try:
            enter_own_mounts(sys.argv[1:])
        except NoOwnMountsError as error:
            _say(f"disks cannot be filled here: {error}")
            return 2
    seed = secrets.randbits(32) if options.seed is None else options.seed
    report = Report(seed, options.brokers)
    end_on_sigterm()
    try:
        asyncio.run(play(options, report))
    except KeyboardInterrupt:
        _say("interrupted: what was played until now")
    sys.stdout.write(report.text())
    if options.json:
        options.json.write_text(report.json(), encoding="utf-8")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
