"""The whole loop with real processes, and replays in it."""

import json
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.corpus.wiring import Wiring


class Replaying(Wiring):
    """A loop whose orders can be lost and replayed."""

    def replay(self, *arguments: str, within_seconds: float = 90, **env: str) -> Any:
        """Run `relay replay --json ...`; return its answer, with `exit` beside it."""
        done = self.run_command(
            "replay", *arguments, "--json", env=self.environment | env,
            within_seconds=within_seconds,
        )  # fmt: skip
        assert done.stdout, done.stderr
        return json.loads(done.stdout) | {"exit": done.returncode}

    async def lose(self, count: int, *, beside: int = 2) -> list[str]:
        """Place orders whose returns a processor loses; relay and consumer run."""
        kept = await self.place(beside)
        lost = await self.place(count)
        losing = [word for order in lost for word in ("--lose-order", order)]
        processor = self.processor(*losing)
        await self.until_up()
        await self.until_passed(self.group, self.events)
        await self.until_returned(kept)
        await self.until_overdue(lost)
        assert processor.terminate() == 0
        return lost

    async def history(self, orders: Sequence[str]) -> dict[str, list[str]]:
        rows = await self.pg.fetch(
            "SELECT order_id::text, new_status FROM order_status_history"
            " WHERE order_id = ANY ($1::uuid[]) ORDER BY history_id",
            orders,
        )
        found: dict[str, list[str]] = {order: [] for order in orders}
        for order, status in rows:
            found[order].append(status)
        return found

    def records(self, topic: str) -> list[tuple[str, str, str | None, int]]:
        """Return (order, ce_id, replay_id, partition) of every record, as a foreign consumer."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "foreign"})
        ends = self.ends(topic)
        try:
            consumer.assign([TopicPartition(topic, number, 0) for number in ends])
            found = []
            while len(found) < sum(ends.values()):
                for one in consumer.consume(1000, 1.0):
                    assert one.error() is None, one.error()
                    headers = {name: text.decode() for name, text in one.headers()}
                    found.append(
                        (one.key().decode(), headers["ce_id"], headers.get("replay_id"),
                         one.partition())
                    )  # fmt: skip
            return found
        finally:
            consumer.close()

    async def go_past_returns(self) -> None:
        """Move the stopped consumer's offsets behind everything, as a hand-written UPDATE does."""
        for number, end in self.ends(self.returns).items():
            await self.pg.execute(
                "UPDATE relay.consumer_offset SET next_offset = $3, last_record_offset = NULL,"
                "       last_record = NULL"
                " WHERE consumer_group = $1 AND partition = $2",
                self.confirm_group,
                number,
                end,
            )

    async def until_handled(self) -> None:
        """Wait until the consumer has handled every return that is there."""

        async def handled() -> bool:
            rows = await self.pg.fetch(
                "SELECT partition, next_offset FROM relay.consumer_offset"
                " WHERE consumer_group = $1",
                self.confirm_group,
            )
            known = dict(rows)
            return all(
                known.get(number, 0) >= end for number, end in self.ends(self.returns).items()
            )

        await self.eventually(handled, 40)

    async def audited(self) -> list[str]:
        rows = await self.pg.fetch(
            "SELECT action FROM relay.audit_log WHERE action LIKE 'replay%' ORDER BY audit_id"
        )
        return [row["action"] for row in rows]


@pytest.fixture
def loop(
    database: str,
    pg: asyncpg.Connection,
    kafka_bootstrap: str,
    topics: Any,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., subprocess.CompletedProcess[str]],
    eventually: Callable[..., Awaitable[Any]],
) -> Replaying:
    """The test's own loop."""
    return Replaying(
        database, pg, kafka_bootstrap, topics, relay_process, relay_command, eventually
    )


@pytest.fixture
def relay_piped(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run `relay A --json | relay B --json`, as a shell does; return what B says."""
    from tests.conftest import RELAY, _relay_environment  # noqa: PLC0415

    def run(loop: Replaying, left: Sequence[str], right: Sequence[str]) -> Any:
        env = _relay_environment(request, loop.environment)
        with subprocess.Popen([RELAY, *left, "--json"], stdout=subprocess.PIPE, env=env) as first:
            done = subprocess.run(
                [RELAY, *right, "--json"], check=False, stdin=first.stdout, capture_output=True,
                text=True, timeout=120, env=env,
            )  # fmt: skip
        assert done.stdout, done.stderr
        return json.loads(done.stdout) | {"exit": done.returncode}

    return run
