"""The command line as people and scripts meet it: help, errors, exit codes, JSON, completion."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import click
import pytest

from relay.cli import GROUPS, root
from relay.cli.errors import Found, as_data, as_text, error_code, report

RelayCommand = Callable[..., subprocess.CompletedProcess[str]]
RELAY = str(Path(sys.executable).with_name("relay"))
HEAVY = ("asyncpg", "aiokafka", "pydantic", "opentelemetry", "rich", "structlog", "uvicorn")


def commands() -> list[str]:
    return root.list_commands(click.Context(root))


def test_help_is_grouped_in_the_order_of_the_night(relay_command: RelayCommand) -> None:
    shown = relay_command("--help")
    assert shown.returncode == 0
    groups = [line.removesuffix(":") for line in shown.stdout.splitlines() if line.endswith(":")]
    assert groups == ["Options", *(g for g in GROUPS if g in groups)]
    assert {"Find", "Services", "Setup"} <= set(groups)
    for name in commands():
        assert f"  {name} " in shown.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from relay.cli import root\n"
        "root.main(['--help'], standalone_mode=False)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stderr.strip() == "[]"


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help_and_takes_json(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert command.help, f"{name} says nothing"
    leaves = command.commands.values() if isinstance(command, click.Group) else [command]
    for leaf in leaves:
        assert any("--json" in param.opts for param in leaf.params)
        assert any("--config" in param.opts for param in leaf.params)
        assert leaf.help


SERVICES = [name for name in GROUPS["Services"] if name in commands()]


@pytest.mark.parametrize("name", SERVICES)
def test_services_take_no_arguments(name: str, relay_command: RelayCommand) -> None:
    """`relay confirm ORDER` is a mistake, and must not start a daemon."""
    refused = relay_command(name, "4711")
    assert refused.returncode == 2
    assert "error[usage]" in refused.stderr


def test_a_wrong_command_is_a_usage_error_with_a_hint(relay_command: RelayCommand) -> None:
    wrong = relay_command("nonsense")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error[no_such_command]: No such command 'nonsense'")
    assert "hint: `relay --help`" in wrong.stderr


def test_no_command_shows_the_help(relay_command: RelayCommand) -> None:
    nothing = relay_command()
    assert nothing.returncode == 2
    assert "Services:" in nothing.stderr


@pytest.mark.parametrize("arguments", [("--json", "migrate"), ("migrate", "--json")])
def test_errors_are_json_under_json(
    arguments: tuple[str, ...], relay_command: RelayCommand
) -> None:
    away = relay_command(*arguments, env={"DATABASE_URL": "postgresql://u:geheim@127.0.0.1:1/x"})
    assert (away.returncode, away.stdout) == (1, "")
    error = json.loads(away.stderr)
    assert error.keys() == {"code", "message", "details"}
    assert error["code"] == "database_unreachable"
    assert "geheim" not in away.stderr


def test_errors_of_settings_name_them(relay_command: RelayCommand) -> None:
    wrong = relay_command("run", env={"RELAY_PUBLSH_PAGE_ROWS": "1"})
    assert wrong.returncode == 1
    line = json.loads(wrong.stderr)  # a service's last words are a line of its log
    assert (line["level"], line["message"], line["code"]) == ("critical", "fatal", "settings")
    assert line["error"].startswith("unknown variable RELAY_PUBLSH_PAGE_ROWS")
    assert "did you mean RELAY_PUBLISH_PAGE_ROWS?" in line["error"]
    said = relay_command("run", env={"RELAY_PUBLSH_PAGE_ROWS": "1", "RELAY_LOG_FORMAT": "text"})
    assert said.returncode == 1
    assert said.stderr.startswith("error[settings]: unknown variable RELAY_PUBLSH_PAGE_ROWS")


def test_the_settings_file_may_stand_behind_the_command(relay_command: RelayCommand) -> None:
    for arguments in (("--config", "/nowhere", "migrate"), ("migrate", "--config", "/nowhere")):
        wrong = relay_command(*arguments)
        assert wrong.returncode == 1
        assert "/nowhere" in wrong.stderr


def test_a_traceback_only_when_asked_for(relay_command: RelayCommand) -> None:
    nowhere = {"DATABASE_URL": "postgresql://127.0.0.1:1/x"}
    assert "Traceback" not in relay_command("migrate", env=nowhere).stderr
    traced = relay_command("migrate", env={**nowhere, "RELAY_TRACEBACK": "1"})
    assert "Traceback" in traced.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, relay_command: RelayCommand) -> None:
    script = relay_command("completion", shell)
    assert script.returncode == 0
    assert "_RELAY_COMPLETE" in script.stdout
    assert relay_command("completion", "cmd").returncode == 2


def test_completion_knows_the_commands(relay_command: RelayCommand) -> None:
    asked = {"_RELAY_COMPLETE": "bash_complete", "COMP_WORDS": "relay mig", "COMP_CWORD": "1"}
    assert relay_command(env=asked).stdout.split() == ["plain,migrate"]


def test_version(relay_command: RelayCommand) -> None:
    shown = relay_command("--version")
    assert shown.returncode == 0
    assert shown.stdout.startswith("relay ")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    shown = subprocess.run(
        ["bash", "-c", f"{RELAY} migrate --sql | head -1; true"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": "postgresql://127.0.0.1:1/x"},
    )
    assert shown.stdout
    assert "Broken" not in shown.stderr
    assert "Traceback" not in shown.stderr


def on_a_terminal(arguments: list[str], env: dict[str, str]) -> str:
    """Run a command whose stdout is a terminal, and return what it wrote there."""
    parent, child = pty.openpty()
    process = subprocess.Popen(arguments, stdout=child, stderr=subprocess.DEVNULL, env=env)
    os.close(child)
    written = b""
    try:
        while chunk := os.read(parent, 65536):
            written += chunk
    except OSError:  # Linux says EIO when the last writer is gone
        pass
    finally:
        os.close(parent)
        process.wait(30)
    return written.decode()


def test_colour_for_people_only(database: str, relay_command: RelayCommand) -> None:
    away = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "DATABASE_URL": database}
    env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", **away}
    assert "\x1b[" in on_a_terminal([RELAY, "status"], env)
    assert "\x1b[" not in on_a_terminal([RELAY, "status"], {**env, "NO_COLOR": "1"})
    assert "\x1b[" not in relay_command("status", env=away).stdout


class NotTodayError(Exception):
    """A typed error of somebody's."""

    hint = "tomorrow"
    details: ClassVar = {"day": "today"}


def test_what_an_error_becomes(capsys: pytest.CaptureFixture[str]) -> None:
    error = NotTodayError("no")
    assert error_code(error) == "not_today"
    assert as_text(error) == "error[not_today]: no\nhint: tomorrow"
    assert as_data(error) == {"code": "not_today", "message": "no", "details": {"day": "today"}}
    assert report(error, as_json=False) == 1
    assert report(Found("3 orders"), as_json=False) == 3
    assert report(click.UsageError("x"), as_json=False) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 orders" in captured.err


def test_the_table_of_commands_is_true() -> None:
    for commands_of_group in GROUPS.values():
        for name, (module, says) in commands_of_group.items():
            assert says.endswith("."), name
            if name in commands():
                assert isinstance(import_module(module).command, click.Command)
