"""Commands to copy into a shell, with ids in them that others wrote.

Invariant: pure; whatever an id is, the command that is printed names that id and nothing else: it
is quoted for the shell, is no option though it begins with a dash, and no incident though it looks
like one. What is printed goes by the settings of whoever printed it (`GlobalOptions`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from shlex import quote
from typing import Final

OF_A_FLOW: Final = frozenset(
    {"status", "unreturned", "incidents", "diagnose", "trace", "replay", "quarantine", "close"}
    | {"erase", "check", "probe", "reconcile", "confirm", "web", "trigger", "sample"}
)
"""Commands that are about one flow: of several, it has to be named."""

OF_EVERY_FLOW: Final = frozenset(
    {"audit", "rebaseline", "run", "witness", "watchdog", "init", "migrate", "demo", "embedded"}
    | {"completion"}
)
"""Commands that need no flow's name."""

# A command within a sentence, with its words: an id in it that looks like a command is none.
_PRINTED: Final = re.compile(
    r"(?<![\w./@'-])relay (?P<name>[a-z]+)(?![\w:@/-])"
    r"(?P<words>(?: (?!relay )(?:[\w.:=@/+%-]|'[^']*'|\"'\")+)*)",
    re.ASCII,
)

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


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """What a printed command has to say again, so that it looks where this program looked.

    Attributes:
        config: the settings' file that the command line named; None: it named none.
        flow: which of several flows is meant; None: there is one.
    """

    config: str | None = None
    flow: str | None = None

    def put_into(self, text: str) -> str:
        """Return a text of ours, in which every command has the options that it needs."""
        if self.config is None and self.flow is None:
            return text
        return _PRINTED.sub(self._named, text)

    def _named(self, found: re.Match[str]) -> str:
        name = found["name"]
        if name not in OF_A_FLOW | OF_EVERY_FLOW:
            return found[0]
        options = "" if self.config is None else f" --config {quote(self.config)}"
        if self.flow is not None and name in OF_A_FLOW:
            options += f" --flow {quote(self.flow)}"
        return f"relay{options} {name}{found['words']}"
