"""Runs of the simulation in the tests: by seed, by Hypothesis, and with bugs that it must see."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from relay.publish.reading.cursor import OutboxCursor
from relay.publish.sending.in_flight_pages import InFlightPage
from tests.simulation import consumers as consumers_module
from tests.simulation import database as database_module
from tests.simulation.broker import PARTITIONS, Request
from tests.simulation.relays import SimulatedRelay, Tenure
from tests.simulation.world import (
    FATES,
    ORDERS,
    RELAY_ACTS,
    STATUS_WORDS,
    World,
    play,
)

EITHER = st.integers(0, 1)
WRITER = st.integers(0, 3)
ORDER = st.integers(0, ORDERS - 1)
SEEDS = 1000
# So many runs are enough for each planted bug to show.
SEEDS_FOR_A_BUG = 300


@pytest.mark.timeout(180)
def test_a_thousand_runs_keep_every_promise() -> None:
    records = sum(sum(map(len, play(seed).broker.events)) for seed in range(SEEDS))
    assert records > 10 * SEEDS, "hardly anything happened"


def test_one_seed_is_one_run() -> None:
    one, other = play(7), play(7)
    assert one.broker.events == other.broker.events
    assert one.database.history == other.database.history
    assert play(8).broker.events != one.broker.events


class Happenings(RuleBasedStateMachine):
    """The same world, driven by Hypothesis, which shrinks what breaks it."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule()
    def begin(self) -> None:
        self.world.begin()

    @rule(writer=WRITER, order=ORDER)
    def insert(self, writer: int, order: int) -> None:
        self.world.insert(writer, order)

    @rule(writer=WRITER, commit=st.booleans())
    def end(self, writer: int, commit: bool) -> None:
        self.world.end(writer, commit=commit)

    @rule(relay=EITHER, acts=st.lists(st.sampled_from(RELAY_ACTS), min_size=1, max_size=6))
    def relay_acts(self, relay: int, acts: list[str]) -> None:
        for what in acts:
            self.world.relay_acts(relay, what, "well")

    @rule(relay=EITHER, what=st.sampled_from(RELAY_ACTS), fate=st.sampled_from(FATES))
    def relay_fails(self, relay: int, what: str, fate: str) -> None:
        self.world.relay_acts(relay, what, fate)

    @rule(which=st.integers(0, 5), what=st.sampled_from(["arrives", "arrives", "mute", "lost"]))
    def network(self, which: int, what: str) -> None:
        self.world.network(which, what)

    @rule(relay=EITHER)
    def relay_crashes(self, relay: int) -> None:
        self.world.relay_crashes(relay)

    @rule(relay=EITHER)
    def relay_stops(self, relay: int) -> None:
        self.world.relay_stops(relay)

    @rule(relay=EITHER, frozen=st.booleans())
    def freeze(self, relay: int, frozen: bool) -> None:
        self.world.freeze(relay, frozen=frozen)

    @rule(seconds=st.sampled_from([0.1, 0.7, 2.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.time_passes(seconds)

    @rule(order=ORDER, status=st.sampled_from(STATUS_WORDS), copy=st.booleans())
    def processor_sends(self, order: int, status: str, copy: bool) -> None:
        self.world.processor_sends(order, status, copy=copy)

    @rule(consumer=EITHER, most=st.integers(1, 4), fate=st.sampled_from(FATES))
    def consumer_polls(self, consumer: int, most: int, fate: str) -> None:
        self.world.consumer_polls(consumer, most, fate)

    @rule(consumer=EITHER)
    def consumer_crashes(self, consumer: int) -> None:
        self.world.consumer_crashes(consumer)

    @rule()
    def rebalance(self) -> None:
        self.world.rebalance()

    @rule(consumer=EITHER, frozen=st.booleans())
    def consumer_freezes(self, consumer: int, frozen: bool) -> None:
        self.world.consumer_freezes(consumer, frozen=frozen)

    @invariant()
    def promises(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.finish()


@pytest.mark.timeout(180)
def test_hypothesis_finds_nothing_either() -> None:
    run_state_machine_as_test(
        Happenings,
        settings=settings(
            max_examples=100,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- the simulation is tested: with one of these it must break a promise


def _id_cursor(patch: pytest.MonkeyPatch) -> None:
    real = database_module._ANSWERS.copy()

    def above(db: Any, connection: Any, *arguments: Any) -> Any:
        head, *rows = real[database_module.outbox_sql.WINDOW](db, connection, *arguments)
        return [head, *(row for row in rows if row[0] > db.checkpoint["high_id"])]

    for name in (database_module.outbox_sql.WINDOW, database_module.outbox_sql.WINDOW_OF_NEW):
        patch.setitem(database_module._ANSWERS, name, above)


def _checkpoint_before_acknowledgement(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(InFlightPage, "done", property(lambda _page: True))

    def commit(relay: SimulatedRelay, tenure: Tenure) -> None:
        ready = tenure.in_flight.done()
        if ready:
            database_module.finished(tenure.writer.advance(ready[-1].after, (), ()))
            tenure.in_flight.remove(ready)

    patch.setattr(SimulatedRelay, "_commit", commit)


def _no_fencing(patch: pytest.MonkeyPatch) -> None:
    real = database_module._ANSWERS[database_module.checkpoint.ADVANCE]

    def any_epoch(db: Any, connection: Any, shard: int, _epoch: int, _seq: int, *rest: Any) -> Any:
        at = db.checkpoint
        return real(db, connection, shard, at["epoch"], at["seq"], *rest)

    patch.setitem(database_module._ANSWERS, database_module.checkpoint.ADVANCE, any_epoch)


def _several_batches_in_flight(patch: pytest.MonkeyPatch) -> None:
    """Each with a producer of its own, so that nothing puts them back in order."""
    real = SimulatedRelay._send

    def send_all(relay: SimulatedRelay, tenure: Tenure) -> None:
        for queue in tenure.queues:
            for queued in list(queue)[1:]:
                request = _request_of_its_own(relay, queued)
                relay.broker.network.append(request)
        real(relay, tenure)

    patch.setattr(SimulatedRelay, "_send", send_all)


def _request_of_its_own(relay: SimulatedRelay, queued: Any) -> Any:
    partition = queued.records[0].order % PARTITIONS
    request = Request(relay.broker.new_producer(), partition, 0, queued.records)
    request.answer = lambda _offset: None
    return request


def _position_in_memory(patch: pytest.MonkeyPatch) -> None:
    """A cursor that goes on from what it read, whatever became of that."""
    real = OutboxCursor.__init__
    kept: dict[int, Any] = {}

    def begin(cursor: Any, connection: Any, position: Any, **how: Any) -> None:
        before = kept.get(id(connection.database))
        real(cursor, connection, position if before is None else before._position, **how)
        kept[id(connection.database)] = cursor

    patch.setattr(OutboxCursor, "__init__", begin)


def _no_compare_and_set(patch: pytest.MonkeyPatch) -> None:
    real = database_module._ANSWERS[database_module.offset_store._ADVANCE]

    def blindly(db: Any, connection: Any, group: str, topic: str, *given: Any) -> Any:
        expected = [db.offsets[number]["next_offset"] for number in given[0]]
        return real(db, connection, group, topic, given[0], expected, *given[2:])

    patch.setitem(database_module._ANSWERS, database_module.offset_store._ADVANCE, blindly)


def _no_rank_check(patch: pytest.MonkeyPatch) -> None:
    ranks = dict.fromkeys(STATUS_WORDS, 0) | {"submitted": -1}
    anything = consumers_module.Statuses(
        {word: rank + place for place, (word, rank) in enumerate(ranks.items())}, frozenset()
    )
    patch.setattr(consumers_module, "STATUSES", anything)


@pytest.mark.parametrize(
    "bug",
    [
        _id_cursor,
        _checkpoint_before_acknowledgement,
        _no_fencing,
        _several_batches_in_flight,
        _position_in_memory,
        _no_compare_and_set,
        _no_rank_check,
    ],
)
def test_a_planted_bug_breaks_a_promise(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        _play_all(random.Random(1).sample(range(100_000), SEEDS_FOR_A_BUG))


def _play_all(seeds: list[int]) -> None:
    for seed in seeds:
        play(seed)
