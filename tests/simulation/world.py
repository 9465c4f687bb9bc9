"""One run: writers, relays, a network, a processor and consumers, and everything that fails.

The rules of the world are the promises: they are checked after every step, and the rest at the end,
when everything is well again.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.broker import PARTITIONS, Broker, Request
from tests.simulation.consumers import STATUSES, SimulatedConsumer
from tests.simulation.database import Database
from tests.simulation.relays import SimulatedRelay

ORDERS = 5
FATES = ("well", "well", "well", "dies before commit", "reply lost")
RELAY_ACTS = ("read", "read", "send", "send", "commit", "commit", "renew")
STATUS_WORDS = ("processing", "confirmed", "rejected")


@dataclass
class Writer:
    """An open transaction: what it has written, and the orders it holds locked."""

    txid: int
    orders: set[int] = field(default_factory=set)


class World:
    """Everything; every method is something that may happen next."""

    def __init__(self) -> None:
        self.database, self.broker = Database(), Broker()
        self.relays = [SimulatedRelay(name, self.database, self.broker) for name in "ab"]
        self.consumers = [SimulatedConsumer(name, self.database, self.broker) for name in "cd"]
        self.open: list[Writer] = []
        self.returns_sent = 0
        self._checkpoint = (0, 0, 0)
        self._offsets = [0] * PARTITIONS
        self._read = [0] * PARTITIONS
        self._latest: dict[int, int] = {}
        self.rebalance()

    # --- the order service

    def begin(self) -> None:
        if len(self.open) < 4:
            self.open.append(Writer(self.database.begin()))

    def insert(self, writer: int, order: int) -> None:
        """Append to an order, unless another transaction holds it."""
        if not self.open:
            self.begin()
        mine = self.open[writer % len(self.open)]
        if any(order in other.orders for other in self.open if other is not mine):
            return
        mine.orders.add(order)
        there = [row for row in self.database.committed() if row.order == order]
        own = [r for r in self.database.rows if r.txid == mine.txid and r.order == order]
        self.database.insert(mine.txid, order, len(there) + len(own) + 1)

    def end(self, writer: int, *, commit: bool) -> None:
        if self.open:
            mine = self.open.pop(writer % len(self.open))
            self.database.end(mine.txid, commit=commit)

    # --- relays and network

    def relay_acts(self, relay: int, what: str, fate: str) -> None:
        self.relays[relay].act(what, fate)

    def relay_crashes(self, relay: int) -> None:
        self.relays[relay].start()

    def relay_stops(self, relay: int) -> None:
        self.relays[relay].act("stop")

    def freeze(self, relay: int, *, frozen: bool) -> None:
        self.relays[relay].frozen = frozen

    def network(self, which: int, what: str) -> None:
        """A request arrives (its answer too, or not), is lost, or is overtaken by others."""
        if not self.broker.network:
            return
        waiting = self.broker.network
        waiting.rotate(-(which % len(waiting)))
        request = waiting.popleft()
        if what != "lost":
            self._arrives(request, answered=what == "arrives")

    def _arrives(self, request: Request, *, answered: bool) -> None:
        offset = self.broker.deliver(request)
        if answered:
            request.answer(offset)

    def time_passes(self, seconds: float) -> None:
        self.database.now += seconds

    # --- processor and consumers

    def processor_sends(self, order: int, status: str, *, copy: bool) -> None:
        self.returns_sent += not copy
        self.broker.send_return(order, status, self.returns_sent)

    def consumer_polls(self, consumer: int, most: int, fate: str) -> None:
        self.consumers[consumer].poll(most, fate)

    def consumer_crashes(self, consumer: int) -> None:
        self.consumers[consumer].start()
        self.rebalance()

    def consumer_freezes(self, consumer: int, *, frozen: bool) -> None:
        """A frozen one loses its partitions to the others, and wakes up in its old belief."""
        self.consumers[consumer].frozen = frozen
        if frozen:
            self.rebalance()

    def rebalance(self) -> None:
        live = [one for one in self.consumers if not one.frozen]
        for place, one in enumerate(live):
            one.assigned([n for n in range(PARTITIONS) if n % len(live) == place])

    # --- promises

    def check(self) -> None:
        """What must hold after every step."""
        at = self.database.checkpoint
        newest = at["cur"] or at["prev"]
        checkpoint = (at["epoch"], at["seq"], int(newest.split(":")[1]))
        assert all(new >= old for old, new in zip(self._checkpoint, checkpoint, strict=True)), (
            f"the checkpoint went backwards: {self._checkpoint}, {checkpoint}"
        )
        self._checkpoint = checkpoint
        for number, known in enumerate(self._offsets):
            row = self.database.offsets.get(number, {"next_offset": 0})
            assert row["next_offset"] >= known, "an offset went backwards"
            self._offsets[number] = row["next_offset"]
        self._check_log()

    def _check_log(self) -> None:
        committed: set[int] | None = None
        for number, log in enumerate(self.broker.events):
            for record in log[self._read[number] :]:
                committed = committed or {row.id for row in self.database.committed()}
                assert record.row_id in committed, f"never committed: {record}"
                latest = self._latest.get(record.order, 0)
                assert record.version <= latest + 1, f"v{latest}, then {record}"
                self._latest[record.order] = max(latest, record.version)
            self._read[number] = len(log)

    def finish(self) -> None:
        """All is well again; then nothing may be missing, and nothing be twice."""
        while self.open:
            self.end(0, commit=True)
        for one in (*self.relays, *self.consumers):
            one.frozen = False
        self.time_passes(10)
        rows = len(self.database.rows)
        for _ in range(4 * rows + 20):
            for act in ("renew", "read", "send"):
                self.relays[0].act(act)
            while self.broker.network:
                self._arrives(self.broker.network.popleft(), answered=True)
            self.relays[0].act("commit")
            self.check()
        self.rebalance()
        for _ in range(sum(map(len, self.broker.returns)) + 1):
            for consumer in self.consumers:
                consumer.poll(3, "well")
            self.check()
        self._nothing_is_missing()

    def _nothing_is_missing(self) -> None:
        published = {record.row_id for log in self.broker.events for record in log}
        missing = {row.id for row in self.database.committed()} - published
        assert not missing, f"lost: {missing}"
        told = [one for _, _, _, ids in self.database.ledger for one in ids]
        assert set(told) == published, "the ledger says otherwise"
        epochs = [epoch for epoch, *_ in self.database.ledger]
        assert epochs == sorted(epochs), "a stale epoch's write was accepted"
        self._ledger_offsets()
        expected: dict[int, list[str]] = {}
        for log in self.broker.returns:
            for record in log:
                order, status = int(record.key or b""), (record.value or b"").decode()
                steps = expected.setdefault(order, ["submitted"])
                if STATUSES.ranks[status] > STATUSES.ranks[steps[-1]]:
                    steps.append(status)
        made: dict[int, list[str]] = {order: ["submitted"] for order in expected}
        for order, old, new in self.database.history:
            assert made[order][-1] == old, "a status went its own way"
            made[order].append(new)
        assert made == expected, "returns were lost, or took effect twice"

    def _ledger_offsets(self) -> None:
        for _, partition, base, ids in self.database.ledger:
            if base is not None:
                log = self.broker.events[partition][base : base + len(ids)]
                assert [record.row_id for record in log] == ids, "the ledger names other records"


def _burst(world: World, luck: random.Random, relay: int) -> None:
    """A relay works for a while undisturbed, its requests arrive."""
    for what in luck.choices(RELAY_ACTS, k=luck.randint(1, 6)):
        world.relay_acts(relay, what, "well")
        if what == "send" and luck.random() < 0.7:
            for _ in range(len(world.broker.network)):
                world.network(0, "arrives")


def happen(world: World, luck: random.Random) -> None:
    """Let one thing happen."""
    pick, either = luck.randrange, luck.randrange(2)
    happenings: list[tuple[int, Callable[[], None]]] = [
        (3, world.begin),
        (14, lambda: world.insert(pick(4), pick(ORDERS))),
        (8, lambda: world.end(pick(4), commit=luck.random() < 0.8)),
(16, lambda: _burst(world, luck, either)),
        (8, lambda: world.relay_acts(either, luck.choice(RELAY_ACTS), luck.choice(FATES))),
        (14, lambda: world.network(pick(6), luck.choice(("arrives", "arrives", "mute", "lost")))),
        (1, lambda: world.relay_crashes(either)),
        (1, lambda: world.relay_stops(either)),
        (3, lambda: world.freeze(either, frozen=luck.random() < 0.5)),
        (4, lambda: world.time_passes(luck.choice((0.1, 0.7, 2.0, 4.0)))),
        (8, lambda: world.processor_sends(
            pick(ORDERS), luck.choice(STATUS_WORDS), copy=luck.random() < 0.2)),
        (10, lambda: world.consumer_polls(either, pick(4) + 1, luck.choice(FATES))),
        (1, lambda: world.consumer_crashes(either)),
        (1, world.rebalance),
        (3, lambda: world.consumer_freezes(either, frozen=luck.random() < 0.4)),
    ]  # fmt: skip
    weights = [weight for weight, _ in happenings]
    luck.choices([act for _, act in happenings], weights=weights)[0]()


def play(seed: int, steps: int = 150) -> World:
    """Play one run; a broken promise is an AssertionError. The same seed is the same run."""
    luck, world = random.Random(seed), World()
    for _ in range(steps):
        happen(world, luck)
        world.check()
    world.finish()
    return world
