"""However many tabs are open, looking takes a hundredth of a core at most; and it goes on."""

import asyncio

import pytest

from relay.runtime.settings import load_settings
from relay.web.snapshot import Watcher, pause_after


@pytest.mark.parametrize(
    ("gone", "spent", "pause"),
    [
        (1.0, 0.03, 4.0),  # a cheap look: as often as people want
        (1.0, 0.09, 8.0),  # a dear one: 0.09 s in 9 s
        (1.0, 5.0, 19.0),  # a machine at its end: four times as seldom, not never
        (9.0, 0.05, 0.0),  # it took long by itself
    ],
)
def test_a_dear_look_is_taken_more_seldom(gone: float, spent: float, pause: float) -> None:
    assert pause_after(gone, spent, 5.0) == pytest.approx(pause)


async def test_the_watcher_pays_what_its_looks_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    now, cpu, pauses, stop = [0.0], [0.0], [], asyncio.Event()

    async def waited(_stop: asyncio.Event, seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds
        if len(pauses) == 6:
            stop.set()

    async def look(watcher: Watcher) -> None:
        cpu[0] += 0.08
        watcher.looks += 1

    monkeypatch.setattr("relay.web.snapshot.stopped_within", waited)
    monkeypatch.setattr(Watcher, "_look", look)
    watcher = Watcher(load_settings("/dev/null", {}), 5.0, lambda: now[0], lambda: cpu[0])
    watcher.viewers = 200
    await watcher.run(stop)
    assert watcher.looks == 3
    assert cpu[0] / now[0] == pytest.approx(0.01)
