"""Losses that nobody announced, at every hop: each is named right, and no healthy hop is blamed."""

import os
from dataclasses import replace
from typing import Any

import pytest

from tests.corpus.fault import Scene
from tests.corpus.play import play
from tests.corpus.scenes import SCENES
from tests.corpus.tally import PROPERTY, Tally

pytestmark = pytest.mark.timeout(int(os.environ.get("CORPUS_SECONDS", "600")))


# A shop's own relay in place of ours: all that ours does not do itself is named alike.
ELSEWHERE = [
    replace(scene.elsewhere(), name=f"{scene.name}, elsewhere")
    for scene in SCENES
    if scene.name in ("single", "skipped", "processes", "topics", "misdirected", "refused")
]


def scenes(own: str | None) -> Any:
    chosen = [scene for scene in SCENES if scene.own == own]
    return pytest.mark.parametrize("scene", chosen, ids=[scene.name for scene in chosen])


async def show(scene: Scene, world: Any, record_property: Any) -> None:
    """Play a scene and report what was said."""
    world.environment.update(scene.environment)
    tally = Tally(scene.name)
    try:
        await play(world, scene, tally)
    finally:
        record_property(PROPERTY, tally.as_json())
    assert not tally.wrong
    assert not sum(row.blamed for row in tally.rows)


@scenes(None)
async def test_every_loss_is_named(scene: Scene, world: Any, record_property: Any) -> None:
    await show(scene, world, record_property)


@pytest.mark.parametrize("scene", ELSEWHERE, ids=[scene.name for scene in ELSEWHERE])
async def test_every_loss_is_named_whoever_publishes(
    scene: Scene, world: Any, record_property: Any
) -> None:
    world.published_elsewhere()
    await show(scene, world, record_property)


@scenes("broker")
async def test_every_loss_of_a_broker_is_named(
    scene: Scene, world_with_broker: Any, record_property: Any
) -> None:
    await show(scene, world_with_broker, record_property)


@scenes("database")
async def test_every_loss_of_a_database_is_named(
    scene: Scene, world_with_database: Any, record_property: Any
) -> None:
    await show(scene, world_with_database, record_property)


def test_the_corpus_is_large_enough() -> None:
    faults = [fault for scene in SCENES for act in scene.acts for fault in act.faults]
    names = [fault.name for fault in faults]
    assert len(set(names)) == len(names) >= 40
    assert {fault.label[0] for fault in faults} >= {
        "place",
        "publish",
        "process",
        "return",
        "confirm",
    }
    assert {fault.family for fault in faults} >= {"system", "configuration", "people", "code"}
