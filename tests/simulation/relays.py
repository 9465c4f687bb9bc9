"""A relay of the simulation: the program's cursor, pages under way, checkpoint and lease.

Only what speaks to a network is imagined: batches wait in queues, one of a partition is on the wire
at a time, and a failure takes everything with it.
"""

from collections import deque
from dataclasses import dataclass, field

from relay.publish.errors import CheckpointConflictError, LeaseLostError
from relay.publish.ownership.lease import Lease, Taken
from relay.publish.reading.checkpoint import Checkpoint, CheckpointWriter, position_of
from relay.publish.reading.cursor import OutboxCursor
from relay.publish.sending.batch import Batch, Limit, batches
from relay.publish.sending.in_flight_pages import InFlightPage, InFlightPages, joined
from relay.publish.sending.spans import SentPage
from tests.simulation.broker import PARTITIONS, Broker, Published, Request
from tests.simulation.database import Connection, ConnectionLostError, Database, finished

LEASE_SECONDS = 3.0
PAGE_ROWS = 3


class SimulatedLease(Lease):
    """The lease, but for the question which server this is."""

    async def _read_checkpoint(self, epoch: int) -> Taken:
        at = self.connection.database.checkpoint
        at["epoch"] = epoch
        position = position_of(at["prev"], at["cur"], at["last_id"])
        return Taken(Checkpoint(0, epoch, at["seq"], position, at["high_id"]), "1", None)


@dataclass
class _Queued:
    records: list[Published]
    batch: Batch
    page: InFlightPage
    sequence: int = -1
    on_the_wire: bool = False


@dataclass
class Tenure:
    """What an active relay holds in memory; a crash takes it."""

    cursor: OutboxCursor
    writer: CheckpointWriter
    in_flight: InFlightPages
    producer: int
    queues: list[deque[_Queued]]
    sequences: list[int]


@dataclass
class SimulatedRelay:
    """One process: dead, standing by, or active; frozen or not."""

    name: str
    database: Database
    broker: Broker
    lease: SimulatedLease = field(init=False)
    connection: Connection = field(init=False)
    tenure: Tenure | None = None
    frozen: bool = False

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin with an empty memory."""
        self.tenure, self.frozen = None, False
        self.connection = Connection(self.database)
        self.lease = SimulatedLease(
            self.connection, 0, self.name, LEASE_SECONDS, lambda: self.database.now
        )

    def act(self, what: str, fate: str = "well") -> None:
        """Do one thing; whatever goes wrong ends the tenure."""
        if self.frozen:
            return
        self.connection.fate = fate
        try:
            if self.tenure is None:
                self._take()
            else:
                getattr(self, f"_{what}")(self.tenure)
        except (LeaseLostError, CheckpointConflictError, ConnectionLostError):
            self.tenure = None
        self.connection.fate = "well"

    def _take(self) -> None:
        taken = finished(self.lease.take())
        if taken is None:
            return
        checkpoint = taken.checkpoint
        cursor = OutboxCursor(
            self.connection, checkpoint.position, page_rows=PAGE_ROWS, page_bytes=10_000,
            largest_bytes=10_000, hint_id=checkpoint.hint_id,
        )  # fmt: skip
        self.tenure = Tenure(
            cursor,
            CheckpointWriter(self.connection, checkpoint),
            InFlightPages(3 * PAGE_ROWS, 10_000),
            self.broker.new_producer(),
            [deque() for _ in range(PARTITIONS)],
            [0] * PARTITIONS,
        )

    def _read(self, tenure: Tenure) -> None:
        if not tenure.in_flight.has_room(PAGE_ROWS, 100):
            return
        page = finished(tenure.cursor.next_page())
        if self.lease.left_seconds() <= 0:
            raise LeaseLostError
        if not page.ids:
            return
        rows = {row.id: row for row in self.database.rows}
        divided = batches(
            topic="events",
            places=range(len(page.ids)),
            partitions=[int(key) % PARTITIONS for key in page.keys],
            sizes=page.sizes,
            outbox_ids=page.ids,
            limit=Limit(10_000, 2),
        )
        sent = SentPage(page.keys, page.created_at, [None] * len(page.ids), 0)
        in_flight = InFlightPage(page.after, 2, sent, len(divided))
        tenure.in_flight.add(in_flight)
        for batch in divided:
            published = [
                Published(row.id, row.order, row.version, self.lease.epoch)
                for row in (rows[one] for one in batch.outbox_ids)
            ]
            tenure.queues[batch.partition].append(_Queued(published, batch, in_flight))

    def _send(self, tenure: Tenure) -> None:
        """Put each partition's first batch on the wire; again, if nothing was heard of it."""
        for partition, queue in enumerate(tenure.queues):
            if queue:
                first = queue[0]
                if first.sequence < 0:
                    first.sequence = tenure.sequences[partition]
                request = Request(tenure.producer, partition, first.sequence, first.records)
                request.answer = lambda offset, mine=first: self._answered(tenure, mine, offset)
                self.broker.network.append(request)

    def _answered(self, tenure: Tenure, queued: _Queued, offset: int | None) -> None:
        """The broker's answer reached this process; it may be another life's."""
        if self.frozen or self.tenure is not tenure:
            return
        if offset == -1:
            self.tenure = None
            return
        partition = queued.records[0].order % PARTITIONS
        queue = tenure.queues[partition]
        if queue and queue[0] is queued:
            queue.popleft()
            tenure.sequences[partition] += len(queued.records)
            tenure.in_flight.acknowledged(queued.page, queued.batch, offset)

    def _commit(self, tenure: Tenure) -> None:
        ready = tenure.in_flight.done()
        if ready:
            deliveries = [one for page in ready for one in page.deliveries()]
            finished(tenure.writer.advance(ready[-1].after, joined(deliveries), ()))
            tenure.in_flight.remove(ready)

    def _renew(self, _tenure: Tenure) -> None:
        finished(self.lease.renew())

    def _stop(self, tenure: Tenure) -> None:
        """Asked to stop: what is under way is waited for, or left to the next."""
        if not tenure.in_flight:
            finished(self.lease.release())
        self.tenure = None
