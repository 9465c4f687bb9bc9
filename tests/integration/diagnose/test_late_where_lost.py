"""An order that was lost, sent again, and returned late: it waited where it had been lost."""

import asyncio
import json
from datetime import datetime
from uuid import uuid4

import pytest

from tests.foreign_processor import foreign_processor

pytestmark = pytest.mark.timeout(240)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}


async def recorded(wiring, orders, cause) -> None:
    async def so() -> bool:
        return await wiring.pg.fetchval(
            """SELECT count(*) = $2 FROM relay.overdue
                WHERE aggregate_id = ANY ($1::text[]) AND cause = $3""",
            orders,
            len(orders),
            cause,
        )

    await wiring.eventually(so, 40)


async def test_a_replayed_order_was_late_at_the_hop_that_lost_it(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer()
    mute: set[str] = set()
    with foreign_processor(wiring, wiring.group, answers=lambda key: key not in mute):
        first = await wiring.place_everywhere()
        unanswered = [str(uuid4()) for _ in range(3)]
        mute.update(unanswered)
        await wiring.place_these(unanswered)
        await wiring.until_returned(first + await wiring.place_everywhere(), 60)
        await wiring.until_overdue(unanswered)
        # What the first record of a merged row of the ledger says of those that came after it.
        await wiring.pg.execute(
            "UPDATE relay.delivery_ledger SET published_at = published_at - interval '30 s'"
        )
        await recorded(wiring, unanswered, "return_never_sent")
        mute.clear()
        done = await asyncio.to_thread(
            wiring.command, "replay", "--execute", "--reason", "mute", "--yes", "--json"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        await wiring.until_returned(unanswered, 60)
    for one in wiring.diagnose(unanswered):
        assert (one["verdict"], one["cause"]) == ("returned", "late")
        assert (one["delay"]["hop"], one["delay"]["cause"]) == ("return", "return_never_sent")
    traced = json.loads(wiring.command("trace", unanswered[0], "--json").stdout)
    placed = datetime.fromisoformat(traced["placed_at"])
    times = [datetime.fromisoformat(hop["at"]) for hop in traced["hops"] if hop["at"]]
    assert min(times) >= placed


async def test_an_order_whose_event_was_written_later_was_late_at_its_placing(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer()
    with foreign_processor(wiring, wiring.group):
        await wiring.until_returned(await wiring.place(1), 60)
        order = str(uuid4())
        await wiring.insert_these([order])
        await recorded(wiring, [order], "outbox_bypassed")
        done = await asyncio.to_thread(
            wiring.command, "replay", "--order", order, "--write-missing", "--execute",
            "--reason", "no event", "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        await wiring.until_returned([order], 60)
    (found,) = wiring.diagnose([order])
    assert (found["verdict"], found["cause"]) == ("returned", "late")
    assert (found["delay"]["hop"], found["delay"]["cause"]) == ("place", "outbox_bypassed")
