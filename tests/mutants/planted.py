"""The bugs that are planted: each is a small change of the program, and the tests that must see it.

A change whose text no longer stands in its file exactly once is an error, and no pass.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One place in one file."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Planted:
    """One bug, and the tests of which at least one must fail."""

    name: str
    changes: tuple[Change, ...]
    tests: tuple[str, ...]


_CURSOR = "relay/publish/reading/cursor.py"
_OUTBOX_SQL = "relay/publish/reading/outbox_sql.py"
_PUBLISHER = "relay/publish/sending/publisher.py"
_CHECKPOINT = "relay/publish/reading/checkpoint.py"
_SESSION = "relay/kafka/consumer/session.py"
_OFFSETS = "relay/kafka/consumer/offset_store.py"
_TRANSACTION = "consumers/confirm/transaction.py"
_FOLD = "consumers/returns/fold.py"

_WINDOWS = "tests/integration/publish/test_publish_windows.py"
_CURSOR_TESTS = "tests/unit/publish/test_publish_cursor.py"
_LEASE = "tests/integration/publish/test_lease.py"
_PARKING = "tests/integration/publish/test_publish_parking.py"
_SENDER = "tests/unit/publish/test_publish_sender.py"
_RETURNS = "tests/integration/confirm/test_confirm_returns.py"
_PARTITIONS = "tests/integration/confirm/test_confirm_partitions.py"
_TROUBLE = "tests/integration/confirm/test_confirm_trouble.py"
_CONFIRM_SESSION = "tests/unit/kafka/test_confirm_session.py"

PLANTED = (
    Planted(
        "id cursor: only ids above the highest read so far",
        (
            Change(
                _CURSOR,
                "page = Page.of_records(sorted(records[1:], key=_id), Position(cur))",
                "page = Page.of_records(sorted((one for one in records[1:]"
                " if one[0] > self._hint_id), key=_id), Position(cur))",
            ),
        ),
        (_WINDOWS,),
    ),
    Planted(
        "xmin gate: only what is below the oldest open transaction",
        (
            Change(
                _OUTBOX_SQL,
                " WHERE txid >= $1::xid8 AND pg_visible_in_snapshot(txid, (SELECT cur FROM now))\n",
                " WHERE txid >= $1::xid8 AND pg_visible_in_snapshot(txid, (SELECT cur FROM now))\n"
                "   AND txid < pg_snapshot_xmin((SELECT cur FROM now))\n",
            ),
            Change(
                _CURSOR,
                "cur = Snapshot.parse(records[0][7])",
                "cur = Snapshot.parse(records[0][7])\n        cur = Snapshot(cur.xmin, cur.xmin)",
            ),
        ),
        (_WINDOWS,),
    ),
    Planted(
        "rows in the order of (transaction, id)",
        (
            Change(
                _CURSOR,
                "page = Page.of_records(sorted(records[1:], key=_id), Position(cur))",
                "page = Page.of_records(records[1:], Position(cur))",
            ),
        ),
        (_WINDOWS,),
    ),
    Planted(
        "unbounded window: rows of transactions yet to come",
        (
            Change(
                _OUTBOX_SQL,
                " WHERE txid >= $1::xid8 AND pg_visible_in_snapshot(txid, (SELECT cur FROM now))\n",
                " WHERE txid >= $1::xid8\n",
            ),
        ),
        (_WINDOWS,),
    ),
    Planted(
        "nothing happened while no newer transaction ended",
        (
            Change(
                _CURSOR,
                "(await self.fetch(SNAPSHOT))[0][0] == self._still:",
                "(await self.fetch(SNAPSHOT))[0][0].split(':')[1] == self._still.split(':')[1]:",
            ),
        ),
        (_CURSOR_TESTS,),
    ),
    Planted(
        "two batches of a partition in flight",
        (
            Change(
                _PUBLISHER,
                "            queue.append(batch)\n",
                "            queue.append(batch)\n            self._send_soon(batch)\n",
            ),
        ),
        (f"{_SENDER}::test_a_partitions_next_batch_waits_for_the_one_before",),
    ),
    Planted(
        "what was queued leaves after a failure",
        (
            Change(_PUBLISHER, "        self._queues.clear()\n        self._ready.clear()\n", ""),
            Change(
                _PUBLISHER,
                "        if self._broken is not None:\n            return\n"
                "        if not self._ready:\n",
                "        if not self._ready:\n",
            ),
            Change(
                _PUBLISHER,
                "        if self._broken is not None:\n            return\n"
                "        topics: dict[str, list[tuple[int, bytes, bytes]]] = {}\n",
                "        topics: dict[str, list[tuple[int, bytes, bytes]]] = {}\n",
            ),
            Change(
                _PUBLISHER,
                "        if self._broken is not None:\n            return\n"
                "        error = for_code(code)\n",
                "        error = for_code(code)\n",
            ),
        ),
        (f"{_SENDER}::test_after_a_failure_nothing_that_was_queued_leaves",),
    ),
    Planted(
        "a duplicate's offset is believed",
        (Change(_PUBLISHER, "offset if error is NoError and offset >= 0 else None", "offset"),),
        (f"{_SENDER}::test_a_duplicate_is_a_success_without_an_offset",),
    ),
    Planted(
        "checkpoint before the acknowledgement",
        (
            Change(
                "relay/publish/sending/in_flight_pages.py",
                "return len(self.acknowledged) == self.batches",
                "return True",
            ),
        ),
        ("tests/unit/publish/test_in_flight_pages.py",),
    ),
    Planted(
        "no fencing: any epoch writes the checkpoint",
        (
            Change(
                _CHECKPOINT,
                "WHERE shard = $1 AND epoch = $2 AND seq = $3",
                "WHERE shard = $1 AND $2::bigint > 0 AND $3::bigint >= 0",
            ),
        ),
        (f"{_LEASE}::test_a_checkpoint_of_an_older_epoch_writes_nothing_at_all",),
    ),
    Planted(
        "a relay that could not renew goes on",
        (
            Change(
                "relay/runtime/duty_lease.py",
                "return self._valid_until - self.clock()",
                "return self.seconds",
            ),
        ),
        (f"{_LEASE}::test_a_relay_that_cannot_renew_stops_before_the_lease_lapses",),
    ),
    Planted(
        "events of a parked order overtake the one that waits",
        (
            Change(
                "relay/publish/sending/dispatch.py",
                "reason = ORDER_PARKED if waits else self._reason(page, kinds, place, sizes)",
                "reason = self._reason(page, kinds, place, sizes)",
            ),
        ),
        (f"{_PARKING}::test_an_event_without_a_topic_parks_its_order_and_no_other",),
    ),
    Planted(
        "handling before the seek",
        (
            Change(
                _SESSION,
                "return self._sought == generation == self._rebalances.generation",
                "return True",
            ),
        ),
        (_CONFIRM_SESSION,),
    ),
    Planted(
        "a batch that waits behind one that failed is handled all the same",
        (
            Change(
                "relay/kafka/consumer/lane_queues.py",
                "if self._failed or not stands():",
                "if not stands():",
            ),
        ),
        ("tests/unit/kafka/test_lane_queues.py",),
    ),
    Planted(
        "auto-commit: the processor's offset is committed before its returns are sent",
        (
            Change(
                "relay/sample/processor/service.py",
                "        returns = [one for page in pages for one in page.returns]\n",
                "        await self._commit(consumer, pages)\n"
                '        self._crash("sent", pages)\n'
                "        returns = [one for page in pages for one in page.returns]\n",
            ),
        ),
        ("tests/e2e/test_processor_faults.py::test_a_crash_at_any_point_costs_no_order[sent]",),
    ),
    Planted(
        "the offset is committed apart from the work",
        (
            Change(
                _TRANSACTION,
                "        async with connection.transaction():\n"
                "            await self.offsets.advance(connection, parts)\n"
                "            done = await",
                "        await self.offsets.advance(connection, parts)\n"
                "        self.offsets.advanced(parts)\n"
                "        async with connection.transaction():\n"
                "            done = await",
            ),
        ),
        (f"{_TROUBLE}::test_one_return_that_the_database_refuses_stops_nobody",),
    ),
    Planted(
        "the offset is no compare-and-set",
        (
            Change(
                _OFFSETS,
                "     WHERE o.consumer_group = $1 AND o.topic = $2 AND o.next_offset = m.expected\n"
                "     ORDER BY o.partition\n       FOR UPDATE OF o\n)",
                "     WHERE o.consumer_group = $1 AND o.topic = $2\n"
                "     ORDER BY o.partition\n       FOR UPDATE OF o\n)",
            ),
            Change(
                _OFFSETS,
                " WHERE o.consumer_group = $1 AND o.topic = $2 AND o.partition = m.partition\n"
                "   AND o.next_offset = m.expected\n",
                " WHERE o.consumer_group = $1 AND o.topic = $2 AND o.partition = m.partition\n",
            ),
        ),
        (f"{_PARTITIONS}::test_whoever_moved_the_offset_wins_and_the_loser_writes_nothing",),
    ),
    Planted(
        "position in place of the event's id for deduplication",
        (
            Change(
                "consumers/returns/identity.py",
                "    if returned.own_identity is not None:\n        yield returned.own_identity\n",
                "",
            ),
        ),
        (f"{_RETURNS}::test_copies_are_handled_once_in_a_batch_and_across_batches",),
    ),
    Planted(
        "outbox id in place of the event's id as ce_id",
        (
            Change(
                "relay/publish/sending/record.py",
                "rows.id_texts(),",
                "[b'%036d' % one for one in rows.ids],",
            ),
        ),
        ("tests/unit/publish/test_publish_bytes.py",),
    ),
    Planted(
        "rank check removed: any other status is written",
        (
            Change(
                _FOLD,
                "elif ranks[said] > ranks[status]:",
                "elif said != status:",
            ),
        ),
        (f"{_RETURNS}::test_the_folded_batch_is_the_same_as_one_by_one",),
    ),
    Planted(
        "a terminal status is not for good",
        (
            Change(
                _FOLD,
                "    if old != said and old in statuses.terminal and said in statuses.terminal:\n",
                "    if False:\n",
            ),
            Change(
                _FOLD,
                "elif ranks[said] > ranks[status]:",
                "elif ranks[said] >= ranks[status] and said != status:",
            ),
        ),
        (f"{_RETURNS}::test_the_folded_batch_is_the_same_as_one_by_one",),
    ),
    Planted(
        "a later return overtakes one that waits for its order",
        (
            Change(
                _TRANSACTION,
                "        if not waiting:\n            return batch.readable\n",
                "        if waiting is not None:\n            return batch.readable\n",
            ),
        ),
        (f"{_RETURNS}::test_a_later_return_waits_behind_an_earlier_one_though_its_order_is_free",),
    ),
    Planted(
        "records that retention took are passed over in silence",
        (
            Change(
                _OFFSETS,
                "        await self._note_gap(connection, partition, gap)\n\n    async def _own",
                "\n    async def _own",
            ),
        ),
        (f"{_PARTITIONS}::test_records_that_retention_took_are_a_recorded_gap",),
    ),
)
