"""`relay run`, `confirm` or `witness`, killed with SIGKILL by its own hand at a named point.

Usage: dies_at_point.py relay|confirm|witness POINT PASSING   (settings: the environment, as always)
"""

import asyncio
import os
import signal
import sys

import click

from relay.cli.confirm import confirm_options
from relay.cli.service import ServiceContext, serve
from relay.consumers.confirm.service import ConfirmService
from relay.publish.maintenance.duties import maintenance_options
from relay.publish.options import publish_options
from relay.publish.service import RelayService
from relay.runtime.settings import load_settings
from relay.witness.observer import PublisherNames
from relay.witness.options import WitnessOptions
from relay.witness.service import WitnessService


class Death:
    """Counts the passings of a point."""

    def __init__(self, point: str, passing: int) -> None:
        self.point, self.passing, self.passed = point, passing, 0

    async def __call__(self, point: str) -> None:
        self.passed += point == self.point
        if self.passed >= self.passing:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0)


def main(role: str, point: str, passing: int) -> None:
    settings, death = load_settings(None), Death(point, passing)

    def relay(context: ServiceContext) -> RelayService:
        return RelayService(
            settings.database.dsn,
            settings.kafka,
            settings.every_flow,
            publish_options(settings),
            context.tracing,
            context.stop,
            death,
            metrics=context.metrics,
            maintenance=maintenance_options(settings),
        )

    def confirm(context: ServiceContext) -> ConfirmService:
        return ConfirmService(
            settings.database.dsn,
            settings.kafka,
            settings.flow,
            confirm_options(settings),
            context.tracing,
            context.stop,
            context.metrics,
            death,
        )

    def witness(context: ServiceContext) -> WitnessService:
        return WitnessService(
            settings.database.dsn,
            settings.kafka,
            settings.every_flow,
            WitnessOptions(group=settings.publisher.witness_group),
            PublisherNames(),
            context.stop,
            metrics=context.metrics,
            test_point=death,
        )

    serve(role, settings, 0, {"relay": relay, "confirm": confirm, "witness": witness}[role])


if __name__ == "__main__":
    with click.Context(click.Command("dies-at-point"), obj={"config": None}):
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
