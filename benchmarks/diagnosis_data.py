"""A month of orders, as a relay, a processor and a confirmation consumer leave it: for `diagnosis`.

One order in so many is unreturned: its event is on Kafka, the processor passed it, and no return
came. They are spread over all days and partitions, which is the dearest way to lose them: every
record that is read back stands in another batch. Returns stand on Kafka as well as in the inbox.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import md5

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from benchmarks.report import say
from relay.publish.sending.partitioner import partitions

PARTITIONS = 6
DAYS = 30
# The newest order is older than its deadline.
_NEWEST_SECONDS = 3600
_CHUNK = 1000
_TOLD_EVERY = 1_000_000
_POSITION_SECONDS = 10
# What maintenance keeps of them by default.
_POSITION_DAYS = 14

# Those that `relay migrate` made are today and seven days ahead.
_DAYS = """
SELECT relay.create_partition((clock_timestamp() AT TIME ZONE 'UTC')::date - back)
  FROM generate_series(1, %s) AS back
 WHERE to_regclass('relay.outbox_p' || to_char((clock_timestamp() AT TIME ZONE 'UTC')::date
                                               - back::int, 'YYYYMMDD')) IS NULL
"""

# What a load of so many rows makes slow, and where it is made again.
_DROP_INDEXES = """
DROP INDEX public.orders_unreturned, relay.inbox_aggregate;
ALTER TABLE public.orders DROP CONSTRAINT orders_pkey,
      DROP CONSTRAINT orders_customer_id_idempotency_key_key
"""
_INDEXES = """
ALTER TABLE public.orders ADD PRIMARY KEY (order_id), ADD UNIQUE (customer_id, idempotency_key);
CREATE INDEX orders_unreturned ON public.orders (submitted_at)
    WHERE status IN ('submitted', 'processing');
CREATE INDEX inbox_aggregate ON relay.inbox (aggregate_id)
"""

_ORDERS = """
INSERT INTO public.orders (order_id, customer_id, items, total, currency, status, submitted_at,
                           returned_at)
SELECT md5(g::text)::uuid, 'customer-' || mod(g, 100000), '[{"sku": "A", "quantity": 1}]', 9.95,
       'EUR',
       CASE WHEN mod(g, %(one_in)s) = 0 THEN 'submitted' ELSE 'confirmed' END, at,
       CASE WHEN mod(g, %(one_in)s) <> 0 THEN at + interval '1 second' END
  FROM (SELECT g, to_timestamp(%(from)s + g * %(step)s) AS at
          FROM generate_series(%(first)s, %(last)s) AS g) AS x
"""
# Transaction 3 is older than any: every snapshot shows it.
_OUTBOX = """
INSERT INTO relay.outbox (txid, id, event_id, aggregate_type, aggregate_id, event_type, payload,
                          traceparent, created_at)
OVERRIDING SYSTEM VALUE
SELECT '3', g, md5('e' || g)::uuid, 'order', md5(g::text)::uuid::text, 'order.placed',
       '{"order_id": "x"}', '00-' || md5('t' || g) || '-00f067aa0ba902b7-01',
       to_timestamp(%(from)s + g * %(step)s)
  FROM generate_series(%(first)s, %(last)s) AS g
"""
# As the watchdog writes them: every ten seconds, for each partition. A chunk of orders is over when
# its last one is, and then everybody is at its end.
_ENDS = "CREATE TEMP TABLE ends (chunk int, partition int, events bigint, returns bigint)"
_COPY_ENDS = "COPY ends FROM STDIN"
_POSITIONS = """
INSERT INTO relay.position (taken_at, topic, partition, consumer_group, log_start, log_end,
                            committed_offset, members, group_state)
SELECT to_timestamp(%(from)s + s), t.topic, e.partition, t.reader, 0,
       CASE t.topic WHEN %(events)s THEN e.events ELSE e.returns END,
       CASE WHEN t.reader <> '' THEN CASE t.topic WHEN %(events)s THEN e.events ELSE e.returns END
       END,
       CASE WHEN t.reader <> '' THEN 3 END, CASE WHEN t.reader <> '' THEN 'Stable' END
  FROM generate_series(%(first)s, %(last)s, %(every)s) AS s
  JOIN ends AS e ON e.chunk = least(floor(s / %(chunk)s)::int, (SELECT max(chunk) FROM ends)),
       (VALUES (%(events)s, ''), (%(events)s, %(processor)s), (%(returns)s, ''),
               (%(returns)s, %(confirm)s)) AS t (topic, reader)
 ORDER BY s
"""
_LEDGER = """
COPY relay.delivery_ledger (epoch, topic, partition, base_offset, record_count, outbox_ids,
                            id_range, published_at) FROM STDIN
"""
_INBOX = """
COPY relay.inbox (event_id, aggregate_id, causation_id, status, old_status, new_status, outcome,
                  content_hash, consumer_group, topic, partition, record_offset, recorded_at,
                  traceparent, received_at) FROM STDIN
"""
_OFFSETS = """
INSERT INTO relay.consumer_offset (consumer_group, topic, partition, next_offset)
VALUES (%s, %s, %s, %s)
"""
_FINISH = """
UPDATE relay.installation SET watched_since = to_timestamp(%(from)s);
UPDATE relay.checkpoint SET prev = pg_current_snapshot(), high_id = %(last)s, epoch = 1;
SELECT setval(pg_get_serial_sequence('relay.outbox', 'id'), %(last)s);
"""


@dataclass(slots=True)
class Month:
    """What to make, and where.

    Attributes:
        orders: how many.
        lost: of them, without a return.
    """

    url: str
    bootstrap_servers: str
    orders: int
    lost: int
    events: str = "diagnosis.events"
    returns: str = "diagnosis.returns"
    processor: str = "diagnosis-processor"
    confirm: str = "diagnosis-confirmation"
    started_at: float = field(default_factory=lambda: time.time() - DAYS * 86400)
    _ends: dict[str, list[int]] = field(default_factory=dict)
    _ends_by_chunk: list[tuple[list[int], list[int]]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Return the settings of a `relay` command that is to see it."""
        return {
            "DATABASE_URL": self.url,
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "RELAY_FLOW_EVENTS_TOPIC": self.events,
            "RELAY_FLOW_RETURNS_TOPIC": self.returns,
            "RELAY_FLOW_PROCESSOR_GROUPS": self.processor,
            "RELAY_FLOW_CONFIRM_GROUP": self.confirm,
        }

    @property
    def one_in(self) -> int:
        """Return which orders are lost: every so many."""
        return self.orders // self.lost

    @property
    def step_seconds(self) -> float:
        """Return the time between two orders."""
        return (DAYS * 86400 - _NEWEST_SECONDS) / self.orders

    def make(self) -> None:
        """Make it: some 100 s for a million orders."""
        self._make_topics()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            connection.execute("SET maintenance_work_mem = '256MB'")
            connection.execute(_DAYS, [DAYS + 1])
            connection.execute(_DROP_INDEXES)
            self._orders_and_outbox(connection)
            self._logs(connection)
            self._record_positions(connection)
            say("indexes")
            connection.execute(_INDEXES)
            self._settle(connection)
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")

    def order_id(self, number: int) -> str:
        """Return the key of an order."""
        return _uuid(str(number))

    def _make_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        # The records' times are a month's, and Kafka would remove them at once.
        config = {"retention.ms": "-1"}
        for name in (self.events, self.returns):
            new = NewTopic(name, PARTITIONS, replication_factor=1, config=config)
            admin.create_topics([new])[name].result(30)

    def _orders_and_outbox(self, connection: psycopg.Connection) -> None:
        given = {"from": self.started_at, "step": self.step_seconds, "one_in": self.one_in}
        for first in range(1, self.orders + 1, _TOLD_EVERY):
            last = min(self.orders, first + _TOLD_EVERY - 1)
            for statement in (_ORDERS, _OUTBOX):
                connection.execute(statement, given | {"first": first, "last": last})
            say(f"{last:,} rows")

    def _record_positions(self, connection: psycopg.Connection) -> None:
        connection.execute(_ENDS)
        with connection.cursor().copy(_COPY_ENDS) as copy:
            for chunk, (events, returns) in enumerate(self._ends_by_chunk, 1):
                for number, pair in enumerate(zip(events, returns, strict=True)):
                    copy.write_row((chunk, number, *pair))
        connection.execute(_POSITIONS, self._positions())

    def _positions(self) -> dict[str, float | int | str]:
        return {
            "from": self.started_at,
            "first": (DAYS - _POSITION_DAYS) * 86400,
            "last": DAYS * 86400,
            "every": _POSITION_SECONDS,
            "chunk": _CHUNK * self.step_seconds,
            "events": self.events,
            "returns": self.returns,
            "processor": self.processor,
            "confirm": self.confirm,
        }

    def _logs(self, connection: psycopg.Connection) -> None:
        """Write both topics, and what stands in the database of their records."""
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "linger.ms": 20,
                "batch.size": 50_000,
                "queue.buffering.max.messages": 500_000,
                "acks": "all",
                "enable.idempotence": True,
            }
        )
        self._ends = {name: [0] * PARTITIONS for name in (self.events, self.returns)}
        with psycopg.connect(self.url, autocommit=True) as other, other.cursor() as cursor:
            other.execute("SET synchronous_commit = off")
            with (
                connection.cursor().copy(_LEDGER) as ledger,
                cursor.copy(_INBOX) as inbox,
            ):
                for first in range(1, self.orders + 1, _CHUNK):
                    numbers = range(first, min(self.orders + 1, first + _CHUNK))
                    batch = _Batch(self, numbers)
                    ledger.write("".join(batch.events(producer, self._ends[self.events])))
                    inbox.write("".join(batch.returns(producer, self._ends[self.returns])))
                    ends = (list(self._ends[self.events]), list(self._ends[self.returns]))
                    self._ends_by_chunk.append(ends)
                    if numbers[-1] % _TOLD_EVERY == 0:
                        say(f"{numbers[-1]:,} records")
        left = producer.flush(120)
        assert left == 0, f"{left} records were not taken"

    def _settle(self, connection: psycopg.Connection) -> None:
        given = {"from": self.started_at - 60, "last": self.orders}
        for statement in _FINISH.split(";")[:-1]:
            connection.execute(statement, given)
        for number, end in enumerate(self._ends[self.returns]):
            connection.execute(_OFFSETS, [self.confirm, self.returns, number, end])
        for group, topic in ((self.processor, self.events), (self.confirm, self.returns)):
            consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": group})
            ends = enumerate(self._ends[topic])
            consumer.commit(
                offsets=[TopicPartition(topic, number, end) for number, end in ends],
                asynchronous=False,
            )
            consumer.close()


@dataclass(slots=True)
class _Batch:
    """A thousand orders on their way: what the relay hands over at once."""

    month: Month
    numbers: Sequence[int]
    keys: list[str] = field(init=False)
    places: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [_uuid(str(number)) for number in self.numbers]
        self.places = partitions([key.encode() for key in self.keys], PARTITIONS)

    def events(self, producer: Producer, ends: list[int]) -> Iterator[str]:
        """Send the events; yield the ledger's rows."""
        month = self.month
        ids: list[list[int]] = [[] for _ in range(PARTITIONS)]
        for number, key, place in zip(self.numbers, self.keys, self.places, strict=True):
            ids[place].append(number)
            event = _uuid(f"e{number}")
            headers = [("ce_id", event), ("ce_type", "order.placed"), ("ce_subject", key)]
            self._send(producer, month.events, place, number, b'{"order_id": "x"}', headers)
        at = _time(month.started_at + self.numbers[-1] * month.step_seconds)
        for place, own in enumerate(ids):
            if own:
                said = "{" + ",".join(map(str, own)) + "}"
                yield (
                    f"1\t{month.events}\t{place}\t{ends[place]}\t{len(own)}\t{said}\t"
                    f"[{own[0]},{own[-1]}]\t{at}\n"
                )
                ends[place] += len(own)

    def returns(self, producer: Producer, ends: list[int]) -> Iterator[str]:
        """Send the returns of those that are not lost; yield the inbox's rows."""
        month = self.month
        for number, key, place in zip(self.numbers, self.keys, self.places, strict=True):
            if number % month.one_in == 0:
                continue
            own, event = _uuid(f"r{number}"), _uuid(f"e{number}")
            headers = [("ce_id", own), ("ce_source", "/p"), ("ce_causationid", event)]
            value = f'{{"order_id": "{key}", "status": "confirmed"}}'.encode()
            self._send(producer, month.returns, place, number, value, headers)
            at = _time(month.started_at + number * month.step_seconds + 1)
            yield (
                f"/p/{own}\t{key}\t{event}\tconfirmed\tsubmitted\tconfirmed\tapplied\t\\\\x00\t"
                f"{month.confirm}\t{month.returns}\t{place}\t{ends[place]}\t{at}\t\\N\t{at}\n"
            )
            ends[place] += 1

    def _send(  # noqa: PLR0917 - a record has that many parts
        self,
        producer: Producer,
        topic: str,
        place: int,
        number: int,
        value: bytes,
        headers: list[tuple[str, str]],
    ) -> None:
        at = int((self.month.started_at + number * self.month.step_seconds) * 1000)
        key = self.keys[number - self.numbers[0]]
        while True:
            try:
                producer.produce(topic, value, key, place, timestamp=at, headers=headers)
            except BufferError:
                producer.poll(0.1)
            else:
                break
        if number % _CHUNK == 0:
            producer.poll(0)


def _uuid(text: str) -> str:
    """Return what `md5(text)::uuid::text` is in SQL."""
    found = md5(text.encode(), usedforsecurity=False).hexdigest()
    return f"{found[:8]}-{found[8:12]}-{found[12:16]}-{found[16:20]}-{found[20:]}"


def _time(seconds: float) -> str:
    """Return a time as COPY takes it, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + "Z"
