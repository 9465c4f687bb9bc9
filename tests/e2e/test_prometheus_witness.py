"""A real Prometheus where somebody else publishes: a witness's metrics, alerts and panels."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import pytest

from tests.corpus.wiring import HOME_MADE, Wiring
from tests.e2e.prometheus_stage import ALERTS, OF_A_WITNESS, QUICK, Prometheus, Stage, without_data
from tests.every_metric import every_metric

pytestmark = pytest.mark.timeout(300)

OF_THE_WITNESS = {name for name, rule in ALERTS.items() if OF_A_WITNESS in rule["expr"]}
UNPROVEN = 8


async def test_what_a_witness_shows_is_true_and_its_alerts_fire_and_stop(
    wiring: Wiring,
    prometheus: Prometheus,
    postgres_url: str,
    eventually: Callable[..., Awaitable[object]],
) -> None:
    stage = Stage(wiring, prometheus, postgres_url)
    wiring.published_elsewhere()
    shop = {"env": dict(wiring.environment), "program": (sys.executable, HOME_MADE)}
    wiring.environment |= QUICK
    await eventually(prometheus.answers, 20)
    witness = await stage.scraped("witness", wiring.start("witness"))
    publisher = wiring.start_process(**shop)
    await wiring.until_published(await wiring.place(4))
    await eventually(lambda: value(prometheus, "relay_witness_records_total", "matched") == 4, 20)

    # Its records are deleted before anybody has witnessed them.
    witness.kill()
    before = sum(wiring.ends(wiring.events).values())
    lost = await wiring.place(3)
    await eventually(lambda: sum(wiring.ends(wiring.events).values()) == before + len(lost), 20)
    await asyncio.to_thread(wiring.delete_records, wiring.events)
    witness = await stage.scraped("witness", wiring.start("witness"))
    await stage.fires("RelayWitnessGap")
    await stage.stops("RelayWitnessGap")

    # The publisher stands still, and every order that comes is one more without a record.
    publisher.kill()
    await wiring.place(UNPROVEN)
    await stage.fires("RelayWitnessUnproven")
    shown = "relay_witness_unproven_transactions"
    assert value(prometheus, shown) == len(lost) + UNPROVEN
    publisher = wiring.start_process(**shop)
    await eventually(lambda: value(prometheus, shown) == len(lost), 20)
    await stage.stops("RelayWitnessUnproven")

    assert stage.seen["firing"] >= OF_THE_WITNESS
    assert "RelayWitnessUnproven" in stage.seen["pending"]
    names = {
        sample.name for family in every_metric().registry.collect() for sample in family.samples
    }
    found = await without_data(prometheus, names, lambda text: OF_A_WITNESS in text)
    assert found == (set(), []), "metrics that were never set, queries without data"
    assert witness.is_running()
    assert publisher.is_running()


def value(prometheus: Prometheus, name: str, outcome: str | None = None) -> float | None:
    """Return what a metric of the witness is now, of one outcome if it has several."""
    chosen = f'{name}{{outcome="{outcome}"}}' if outcome else name
    found = prometheus.now(chosen)
    return float(found[0]["value"][1]) if found else None
