"""How commands print: data on stdout, JSON when asked for, colour for people only.

Invariant: under --json stdout holds one JSON document and nothing else; without a terminal, or with
NO_COLOR, no escape sequence is written.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

from relay.runtime.command_line import GlobalOptions
from relay.runtime.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

    from relay.runtime.settings import Settings

T = TypeVar("T")

# Under this name the root's `obj` and a JSON document say how the running processes' settings
# differ from the command's (relay.cli.by_processes).
SETTINGS_DIFFER: Final = "settings_differ"

# What the commands that this one prints have to say again.
_OPTIONS: Final[ContextVar[GlobalOptions | None]] = ContextVar("options", default=None)
# Where a JSON document advises; what stands elsewhere is data, and is printed as it is.
_ADVICE: Final = frozenset(
    {
        "next", "fix", "found", "missing", "note", "meaning", "notes",
        "not_written", "not_looked_at", "not_stored", "trouble",
    }
)  # fmt: skip


def wants_json(ctx: click.Context) -> bool:
    """Tell whether data is to be JSON."""
    return bool(ctx.find_root().obj["json"])


def settings_of(ctx: click.Context, *, piped: bool = False) -> Settings:
    """Read the settings as `own_settings` does, and go by the processes that run with others.

    Args:
        ctx: the command's.
        piped: stdout is for another program: what differs is said on stderr.

    Raises:
        SettingsError: names what is wrong.
    """
    from relay.cli.by_processes import by_processes  # noqa: PLC0415 - asyncpg takes its time

    settings, differing = by_processes(own_settings(ctx))
    if differing:
        ctx.find_root().obj[SETTINGS_DIFFER] = [one.as_data() for one in differing]
        if not wants_json(ctx):
            said = "; ".join(str(printable(one.text)) for one in differing)
            click.echo(click.style(f"settings differ: {said}", fg="yellow"), err=piped)
    return settings


def named_settings(ctx: click.Context) -> Settings:
    """Read the settings that the command line and the environment name.

    Raises:
        SettingsError: names what is wrong.
    """
    from relay.runtime.settings import load_settings  # noqa: PLC0415 - pydantic takes its time

    given = ctx.find_root().obj
    settings = load_settings(given["config"], flow=given.get("flow"))
    _OPTIONS.set(GlobalOptions(given["config"], settings.flow_to_name))
    return settings


def own_settings(ctx: click.Context) -> Settings:
    """Read the settings that the command line and the environment name; log to stderr from now on.

    Raises:
        SettingsError: names what is wrong.
    """
    from relay.telemetry.logs import configure_command  # noqa: PLC0415 - structlog, too

    configure_command()
    return named_settings(ctx)


def typed(text: str) -> str:
    """Return a text of ours in which every command can be typed as it stands.

    Of several flows it names the one that was meant, and the settings' file where the command line
    did. A text that is not ours (bytes of a record, somebody's reason) is not for this.
    """
    options = _OPTIONS.get()
    return text if options is None else options.put_into(text)


def echo(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines of ours for people, with commands that can be typed as they stand."""
    click.echo("\n".join(map(typed, lines)), err=err)


def _advising(value: Any, *, advice: bool = False) -> Any:
    """Return data in which what is advised can be typed as it stands."""
    match value:
        case str() if advice and not isinstance(value, Enum):
            return typed(value)
        case dict():
            return {
                key: _advising(one, advice=advice or key in _ADVICE) for key, one in value.items()
            }
        case list() | tuple():
            return [_advising(one, advice=advice) for one in value]
    return value


def print_json(data: Any) -> None:
    """Print one JSON document; what a terminal might obey is written as its escape.

    Where the running processes have other settings than the command, an object says so first.
    """
    ctx = click.get_current_context(silent=True)
    differing = None if ctx is None else (ctx.find_root().obj or {}).get(SETTINGS_DIFFER)
    if differing and isinstance(data, dict):
        data = {SETTINGS_DIFFER: differing, **data}
    data = _advising(data)
    text = json.dumps(data, indent=2, default=str, ensure_ascii=False)
    click.echo(_UNUSUAL.sub(_escaped, text))


_UNUSUAL: Final = re.compile(r"[^\n -~]")


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    if char.isprintable():
        return char
    # json itself writes out what is below the space and nothing else: neither DEL nor C1 controls.
    return "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1]


def harmless(value: T) -> T:
    r"""Return a copy in which every text is printable: line ends as `\n`, escapes as `\x1b`.

    What is shown to people was written by others: order ids, event types, reasons, what a server
    said. None of it may move a terminal's cursor, or begin a line that looks like one of ours.
    """
    return cast("T", _harmless(value))


def _harmless(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Enum):
        return printable(value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in fields(value) if one.init]
        return replace(value, **{name: _harmless(getattr(value, name)) for name in names})
    return _harmless_collection(value)


def _harmless_collection(value: Any) -> Any:
    match value:
        case dict():  # a Counter, too
            return type(value)({_harmless(key): _harmless(one) for key, one in value.items()})
        case tuple() if hasattr(value, "_fields"):
            return type(value)(*map(_harmless, value))
        case list() | tuple() | set() | frozenset():
            return type(value)(map(_harmless, value))
    return value


def console() -> Console:
    """Return rich's console for stdout."""
    from rich.console import Console  # noqa: PLC0415 - nor is rich needed for JSON

    terminal = sys.stdout.isatty()
    # rich's own NO_COLOR would leave bold, which is an escape sequence like any other.
    plain = not terminal or bool(os.environ.get("NO_COLOR"))
    return Console(
        width=None if terminal else 200,
        highlight=False,
        soft_wrap=not terminal,
        color_system=None if plain else "auto",
    )
