"""No task ends unobserved, and none is made where nobody would observe it."""

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay.runtime import tasks

ROOT = Path(__file__).parents[3]
SOURCES = sorted(path for name in ("relay", "consumers") for path in (ROOT / name).rglob("*.py"))
MECHANISM = ROOT / "relay/runtime/tasks.py"
MAKERS = {"create_task", "ensure_future"}


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str, str]]:
    """Yield calls of `something.name(...)` and `name(...)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            yield node, owner.id if isinstance(owner, ast.Name) else "", node.func.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node, "", node.func.id


def test_tasks_are_made_by_one_module_or_in_a_task_group() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path in SOURCES
        if path != MECHANISM
        for call, owner, name in calls(ast.parse(path.read_text("utf-8")))
        if name in MAKERS and owner != "group"  # asyncio.TaskGroup, by its name in this code
    ]
    assert not found, "use relay.runtime.tasks.background or awaited"


def swallows(handler: ast.ExceptHandler) -> bool:
    names = (
        {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
        if (handler.type)
        else {"BaseException"}
    )
    silent = all(isinstance(step, ast.Pass | ast.Continue) for step in handler.body)
    return silent and bool(names & {"Exception", "BaseException"})


def test_nothing_is_caught_to_be_ignored() -> None:
    found = []
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        found += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ExceptHandler) and swallows(node)
        ]
        found += [
            f"{path.relative_to(ROOT)}:{call.lineno}"
            for call, _, name in calls(tree)
            if name == "suppress"
            and any(
                isinstance(one, ast.Name) and one.id in ("Exception", "BaseException")
                for one in call.args
            )
        ]
    assert not found


async def failing() -> None:
    raise OverflowError("date value out of range")


async def test_a_background_task_that_fails_is_logged_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "failures", type(tasks.failures)())
    with capture_logs() as lines:
        task = tasks.background(failing(), "upkeep")
        await asyncio.wait([task])
        await asyncio.sleep(0)
        await tasks.end(task)
    assert [(line["event"], line["task"]) for line in lines] == [("task_failed", "upkeep")]
    assert tasks.failures == {"upkeep": 1}


async def test_a_task_that_is_ended_is_no_failure() -> None:
    with capture_logs() as lines:
        task = tasks.background(asyncio.Event().wait(), "waits")
        await asyncio.sleep(0)
        await tasks.end(task)
    assert task.cancelled()
    assert not lines


async def test_what_a_loop_can_tell_nobody_is_logged() -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    try:
        tasks.log_unobserved(loop)
        with capture_logs() as lines:
            loop.call_soon(lambda: 1 / 0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(before)
    assert [line["event"] for line in lines] == ["task_failed"]
    assert "ZeroDivisionError" in lines[0]["error"]
