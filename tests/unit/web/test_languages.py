"""Every sentence for people has a translation, with the same places to be filled in."""

import re

import pytest
from babel.messages.pofile import read_po
from jinja2 import Environment

from relay.diagnose.causes import MEANINGS
from relay.diagnose.check.result import State
from relay.diagnose.verdicts import MEANINGS as VERDICTS
from relay.diagnose.verdicts import Fate
from relay.runtime import language
from relay.runtime.language import accepted, catalogue, of_environment, preferred, said
from relay.web.pages.repair import STATES
from relay.web.render import TEMPLATES, render

PLACES = re.compile(r"%\(\w+\)[sd]")
OTHERS = sorted(set(language.LANGUAGES) - {language.ENGLISH})
# Words that templates show by `| say`: states, sources, what became of orders.
WORDS = {
    *STATES, *(one.value for one in State), *(one.value for one in Fate),
    "planned", "running", "paused", "cancelled", "sent", "done",
    "environment", "file", "default", "returned late", "closed by hand",
    "this page only reads: RELAY_WEB_OPERATOR_URL is not set",
    "your role may look and not act", "that is not the password", "logged in", "logged out",
}  # fmt: skip


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
