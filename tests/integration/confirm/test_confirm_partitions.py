"""Hop 5: nothing is applied twice, nothing is skipped, whatever becomes of partitions and logs."""

import asyncio
import uuid

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer

GAPS = "SELECT reason FROM relay.offset_gap ORDER BY gap_id"


async def everything_once(lab, orders):
    """Each order went through both statuses, once."""
    assert set(await lab.statuses(orders)) == {"confirmed"}
    steps = await lab.pg.fetch(
        "SELECT order_id, array_agg(new_status ORDER BY history_id) AS steps "
        "FROM order_status_history GROUP BY order_id"
    )
    assert len(steps) == len(orders)
    assert {tuple(row["steps"]) for row in steps} == {("processing", "confirmed")}
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 0
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.pending_return") == 0
    assert await lab.pg.fetchval("SELECT min(version) = 3 AND max(version) = 3 FROM orders")


def send_both(lab, orders):
    for status in ("processing", "confirmed"):
        for order in orders:
            lab.send(order, status, headers={"ce_id": f"{order}-{status}".encode()})


async def test_consumers_come_and_go_in_the_middle_of_batches(lab):
    orders = await lab.place(3000)
    options = lab.session(batch_records=40, commit_seconds=0.05)
    running = [lab.start(options)]
    for number in range(4):
        send_both(lab, orders[number * 750 : (number + 1) * 750])
        lab.sent()
        await lab.until_handled(number * 1500 + 200)
        running.append(lab.start(options))
        if number % 2:
            await running.pop(0).stop()
    await lab.until_handled(6000)
    await everything_once(lab, orders)
    assert await lab.column(GAPS) == []


async def test_a_slow_database_does_not_cost_the_partitions(lab, caplog):
    orders = await lab.place(3)
    caplog.set_level("INFO", logger="aiokafka")
    running = lab.start()
    lab.send(orders[0])
    lab.sent()
    await lab.until_handled(1)
    blocker = await asyncpg.connect(lab.dsn)
    try:
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE relay.inbox IN ACCESS EXCLUSIVE MODE")
            lab.send(orders[1])
            lab.sent()
            # Longer than the session timeout of 6 s: only heartbeats keep the member in the group.
            await asyncio.sleep(8)
            assert await lab.statuses(orders) == ["confirmed", "submitted", "submitted"]
    finally:
        await blocker.close()
    lab.send(orders[2])
    lab.sent()
    await lab.until_handled(3)
    assert await lab.statuses(orders) == ["confirmed"] * 3
    await running.stop()
    assert sum("Joined group" in record.message for record in caplog.records) == 1


async def test_whoever_moved_the_offset_wins_and_the_loser_writes_nothing(lab):
    orders = await lab.place(2)
    blocker = await asyncpg.connect(lab.dsn)
    lab.send(orders[0], partition=0)
    lab.sent()
    lab.start()
    await lab.until_handled(1)
    try:
        async with blocker.transaction():
            # A rival has the partition's row, and moves it over the return that comes.
            await blocker.execute(
                "SELECT FROM relay.consumer_offset WHERE partition = 0 FOR UPDATE"
            )
            lab.send(orders[1], partition=0)
            lab.sent()
            await lab.until_sql(
                "SELECT count(*) > 0 FROM pg_stat_activity "
                "WHERE wait_event_type = 'Lock' AND application_name = 'relay-confirm'"
            )
            await blocker.execute(
                "UPDATE relay.consumer_offset SET next_offset = 2 WHERE partition = 0"
            )
    finally:
        await blocker.close()
    later = await lab.place(1)
    lab.send(later[0], partition=0)
    lab.sent()
    await lab.until_handled(3)
    assert await lab.statuses([*orders, *later]) == ["confirmed", "submitted", "confirmed"]


# ------------------------------------------------------------------------------------------- logs


async def test_a_topic_made_anew_while_the_consumer_is_away_is_read_from_its_start(lab, topics):
    old = await lab.place(5)
    for order in old:
        lab.send(order, partition=0)
    lab.sent()
    running = lab.start()
    await lab.until_handled(5)
    await running.stop()
    topics.delete(lab.topic)
    assert topics.create("orders.returns", 3) == lab.topic
    new = await lab.place(7)
    for order in new:
        lab.send(order, partition=0)
    lab.sent()
    lab.start()
    await lab.until_handled(7)
    assert await lab.statuses(old + new) == ["confirmed"] * 12
    assert await lab.column(GAPS) == ["topic_recreated"] * 3
    gap = await lab.pg.fetchrow("SELECT * FROM relay.offset_gap WHERE partition = 0")
    assert (gap["from_offset"], gap["to_offset"]) == (5, 0)
    # The same positions as before: identities by place alone would have been taken.
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.inbox") == 12


async def test_a_topic_made_anew_under_a_running_consumer(lab, topics):
    old = await lab.place(3)
    for order in old:
        lab.send(order, partition=0)
    lab.sent()
    lab.start()
    await lab.until_handled(3)
    topics.delete(lab.topic)
    assert topics.create("orders.returns", 3) == lab.topic
    new = await lab.place(10)
    for order in new:
        lab.send(order, partition=0)
    lab.sent()
    await lab.until_sql("SELECT count(*) = 13 FROM orders WHERE status = 'confirmed'")
    assert "topic_recreated" in await lab.column(GAPS)


async def test_another_log_is_noticed_by_its_last_record_where_topics_have_no_ids(lab):
    orders = await lab.place(4)
    for order in orders:
        lab.send(order, partition=0)
    lab.sent()
    running = lab.start()
    await lab.until_handled(4)
    await running.stop()
    # What stands at that offset is not what was read there, and nobody knows a topic id.
    await lab.pg.execute(
        "UPDATE relay.consumer_offset SET topic_id = NULL, last_record = '\\x00', next_offset = 2, "
        "last_record_offset = 1 WHERE partition = 0"
    )
    lab.start()
    await lab.until_handled(4)
    assert await lab.column(GAPS) == ["topic_recreated"]
    assert await lab.pg.fetchval("SELECT count(*) FROM order_status_history") == 4


async def test_a_log_shorter_than_what_was_handled_is_read_again(lab):
    orders = await lab.place(4)
    for order in orders:
        lab.send(order, partition=0)
    lab.sent()
    running = lab.start()
    await lab.until_handled(4)
    await running.stop()
    await lab.pg.execute(
        "UPDATE relay.consumer_offset SET next_offset = 900, last_record_offset = 899 "
        "WHERE partition = 0"
    )
    lab.start()
    await lab.until_sql("SELECT next_offset = 4 FROM relay.consumer_offset WHERE partition = 0")
    assert await lab.column(GAPS) == ["log_truncated"]
    assert await lab.pg.fetchval("SELECT count(*) FROM order_status_history") == 4
    more = await lab.place(1)
    lab.send(more[0], partition=0)
    lab.sent()
    await lab.until_confirmed(more[0])


async def delete_records(lab, before):
    admin = AIOKafkaAdminClient(bootstrap_servers=lab.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(lab.topic, 0): RecordsToDelete(before)})
    finally:
        await admin.close()


async def test_records_that_retention_took_are_a_recorded_gap(lab):
    orders = await lab.place(10)
    for order in orders[:3]:
        lab.send(order, partition=0)
    lab.sent()
    running = lab.start()
    await lab.until_handled(3)
    await running.stop()
    for order in orders[3:]:
        lab.send(order, partition=0)
    lab.sent()
    await delete_records(lab, 8)
    lab.start()
    await lab.until_handled(10)
    gap = await lab.pg.fetchrow("SELECT * FROM relay.offset_gap")
    assert (gap["reason"], gap["from_offset"], gap["to_offset"]) == ("out_of_range", 3, 8)
    assert gap["missed_count"] == 5
    assert await lab.statuses(orders) == ["confirmed"] * 3 + ["submitted"] * 5 + ["confirmed"] * 2


async def test_a_group_without_books_starts_at_the_earliest_record(lab):
    orders = await lab.place(6)
    for order in orders:
        lab.send(order, partition=0)
    lab.sent()
    await delete_records(lab, 2)
    lab.start()
    await lab.until_handled(6)
    assert await lab.statuses(orders) == ["submitted"] * 2 + ["confirmed"] * 4
    assert await lab.column(GAPS) == []


async def test_only_committed_transactions_are_read_and_their_markers_are_one_row(lab):
    committed, aborted = await lab.place(20), await lab.place(5)
    producer = Producer(
        {"bootstrap.servers": lab.bootstrap_servers, "transactional.id": str(uuid.uuid4())}
    )
    await asyncio.to_thread(producer.init_transactions, 30)
    lab.start()
    for order in committed:
        producer.begin_transaction()
        producer.produce(lab.topic, key=order, value=b'{"status": "confirmed"}', partition=0)
        await asyncio.to_thread(producer.commit_transaction, 30)
        if aborted:
            producer.begin_transaction()
            producer.produce(
                lab.topic, key=aborted.pop(), value=b'{"status": "confirmed"}', partition=0
            )
            producer.flush(30)
            await asyncio.to_thread(producer.abort_transaction, 30)
    await lab.until_sql("SELECT count(*) = 20 FROM orders WHERE status = 'confirmed'")
    assert await lab.pg.fetchval("SELECT count(*) FROM orders WHERE status = 'submitted'") == 5
    assert set(await lab.column(GAPS)) == {"not_readable"}
    assert len(await lab.column(GAPS)) == 1


async def test_what_a_killed_session_left_pending_is_decided_by_the_next_owner(lab):
    (order,) = await lab.place()
    blocker = await asyncpg.connect(lab.dsn)
    try:
        async with blocker.transaction():
            await blocker.execute("SELECT FROM orders WHERE order_id = $1 FOR UPDATE", order)
            lab.send(order)
            lab.sent()
            running = lab.start()
            await lab.until_sql("SELECT count(*) = 1 FROM relay.pending_return")
            await running.stop()
    finally:
        await blocker.close()
    lab.start()
    await lab.until_confirmed(order)
