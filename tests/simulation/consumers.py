"""A confirmation consumer of the simulation: the program's offsets, identities and folding."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from relay.consumers.returns.fold import Statuses, Step, fold
from relay.consumers.returns.identity import sort_copies
from relay.consumers.returns.reader import Return
from relay.consumers.returns.refusals import Refusal
from relay.kafka.consumer.handler import Part, PartitionLostError
from relay.kafka.consumer.offset_store import OffsetStore
from relay.kafka.consumer.partitions import LogBounds, Start, continuing, gap_between
from relay.kafka.partition import Partition
from relay.runtime.flow import Flow
from tests.simulation.broker import Broker, Returned
from tests.simulation.database import Connection, ConnectionLostError, Database, finished

FLOW = Flow()
STATUSES = Statuses(FLOW.status_ranks, FLOW.terminal_statuses)
_TOPIC_ID = "t-1"


def read_return(record: Returned) -> Return:
    """Read a record of the simulation: its value is the status."""
    assert record.key is not None
    assert record.value is not None
    own = dict(record.headers)["ce_id"]
    assert own is not None
    identity = f"/p/{own.decode()}"
    content = (record.key + b"|" + record.value).ljust(16, b"\0")
    key, status = record.key.decode(), record.value.decode()
    return Return(record, key, status, None, identity, content, None, None, None)


def decide(
    database: Database, returns: Sequence[Return]
) -> tuple[list[tuple[int, Step]], list[Refusal]]:
    """Decide a batch as `Confirmation` does: copies out, then order by order."""
    fresh = sort_copies(returns, database.inbox, _TOPIC_ID).fresh
    steps: list[tuple[int, Step]] = []
    refused: list[Refusal] = []
    by_order: dict[int, list[tuple[str, Return]]] = {}
    for identity, one in fresh:
        by_order.setdefault(int(one.order_id), []).append((identity, one))
    for order, mine in by_order.items():
        made: list[Step] = []
        fold(STATUSES, database.orders.get(order, "submitted"), mine, made, refused)
        steps += [(order, step) for step in made]
    return steps, refused


@dataclass
class SimulatedConsumer:
    """One process. What it believes of its partitions may be out of date."""

    name: str
    database: Database
    broker: Broker
    offsets: OffsetStore = field(init=False)
    connection: Connection = field(init=False)
    starts: dict[Partition, Start] = field(default_factory=dict)
    frozen: bool = False

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin with an empty memory, and no partition."""
        self.offsets = OffsetStore("g", "returns", self.name)
        self.connection, self.starts, self.frozen = Connection(self.database), {}, False

    def assigned(self, partitions: Sequence[int]) -> None:
        """The group gives it partitions: it begins where the stored offsets say."""
        if self.frozen:
            return
        logs = {
            Partition("returns", number): LogBounds(0, len(self.broker.returns[number]), _TOPIC_ID)
            for number in partitions
        }
        starts, _gaps = finished(self.offsets.open(self.connection, logs, truncated=False))
        self.starts = dict(starts)

    def poll(self, most: int, fate: str) -> None:
        """Take some records, handle them; a failure makes it forget its partitions."""
        if self.frozen:
            return
        self.connection.fate = fate
        try:
            self._handle([part for p in self.starts if (part := self._part(p, most)) is not None])
        except (PartitionLostError, ConnectionLostError):
            self.starts = {}
        self.connection.fate = "well"

    def _part(self, partition: Partition, most: int) -> Part | None:
        start, log = self.starts[partition], self.broker.returns[partition.partition]
        polled = log[start.seek_offset : start.seek_offset + most]
        records = continuing(partition, start, polled)
        if not records:
            return None
        end = records[-1].offset + 1
        gap = gap_between(start, records, end)
        assert gap is None
        return Part(partition, start.offset, records, end, None, _TOPIC_ID)

    def _handle(self, parts: list[Part]) -> None:
        if not parts:
            return
        finished(self._transaction(parts))
        self.offsets.advanced(parts)
        for part in parts:
            self.starts[part.partition] = Start(part.next_offset)

    async def _transaction(self, parts: list[Part]) -> None:
        database = self.database
        async with self.connection.transaction():
            await self.offsets.advance(self.connection, parts)
            records: list[Any] = [record for part in parts for record in part.records]
            steps, _refused = decide(database, [read_return(one) for one in records])
            for order, step in steps:
                assert step.identity not in database.inbox, "an inbox key twice"
                database.inbox[step.identity] = step.returned.content
                if step.old_status != step.new_status:
                    assert step.old_status == database.orders.get(order, "submitted")
                    database.orders[order] = step.new_status
                    database.history.append((order, str(step.old_status), step.new_status))
