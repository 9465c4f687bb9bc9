"""A topic is deleted with events that nobody had processed: they are named, and the rest flows on.

No relay can bring those records back by itself; what must not happen is silence.
"""

import asyncio
import json
import subprocess
from pathlib import Path
from random import Random

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.faults.client import Client, Habits
from tests.faults.programs import RELAY, clean_environment
from tests.faults.stage import EVENTS, PARTITIONS, Stage, a_stage, until

DEADLINE_SECONDS = 3.0


async def place(stage: Stage, count: int) -> list[str]:
    habits = Habits(orders=count, seconds=1.0, rolled_back=0.0, held=0.0)
    client = Client(stage.client_dsn, stage.journal, habits, Random(count))
    client.enough.set()
    await client.run()
    return client.placed


async def all_returned(stage: Stage, orders: list[str]) -> bool:
    rows = await stage.fetch(
        "SELECT FROM orders WHERE order_id = ANY ($1::uuid[]) AND status IN ('submitted')", orders
    )
    return not rows


async def all_published(stage: Stage) -> bool:
    stage.truth.read(stage.journal.path)
    published = stage.events.ids()
    return all(one.event_id in published for one in stage.truth.committed())


def delete_and_make_again(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.delete_topics([EVENTS])[EVENTS].result(30)
    while EVENTS in admin.list_topics(timeout=10).topics:
        pass
    admin.create_topics([NewTopic(EVENTS, PARTITIONS, 1)])[EVENTS].result(30)


def reported(stage: Stage) -> dict[str, tuple[str, str]]:
    env = stage.programs["relay-1"].env | {"DATABASE_URL": stage.dsn}
    done = subprocess.run(
        [RELAY, "unreturned", "--json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(env),
    )
    assert done.returncode in (0, 3), done.stderr
    return {
        one["order_id"]: (one["hop"], one["verdict"]) for one in json.loads(done.stdout)["orders"]
    }


@pytest.mark.timeout(240)
async def test_what_a_deleted_topic_took_is_named_and_the_rest_flows_on(tmp_path: Path) -> None:
    async with a_stage(keep=tmp_path, deadline_seconds=DEADLINE_SECONDS) as stage:
        before = await place(stage, 60)
        assert await until(lambda: all_returned(stage, before), 60) is not None
        processor = stage.programs["processor-1"]
        processor.kill()
        taken = await place(stage, 40)
        assert await until(lambda: all_published(stage), 30) is not None
        stage.reader.close()
        await asyncio.to_thread(delete_and_make_again, stage.bootstrap)
        processor.start()
        after = await place(stage, 60)
        assert await until(lambda: all_returned(stage, after), 90) is not None
        await until(lambda: overdue(stage, taken), 30)
        # Cases that a watchdog opened while the processor was away are judged again in time.
        named = dict.fromkeys(taken, ("publish", "record_missing"))
        seen: list[dict[str, tuple[str, str]]] = []

        async def named_so() -> bool:
            seen.append(await asyncio.to_thread(reported, stage))
            return seen[-1] == named

        await until(named_so, 90)
    assert seen[-1] == named


async def overdue(stage: Stage, orders: list[str]) -> bool:
    rows = await stage.fetch(
        "SELECT FROM orders WHERE order_id = ANY ($1::uuid[])"
        " AND submitted_at > clock_timestamp() - make_interval(secs => $2)",
        orders,
        DEADLINE_SECONDS + 1,
    )
    return not rows
