"""The one place where errors become what a person or a script reads, and an exit code.

Invariant: nobody sees a traceback for a thing that has a name; an unnamed error says its type, and
RELAY_TRACEBACK=1 shows all of it. Errors go to stderr, so that data on stdout stays data.
"""

import json
import os
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import click

from relay.cli.output import typed
from relay.command import install_hint
from relay.runtime.printable import printable
from relay.telemetry.redaction import redact

FINE, FAILURE, USAGE, FOUND, INTERRUPTED = 0, 1, 2, 3, 130


class Found(Exception):  # noqa: N818 - not an error: exit code 3 says something was found
    """Something was found (a lost order, a failed check); what, is printed already or said here."""


class NotFoundError(Exception):
    """What was named is not there: an order, an incident, a row of quarantine, a replay."""

    not_found = True


class NotLookedError(Exception):
    """Nothing was found, and nobody has looked: that nothing is wrong cannot be said."""

    hint = "relay check says what is missing; relay status, who runs"


def report(error: Exception, *, as_json: bool) -> int:
    """Print the error on stderr and return the exit code."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USAGE
    if isinstance(error, Found):
        if str(error):
            _print(_shown(typed(str(error))))
        return FOUND
    if os.environ.get("RELAY_TRACEBACK"):
        _print(redact("".join(traceback.format_exception(error))))
    _print(json.dumps(_redacted(as_data(error)), default=str) if as_json else as_text(error))
    if getattr(error, "not_found", False):
        return FOUND
    return USAGE if isinstance(error, click.UsageError) else FAILURE


def as_data(error: Exception) -> dict[str, Any]:
    """Return the error for a script."""
    return {
        "code": error_code(error),
        "message": typed(_message(error)),
        "details": _details(error),
    }


def as_text(error: Exception) -> str:
    """Return the error for a person: what, and what to do next."""
    lines = [f"error[{error_code(error)}]: {_shown(typed(_message(error)))}"]
    hint = getattr(error, "hint", None)
    if isinstance(error, ModuleNotFoundError):
        hint = install_hint(error)
    if hint is None and isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"`{error.ctx.command_path} --help` lists what there is"
    return "\n".join(lines + ([f"hint: {_shown(typed(str(hint)))}"] if hint else []))


def _shown(text: str) -> str:
    """Hide secrets, and whatever a terminal would act on; line ends of our own stay."""
    return "\n".join(map(printable, redact(text).split("\n")))


def _redacted(value: Any) -> Any:
    match value:
        case str():
            return redact(value)
        case Mapping():
            return {key: _redacted(one) for key, one in value.items()}
        case list() | tuple():
            return [_redacted(one) for one in value]
    return value


def error_code(error: Exception) -> str:
    """Return the error's code: its type's name in snake case, without `Error`."""
    name = type(error).__name__.removesuffix("Error") or "Error"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _message(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    return str(error) or type(error).__name__


def _details(error: Exception) -> Mapping[str, Any]:
    found = getattr(error, "details", None)
    return found if isinstance(found, Mapping) else {}


def _print(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - click.echo would need its context
