"""Who plays in a night: the shape of a loop in which nothing is wrong, drawn from a seed.

Invariant: none of this is a cause. Whatever the cast, an order that nothing befalls comes back.
"""

from dataclasses import dataclass, fields
from random import Random

PROCESSORS = ("subscribe", "subscribe", "assign", "transactional", "kip848")
PARTITIONERS = ("murmur2_random", "consistent_random", "consistent", "random")
STYLES = ("headers", "headers", "key", "capitals", "subject", "body", "customer")
WRITERS = ("plain", "plain", "savepoint", "batch", "trigger")


@dataclass(frozen=True, slots=True)
class Cast:
    """The programs of a night, none of them ours but relay and consumer.

    Attributes:
        processor: how it reads: in a group of the classic protocol, of KIP-848, with partitions
            that it assigns itself, or exactly-once.
        commits: its offset, before or after its answers are acknowledged.
        partitioner: where its returns go, in librdkafka's words.
        style: what of the order a return names: headers and key, the key alone, in capitals,
            only `ce_subject`, only the body, or the customer as key.
        writer: how the order service writes: an order a transaction, the order in a savepoint,
            all of them in one transaction, or a trigger that writes the event.
        clock_hours: how far ahead the order service's clock is.
        mixed: orders that something befalls are placed among others that come back.
        roles: relay and consumer connect as what they are, with no more rights than that.
    """

    processor: str
    commits: str
    partitioner: str
    style: str
    writer: str
    clock_hours: int
    events_partitions: int
    returns_partitions: int
    mixed: bool
    roles: bool

    @classmethod
    def draw(cls, luck: Random) -> "Cast":
        """Draw one."""
        return cls(
            processor=luck.choice(PROCESSORS),
            commits=luck.choice(("after", "after", "before")),
            partitioner=luck.choice(PARTITIONERS),
            style=luck.choice(STYLES),
            writer=luck.choice(WRITERS),
            clock_hours=luck.choice((0, 0, 0, 0, -2, 2)),
            events_partitions=luck.choice((1, 2, 3, 3)),
            returns_partitions=luck.choice((1, 2, 3, 3)),
            mixed=luck.random() < 0.7,
            roles=luck.random() < 0.3,
        )

    def __str__(self) -> str:
        return " ".join(f"{one.name}={getattr(self, one.name)}" for one in fields(self))
