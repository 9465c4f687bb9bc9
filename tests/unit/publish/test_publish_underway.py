"""Pages under way: in order, bounded in rows and bytes; ledger rows that follow are joined."""

from hypothesis import given
from hypothesis import strategies as st

from relay.publish.batch import Batch
from relay.publish.checkpoint import Delivery
from relay.publish.spans import SentPage
from relay.publish.underway import PageUnderway, Underway, joined
from relay.publish.window import Position, Snapshot

HERE = Position(Snapshot(3, 3))


def page(rows: int, payload_bytes: int, *, batches: int = 1) -> PageUnderway:
    sent = SentPage([b"key"] * rows, [bytes(8)] * rows, [None] * rows, 0)
    return PageUnderway(HERE, payload_bytes, sent, batches)


def batch(partition: int = 0) -> Batch:
    return Batch("t", partition, [0], [1], 100)


async def test_a_page_is_done_only_after_those_before_it() -> None:
    underway = Underway(100, 1000)
    early, late = page(1, 1), page(1, 1)
    underway.add(early)
    underway.add(late)
    underway.acknowledged(late, batch(), 1)
    assert underway.done() == []
    assert not underway.changed.is_set()
    underway.acknowledged(early, batch(), 0)
    assert underway.changed.is_set()
    assert underway.done() == [early, late]
    underway.remove([early, late])
    await underway.empty()


async def test_rows_and_bytes_are_bounded_and_one_page_always_fits() -> None:
    underway = Underway(most_rows=10, most_bytes=1000)
    assert underway.has_room(50, 5000)
    one = page(4, 100)
    underway.add(one)
    assert underway.has_room(6, 900)
    assert not underway.has_room(7, 10)
    assert not underway.has_room(1, 901)
    underway.remove([one])
    assert underway.has_room(50, 5000)


async def test_a_failed_batch_is_news_even_behind_one_that_waits() -> None:
    underway = Underway(10, 10)
    underway.add(page(1, 1))
    underway.failed(OSError("gone"))
    underway.failed(OSError("and again"))
    assert underway.changed.is_set()
    assert str(underway.failure) == "gone"


async def test_a_page_is_done_with_the_last_of_its_batches() -> None:
    underway = Underway(10, 10)
    one = page(2, 1, batches=2)
    underway.add(one)
    underway.acknowledged(one, batch(1), 7)
    assert not underway.changed.is_set()
    underway.acknowledged(one, batch(0), None)
    assert underway.done() == [one]
    assert one.deliveries() == [Delivery("t", 1, 7, [1]), Delivery("t", 0, None, [1])]


async def test_a_page_of_parked_rows_alone_is_done_at_once() -> None:
    underway = Underway(10, 10)
    underway.add(page(1, 1, batches=0))
    assert underway.changed.is_set()
    assert len(underway.done()) == 1


offsets = st.none() | st.integers(0, 20)
deliveries = st.lists(
    st.builds(
        Delivery,
        st.sampled_from("tu"),
        st.integers(0, 1),
        offsets,
        st.lists(st.integers(1, 99), min_size=1, max_size=4),
    )
)


@given(deliveries)
def test_joined_deliveries_say_the_same_of_every_event(given_ones: list[Delivery]) -> None:
    def said(ones: list[Delivery]) -> list[tuple[str, int, int | None, int]]:
        return sorted(
            (
                (
                    one.topic,
                    one.partition,
                    None if one.base_offset is None else one.base_offset + n,
                    i,
                )
                for one in ones
                for n, i in enumerate(one.outbox_ids)
            ),
            key=str,
        )

    together = joined(given_ones)
    assert said(together) == said(given_ones)
    assert len(together) <= len(given_ones)


def test_neighbours_are_joined_and_others_are_not() -> None:
    ones = [
        Delivery("t", 0, 5, [1, 2]),
        Delivery("t", 1, 0, [3]),
        Delivery("t", 0, 7, [4]),
        Delivery("t", 0, None, [5]),
        Delivery("t", 0, 9, [6]),
        Delivery("u", 0, 8, [7]),
    ]
    assert joined(ones) == [
        Delivery("t", 0, 5, [1, 2, 4]),
        Delivery("t", 1, 0, [3]),
        Delivery("t", 0, None, [5]),
        Delivery("t", 0, 9, [6]),
        Delivery("u", 0, 8, [7]),
    ]
