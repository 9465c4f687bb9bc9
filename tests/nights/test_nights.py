"""Nights that nobody wrote: drawn from a seed, staged with foreign programs, judged by truth."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.corpus.world import World
from tests.nights.grammar import Night, draw
from tests.nights.judge import judge
from tests.nights.repair import repair
from tests.nights.report import PROPERTY, Result
from tests.nights.stage import Stage
from tests.nights.truth import Journal

# Those of `make test`: whoever changes the grammar draws other nights from them.
SEEDS = "56,58,63,6012,6015"
# The same with a shop's own relay in place of ours, and a witness.
ELSEWHERE = "22,24,29,36,39,6014"

pytestmark = pytest.mark.timeout(600)


def seeds(text: str) -> list[int]:
    """Read `3`, `1..20` and lists of both."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("..")
        found += range(int(first), int(last or first) + 1)
    return found


@pytest.mark.parametrize("seed", seeds(os.environ.get("NIGHTS_SEEDS") or SEEDS))
async def test_a_night_is_read_right(
    seed: int, world: World, tmp_path: Path, record_property: Any
) -> None:
    """Every command says what is true of every order."""
    await read_right(draw(seed), world, tmp_path, record_property)


@pytest.mark.parametrize("seed", seeds(os.environ.get("NIGHTS_ELSEWHERE_SEEDS") or ELSEWHERE))
async def test_a_night_is_read_right_whoever_publishes(
    seed: int, world: World, tmp_path: Path, record_property: Any
) -> None:
    """The same is said where a shop's own relay publishes."""
    drawn = draw(seed)
    world.published_elsewhere()
    night = replace(drawn, causes=[one for one in drawn.causes if not one.relays_own])
    await read_right(night, world, tmp_path, record_property)


async def read_right(night: Night, world: World, tmp_path: Path, record_property: Any) -> None:
    """Stage a night, and hold every command against the truth."""
    seed, began = night.seed, time.monotonic()
    journal, result = Journal(seed), Result(seed, str(night), failed="interrupted")
    world.partition(night.cast.events_partitions, night.cast.returns_partitions)
    stage = Stage(world, night.cast, journal, tmp_path)
    try:
        for cause in night.causes:
            cause.prepare(stage)
        await stage.open()
        await stage.healthy(2)
        for cause in night.causes:
            await cause.make(stage)
            stage.stands |= bool(cause.stands_at)
        for cause in night.causes:
            await cause.settle(stage)
        await stage.overdue()
        await stage.watched()
        result.right, result.wrong = await judge(world, journal, tmp_path)
        result.wrong += await repair(stage, night.causes)
        result.orders, result.failed = len(journal.truth), ""
    except Exception as error:
        result.failed = f"{type(error).__name__}: {error}"[:300]
        raise
    finally:
        stage.close()
        result.seconds = round(time.monotonic() - began, 1)
        record_property(PROPERTY, result.as_json())
        result.keep()
        (tmp_path / "journal.jsonl").write_text(journal.text(), encoding="utf-8")
    assert not result.wrong, f"{night}\n" + "\n".join(map(str, result.wrong))
