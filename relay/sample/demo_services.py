"""The four services as processes of their own, as a user would run them.

Invariant: none outlives the demo, however the demo ends (each has a guard); a service that dies
before it was asked to is noticed at the next look and named, with the end of its log.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from relay.embedded import process
from relay.embedded.process import Order, ServerProcess

_RUN: Final = "from relay.cli import main; main()"
_STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.05
_HTTP_SECONDS: Final = 2.0


class ServiceFailedError(Exception):
    """A service of the demo died or did not become ready; the message has the end of its log."""


@dataclass(slots=True)
class Service:
    """One `relay` command in the background; stdout and stderr go to its log."""

    name: str
    arguments: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    _process: ServerProcess | None = None

    @property
    def log(self) -> Path:
        """Where its lines go."""
        return self.folder / f"{self.folder.name}.log"

    def start(self) -> None:
        """Start it; it ends with this process."""
        self.folder.mkdir()
        order = Order(
            command=[sys.executable, "-c", _RUN, *self.arguments],
            folder=self.folder,
            log=self.log,
            environment=self.environment,
            account=None,
            stop_signal=signal.SIGTERM,
            stop_seconds=_STOP_SECONDS,
        )
        self._process = process.start(order, owned=True)

    def stop(self) -> int | None:
        """Ask it to end, wait, and return its exit code; None when it never started."""
        if self._process is None:
            return None
        self._process.stop()
        return self._process.exit_code

    def check(self) -> None:
        """Notice its death.

        Raises:
            ServiceFailedError: it is not running.
        """
        if self._process is None or not self._process.is_running():
            code = self.stop()  # its guard tells, once it has reaped it
            raise ServiceFailedError(f"{self.name} ended by itself (exit code {code})")

    def said(self, key: str) -> Any | None:
        """Return the value of `key` in the first JSON line of its log that has it."""
        for line in self.log.read_text("utf-8", "replace").splitlines():
            found = _object(line)
            if key in found:
                return found[key]
        return None


def _object(line: str) -> Mapping[str, Any]:
    try:
        read = json.loads(line)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


@dataclass(slots=True)
class Services:
    """The four of them. Start, wait until ready, check now and then, stop."""

    folder: Path
    environment: Mapping[str, str]
    processor_arguments: Sequence[str] = ()
    order_url: str = ""
    _running: list[Service] = field(default_factory=list)

    def start(self) -> None:
        """Start all of them."""
        # Any free port: the demo must run beside whatever else this machine runs.
        environment = {**self.environment, "RELAY_METRICS_PORT": "0"}
        for name, folder, arguments in (
            ("the order service", "order-service", ("--json", "sample", "serve", "--port", "0")),
            ("the relay", "relay", ("run",)),
            (
                "the order processor",
                "order-processor",
                ("sample", "processor", *self.processor_arguments),
            ),
            ("the confirmation consumer", "confirm", ("confirm",)),
        ):
            service = Service(name, arguments, self.folder / folder, environment)
            service.start()
            self._running.append(service)

    async def ready(self, within_seconds: float) -> None:
        """Wait until each can do its work; sets `order_url`.

        Raises:
            ServiceFailedError: one died, or is not ready in time.
        """
        orders, relay, processor, confirm = self._running
        waits = (
            self._until(orders, lambda: orders.said("url")),
            self._until(relay, lambda: _is_ready(relay)),
            self._until(processor, lambda: _is_ready(processor)),
            self._until(confirm, lambda: _is_ready(confirm)),
        )
        try:
            async with asyncio.timeout(within_seconds):
                for wait in waits:
                    await wait
        except TimeoutError:
            raise ServiceFailedError(
                f"not every service was ready within {within_seconds:.0f} s"
            ) from None
        finally:
            for wait in waits:
                wait.close()
        self.order_url = str(orders.said("url"))

    async def _until(self, service: Service, fact: Any) -> None:
        while not await asyncio.to_thread(fact):
            service.check()
            await asyncio.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Notice the death of any of them.

        Raises:
            ServiceFailedError: names the one that died.
        """
        for service in self._running:
            service.check()

    async def stop(self) -> dict[str, int | None]:
        """Stop all of them, at once, and return their exit codes by name."""
        codes = await asyncio.gather(
            *(asyncio.to_thread(service.stop) for service in self._running)
        )
        return {service.name: code for service, code in zip(self._running, codes, strict=True)}

    def log_tails(self) -> list[str]:
        """Return the end of each log."""
        return [process.log_tail(service.log) for service in self._running]


def _is_ready(service: Service) -> bool:
    port = service.said("port")
    if port is None:
        return False
    try:
        url = f"http://127.0.0.1:{port}/readyz"
        with urllib.request.urlopen(url, timeout=_HTTP_SECONDS) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004
    except OSError:  # 503, or not listening yet
        return False
