"""Pages under way: in order, bounded in rows and bytes; ledger rows that follow are joined."""

from hypothesis import given
from hypothesis import strategies as st

from relay.publish.reading.checkpoint import Delivery
from relay.publish.reading.window import Position, Snapshot
from relay.publish.sending.batch import Batch
from relay.publish.sending.in_flight_pages import InFlightPage, InFlightPages, joined
from relay.publish.sending.spans import SentPage

HERE = Position(Snapshot(3, 3))


def page(rows: int, payload_bytes: int, *, batches: int = 1) -> InFlightPage:
    sent = SentPage([b"key"] * rows, [bytes(8)] * rows, [None] * rows, 0)
    return InFlightPage(HERE, payload_bytes, sent, batches)


def batch(partition: int = 0) -> Batch:
    return Batch("t", partition, [0], [1], 100)


async def test_a_page_is_done_only_after_those_before_it() -> None:
    in_flight = InFlightPages(100, 1000)
    early, late = page(1, 1), page(1, 1)
    in_flight.add(early)
    in_flight.add(late)
    in_flight.acknowledged(late, batch(), 1)
    assert in_flight.done() == []
    assert not in_flight.changed.is_set()
    in_flight.acknowledged(early, batch(), 0)
    assert in_flight.changed.is_set()
    assert in_flight.done() == [early, late]
    in_flight.remove([early, late])
    await in_flight.empty()


async def test_rows_and_bytes_are_bounded_and_one_page_always_fits() -> None:
    in_flight = InFlightPages(most_rows=10, most_bytes=1000)
    assert in_flight.has_room(50, 5000)
    one = page(4, 100)
    in_flight.add(one)
    assert in_flight.has_room(6, 900)
    assert not in_flight.has_room(7, 10)
    assert not in_flight.has_room(1, 901)
    in_flight.remove([one])
    assert in_flight.has_room(50, 5000)


async def test_a_failed_batch_is_news_even_behind_one_that_waits() -> None:
    in_flight = InFlightPages(10, 10)
    in_flight.add(page(1, 1))
    in_flight.failed(OSError("gone"))
    in_flight.failed(OSError("and again"))
    assert in_flight.changed.is_set()
    assert str(in_flight.failure) == "gone"


async def test_a_page_is_done_with_the_last_of_its_batches() -> None:
    in_flight = InFlightPages(10, 10)
    one = page(2, 1, batches=2)
    in_flight.add(one)
    in_flight.acknowledged(one, batch(1), 7)
    assert not in_flight.changed.is_set()
    in_flight.acknowledged(one, batch(0), None)
    assert in_flight.done() == [one]
    assert one.deliveries() == [Delivery("t", 1, 7, [1]), Delivery("t", 0, None, [1])]


async def test_a_page_of_parked_rows_alone_is_done_at_once() -> None:
    in_flight = InFlightPages(10, 10)
    in_flight.add(page(1, 1, batches=0))
    assert in_flight.changed.is_set()
    assert len(in_flight.done()) == 1


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
