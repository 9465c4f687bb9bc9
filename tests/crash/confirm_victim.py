"""A confirmation consumer that kills itself after some commits, or is killed: run by the tests.

Arguments: DSN, bootstrap servers, topic, group, after how many commits to die (0: never), seconds
until PostgreSQL ends a frozen transaction.
"""

import asyncio
import os
import signal
import sys

from relay.consumers.confirm.options import ConfirmOptions
from relay.consumers.confirm.service import ConfirmService
from relay.kafka.consumer.options import SessionOptions
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.telemetry.tracing import configure


async def main() -> None:
    dsn, bootstrap_servers, topic, group, deadly, frozen = sys.argv[1:]
    commits = 0

    async def die(_point: str) -> None:
        nonlocal commits
        commits += 1
        if commits == int(deadly):
            os.kill(os.getpid(), signal.SIGKILL)

    session = SessionOptions(
        batch_records=50,
        commit_seconds=0.0,
        poll_seconds=0.2,
        session_timeout_seconds=6.0,
        drain_seconds=2.0,
    )
    service = ConfirmService(
        dsn,
        KafkaConnection(bootstrap_servers),
        Flow(returns_topic=topic, confirm_group=group),
        ConfirmOptions(session=session, frozen_seconds=float(frozen), statement_seconds=5.0),
        configure(
            "victim", {"OTEL_TRACES_EXPORTER": "none"}, version="0", instance_id="v", install=False
        ),
        asyncio.Event(),
        test_point=die,
    )
    await service.run()


asyncio.run(main())
