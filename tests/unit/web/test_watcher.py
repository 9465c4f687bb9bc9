"""One look for all who look: a fresh one is shown at once, an old one is not taken for new."""

import asyncio
from typing import Any, cast

from relay.runtime.settings import load_settings
from relay.web.snapshot import Night, Watcher


def watcher(looked_seconds_ago: float) -> Watcher:
    made = Watcher(load_settings("/dev/null", {}), 5.0, lambda: 100.0)
    made.night = cast("Night", object())
    made._looked_at = 100.0 - looked_seconds_ago
    return made


async def test_a_fresh_look_is_shown_at_once() -> None:
    made = watcher(looked_seconds_ago=4.0)
    assert await asyncio.wait_for(made.current(60.0), 5) is made.night


async def test_after_a_pause_the_next_look_is_waited_for() -> None:
    made = watcher(looked_seconds_ago=100.0)
    asked = asyncio.create_task(made.current(60.0))
    await asyncio.sleep(0)
    new = cast("Any", object())
    made.night = new
    made.looks += 1
    made._tell()
    assert await asyncio.wait_for(asked, 5) is new
