"""Every sentence for people has a translation, with the same places to be filled in."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from babel.messages.pofile import read_po
from jinja2 import Environment

from relay.diagnose.causes import MEANINGS
from relay.diagnose.check.result import State
from relay.diagnose.incidents.aftermath import (
    DELAYED,
    NO_DISCARD,
    NO_RESET,
    NO_STATUS,
    TOO_EARLY,
    Gone,
)
from relay.diagnose.verdicts import MEANINGS as VERDICTS
from relay.diagnose.verdicts import Fate
from relay.runtime import language
from relay.runtime.language import (
    accepted,
    catalogue,
    in_language,
    of_environment,
    preferred,
    said,
)
from relay.runtime.phrases import phrases_of
from relay.web.pages.repair import STATES
from relay.web.render import TEMPLATES, render

PLACES = re.compile(r"%\(\w+\)[sd]")
OTHERS = sorted(set(language.LANGUAGES) - {language.ENGLISH})
# Words that templates show by `| say`: states, sources, what became of orders.
WORDS = {
    *Gone, DELAYED, TOO_EARLY, NO_RESET, NO_DISCARD, NO_STATUS,
    *STATES, *(one.value for one in State), *(one.value for one in Fate),
    "planned", "running", "paused", "cancelled", "sent", "done",
    "environment", "file", "default", "returned late", "closed by hand",
    "this page only reads: RELAY_WEB_OPERATOR_URL is not set",
    "your role may look and not act", "that is not the password", "logged in", "logged out",
}  # fmt: skip


# Modules that put evidence, notes and headlines together: each phrase of theirs has a translation.
TOLD = (
    "diagnose/report/hops", "diagnose/report/explain", "diagnose/report/transactions",
    "diagnose/decide/succession", "diagnose/status/hops", "diagnose/status/external",
    "diagnose/watch/looked", "diagnose/incidents/story", "cli/status", "cli/unreturned",
    "cli/timeline_text", "cli/diagnosis_text", "runtime/trace_link", "runtime/durations",
)  # fmt: skip
ROOT = Path(language.__file__).parent.parent
# Styles, commands, statements and addresses: nobody's language.
NOT_TOLD = re.compile(
    r"bold red|relay |\s*SELECT |.*/trace/|.*uiFind|.*--write-missing$", re.DOTALL
)


def silent(node: ast.AST) -> Iterable[ast.AST]:
    """Return what of a node nobody reads: documentation, options, the inside of f-strings."""
    if isinstance(node, ast.Expr):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [part for part in node.values if isinstance(part, ast.Constant)]
    if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
        return ast.walk(node.format_spec)
    called = node.func if isinstance(node, ast.Call) else None
    options = isinstance(called, ast.Attribute) and called.attr in ("option", "argument", "command")
    return ast.walk(node) if options else []


def text_of(node: ast.AST) -> str:
    """Return a text that people read, `{}` where something is put in."""
    if isinstance(node, ast.JoinedStr):
        parts = (one.value if isinstance(one, ast.Constant) else "{}" for one in node.values)
        return "".join(map(str, parts))
    text = str(node.value) if isinstance(node, ast.Constant) else ""
    return text if " " in text.strip() else ""


def told(path: Path) -> set[str]:
    """Return the phrases that a module's texts are made of."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    unread = {part for node in nodes for part in silent(node)}
    texts = (text_of(node) for node in nodes if node not in unread)
    return {one for text in texts if not NOT_TOLD.match(text) for one in phrases_of(text)}


def sentences() -> set[str]:
    found: set[str] = set(WORDS)
    extracting = Environment(extensions=["jinja2.ext.i18n", "jinja2.ext.do"])
    for path in TEMPLATES.rglob("*.html"):
        for _line, _function, message in extracting.extract_translations(path.read_text("utf-8")):
            one = message if isinstance(message, str) else message[0]
            assert isinstance(one, str)
            found.add(one)
    for row in MEANINGS.values():
        found |= {row.meaning, row.fix}
    found |= {row.meaning for row in VERDICTS.values()}
    for name in TOLD:
        found |= told(ROOT / f"{name}.py")
    return found - {""}


@pytest.mark.parametrize("code", OTHERS)
def test_no_sentence_is_without_a_translation(code: str) -> None:
    with (language.FOLDER / f"{code}.po").open("rb") as file:
        known = {
            (one.id if isinstance(one.id, str) else one.id[0]): one
            for one in read_po(file)
            if one.id
        }
    missing = sorted(one for one in sentences() if one not in known)
    assert missing == [], f"add these to relay/runtime/languages/{code}.po"
    for text, entry in known.items():
        translated = entry.string if isinstance(entry.string, str) else entry.string[0]
        assert translated, text
        assert not entry.fuzzy, text
        assert sorted(PLACES.findall(text)) == sorted(PLACES.findall(translated)), text
        holes = [f"{{{number}}}" for number in range(text.count("{}"))]
        assert set(re.findall(r"{\d}", translated)) <= set(holes), text  # Chinese has no plural


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        (
            "order-processor jumped from 1 to 14, 2 s without members",
            "order-processor 从 1 跳到 14, 2 秒 没有成员",
        ),
        ("none in 6 records scanned, 3/3 partitions, to log end",
         "已扫描 6 条记录,没有找到, 3/3 个分区, 直到日志末尾"),
        ("LOST at 4 return: no_return / offsets_skipped   incident I-1",
         "丢失于 4 return: no_return / offsets_skipped   事故 I-1"),
        ("group order-processor: 1 member", "消费组 order-processor: 1 个成员"),
        ("order-processor 0 -> 2", "order-processor 0 -> 2"),
        ("42501: permission denied for table orders", "42501: permission denied for table orders"),
        ("", ""), (" ; ", " ; "), ("(", "("), ("x" * 5000, "x" * 5000),
    ],
)  # fmt: skip
def test_evidence_is_told_phrase_by_phrase_and_names_stay(english: str, chinese: str) -> None:
    assert in_language("zh", english) == chinese
    assert in_language("en", english) == english


def test_a_page_is_in_the_language_that_was_asked_for() -> None:
    assert "事故" in catalogue("zh").gettext("Incidents")
    told = {"away": None, "as_of": None, "night": None, "failure": None}
    assert "还没有人查看" in render("zh", "fragments/night.html", told)
    assert "Nobody has looked yet" in render("en", "fragments/night.html", told)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-GB,zh;q=0.5", "en"), ("de,zh-Hans;q=0.3", "zh"),
        ("zh-TW,en;q=0.5", "en"), ("", "en"), ("*", "en"), ("zh;q=x", "en"), ("en;q=0,zh", "zh"),
    ],
)  # fmt: skip
def test_a_browsers_wish_is_followed(header: str, expected: str) -> None:
    assert preferred(accepted(header)) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"), ({"LANG": "C.UTF-8"}, "en"), ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "RELAY_LANG": "en"}, "en"), ({"RELAY_LANG": "zh"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"), ({"LANG": "zh_TW.UTF-8"}, "en"),
    ],
)  # fmt: skip
def test_the_command_line_speaks_the_terminals_language(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert of_environment(environment) == expected
    for name in ("RELAY_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    spoken = said("no relay is running")
    assert spoken == ("没有中继在运行" if expected == "zh" else "no relay is running")
    assert said("") == ""
