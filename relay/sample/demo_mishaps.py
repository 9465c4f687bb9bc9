"""Hops 1 to 5 of the demo: orders lost on purpose, at every hop another way.

Invariant: whoever looks for them is told nothing: what was done stands here and in the processor's
journal only, and is compared with what the evidence said. Losses at hops 1 to 3 are orders of other
programs; those at hops 4 and 5 are the sample processor's doing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
import orjson

from relay.diagnose.verdicts import Hop
from relay.runtime.database import connect

EXPRESS: Final = "order.express"
EXPRESS_TOPIC: Final = "orders.express"
_IMPORTED: Final = "order.imported"

# One way for each hop, in the order in which a small number of losses is dealt out.
_DEALT: Final = (Hop.RETURN, Hop.CONFIRM, Hop.PLACE, Hop.PUBLISH, Hop.PROCESS)

WHAT: Final[Mapping[Hop, str]] = {
    Hop.PLACE: "another program wrote the order without its outbox row",
    Hop.PUBLISH: "its event has a type that no topic is mapped to",
    Hop.PROCESS: "its event's topic is one that no processor reads",
    Hop.RETURN: "the processor passed it and sent no return",
    Hop.CONFIRM: "the processor sent a status that nobody knows",
}

_ORDER: Final = """
INSERT INTO public.orders (order_id, customer_id, items, total, currency)
VALUES ($1::text::uuid, 'demo-mishap', '[]', 1, 'EUR')
"""
_EVENT: Final = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ('order', $1::text, $2::text, json_build_object('order_id', $1::text, 'total', '1'))
"""
_EVENTS: Final = {Hop.PLACE: None, Hop.PUBLISH: _IMPORTED, Hop.PROCESS: EXPRESS}
_JOURNAL: Final = {"lose": Hop.RETURN, "corrupt": Hop.CONFIRM}


@dataclass(frozen=True, slots=True)
class Mishaps:
    """How many orders are lost at each hop."""

    at: Mapping[Hop, int]

    @classmethod
    def dealt(cls, number: int) -> Mishaps:
        """Deal a number of losses out over the hops, one at each before a second one at any."""
        share, rest = divmod(number, len(_DEALT))
        return cls({hop: share + (place < rest) for place, hop in enumerate(_DEALT)})

    def processor_arguments(self, journal: Path) -> Sequence[str]:
        """Return what the sample processor is told to do wrong, and where it notes whom it hit."""
        return (
            *("--lose-count", str(self.at[Hop.RETURN])),
            *("--corrupt-count", str(self.at[Hop.CONFIRM]), "--corruption", "unknown_status"),
            *("--journal", str(journal)),
        )

    async def place(self, connection: asyncpg.Connection) -> dict[str, Hop]:
        """Place the orders of other programs; return where each is lost.

        Raises:
            asyncpg.PostgresError: they cannot be written.
        """
        placed: dict[str, Hop] = {}
        for hop, event_type in _EVENTS.items():
            for _ in range(self.at[hop]):
                order_id = str(uuid4())
                async with connection.transaction():
                    await connection.execute(_ORDER, order_id)
                    if event_type is not None:
                        await connection.execute(_EVENT, order_id, event_type)
                placed[order_id] = hop
        return placed


async def lose_at(dsn: str | None, hop: Hop, number: int) -> list[str]:
    """Place orders that are lost at hop 1, 2 or 3; return their ids.

    Raises:
        DatabaseError, asyncpg.PostgresError: they cannot be written.
    """
    connection = await connect(dsn, "relay demo")
    try:
        return list(await Mishaps({**dict.fromkeys(_DEALT, 0), hop: number}).place(connection))
    finally:
        await connection.close()


def lost_by_processor(journal: Path) -> dict[str, Hop]:
    """Read whom the processor hit on purpose, and at which hop that loses an order."""
    if not journal.exists():
        return {}
    whole_lines = journal.read_bytes().rpartition(b"\n")[0]  # one may be in the writing
    lines = [orjson.loads(line) for line in whole_lines.splitlines()]
    return {
        line["order_id"]: _JOURNAL[line["fault"]] for line in lines if line["fault"] in _JOURNAL
    }
