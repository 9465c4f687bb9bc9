"""What `relay diagnose` prints as next is run as it is printed, until the order has come back."""

import json
import re
import shlex
import uuid

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

pytestmark = pytest.mark.timeout(240)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}


def run(wiring, line):
    """Run a printed command, with a reason where it asks for one."""
    words = shlex.split(re.sub(r"\b(REASON|WHY)\b", "tried", line))
    assert words[0] == "relay"
    done = wiring.command(*words[1:])
    assert done.returncode in (0, 3), (line, done.stderr)
    return done


def repair(wiring, order, cause):
    """Diagnose, and run what is printed last: a plan's own next, too."""
    (found,) = wiring.diagnose([order])
    assert found["cause"] == cause
    done = run(wiring, found["next"][-1])
    for line in re.findall(r"^ next  (relay replay resume .*)$", done.stdout, re.MULTILINE):
        run(wiring, line)
    return found


@pytest.fixture
async def loop(wiring):
    wiring.relay(**QUICK), wiring.processor(), wiring.consumer(**QUICK)
    await wiring.until_up()
    return wiring


async def test_an_event_that_was_never_written(loop) -> None:
    (order,) = [str(uuid.uuid4())]
    await loop.insert_these([order])
    await loop.until_overdue([order])
    repair(loop, order, "outbox_bypassed")
    await loop.until_returned([order])
    assert loop.named([order])[0][1] == "returned"


async def test_a_disabled_trigger(loop) -> None:
    await loop.pg.execute(
        """CREATE FUNCTION to_outbox() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
           VALUES ('order', NEW.order_id, 'order.placed', '{}'); RETURN NEW; END $$"""
    )
    await loop.pg.execute(
        "CREATE TRIGGER to_outbox AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION to_outbox()"
    )
    await loop.pg.execute("ALTER TABLE orders DISABLE TRIGGER to_outbox")
    order = str(uuid.uuid4())
    await loop.insert_these([order])
    await loop.until_overdue([order])
    found = repair(loop, order, "trigger_disabled")
    assert "to_outbox" in run(loop, found["next"][0]).stdout
    await loop.until_returned([order])


async def too_large(loop):
    order = str(uuid.uuid4())
    await loop.insert_these([order])
    payload = json.dumps({"note": "x" * 3_000_000})
    await loop.insert_event(order, "order.placed", payload)

    async def parked():
        return await loop.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 1

    await loop.eventually(parked, 60)
    await loop.until_overdue([order])
    return order


def allow(loop, size):
    """What `kafka-configs --alter --add-config max.message.bytes=...` does."""
    admin = AdminClient({"bootstrap.servers": loop.bootstrap})
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    asked = ConfigResource(ResourceType.TOPIC, loop.events, incremental_configs=[entry])
    admin.incremental_alter_configs([asked])[asked].result(15)


async def test_an_event_that_the_topic_did_not_take(loop) -> None:
    order = await too_large(loop)
    allow(loop, 5_000_000)
    repair(loop, order, "too_large")
    await loop.until_returned([order])


async def test_what_was_discarded_is_published_after_all_or_closed(loop) -> None:
    order, closed = await too_large(loop), str(uuid.uuid4())
    run(loop, f"relay quarantine discard --order {order} --reason REASON")
    (found,) = loop.diagnose([order])
    assert found["cause"] == "discarded_by_hand"
    allow(loop, 5_000_000)
    done = run(loop, found["next"][1])
    for line in re.findall(r"^ next  (relay replay resume .*)$", done.stdout, re.MULTILINE):
        run(loop, line)
    await loop.until_returned([order])
    await loop.insert_event(closed, "order.placed")
    await loop.eventually(lambda: loop.named([closed])[0][1] == "no_such_order", 60)
    repair(loop, closed, "order_deleted")
    assert loop.named([closed])[0][1] == "closed"


async def test_records_that_somebody_deleted(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    orders = await wiring.place(2)
    await wiring.until_published(orders)
    wiring.delete_records(wiring.events)
    wiring.processor()
    await wiring.until_overdue(orders)
    await wiring.eventually(lambda: wiring.named(orders)[0][1] == "record_missing", 60)
    repair(wiring, orders[0], "records_deleted")
    await wiring.until_returned(orders[:1])


async def test_a_relay_that_was_not_started(wiring) -> None:
    wiring.processor(), wiring.consumer(**QUICK)
    (order,) = await wiring.place()
    await wiring.until_overdue([order])
    (found,) = wiring.diagnose([order])
    assert (found["cause"], found["next"]) == ("relay_down", ["relay run"])
    wiring.start(*shlex.split(found["next"][0])[1:])
    await wiring.until_returned([order])
