"""Tasks of the event loop, each with an owner: none ends unobserved.

Invariant: whatever a background task raises is logged under one event name with the task's name,
and counted; a loop's own complaint (a task that nobody waited for) is logged and counted, too. A
test refuses tasks that are made elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Coroutine
from typing import Any, Final, TypeVar

import structlog

_LOG: Final = structlog.get_logger("relay.tasks")

T = TypeVar("T")

failures: Counter[str] = Counter()
"""How many tasks of which name ended by an error that their owner did not handle."""


def awaited(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Start a task whose result the caller itself waits for, on each of its ways out."""
    return asyncio.get_running_loop().create_task(work, name=name)


def awaited_answer(answer: Awaitable[T]) -> asyncio.Future[T]:
    """Wait beside other things for what a library answers; the caller waits for the result."""
    return asyncio.ensure_future(answer)


def background(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Start a task that goes on beside its owner, who only cancels it and waits for its end.

    Keep the task: the loop itself holds tasks weakly.
    """
    task = awaited(work, name)
    task.add_done_callback(_observe)
    return task


async def end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended; what it raised is logged where it was started."""
    task.cancel()
    await asyncio.wait([task])


def _observe(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        failures[task.get_name()] += 1
        _LOG.error("task_failed", task=task.get_name(), error=repr(error), exc_info=error)


def log_unobserved(loop: asyncio.AbstractEventLoop) -> None:
    """Log and count what a loop could tell nobody: an error in a callback, in a forgotten task."""
    loop.set_exception_handler(_unobserved)


def _unobserved(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    task, error = context.get("task") or context.get("future"), context.get("exception")
    name = task.get_name() if isinstance(task, asyncio.Task) else "callback"
    failures[name] += 1
    _LOG.error(
        "task_failed", task=name, error=repr(error), why=context.get("message"), exc_info=error
    )
