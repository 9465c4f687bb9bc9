"""What the output advises can be typed: every printed command parses with the real command line."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import click
import pytest

from relay.cli import GROUPS, root
from relay.diagnose.causes import MEANINGS, Cause, causes_of, for_incident
from relay.diagnose.reconcile.findings import NEXT
from relay.diagnose.verdicts import MEANINGS as VERDICTS
from relay.diagnose.verdicts import Hop
from relay.replay.plan import HELP
from relay.runtime.command_line import OF_A_FLOW, OF_EVERY_FLOW, GlobalOptions, command

ROOT = Path(__file__).parents[3]
ORDER = "018f8e7a-0000-7000-8000-000000000001"
EARLY = sorted(
    {one for verdict, row in VERDICTS.items() if row.hop in (Hop.PLACE, Hop.PUBLISH)
     for one in causes_of(verdict)}
)  # fmt: skip
# These look and change nothing; what ends by itself needs no more.
LOOKS = {"trace", "status", "incidents", "diagnose", "check"}
# What there is to do is done outside: a process, the broker, the database, another program.
DONE_OUTSIDE = {
    Cause.RELAY_PAUSED, Cause.RELAY_STUCK, Cause.LEASE_STUCK, Cause.PERMISSION_DENIED,
    Cause.DATABASE_UNREACHABLE, Cause.DATABASE_REFUSES, Cause.BROKER_UNREACHABLE,
    Cause.REGISTRY_UNREACHABLE,
    Cause.NEVER_COMMITTED, Cause.DUPLICATE_SUBMISSION, Cause.PUBLISHER_STUCK, Cause.SLOT_INACTIVE,
    Cause.CONNECTOR_FAILED, Cause.CONNECTOR_PAUSED, Cause.CONNECTOR_MISSING,
    Cause.CONNECT_TASK_FAILED,
}  # fmt: skip
BY_ITSELF = {Cause.RELAY_BEHIND, Cause.PUBLISHER_BEHIND, Cause.RELEASE_PENDING}


def parse(line: str) -> str:
    """Parse as the program does, without running it; return the command's path."""
    words = shlex.split(line)
    assert words[0] == "relay", line
    paths: list[str] = []
    with patch.object(click.Command, "invoke", lambda _self, ctx: paths.append(ctx.command_path)):
        found = {"config": None, "json": False}
        root.main(words[1:], prog_name="relay", standalone_mode=False, obj=found)
    return paths[-1]


def quoted(text: str) -> Iterator[str]:
    """Return the commands that a text names between backquotes."""
    for found in re.findall(r"`(relay [^`]+)`", text):
        yield found.replace("...", "X")


@pytest.mark.parametrize("cause", Cause)
def test_every_command_of_a_cause_can_be_typed(cause: Cause) -> None:
    row = MEANINGS[cause]
    for template in row.next:
        parse(command(template, order=ORDER, twin=ORDER))
        parse(command(for_incident(template, cause, "I-17"), order=ORDER, twin=ORDER))
    for one in (*quoted(row.fix), *quoted(row.meaning)):
        parse(one)


@pytest.mark.parametrize(
    "line", ["relay mend", "relay diagnose --now", "relay close", "relay replay x"]
)
def test_what_is_no_command_is_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line)


def test_what_plans_and_reconciliations_advise_can_be_typed() -> None:
    for template in HELP.values():
        parse(command(template, order=ORDER, replay=ORDER))
    for text in NEXT.values():
        for one in re.findall(r"relay [a-z]+(?: --?[a-z-]+| ORDER)*", text):
            parse(one)


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda one: one.name)
def test_the_documentation_names_commands_that_are_there(path: Path) -> None:
    for one in quoted(path.read_text("utf-8")):
        known = root.get_command(click.Context(root), shlex.split(one)[1].split("/")[0])
        assert known is not None, one


@pytest.mark.parametrize("cause", EARLY)
def test_a_cause_of_the_first_hops_advises_more_than_a_look(cause: Cause) -> None:
    names = [
        parse(command(one, order=ORDER, twin=ORDER)).split()[1] for one in MEANINGS[cause].next
    ]
    if cause in BY_ITSELF | DONE_OUTSIDE:
        return
    assert set(names) - LOOKS, names


@pytest.mark.parametrize("cause", Cause)
def test_each_branch_of_an_or_has_its_own_command(cause: Cause) -> None:
    row = MEANINGS[cause]
    commands = " ".join(row.next)
    for branch, needed in {
        "close the order": "relay close",
        "or close it": "relay close",
        "replay": "relay replay",
        "release": "relay quarantine",
        "publish it after all": "relay replay",
        "write the missing event": "--write-missing",
        "look again": "relay diagnose",
    }.items():
        if branch in row.fix and f"not {branch}" not in row.fix.casefold():
            assert needed in commands or "a replay cannot" in row.fix, (branch, row.next)


OF_PAYMENTS = GlobalOptions("shop's.toml", "payments 2")


def options_of(line: str) -> dict[str, object]:
    """Return what a printed command says of file and flow, as the program reads it."""
    found = {"config": None, "json": False}
    with patch.object(
        click.Command, "invoke", lambda _self, ctx: found.update(ctx.find_root().params)
    ):
        root.main(shlex.split(line)[1:], prog_name="relay", standalone_mode=False, obj=found)
    return found


@pytest.mark.parametrize("cause", Cause)
def test_a_command_of_several_flows_names_the_one_that_was_meant(cause: Cause) -> None:
    row = MEANINGS[cause]
    commands = [command(one, order=ORDER, twin=ORDER) for one in row.next]
    commands += [for_incident(one, cause, "I-17").format(order=ORDER, twin=ORDER)
                 for one in row.next]  # fmt: skip
    commands += quoted(row.fix)
    for one in commands:
        printed = OF_PAYMENTS.put_into(one)
        given, name = options_of(printed), one.split()[1]
        assert given["config"] == "shop's.toml", printed
        assert given["flow"] == (None if name in OF_EVERY_FLOW else "payments 2"), printed
        assert parse(printed) == parse(one)


def test_commands_are_named_within_sentences_and_nothing_else_is() -> None:
    options = GlobalOptions(flow="payments")
    for text, printed in {
        "stop the relay, then: relay rebaseline; relay check": (
            "stop the relay, then: relay rebaseline; relay --flow payments check"
        ),
        "start relay run, relay confirm or relay watchdog": (
            "start relay run, relay --flow payments confirm or relay watchdog"
        ),
        "relay check says what is missing; relay status, who runs": (
            "relay --flow payments check says what is missing;"
            " relay --flow payments status, who runs"
        ),
        "补发(`relay replay`)": "补发(`relay --flow payments replay`)",
        # An id is an id, a process a process.
        "relay diagnose 'relay status'": "relay --flow payments diagnose 'relay status'",
        "relay web:17 stopped; the relay runs": "relay web:17 stopped; the relay runs",
        "outbox-relay status": "outbox-relay status",
    }.items():
        assert options.put_into(text) == printed
    assert GlobalOptions().put_into("relay status") == "relay status"


def test_every_command_is_of_a_flow_or_of_all() -> None:
    """And those of all read the settings without asking which flow is meant."""
    modules = {name: found[0] for group in GROUPS.values() for name, found in group.items()}
    assert set(modules) == OF_A_FLOW | OF_EVERY_FLOW
    assert not OF_A_FLOW & OF_EVERY_FLOW
    for name in OF_EVERY_FLOW - {"init", "demo"}:
        path = ROOT / "relay" / "cli" / f"{modules[name].rpartition('.')[2]}.py"
        source = path.read_text("utf-8")
        assert "settings_of(" not in source.replace("own_settings_of(", ""), name
        assert "settings.flow," not in source, name
