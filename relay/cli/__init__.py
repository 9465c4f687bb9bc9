"""The program `relay`: finds the command, imports only it, and translates its errors.

Invariant: `relay --help` imports no driver; a command that fails leaves one line with the next step
and an exit code (0 fine, 1 failure, 2 usage, 3 something was found), never a traceback.
"""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import click

from relay.cli.errors import FAILURE, FINE, INTERRUPTED, report

# group -> command -> (module, what it does). Each module exports its click command as `command`; a
# command appears once its module exists.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Find": {
        "status": ("relay.cli.status", "Each hop: waiting, oldest, rate, who runs it."),
        "unreturned": ("relay.cli.unreturned", "Overdue orders by hop and cause."),
        "incidents": ("relay.cli.incidents", "When, where and why returns were late or lost."),
        "diagnose": ("relay.cli.diagnose", "Where an order was lost, why, and what to do."),
        "trace": ("relay.cli.trace", "An order's timeline, and the gap in it."),
        "audit": ("relay.cli.audit", "Who did what to the system, and why."),
    },
    "Repair": {
        "replay": ("relay.cli.replay", "Send missed events again: plan, then --execute."),
        "quarantine": (
            "relay.cli.quarantine",
            "List, show, release, discard or export what is held.",
        ),
        "close": ("relay.cli.close", "Close overdue orders or an incident by hand."),
        "erase": ("relay.cli.erase", "Blank what is stored of a person's orders."),
        "rebaseline": ("relay.cli.rebaseline", "Set a new checkpoint after a restore."),
    },
    "Verify": {
        "check": ("relay.cli.check", "Check configuration, permissions, schema, topics, ACLs."),
        "probe": ("relay.cli.probe", "Send a canary event through the hops and time it."),
        "reconcile": ("relay.cli.reconcile", "Compare the outbox, Kafka and the orders' statuses."),
    },
    "Services": {
        "run": ("relay.cli.run", "The relay: publishes the outbox (hop 2)."),
        "witness": (
            "relay.cli.witness",
            "Writes the ledger, where somebody else publishes (hop 2).",
        ),
        "confirm": ("relay.cli.confirm", "The confirmation consumer: applies returns (hop 5)."),
        "watchdog": (
            "relay.cli.watchdog",
            "The watchdog of overdue orders, as a process of its own.",
        ),
        "web": ("relay.cli.web", "The operator's page."),
    },
    "Setup": {
        "init": ("relay.cli.init", "Set everything up beside the shop's own tables."),
        "migrate": ("relay.cli.migrate", "Apply, print or check the schema."),
        "trigger": ("relay.cli.trigger", "Print a trigger that writes the outbox."),
        "demo": ("relay.cli.demo", "The whole loop on embedded PostgreSQL and Kafka."),
        "embedded": ("relay.cli.embedded", "Embedded PostgreSQL and Kafka: up, down, env."),
        "completion": ("relay.cli.completion", "Completion script for bash, zsh or fish."),
    },
    "Sample": {
        "sample": ("relay.cli.sample", "Sample order service, processor, orders, load."),
    },
}


class Root(click.Group):
    """The lazy root: a command's module is imported when the command is called."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the commands whose modules exist, in the order of the groups."""
        return [name for commands in _existing().values() for name in commands]

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return its command."""
        for commands in _existing().values():
            if cmd_name in commands:
                command: click.Command = _imported(commands[cmd_name][0]).command
                return with_globals(command)
        return None

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands group by group, without importing any of them."""
        for group, commands in _existing().items():
            with formatter.section(group):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])


def _imported(module: str) -> Any:
    """Import a module; the collector would look through it all several times, an eighth of it."""
    gc.disable()
    try:
        return import_module(module)
    finally:
        gc.enable()


def _existing() -> dict[str, dict[str, tuple[str, str]]]:
    found = {
        group: {name: entry for name, entry in commands.items() if find_spec(entry[0])}
        for group, commands in GROUPS.items()
    }
    return {group: commands for group, commands in found.items() if commands}


def with_globals(command: click.Command) -> click.Command:
    """Let the global options stand behind the command's name, too, as people write them."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            with_globals(inner)
        if not command.invoke_without_command:
            return command
    taken = {name for param in command.params for name in param.opts}
    command.params.extend(option for option in _globals() if option.opts[0] not in taken)
    return command


def _globals() -> Iterator[click.Option]:
    yield click.Option(
        ["--json"],
        is_flag=True,
        expose_value=False,
        callback=_want_json,
        help="Data and errors as JSON.",
    )
    yield click.Option(
        ["--config"],
        metavar="FILE",
        expose_value=False,
        callback=_use_config,
        help="Settings file.",
    )
    yield click.Option(
        ["--flow"],
        metavar="NAME",
        expose_value=False,
        callback=_use_flow,
        help="Which of several flows (else RELAY_FLOW).",
    )


def _want_json(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    ctx.find_root().obj["json"] |= wanted


def _use_config(ctx: click.Context, _param: click.Parameter, config: str | None) -> None:
    if config is not None:
        ctx.find_root().obj["config"] = config


def _use_flow(ctx: click.Context, _param: click.Parameter, flow: str | None) -> None:
    if flow is not None:
        ctx.find_root().obj["flow"] = flow


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"relay {metadata.version('outbox-relay')}")
        ctx.exit()


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", metavar="FILE", help="Settings file (else RELAY_CONFIG, ./relay.toml).")
@click.option("--flow", metavar="NAME", help="Which of several flows (else RELAY_FLOW).")
@click.option("--json", "as_json", is_flag=True, help="Data and errors as JSON.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.pass_context
def root(ctx: click.Context, config: str | None, flow: str | None, as_json: bool) -> None:
    """Publishes an order service's outbox to Kafka, and finds where a return was lost."""
    ctx.obj = {"config": config, "flow": flow, "json": as_json}
    if os.environ.get("NO_COLOR"):
        ctx.color = False  # click itself does not know the variable
    # A library's warning is no part of a command's answer; services configure their own logs.
    logging.getLogger().addHandler(logging.NullHandler())


def main() -> None:
    """Run the program; the entry point `relay`."""
    try:
        code = root.main(prog_name="relay", standalone_mode=False)
    except click.exceptions.Abort:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone (`| head`): nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILURE
    except Exception as error:  # noqa: BLE001 - the edge: every error leaves as one line
        code = report(error, as_json="--json" in sys.argv[1:])
    sys.exit(code if isinstance(code, int) else FINE)
