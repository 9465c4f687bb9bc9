"""Refused returns: seen as the bytes that came, decided anew once the cause is mended."""

import asyncio
import base64
import hashlib
import json
import uuid
from typing import Any

import asyncpg
import pytest

from relay.consumers.confirm.quarantine import RELEASED_AT_A_TIME, release_requested
from relay.kafka.partition import Partition

HOSTILE = b'{"status": "\x1b]0;owned\x07\x1b[2J\x9b31m\xff", \r\n"x": "' + "\u202e".encode() + b'"}'


@pytest.fixture
async def consumer(shop: Any) -> Any:
    return shop.start("confirm")


async def quarantined(shop: Any, key: str | None, value: bytes | None, **how: Any) -> int:
    """Send a return that is refused; return its number."""
    before = await shop.pg.fetchval("SELECT count(*) FROM relay.quarantine")
    await asyncio.to_thread(shop.send_return, key, value, **how)
    await shop.until_quarantined(before + 1)
    number: int = await shop.pg.fetchval("SELECT max(quarantine_id) FROM relay.quarantine")
    return number


def body(order: str, status: str) -> bytes:
    return json.dumps({"order_id": order, "status": status}).encode()


async def test_a_return_is_decided_anew_once_its_status_is_known(shop: Any) -> None:
    consumer = shop.start("confirm")
    order = await shop.order()
    number = await quarantined(shop, order, body(order, "ACCEPTED"))
    operator = await shop.login("relay_operator")

    # Not mended: it comes back, the same row.
    again = shop.data(
        "quarantine", "release", str(number), "--reason", "try", dsn=operator, codes=(3,)
    )
    assert again["outcome"] == {"held_again": 1}
    shown = shop.data("quarantine", "show", str(number), dsn=operator)["quarantine"][0]
    assert (shown["seen_count"], shown["reason"]) == (2, "unknown_status")
    assert base64.b64decode(shown["value_base64"]) == body(order, "ACCEPTED")

    consumer.terminate()
    aliases = {"RELAY_FLOW_STATUS_ALIASES": json.dumps({"ACCEPTED": "confirmed"})}
    shop.start("confirm", **aliases)
    await shop.until_at_work("confirm")
    done = shop.data("quarantine", "release", "--order", order.upper(), "--reason", "alias")
    assert done["outcome"] == {"decided": 1}
    assert await shop.status(order) == "confirmed"
    history = await shop.pg.fetch("SELECT new_status FROM order_status_history")
    assert [row["new_status"] for row in history] == ["confirmed"]
    assert [one["why"] for one in await shop.audits("quarantine_release")] == ["try", "alias"]


@pytest.mark.usefixtures("consumer")
async def test_a_released_return_never_moves_an_order_backwards(shop: Any) -> None:
    order = await shop.order()
    await quarantined(shop, order, body(order, "odd"))
    await asyncio.to_thread(shop.send_return, order, body(order, "confirmed"))
    await shop.until("SELECT status = 'confirmed' FROM orders")
    number = await quarantined(shop, order, body(order, "rejected"))
    done = shop.command("quarantine", "release", str(number), "--reason", "x")
    assert done.returncode == 3
    assert "held again" in done.stdout
    assert await shop.status(order) == "confirmed"
    assert await shop.pg.fetchval("SELECT count(*) FROM order_status_history") == 1


@pytest.mark.usefixtures("consumer")
async def test_a_return_discarded_by_mistake_is_taken_back(shop: Any) -> None:
    order = str(uuid.uuid4())
    number = str(await quarantined(shop, order, body(order, "confirmed")))
    shop.data("quarantine", "discard", number, "--reason", "unknown order")
    assert shop.command("quarantine", "list").stdout.strip() == "quarantine: nothing"
    await shop.pg.execute(
        "INSERT INTO orders (order_id, customer_id, items, total, currency)"
        " VALUES ($1, 'c', '[]', 1, 'EUR')",
        order,
    )
    done = shop.data("quarantine", "release", number, "--reason", "it was committed late")
    assert done["outcome"] == {"decided": 1}
    assert await shop.status(order) == "confirmed"


async def test_without_a_consumer_a_release_waits_and_says_so(shop: Any) -> None:
    consumer = shop.start("confirm")
    order = await shop.order()
    number = str(await quarantined(shop, order, body(order, "odd")))
    consumer.terminate()
    done = shop.data("quarantine", "release", number, "--reason", "x", "--wait", "60")
    assert done["outcome"] == {"waiting": 1}
    assert "relay confirm" in done["notes"][0]
    # And may be taken back until somebody picks it up.
    assert shop.data("quarantine", "discard", number, "--reason", "x")["discarded"] == 1
    other = shop.command("quarantine", "release", number, "--reason", "x",
                         env={"RELAY_FLOW_CONFIRM_GROUP": "another"})  # fmt: skip
    assert f"refused by group {shop.group}" in other.stdout


@pytest.mark.usefixtures("consumer")
async def test_hostile_bytes_are_shown_safely_and_exported_exactly(shop: Any) -> None:
    key = "\x1b[31mkey\u202e"
    headers = [("\x1b[2Jname", b"\x00\x9b\xff"), ("empty", None)]
    number = str(await quarantined(shop, key, HOSTILE, headers=headers))
    for arguments in (
        ("quarantine", "list"),
        ("quarantine", "show", number),
        ("quarantine", "list", "--json"),
        ("quarantine", "show", number, "--json"),
        ("quarantine", "export"),
    ):
        shown = shop.command(*arguments).stdout
        assert shown.replace("\n", "").isprintable(), arguments
    looks = await shop.audits("quarantine_show")
    assert [look["detail"]["ids"] for look in looks] == [[int(number)]] * 2
    text = shop.command("quarantine", "show", number).stdout
    assert "\\x1b]0;owned\\x07" in text
    assert "\\u202e" in text
    # Whatever it holds stands behind a bar: it cannot be taken for this program's own words.
    assert '  | "x": "' in text
    line = json.loads(shop.command("quarantine", "export").stdout)
    assert base64.b64decode(line["value_base64"]) == HOSTILE
    assert base64.b64decode(line["key_base64"]) == key.encode()
    assert [[name, value and base64.b64decode(value)] for name, value in line["headers"]] == [
        [name, value] for name, value in headers
    ]
    assert (line["topic"], line["partition"], line["offset"]) == (shop.returns, 0, 0)


@pytest.mark.usefixtures("consumer")
async def test_a_huge_return_is_shown_in_part_and_exported_whole(shop: Any, tmp_path: Any) -> None:
    huge = ("é" * 500_000).encode()
    number = str(await quarantined(shop, "k", huge))
    await quarantined(shop, "k", None)
    text = shop.command("quarantine", "show", number, "--bytes", "101").stdout
    assert "1,000,000 bytes" in text
    assert "é" * 50 + "\n" in text
    assert "999,899 bytes more" in text
    assert len(text) < 2000
    file = tmp_path / "held.jsonl"
    done = shop.command("quarantine", "export", "--output", str(file), "--reason", "for the maker")
    assert "exported 2" in done.stderr
    values = [json.loads(line)["value_base64"] for line in file.read_text().splitlines()]
    assert [value and base64.b64decode(value) for value in values] == [huge, None]
    audit = (await shop.audits("quarantine_export"))[0]
    assert (audit["why"], audit["detail"]["count"]) == ("for the maker", 2)
    # A file that is there is not written over.
    assert shop.command("quarantine", "export", "--output", str(file)).returncode == 1


@pytest.mark.usefixtures("consumer")
async def test_of_a_return_larger_than_what_is_read_the_beginning_is_shown_and_exported(
    shop: Any,
) -> None:
    huge = ("é" * 3_000_000).encode()
    number = str(await quarantined(shop, "k", huge))
    text = shop.command("quarantine", "show", number, "--bytes", "101").stdout
    whole = hashlib.sha256(huge).hexdigest()
    assert "6,000,000 bytes" in text
    assert "é" * 50 + "\n" in text
    assert f"65,536 bytes of it are kept; SHA-256 of the whole {whole}" in text
    line = json.loads(shop.command("quarantine", "export").stdout)
    assert (line["kept"], line["value_bytes"], line["sha256"]) == ("part", len(huge), whole)
    assert base64.b64decode(line["value_base64"]) == huge[:65_536]


async def fill(pg: asyncpg.Connection, count: int) -> None:
    """Hold so many returns, as a consumer would."""
    await pg.execute(
        """INSERT INTO relay.quarantine (kind, reason, detail, aggregate_id, consumer_group, topic,
                                         partition, record_offset, record_value, first_seen_at)
           SELECT 'return', CASE WHEN n % 2 = 0 THEN 'conflict' ELSE 'malformed' END, 'x',
                  'order-' || n % 10, 'g', 't', 0, n, '\\x7b7d',
                  timestamptz '2026-01-01 00:00Z' + n * interval '1 minute'
             FROM generate_series(1, $1::int) n""",
        count,
    )


async def test_selections_combine(shop: Any) -> None:
    await fill(shop.pg, 200)

    def count(*arguments: str) -> int:
        total: int = shop.data("quarantine", "list", "--limit", "0", *arguments)["total"]
        return total

    assert count() == 200
    assert count("--held-for", "conflict") == 100
    assert count("--held-for", "conflict", "--held-for", "malformed") == 200
    assert count("--order", "order-3", "--order", "order-4") == 40
    assert count("--order", "order-3", "--held-for", "conflict") == 0
    assert count("--since", "2026-01-01T01:00+00:00", "--until", "2026-01-01T02:00+00:00") == 60
    assert count("--kind", "event") == 0
    assert count("1", "2", "--held-for", "conflict") == 1
    wrong = shop.command("quarantine", "list", "--since", "1h", "--until", "2h")
    assert wrong.returncode == 2


async def test_a_large_decision_is_asked_about_and_each_part_of_it_is_audited(shop: Any) -> None:
    await fill(shop.pg, 2500)
    refused = shop.command("quarantine", "discard", "--held-for", "conflict", "--reason", "x")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert await shop.pg.fetchval("SELECT count(*) FROM relay.audit_log") == 0
    done = shop.data("quarantine", "discard", "--all", "--reason", "x", "--by", "ann", "--yes")
    assert (done["discarded"], done["by"]) == (2500, "ann")
    listed = shop.data("audit", "--action", "quarantine_discard", "--since", "1h")["audit"]
    assert [one["detail"]["count"] for one in listed] == [500, 1000, 1000]
    text = shop.command("audit", "--limit", "1").stdout
    assert "quarantine_discard (500): done" in text
    assert "by ann (login postgres): x" in text
    assert shop.command("audit", "--action", "close").stdout == "nothing was done\n"
    audits = await shop.audits("quarantine_discard")
    numbers = [number for one in audits for number in one["detail"]["ids"]]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == 2500
    assert {one["who"] for one in audits} == {"ann"}


async def test_many_that_are_released_at_once_move_on_by_and_by_oldest_first(
    pg: asyncpg.Connection,
) -> None:
    await fill(pg, RELEASED_AT_A_TIME + 5)
    await pg.execute("UPDATE relay.quarantine SET state = 'release_requested'")
    owned = [Partition("t", 0)]
    assert await release_requested(pg, "g", "t", [Partition("t", 1)]) == 0
    assert await release_requested(pg, "g", "t", owned) == RELEASED_AT_A_TIME
    left = await pg.fetch("SELECT record_offset FROM relay.quarantine"
                          " WHERE state = 'release_requested' ORDER BY 1")  # fmt: skip
    assert [row[0] for row in left] == [RELEASED_AT_A_TIME + n for n in range(1, 6)]
    assert await release_requested(pg, "g", "t", owned) == 5
    waiting = await pg.fetch("SELECT record_offset FROM relay.pending_return ORDER BY pending_id")
    assert [row[0] for row in waiting] == list(range(1, RELEASED_AT_A_TIME + 6))


async def test_the_operator_role_suffices_and_the_observer_role_does_not(shop: Any) -> None:
    await fill(shop.pg, 3)
    operator = await shop.login("relay_operator")
    observer = await shop.login("relay_observer")
    nobody = await shop.login()
    acts = (
        ("release", "1", "--reason", "x"),
        ("discard", "2", "--reason", "x"),
        ("export", "--state", "all"),
    )
    for arguments in acts:
        for login in (observer, nobody):
            refused = shop.command("quarantine", *arguments, dsn=login)
            assert refused.returncode == 1, arguments
            assert "relay_operator" in refused.stderr
            assert not refused.stdout
    assert await shop.pg.fetchval("SELECT count(*) FROM relay.audit_log") == 0
    assert await shop.pg.fetchval("SELECT bool_and(state = 'held') FROM relay.quarantine")
    for arguments in acts:
        done = shop.command("quarantine", *arguments, dsn=operator)
        assert done.returncode == 0, done.stderr

    assert shop.data("quarantine", "list", dsn=observer)["total"] == 2
    shown = shop.command("quarantine", "show", "3", dsn=observer)
    assert shown.returncode == 0
    assert "relay_operator" in shown.stdout
    assert (
        "value_base64" not in shop.command("quarantine", "show", "3", "--json", dsn=observer).stdout
    )
    assert "{}" in shop.command("quarantine", "show", "3", dsn=operator).stdout


@pytest.mark.usefixtures("consumer")
async def test_a_return_that_is_not_kept_whole_is_not_released_but_read_again(shop: Any) -> None:
    order = await shop.order()
    number = await quarantined(shop, "k" * 20_000, body(order, "odd"))
    row = await shop.pg.fetchrow("SELECT * FROM relay.quarantine_summary")
    assert (row["kept"], row["state"]) == ("part", "held")
    done = shop.data("quarantine", "release", str(number), "--reason", "x")
    assert (done["released"], done["left_alone"]) == (0, {"held": 1})
    where = f"--partition {row['partition']} --offsets {row['record_offset']}-"
    assert f"relay replay returns {where}{row['record_offset']}" in done["notes"][0]
    assert await shop.pg.fetchval("SELECT state FROM relay.quarantine") == "held"
    assert await shop.pg.fetchval("SELECT count(*) FROM relay.pending_return") == 0
    assert shop.data("quarantine", "discard", str(number), "--reason", "x")["discarded"] == 1
    # Taken back it would wait for ever: there is nothing that the consumer could decide.
    again = shop.data("quarantine", "release", str(number), "--reason", "x")
    assert again["released"] == 0
    assert await shop.pg.fetchval("SELECT state FROM relay.quarantine") == "discarded"
