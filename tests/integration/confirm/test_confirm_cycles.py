"""A batch of returns is gone once it is applied; the collector of cycles has nothing to do."""

from typing import Any

from tests.cycles import counted_cycles

BATCHES = 6


async def test_no_batch_is_left_to_the_collector_of_cycles(lab: Any) -> None:
    lab.start()
    (first,) = await lab.place()
    lab.send(first)
    lab.sent()
    await lab.until_confirmed(first)
    with counted_cycles() as cycles:
        for _ in range(BATCHES):
            orders = await lab.place(20)
            for order in orders:
                lab.send(order)
            lab.sent()
            for order in orders:
                await lab.until_confirmed(order)
    assert cycles.total() < BATCHES, cycles
