"""Templates, and how times, ages and numbers are written in them.

Invariant: every expression of a template is escaped, and shown without control characters and
without what turns the direction of writing: order ids, reasons and errors are other people's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, partial
from gettext import NullTranslations
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from relay.diagnose.causes import meaning_of
from relay.diagnose.fate import fate_of
from relay.diagnose.verdicts import HOPS, MEANINGS, Verdict
from relay.runtime.durations import duration
from relay.runtime.language import LANGUAGES, catalogue, in_language
from relay.runtime.printable import printable, printable_bytes

FOLDER: Final = Path(__file__).parent
TEMPLATES: Final = FOLDER / "templates"
STATIC: Final = FOLDER / "static"


@cache
def environment(language: str) -> Environment:
    """Return the templates in a language."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        auto_reload=False,  # an upgrade changes the files under a process that still runs
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n", "jinja2.ext.do"],
    )
    spoken = catalogue(language)
    made.globals.update(_gettext(spoken))
    made.filters.update(
        number=number, when=when, clock=clock, ago=ago, took=duration, fate=_fate,
        say=partial(in_language, language), typed=_typed,
        bytes=lambda value: printable_bytes(value, lines=True),
        lines=lambda value: printable(value, lines=True),
    )  # fmt: skip
    made.globals.update(
        HOPS=[hop.value for hop in HOPS],
        hop_number=lambda name: next((one.number for one in HOPS if one.value == name), None),
        meaning=lambda code: spoken.gettext(meaning_of(code).meaning),
        fix=lambda code: _said(spoken.gettext, meaning_of(code).fix),
        verdict_meaning=lambda code: spoken.gettext(
            MEANINGS[Verdict(code)].meaning if code in MEANINGS else code
        ),
        languages=LANGUAGES,
        language=language,
        asset=asset,
    )
    return made


def _gettext(spoken: NullTranslations) -> dict[str, Any]:
    """Return what `_()` and `ngettext()` of the templates are: what is put in is escaped, too."""

    def gettext(message: str, **put_in: Any) -> Markup:
        return Markup(escape(spoken.gettext(message))) % _put_in(put_in)  # noqa: S704 - escaped

    def ngettext(one: str, many: str, num: int, **put_in: Any) -> Markup:
        found = Markup(escape(spoken.ngettext(one, many, num)))  # noqa: S704 - escaped
        return found % _put_in({"num": num, **put_in})

    return {"gettext": gettext, "ngettext": ngettext}


@cache
def asset(name: str) -> str:
    """Return the address of a file of the page: another one for other contents, so it is kept."""
    return f"/static/{name}?v={asset_version(name)}"


@cache
def asset_version(name: str) -> str:
    """Return what tells a file's contents from other ones."""
    return sha256((STATIC / name).read_bytes()).hexdigest()[:16]


def _put_in(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _shown(value) for name, value in values.items()}


@pass_context
def _typed(context: Context, text: str) -> str:
    """Return a text of ours in which every command can be typed as it stands."""
    return str(context["site"].options.put_into(text))


def _said(say: Any, text: str) -> str:
    return str(say(text)) if text else ""  # gettext of nothing is the catalogue's head


def render(language: str, template: str, data: Mapping[str, Any]) -> str:
    """Return a page."""
    return environment(language).get_template(template).render(data)


def _shown(value: Any) -> Any:
    if value is None:
        return ""
    return value if isinstance(value, Markup | int | float) else printable(value, lines=True)


def number(value: float | None, digits: int = 0) -> str:
    """Write a number with its thousands; None: it is not known."""
    return "?" if value is None else f"{value:,.{digits}f}"


def _named(at: datetime) -> datetime:
    """Return a time in this machine's zone, which is what the logs beside the page are in."""
    return at.astimezone()


def clock(at: datetime | None) -> str:
    """Write the time of day, to the second, without its zone."""
    return "" if at is None else f"{_named(at):%H:%M:%S}"


def when(at: datetime | None, *, day: bool = True) -> Markup:
    """Write a time with its zone, for a script to add the viewer's own."""
    if at is None:
        return Markup("&ndash;")
    local = _named(at)
    shown = f"{local:%Y-%m-%d %H:%M:%S %Z}" if day else f"{local:%H:%M:%S %Z}"
    iso = at.astimezone(UTC).isoformat()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(iso, iso, shown)


def ago(at: datetime | None) -> str:
    """Write how long ago a time was."""
    return "" if at is None else duration((datetime.now(UTC) - at).total_seconds())


def _fate(verdict: str | None, cause: str | None) -> str:
    return "unknown" if verdict is None else fate_of(verdict, cause).value
