"""The table of docs/running.md, walked through: each command, and each code that it may give."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from relay.cli import root

Run = Callable[..., subprocess.CompletedProcess[str]]

RUNNING = Path(__file__).parents[2] / "docs" / "running.md"
NOBODY = "00000000-0000-4000-8000-000000000000"
AWAY = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "RELAY_WEB_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
}

# What each command is given, where it needs something, to get as far as looking.
GIVEN: dict[str, tuple[str, ...]] = {
    "diagnose": (NOBODY,),
    "trace": (NOBODY,),
    "replay": ("--order", NOBODY),
    "replay returns": ("--order", NOBODY),
    "replay status": (NOBODY,),
    "replay resume": (NOBODY,),
    "replay pause": (NOBODY,),
    "replay cancel": (NOBODY, "--reason", "it was tried"),
    "quarantine release": ("4711", "--reason", "it was tried"),
    "quarantine discard": ("4711", "--reason", "it was tried"),
    "quarantine show": ("4711",),
    "close": (NOBODY, "--reason", "it was tried"),
    "erase": ("--customer", "nobody"),
    "trigger mirror": ("public.nothing",),
    "completion": ("bash",),
    "sample place": ("--customer", "nobody"),
    "sample load": ("--orders", "1"),
}
# They wait for servers that are away, as long as it takes: tests of the services have that.
SERVICES = {"run", "witness", "confirm", "watchdog", "web", "sample processor", "sample serve"}
# They start servers of their own, or ask none.
WITHOUT_SERVERS = {"demo", "embedded up", "embedded down", "embedded env", "completion"}


def leaves(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(command, click.Group):
        if command.invoke_without_command:
            yield " ".join(path)
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield " ".join(path)


def every_command() -> list[str]:
    ctx = click.Context(root)
    found = []
    for name in root.list_commands(ctx):
        command = root.get_command(ctx, name)
        assert command is not None
        found += leaves(command, (name,))
    return found


COMMANDS = every_command()
LOOKING = [one for one in COMMANDS if one not in SERVICES | WITHOUT_SERVERS]


def test_the_table_has_the_codes_that_there_are() -> None:
    codes = re.findall(r"(?m)^\| (\d+) \|", RUNNING.read_text().partition("## Exit codes")[2])
    assert codes == ["0", "1", "2", "3", "130"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_command_line_is_2(command: str, relay_command: Run) -> None:
    done = relay_command(*command.split(), "--nonsense")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error[")


@pytest.mark.parametrize("command", LOOKING)
def test_nobody_could_look_is_1(command: str, relay_command: Run) -> None:
    done = relay_command(*command.split(), *GIVEN.get(command, ()), "--json", env=AWAY)
    assert done.returncode == 1, (done.stdout, done.stderr)
    said = json.loads(done.stderr.splitlines()[-1])
    assert said.keys() == {"code", "message", "details"}


FINE = [
    "status", "unreturned", "incidents", "audit", "replay list", "quarantine list", "reconcile",
    "migrate --sample", "completion bash",
]  # fmt: skip


@pytest.mark.parametrize("command", FINE)
def test_nothing_is_wrong_is_0(
    command: str, database: str, kafka_bootstrap: str, topics: Any, relay_command: Run
) -> None:
    env = {
        "RELAY_FLOW_EVENTS_TOPIC": topics.create("orders.events"),
        "RELAY_FLOW_RETURNS_TOPIC": topics.create("orders.returns"),
        "RELAY_FLOW_PROCESSOR_GROUPS": f"processor-{topics.suffix}",
        "RELAY_FLOW_CONFIRM_GROUP": f"confirm-{topics.suffix}",
    }
    done = relay_command(*command.split(), env=env)
    assert done.returncode == 0, (done.stdout, done.stderr)


NOT_THERE = [
    f"diagnose {NOBODY}", f"trace {NOBODY}", "incidents I-99", "erase --customer nobody",
    "replay --incident I-99", "replay --customer nobody", "trigger mirror public.nothing",
    f"replay status {NOBODY}", f"replay resume {NOBODY}", f"replay pause {NOBODY}",
    f"replay cancel {NOBODY} --reason tried", "quarantine show 4711",
    "quarantine release 4711 --reason tried", "quarantine discard 4711 --reason tried",
    f"close {NOBODY} --reason tried", "probe --create-topic --within 0.2",
]  # fmt: skip


@pytest.mark.parametrize("command", NOT_THERE)
def test_found_or_not_there_is_3(
    command: str, database: str, kafka_bootstrap: str, topics: Any, relay_command: Run
) -> None:
    env = {"RELAY_FLOW_PROBE_TOPIC": f"relay.probe.{topics.suffix}"}
    done = relay_command(*command.split(), env=env)
    assert done.returncode == 3, (done.stdout, done.stderr)
