"""The command that helps an incident; pure."""

from __future__ import annotations

from relay.diagnose.causes import for_incident, meaning_of
from relay.diagnose.incidents.listing import IncidentSeen
from relay.runtime.command_line import command


def next_command(one: IncidentSeen) -> str:
    """Return the command to run now."""
    cause = one.kind[2]
    commands = [for_incident(template, cause, one.name) for template in meaning_of(cause).next]
    own = [template for template in commands if template != "relay incidents"] or commands
    order = one.examples[0] if one.examples else "ORDER"
    return command(own[0], order=order, twin="ORDER")
