"""Every hop: the one place where errors become what a person or a script reads, and an exit code.

Invariant: nobody sees a traceback for a thing that has a name; an unnamed error says its type, and
RELAY_TRACEBACK=1 shows all of it. Errors go to stderr, so that data on stdout stays data.
"""

import json
import os
import re
import sys
import traceback

import click

FAILURE, USAGE, FOUND = 1, 2, 3


class Found(Exception):  # noqa: N818 - not an error: exit code 3 says something was found
    """Something was found (a lost order, a failed check): it was printed already; exit with 3."""


def report(error: Exception, *, as_json: bool) -> int:
    """Print the error on stderr and return the exit code."""
    if isinstance(error, Found):
        return FOUND
    if os.environ.get("RELAY_TRACEBACK"):
        traceback.print_exception(error)
    code, hint = error_code(error), getattr(error, "hint", None)
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    details = getattr(error, "details", {})
    if as_json:
        body = {"code": code, "message": message, "details": details}
        print(json.dumps(body, default=str), file=sys.stderr)  # noqa: T201
    else:
        lines = [f"error[{code}]: {message}"] + ([f"hint: {hint}"] if hint else [])
        print("\n".join(lines), file=sys.stderr)  # noqa: T201
    return USAGE if isinstance(error, click.UsageError) else FAILURE


def error_code(error: Exception) -> str:
    """Return the error's code: its type's name in snake case, without `Error`."""
    name = type(error).__name__.removesuffix("Error") or "Error"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
