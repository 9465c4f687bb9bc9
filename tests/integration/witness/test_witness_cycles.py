"""A batch of records is gone once it is proven; the collector of cycles has nothing to do."""

from typing import Any

from tests.cycles import counted_cycles

BATCHES = 6


async def test_no_batch_is_left_to_the_collector_of_cycles(lab: Any) -> None:
    lab.witness()
    await lab.publish(await lab.fill(20))
    await lab.until_entries(20)
    with counted_cycles() as cycles:
        for number in range(BATCHES):
            await lab.publish(await lab.fill(20))
            await lab.until_entries(20 * (number + 2))
    assert cycles.total() < BATCHES, cycles
