"""Payloads that are not JSON: from the shop's serializer to a foreign client, byte for byte."""

import asyncpg
import pytest

from relay.outbox import Event, EventTypes, append
from relay.outbox.errors import EventRefusedError
from relay.repair.held import read_contents
from tests.integration.publish.test_publish_replays import ids, start_job, until_sent

# Confluent's framing: a zero, the schema's id, Avro.
AVRO = b"\x00\x00\x00\x00\x07\x0cord-17\xff\xfe\x00"
TYPES = EventTypes().with_type("order.placed", None)
KEEP = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload_bytes, content_type)
VALUES ('order', 'o-9', 'no.topic', $1, 'application/x-protobuf')
"""


async def test_bytes_are_published_as_they_are_and_again_by_replay(lab) -> None:
    content = "application/vnd.confluent.avro"
    events = [
        Event("order.placed", "o-1", AVRO, content_type=content),
        Event("order.placed", "o-1", {"a": 1}),
        Event("order.placed", "o-1", b"x" * 60_000, content_type=content),  # is read on its own
    ]
    for event in events:
        async with lab.pg.transaction():
            await append(lab.pg, event, event_types=TYPES)
    await lab.pg.execute(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload_bytes) "
        "VALUES ('order', 'o-1', 'order.placed', $1)",
        AVRO,
    )
    async with lab.relaying():
        await lab.until_published(4)
        replay_id = await start_job(lab, await ids(lab))
        await until_sent(lab, replay_id, 4)
    records = await lab.read()
    again = [one for one in records if one.headers.get("replay_id") == replay_id]
    first = [one for one in records if "replay_id" not in one.headers]
    for sent in (first, again):
        assert [one.value for one in sent] == [AVRO, b'{"a":1}', b"x" * 60_000, AVRO]
        assert [one.headers["content-type"] for one in sent] == [
            *(content, "application/json", content),
            "application/octet-stream",
        ]
    assert [one.event_id for one in again] == [one.event_id for one in first]


async def test_bytes_in_quarantine_are_shown_and_outlive_their_day(lab) -> None:
    await lab.pg.execute(KEEP, AVRO)
    async with lab.relaying():
        held = "SELECT quarantine_id FROM relay.quarantine"
        await lab.until(lambda: lab.pg.fetchval(held))
    number = await lab.pg.fetchval(held)
    assert (await read_contents(lab.pg, [number], 5))[number].value == AVRO[:5]
    await lab.pg.execute("SELECT relay.keep_rows('outbox_default')")
    for (name,) in await lab.pg.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = 'relay.outbox'::regclass"
    ):
        await lab.pg.execute("SELECT relay.keep_rows($1)", name.removeprefix("relay."))
    kept = await lab.pg.fetchrow("SELECT payload, payload_bytes, content_type FROM relay.kept")
    assert tuple(kept) == (None, AVRO, "application/x-protobuf")


async def test_a_row_has_one_payload(lab) -> None:
    for payloads in ("NULL, NULL", "'{}', 'x'"):
        with pytest.raises(asyncpg.CheckViolationError, match="outbox_one_payload"):
            await lab.pg.execute(
                "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload,"
                f" payload_bytes) VALUES ('order', 'o', 'order.placed', {payloads})"
            )


@pytest.mark.parametrize(
    ("event", "path"),
    [
        (Event("order.placed", "o", "text", content_type="a/b"), "payload"),
        (Event("order.placed", "o", b"x" * 300_000, content_type="a/b"), ""),
        (Event("order.placed", "o", b"x", content_type=""), "content_type"),
        (Event("un.known", "o", b"x", content_type="a/b"), "event_type"),
    ],
)
async def test_bytes_that_could_not_be_sent_are_refused(lab, event: Event, path: str) -> None:
    async with lab.pg.transaction():
        with pytest.raises(EventRefusedError) as refused:
            await append(lab.pg, event, event_types=TYPES)
    assert refused.value.path == path
