"""What is pushed is drawn once a look, for however many tabs."""

import os
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from relay.diagnose.report.night import headline
from relay.runtime.settings import load_settings
from relay.web import live
from relay.web.live import Fragments
from relay.web.service import WebService
from relay.web.site import Site
from relay.web.snapshot import Night


def look(site: Site, why: str) -> None:
    """Pretend a look: the database is away, because of `why`."""
    at = datetime(2026, 11, 30, tzinfo=UTC)
    status: Any = SimpleNamespace(looked=None, missing=(), hops=(), overdue=None, next_command=None)
    site.watcher.night = Night(at, status, headline((), None, at, 0.0), away=why, tried_at=at)
    site.watcher.looks += 1


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    render = live.render

    def counted(language: str, template: str, data: Any) -> str:
        names.append(f"{language} {template}")
        return render(language, template, data)

    monkeypatch.setattr(live, "render", counted)
    return names


@pytest.fixture
def site() -> Site:
    stop = cast("Any", None)
    return WebService(load_settings("/dev/null", {}), stop, os.environ).site


def test_two_hundred_tabs_are_pushed_the_same_bytes(site: Site, drawn: list[str]) -> None:
    fragments = Fragments(site)
    look(site, "cut off")
    changes = {fragments.night_changes("en") for _ in range(200)}
    events = {id(fragments.event("en", "night")) for _ in range(200)}
    assert (len(changes), len(events)) == (1, 1)
    assert sorted(drawn) == ["en fragments/asof.html", "en fragments/night.html"]
    told = fragments.event("en", "night").decode()
    assert told.count("event: asof\n") == told.count("event: night\n") == 1
    assert "cut off" in told


def test_a_night_that_did_not_change_is_not_sent_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "render", lambda _language, template, data: data["night"].away)
    fragments = Fragments(site)
    look(site, "cut off")
    first = fragments.night_changes("en")
    look(site, "cut off")
    assert fragments.night_changes("en") == first
    assert b"night" not in fragments.event("en", "asof")
    look(site, "shut down")
    assert fragments.night_changes("en") == first + 1


def test_lists_are_read_again_when_they_changed_and_the_night_is_not_drawn_for_them(
    site: Site, drawn: list[str]
) -> None:
    fragments = Fragments(site)
    look(site, "cut off")
    known = fragments.list_changes("en")
    look(site, "cut off")
    assert fragments.list_changes("en") == known
    site.watcher.night = None
    site.watcher.looks += 1
    assert fragments.list_changes("en") == known + 1
    assert b"event: changed\ndata: 1\n" in fragments.event("en", "changed")
    assert "en fragments/night.html" not in drawn
