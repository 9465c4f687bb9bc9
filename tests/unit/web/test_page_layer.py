"""The page has no SQL and no verdict of its own, and nothing inline or unescaped."""

import re
from pathlib import Path

from relay.diagnose.verdicts import Verdict
from relay.web import render

WEB = Path(render.__file__).parent
SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM)\s+\w+[\w.]*\s", re.MULTILINE)


def test_it_has_no_statement() -> None:
    found = [path.name for path in WEB.rglob("*.py") if SQL.search(path.read_text("utf-8"))]
    assert found == []


def test_it_spells_no_verdict() -> None:
    own = {one.value for one in Verdict} - {"returned", "closed", "unknown", "no_such_order"}
    words = re.compile("|".join(rf"['\"]{word}['\"]" for word in own))
    sources = [*WEB.rglob("*.py"), *WEB.rglob("*.html")]
    assert [path.name for path in sources if words.search(path.read_text("utf-8"))] == []


def test_its_templates_have_no_inline_script_style_or_handler() -> None:
    inline = re.compile(r"<style|\sstyle=|\son[a-z]+=|javascript:|<script(?![^>]*src=)|\|\s*safe\b")
    found = {
        path.name: inline.findall(path.read_text("utf-8"))
        for path in (WEB / "templates").rglob("*.html")
    }
    assert {name: what for name, what in found.items() if what} == {}


def test_what_is_vendored_has_its_licence() -> None:
    for script in ("htmx", "htmx-ext-sse"):
        licence = (WEB / "static" / f"{script}.LICENSE").read_text("utf-8")
        assert "permission to use, copy, modify" in " ".join(licence.lower().split())
        assert (WEB / "static" / f"{script}.min.js").stat().st_size > 1000


def test_a_times_zone_is_said_and_control_characters_are_written_out() -> None:
    template = render.environment("en").from_string("{{ text }}")
    assert template.render(text="a\x1b[2J\u202e<b>") == "a\\x1b[2J\\u202e&lt;b&gt;"
