"""Hop 5: what a session has handed over and has not seen the end of, lane by lane.

Invariant: a lane handles one batch at a time, in the order in which they came; one more may wait
behind it, read. What waits is dropped once a batch failed anywhere, or once its partitions may be
somebody else's: both lead back to the stored offsets. No lane waits for another one, but in
`settle`, and where a batch is of several lanes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.runtime.tasks import awaited

# One in the database, one read meanwhile.
_ROOM: Final = 2


@dataclass(slots=True)
class LaneQueues:
    """The lanes' batches.

    Attributes:
        drained: set while none is being handled.
    """

    drained: asyncio.Event = field(default_factory=asyncio.Event)
    _lanes: dict[int, deque[asyncio.Task[None]]] = field(default_factory=lambda: defaultdict(deque))
    _handling: int = 0
    _failed: bool = False

    def __post_init__(self) -> None:
        self.drained.set()

    @property
    def is_empty(self) -> bool:
        """Whether every batch has ended."""
        return all(task.done() for task in self._tasks())

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for lane in self._lanes.values() for task in lane]

    def has_room(self, lane: int) -> bool:
        """Tell whether a lane takes another batch.

        Raises:
            Exception: what a batch of it failed with.
        """
        tasks = self._lanes[lane]
        while tasks and tasks[0].done():
            tasks.popleft().result()
        return len(tasks) < _ROOM

    def put(
        self,
        lanes: Sequence[int],
        handle: Callable[[], Awaitable[None]],
        stands: Callable[[], bool],
    ) -> None:
        """Handle a batch once those before it in its lanes have ended, if it still `stands`."""
        queues = [self._lanes[lane] for lane in lanes]
        before = {tasks[-1] for tasks in queues if tasks}
        batch = awaited(self._in_turn(before, handle, stands), "batch")
        for tasks in queues:
            tasks.append(batch)

    async def _in_turn(
        self,
        before: Collection[asyncio.Task[None]],
        handle: Callable[[], Awaitable[None]],
        stands: Callable[[], bool],
    ) -> None:
        if before:
            await asyncio.wait(before)
        if self._failed or not stands():
            return
        self._handling += 1
        self.drained.clear()
        try:
            await handle()
        except BaseException:
            self._failed = True
            raise
        finally:
            self._handling -= 1
            if not self._handling:
                self.drained.set()

    async def room(self) -> None:
        """Wait until a batch has ended."""
        tasks = self._tasks()
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    async def settle(self) -> None:
        """Wait until all have ended.

        Raises:
            Exception: what the first of those that failed failed with.
        """
        tasks = self._tasks()
        self._lanes.clear()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error
