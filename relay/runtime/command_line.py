"""Commands to copy into a shell, with ids in them that others wrote.

Invariant: pure; whatever an id is, the command that is printed names that id and nothing else: it
is quoted for the shell, is no option though it begins with a dash, and no incident though it looks
like one.
"""

from __future__ import annotations

import re
from shlex import quote
from typing import Final

_NAMED: Final = re.compile(r"(?P<option> --[a-z-]+)? \{(?P<name>\w+)\}")
_INCIDENT: Final = re.compile(r"[Ii]-(\d{1,18})")


def incident_number(text: str) -> int | None:
    """Return the number of what is written like an incident, `I-17`; None: it is not."""
    found = _INCIDENT.fullmatch(text)
    return None if found is None else int(found[1])


def command(template: str, **ids: str) -> str:
    """Return a command with ids put in where the template says `{name}`.

    An id that begins with a dash stands behind its option's `=`, or at the end behind `--`.
    """
    behind: list[str] = []

    def put(found: re.Match[str]) -> str:
        text, option = ids[found["name"]], found["option"]
        if option is not None:
            return f"{option}{'=' if text.startswith('-') else ' '}{quote(text)}"
        if text.startswith("-"):
            behind.append(quote(text))
            return ""
        if template.startswith("relay close ") and incident_number(text) is not None:
            return f" --order {quote(text)}"
        return f" {quote(text)}"

    filled = _NAMED.sub(put, template)
    return " ".join((filled, "--", *behind)) if behind else filled
