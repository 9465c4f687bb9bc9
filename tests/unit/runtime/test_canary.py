"""Ids of canaries: of the key's type, told from orders at once."""

from uuid import UUID

import pytest

from relay.orders.keys import canonical_order_id
from relay.runtime.canary import count_canaries, looks_like_canary, new_canary_id
from relay.runtime.flow import ApplyColumns, Flow, KeyType


@pytest.mark.parametrize("key_type", ["uuid", "text", "bigint"])
def test_an_id_is_a_key_and_looks_like_a_canary(key_type: KeyType) -> None:
    canonical = canonical_order_id(Flow(apply=ApplyColumns(key_type=key_type)))
    made = {new_canary_id(key_type) for _ in range(1000)}
    assert len(made) == 1000
    for one in made:
        assert canonical(one) == one
        assert looks_like_canary(one)


def test_a_uuid_is_of_a_version_that_is_free_to_use() -> None:
    assert UUID(new_canary_id("uuid")).version == 8


@pytest.mark.parametrize(
    "order_id", ["", "-9", "9223372036854775807", "-42", "ca9a41ef-0000-4000-8000-000000000000"]
)
def test_orders_do_not_look_like_one(order_id: str) -> None:
    assert not looks_like_canary(order_id)


def test_canaries_of_a_batch_are_counted() -> None:
    orders = [b"0190a0c1-0000-7000-8000-0000000000aa", b"17", b"-9", b"x-9ca9a41ee-"]
    canaries = [new_canary_id(kind).encode() for kind in ("uuid", "bigint", "text")]
    assert count_canaries(orders) == 0
    assert count_canaries([*canaries, *orders]) == 3
    assert count_canaries([orders[0], *canaries[:1], orders[0], canaries[2]]) == 2
    assert count_canaries([]) == 0
