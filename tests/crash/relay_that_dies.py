"""A relay that kills itself at a named point: run by the crash tests, in a process of its own.

Usage: relay_that_dies.py DSN BOOTSTRAP TOPIC POINT HOW_OFTEN   (POINT "never": it lives)
"""

import asyncio
import os
import signal
import sys

import uvloop

from relay.publish.options import PublishOptions
from relay.publish.service import RelayService
from relay.runtime.flow import EventRoute, Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.shutdown import stop_on_signals
from relay.telemetry.tracing import configure


async def main(dsn: str, bootstrap_servers: str, topic: str, point: str, how_often: int) -> None:
    reached = 0

    async def die(name: str) -> None:
        nonlocal reached
        reached += name == point
        if name == point and reached >= how_often:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0)

    tracing = configure(
        "relay", {"OTEL_TRACES_EXPORTER": "none"}, version="0", instance_id=str(os.getpid())
    )
    with stop_on_signals() as stop:
        await RelayService(
            dsn,
            KafkaConnection(bootstrap_servers),
            (Flow(events={"order.placed": EventRoute(topic)}),),
            PublishOptions(lease_seconds=1.0, request_timeout_seconds=5.0),
            tracing,
            stop,
            die,
        ).run()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:5], int(sys.argv[5])))  # type: ignore[arg-type]
