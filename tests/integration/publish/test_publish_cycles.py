"""A page is gone once the checkpoint covers it; the collector of cycles has nothing to do."""

from typing import Any

from tests.cycles import counted_cycles

PAGES = 6


async def test_no_page_is_left_to_the_collector_of_cycles(lab: Any, eventually: Any) -> None:
    async def all_published() -> bool:
        left = await lab.pg.fetchval(
            "SELECT count(*) FROM relay.outbox AS o, relay.checkpoint AS c WHERE c.shard = 0"
            " AND NOT coalesce(pg_visible_in_snapshot(o.txid, c.prev), false)"
        )
        return bool(left == 0)

    async with lab.relaying():
        await lab.fill(100)
        await eventually(all_published)
        with counted_cycles() as cycles:
            for page in range(PAGES):
                await lab.fill(100 * (page + 2), start=100 * (page + 1))
                await eventually(all_published)
        assert cycles.total() < PAGES, cycles
