"""A process is away, something happens meanwhile, it comes back or not: all combinations."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random

from relay.runtime.liveness import GONE_SECONDS
from tests.nights.cast import Cast
from tests.nights.causes.cause import Cause
from tests.nights.causes.single import EVENT_DELETED, PROOF_DELETED
from tests.nights.stage import WAIT_SECONDS, Stage
from tests.nights.truth import Truth, lost, returned

HOPS = {"relay": 2, "processor": 3, "consumer": 5}
RECORDED_AS = {"relay": ("relay",), "consumer": ("confirm",)}

# What is true of orders that were placed while a process was away, by what happened meanwhile.
# None: nothing that was done to them matters, but whether it came back (see `_away`).
_MEANWHILE: dict[str, dict[str, Truth | None]] = {
    "relay": {
        "nothing": None,
        "checkpoint moved": lost(
            "checkpoint moved", "publish", "not_published", "checkpoint_skipped"
        ),
        "events deleted": lost("unsent events deleted", "place", "no_outbox_row", "event_deleted"),
        "wrong settings": lost(
            "relay had wrong settings", "publish", "not_published", "sent_to_other_topic"
        ),
    },
    "processor": {
        "nothing": None,
        "events deleted": None,
        "records deleted": lost(
            "unread events deleted on Kafka", "publish", "record_missing", "records_deleted"
        ),
        "topic made again": lost(
            "events topic made again", "publish", "record_missing", "topic_recreated"
        ),
        "group reset": lost("group reset to the end", "return", "no_return", "offsets_skipped"),
    },
    "consumer": {
        "nothing": None,
        "events deleted": None,
        "records deleted": lost(
            "unread returns deleted on Kafka", "return", "no_return", "records_deleted"
        ),
        "topic made again": lost(
            "returns topic made again", "return", "no_return", "topic_recreated"
        ),
        "offset moved": lost(
            "consumer's offset moved", "confirm", "return_skipped", "offset_moved"
        ),
        "orders deleted": lost("orders deleted", "place", "no_such_order", "order_deleted"),
        "rows deleted": lost("orders and events deleted", "place", "no_such_order", "rows_lost"),
    },
}
# A process that stands still makes the difference only to who is to blame for the delay.
_STILL = {
    "relay": {
        "stopped": ("relay_down",),
        "killed": ("relay_down",),
        "frozen": ("relay_paused", "relay_behind"),
    },
    "consumer": {
        "stopped": ("consumer_down",),
        "killed": ("consumer_down",),
        "frozen": ("consumer_paused", "consumer_lagging", "consumer_stuck"),
    },
}
# Returns that nobody had read are gone: they may have been those of orders that still waited.
_RETURNS_GONE = {
    ("consumer", "records deleted"): "records_deleted",
    ("consumer", "topic made again"): "topic_recreated",
}
# Until its last heartbeat is old enough it may be alive.
_MERELY_BEHIND = {
    "relay": ("publish", "not_published", "relay_behind"),
    "consumer": ("confirm", "not_confirmed", "consumer_lagging"),
}
_PASSED_OVER = (("no_return", "return_never_sent"), ("no_return", "returns_stopped"))
_WAIT_FOR_A_RETURN = ("processor loses", "only begun", "group reset to the end",
                      "processor died after its commit", EVENT_DELETED, PROOF_DELETED)  # fmt: skip
_MOVED = "UPDATE relay.checkpoint SET prev = pg_current_snapshot(), cur = NULL, last_id = NULL"


@dataclass
class Outage(Cause):
    """One process is away for a while, or for good.

    Attributes:
        how: it went: stopped, killed or frozen.
        meanwhile: what somebody did.
        back: whether it came back.
    """

    process: str
    how: str
    meanwhile: str
    back: bool
    count: int
    orders: list[str] = field(default_factory=list, init=False)

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "Outage":
        """Draw one that the cast can have."""
        process = luck.choice(list(HOPS))
        meanwhile = luck.choice(list(_MEANWHILE[process]))
        how = luck.choice(("stopped", "killed") + (("frozen",) if meanwhile == "nothing" else ()))
        # Settings are wrong for a while only where the relay ran with them.
        back = meanwhile == "wrong settings" or luck.random() < (
            0.5 if meanwhile in ("nothing", "events deleted") else 0.8
        )
        if how == "killed" and process == "processor" and cast.processor == "kip848":
            how = "stopped"  # only after 45 seconds does the broker give away what a dead one had
        return cls(process, how, meanwhile, back, luck.choice((3, 6, 12)))

    @property
    def stands_at(self) -> int:  # type: ignore[override]
        """Of one that does not come back."""
        return 0 if self.back else HOPS[self.process]

    @property
    def relays_own(self) -> bool:  # type: ignore[override]
        """What the relay is away for."""
        return self.process == "relay"

    async def make(self, stage: Stage) -> None:
        """Let it go, place orders, do something to them, let it come back."""
        await stage.healthy(2 * stage.cast.events_partitions)
        await stage.strike(self.process, self.how)
        self.orders = stage.ids(self.count)
        await stage.place(self.orders, truth=self._truth(stage.cast))
        await self._reached(stage)
        await _DOING[self.process, self.meanwhile](stage, self.orders)
        self._blur(stage)
        if self.back:
            await stage.bring_back(self.process, self.how)
            if self.process == "processor" and self.how == "frozen":
                await self._thawed(stage)
            await self._over(stage)

    def _blur(self, stage: Stage) -> None:
        """What is gone with a log may have told of orders that were lost before."""
        gone = _RETURNS_GONE.get((self.process, self.meanwhile))
        if gone is not None:
            said = ("no_return", gone), ("unknown", gone)
            stage.journal.blur(_WAIT_FOR_A_RETURN, *said, but=self.orders)
        if self.process == "processor" and self.meanwhile in (
            "topic made again",
            "records deleted",
        ):
            # Neither the ledger nor the log says any more that these were sent.
            stage.journal.blur([PROOF_DELETED], ("unknown", "past_retention"))
            stage.journal.blur([EVENT_DELETED], ("no_outbox_row", "event_deleted"))

    async def _reached(self, stage: Stage) -> None:
        """Wait until the orders have come as far as where the process is away."""
        if self.process == "processor":
            await stage.published(self.orders)
        elif self.process == "consumer":
            await stage.through(self.orders)

    async def _thawed(self, stage: Stage) -> None:
        """A processor that was frozen may have lost its place, and end."""
        assert stage.processor is not None
        if stage.processor.poll() is not None:
            stage.start_processor()
            await stage.processor_joined()

    async def _over(self, stage: Stage) -> None:
        """Later orders come back: the loop is in order."""
        if self._truth(stage.cast).healthy:
            await stage.world.until_returned(self.orders, WAIT_SECONDS)
        await stage.healthy(2 * stage.cast.events_partitions)

    async def settle(self, stage: Stage) -> None:
        """Wait until a killed process has been missed, and what was deleted is counted."""
        if self.process == "relay" and self.meanwhile == "events deleted":
            await stage.world.eventually(
                lambda: stage.world.pg.fetchval(
                    """SELECT sum(n_tup_del) >= $1 FROM pg_stat_user_tables
                        WHERE schemaname = 'relay' AND relname LIKE 'outbox%'""",
                    len(self.orders),
                ),
                30,
            )
        if not self.back and self.how == "killed" and self.process in RECORDED_AS:
            await stage.world.until_silent(RECORDED_AS[self.process], GONE_SECONDS + 0.5)

    async def mend(self, stage: Stage) -> bool:
        """Start what stayed away."""
        if not self.back:
            await stage.bring_back(self.process, self.how)
        return True

    def _truth(self, cast: Cast) -> Truth:
        known = _MEANWHILE[self.process][self.meanwhile]
        if known is not None and (self.process, self.meanwhile) in _RETURNS_GONE:
            # With several partitions nobody can tell that its return was among those deleted.
            cause = _RETURNS_GONE[self.process, self.meanwhile]
            also = (("unknown", cause),) if cast.returns_partitions > 1 else ()
            known = replace(known, said=known.said + also)
        if known is not None and self.meanwhile == "group reset" and cast.processor == "assign":
            # Without members nothing tells a reset from a reader that goes past without an answer.
            known = replace(known, said=known.said + _PASSED_OVER)
        if known is not None:
            away = self._away(cast)
            return replace(known, before=away.said + away.before)
        if self.back:
            return returned(f"{self.process} {self.how}, {self.meanwhile}, back")
        return self._away(cast)

    def _away(self, cast: Cast) -> Truth:
        name = f"{self.process} {self.how}"
        if self.process in _MERELY_BEHIND:
            hop, verdict, behind = _MERELY_BEHIND[self.process]
            away = lost(name, hop, verdict, *_STILL[self.process][self.how])
            return replace(away, before=((verdict, behind),))
        causes = ["processor_down"]
        if self.how == "frozen" or cast.processor in ("assign", "kip848"):
            # Nobody sees yet whether it works: it is in no group, or its session has not lapsed.
            causes += ["processor_stuck", "processor_lagging", "processor_rebalancing"]
        return lost(name, "process", "not_processed", *causes)

    def __str__(self) -> str:
        ending = "comes back" if self.back else "stays away"
        return (
            f"{self.count} orders: {self.process} {self.how}; meanwhile {self.meanwhile}; {ending}"
        )


Doing = Callable[[Stage, list[str]], Awaitable[None]]


async def nothing(stage: Stage, orders: list[str]) -> None:
    """Do nothing."""


async def events_deleted(stage: Stage, orders: list[str]) -> None:
    """Somebody deletes rows of the outbox."""
    await _execute(stage, "DELETE FROM relay.outbox WHERE aggregate_id = ANY ($1::text[])", orders)


async def orders_deleted(stage: Stage, orders: list[str]) -> None:
    """Somebody deletes orders."""
    await _execute(stage, "DELETE FROM orders WHERE order_id = ANY ($1::uuid[])", orders)


async def rows_deleted(stage: Stage, orders: list[str]) -> None:
    """Somebody deletes both."""
    await orders_deleted(stage, orders)
    await events_deleted(stage, orders)


async def checkpoint_moved(stage: Stage, orders: list[str]) -> None:
    """Somebody "resets" the relay by hand."""
    await _execute(stage, _MOVED)


async def _execute(stage: Stage, statement: str, *arguments: object) -> None:
    stage.journal.note("by hand", statement=statement)
    await stage.world.pg.execute(statement, *arguments)


async def wrong_settings(stage: Stage, orders: list[str]) -> None:
    """The relay is started with another environment's topic, for a minute."""
    wrong = await asyncio.to_thread(stage.world.topics.create, "orders.evnets", 1)
    await stage.bring_back("relay", "stopped", RELAY_FLOW_EVENTS_TOPIC=wrong)
    await stage.published(orders)
    await stage.strike("relay", "stopped")


def records_deleted(which: str) -> Doing:
    """Delete all that a topic has, as `kafka-delete-records` does."""

    async def act(stage: Stage, orders: list[str]) -> None:
        topic = getattr(stage.world, which)
        await stage.world.until_log_position(topic)
        stage.journal.note("records deleted", topic=topic)
        await asyncio.to_thread(stage.world.delete_records, topic)

    return act


def made_again(which: str) -> Doing:
    """Delete a topic and make it again."""

    async def act(stage: Stage, orders: list[str]) -> None:
        world, topic = stage.world, getattr(stage.world, which)
        count = getattr(stage.cast, f"{which}_partitions")
        await world.until_log_position(topic)
        stage.journal.note("topic made again", topic=topic)
        await asyncio.to_thread(world.topics.recreate, topic, count)
        await world.until_log_position(topic)

    return act


async def group_reset(stage: Stage, orders: list[str]) -> None:
    """What `kafka-consumer-groups --reset-offsets --to-latest` does."""
    world = stage.world
    await stage.left_alone()
    stage.journal.note("group reset", group=world.group)
    await asyncio.to_thread(world.skip_to_end, world.group, world.events)
    await stage.left_alone()


async def offset_moved(stage: Stage, orders: list[str]) -> None:
    """Somebody moves the consumer's own offset to the end."""
    ends = await asyncio.to_thread(stage.world.ends, stage.world.returns)
    for number, end in ends.items():
        await _execute(
            stage,
            "UPDATE relay.consumer_offset SET next_offset = $2"
            " WHERE consumer_group = $3 AND partition = $1",
            number,
            end,
            stage.world.confirm_group,
        )


_DOING: dict[tuple[str, str], Doing] = {
    **{(process, "nothing"): nothing for process in HOPS},
    **{(process, "events deleted"): events_deleted for process in HOPS},
    ("relay", "checkpoint moved"): checkpoint_moved,
    ("relay", "wrong settings"): wrong_settings,
    ("processor", "records deleted"): records_deleted("events"),
    ("processor", "topic made again"): made_again("events"),
    ("processor", "group reset"): group_reset,
    ("consumer", "records deleted"): records_deleted("returns"),
    ("consumer", "topic made again"): made_again("returns"),
    ("consumer", "offset moved"): offset_moved,
    ("consumer", "orders deleted"): orders_deleted,
    ("consumer", "rows deleted"): rows_deleted,
}
assert set(_DOING) == {(one, what) for one, them in _MEANWHILE.items() for what in them}
