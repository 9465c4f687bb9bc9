"""A run of `relay reconcile` that somebody began on the page: one at a time, in memory.

Invariant: it only reads; it ends with the process, and its outcome is kept until the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from relay.diagnose.reconcile.reconciliation import Range, Reconciliation, reconcile
from relay.runtime.settings import Settings
from relay.runtime.tasks import awaited


@dataclass(slots=True)
class Comparison:
    """The last run, or the one under way.

    Attributes:
        progress: what is read -> how much of it, of how much.
        failed: why it ended without an outcome.
    """

    started_at: datetime | None = None
    ended_at: datetime | None = None
    by: str = ""
    hours: int = 0
    progress: dict[str, tuple[int, int]] = field(default_factory=dict)
    done: Reconciliation | None = None
    failed: str | None = None
    _task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether one is under way."""
        return self._task is not None and not self._task.done()

    def start(self, settings: Settings, hours: int, by: str) -> bool:
        """Begin one over the last hours; False: one is under way already."""
        if self.running:
            return False
        self.started_at, self.ended_at, self.by, self.hours = datetime.now(UTC), None, by, hours
        self.progress, self.done, self.failed = {}, None, None
        self._task = awaited(self._run(settings), "reconcile")
        return True

    async def _run(self, settings: Settings) -> None:
        assert self.started_at is not None
        within = Range(self.started_at - timedelta(hours=self.hours), self.started_at)
        show: Callable[[str, int, int], None] = lambda what, done, total: self.progress.update(  # noqa: E731
            {what: (done, total)}
        )
        try:
            self.done = await reconcile(
                settings.database.dsn, settings.kafka, settings.flow, within, progress=show
            )
        except Exception as error:  # noqa: BLE001 - shown to whoever began it
            self.failed = str(error) or type(error).__name__
        self.ended_at = datetime.now(UTC)

    async def end(self) -> None:
        """End the one under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
