"""After a night was judged: its causes are ended, and what the commands print is run as printed.

Invariant: nothing is run that was not printed, but for what a person does outside (a bug mended, a
process started, a right given back). Whoever has nothing to be repaired by is left out: an order
that was never committed, or whose rows are gone.
"""

import asyncio
import re
import shlex
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tests.corpus.world import World
from tests.nights.judge import FINE, Wrong
from tests.nights.stage import Stage
from tests.nights.truth import Truth

ROUNDS = 3
_ROUND_SECONDS = 15
# These bring nothing back: the order is submitted again, or its rows come from a backup.
_BEYOND = {"never_committed", "rows_lost", "duplicate_submission"}
# Where several are printed and the last is not what a person would do here: the first of these.
_CHOSEN = {
    "return_conflicts": ["relay quarantine discard"],
    # The processor was mended: what it sent before has no meaning to anybody.
    "return_unknown_status": ["relay quarantine discard", "relay replay"],
    "return_names_differ": ["relay quarantine discard", "relay replay"],
    "discarded_by_hand": ["relay replay"],
    "return_discarded": ["relay replay"],
    "event_unclaimed": ["relay replay"],
}
_ACTS = ("relay replay", "relay quarantine release", "relay quarantine discard", "relay close",
         "relay rebaseline")  # fmt: skip
_FOLLOWED = re.compile(
    r"(?:^ |  )next  (relay (?:replay resume|rebaseline --execute) .*)$", re.MULTILINE
)


async def repair(stage: Stage, causes: Iterable[Any]) -> list[Wrong]:
    """End what befell, run what is printed, and return what did not come back."""
    for cause in causes:
        if not await cause.mend(stage):
            return []
    world, truths = stage.world, stage.journal.truth
    if not stage.journal.left_running:
        await stage.strike_gently()
        stage.faults.clear()
        stage.start_processor()
        await stage.processor_joined()
    wanted = [one for one, it in truths.items() if not (it.healthy or _beyond(it))]
    found: list[dict[str, Any]] = []
    for _ in range(ROUNDS):
        found = [one for one in await _diagnosed(world, wanted) if one["verdict"] not in FINE]
        if not found:
            return []
        for line in dict.fromkeys(line for one in found for line in _printed(one)):
            stage.journal.note("printed", command=line)
            await _run(world, line)
        for statement in _statements(found):
            stage.journal.note("printed", statement=statement)
            await world.pg.execute(statement)
        found = await _still_missing(world, wanted)
        if not found:
            return []
    kinds: Counter[tuple[str, str]] = Counter()
    for one in found:
        said = f"{one['verdict']} / {one['cause']}, next {one['next']}"
        kinds[truths[one["order_id"]].cause, re.sub(r"[0-9a-f-]{36}", "ORDER", said)] += 1
    return [Wrong("repair", "not back", *key, count) for key, count in kinds.items()]


def _beyond(truth: Truth) -> bool:
    return any(cause in _BEYOND for _verdict, cause in truth.said)


async def _diagnosed(world: World, orders: list[str]) -> list[dict[str, Any]]:
    if not orders:
        return []
    found: list[dict[str, Any]] = await asyncio.to_thread(world.diagnose, orders)
    return found


async def _still_missing(world: World, orders: list[str]) -> list[dict[str, Any]]:
    """Wait a while for all of them; return those that have not come back, and are not closed."""
    missing: list[dict[str, Any]] = []

    async def back() -> bool:
        missing[:] = [one for one in await _diagnosed(world, orders)
                      if one["verdict"] not in FINE - {"in_flight"}]  # fmt: skip
        return not missing

    try:
        await world.eventually(back, _ROUND_SECONDS)
    except AssertionError:
        return missing
    return []


def _printed(one: dict[str, Any]) -> list[str]:
    """Return which of the printed commands are run: those that do something, the last of them."""
    acts = [line for line in one["next"] if line.startswith(_ACTS)]
    chosen = _CHOSEN.get(one["cause"])
    if chosen is not None:
        return [next(line for line in acts if line.startswith(start)) for start in chosen]
    if one["cause"] == "status_overwritten":
        return []  # the statement that is printed, too
    return acts[-1:]


def _statements(found: list[dict[str, Any]]) -> list[str]:
    """Return the statements that are printed for overwritten statuses."""
    told = [one for one in found if one["cause"] == "status_overwritten"]
    return [it["found"] for one in told for it in one["evidence"] if it["what"] == "mend"]


async def _run(world: World, line: str) -> None:
    """Run a printed command, and what it prints next, with a reason where it asks for one."""
    if line.startswith("relay rebaseline"):
        await asyncio.to_thread(world.end, "relay")
    done = await asyncio.to_thread(world.command, *_words(line))
    assert done.returncode in (0, 3), (line, done.stderr)
    for further in _FOLLOWED.findall(done.stdout):
        done = await asyncio.to_thread(world.command, *_words(further))
        assert done.returncode in (0, 3), (further, done.stderr)
    if line.startswith("relay rebaseline"):
        await asyncio.to_thread(world.begin, "relay")


def _words(line: str) -> list[str]:
    return shlex.split(re.sub(r"\b(REASON|WHY)\b", "tried", line))[1:]
