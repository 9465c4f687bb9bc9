"""Several causes in one night of a small shop: each is told, largest first; counts add up."""

import asyncio
import json
from uuid import uuid4

import pytest

from tests.foreign_processor import foreign_processor

pytestmark = pytest.mark.timeout(240)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}


async def test_each_cause_has_its_block_and_each_order_its_answer(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    unanswered = [str(uuid4()) for _ in range(5)]
    with foreign_processor(wiring, wiring.group, answers=lambda key: key not in unanswered):
        await wiring.until_returned(fine := await wiring.place(1), 60)
        await wiring.place_these(unanswered)
        bypassed = [str(uuid4()) for _ in range(3)]
        await wiring.insert_these(bypassed)
        await wiring.until_published(unanswered)
        await wiring.until_passed(wiring.group, wiring.events)

        def two() -> list:
            found = json.loads(wiring.command("incidents", "--json").stdout)
            kinds = [(one["cause"], one["orders"]) for one in found["incidents"]]
            said = (sorted(kinds), found["single_orders"])
            assert said == ([("outbox_bypassed", 3), ("return_never_sent", 5)], 0), said
            return found["incidents"]

        incidents = await wiring.eventually(lambda: asyncio.to_thread(two), 60)
        names = {one["cause"]: one["incident"] for one in incidents}
        shown = [
            line.strip()
            for line in (await asyncio.to_thread(wiring.command, "diagnose")).stdout.splitlines()
        ]
        assert shown[0] == "8 orders: 8 lost, 0 delayed, 0 unknown"
        blocks = [line for line in shown if " / " in line]
        assert [line.split()[0] for line in blocks] == ["5", "3"]
        assert "return_never_sent" in blocks[0]
        nexts = [line for line in shown if line.startswith("next")]
        assert nexts == [
            f"next  relay replay --incident {names['return_never_sent']}",
            f"next  relay replay --incident {names['outbox_bypassed']} --write-missing",
        ]
        assert sum(line.startswith("why") for line in shown) == 2
        unknown = str(uuid4())
        asked = [*fine, *unanswered, *bypassed, unknown]
        told = wiring.command("diagnose", *asked).stdout
        assert all(f" {one}  " in told for one in asked)
        status = json.loads(wiring.command("status", "--json").stdout)
        assert sum(status["overdue"].values()) == 8
