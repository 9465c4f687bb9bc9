"""The settings that a process runs with, and where each comes from.

Invariant: no secret is shown, only that there is one; nothing is connected to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from relay.runtime.settings import Settings
from relay.runtime.settings_sources import file_table, is_secret, variables

Source = Literal["environment", "file", "default"]


@dataclass(frozen=True, slots=True)
class Shown:
    """A setting.

    Attributes:
        name: its variable.
        value: as text; of a secret, that it is set.
        source: where it comes from.
    """

    name: str
    value: str
    source: Source


def shown_settings(
    settings: Settings, config: str | Path | None, environment: Mapping[str, str]
) -> list[Shown]:
    """Return every setting, those that somebody gave first.

    Raises:
        SettingsError: the file cannot be read any more.
    """
    file = file_table(config, environment)
    found = []
    for name, (place, kind) in variables(Settings).items():
        given = environment.get(name) or environment.get(f"{name}_FILE")
        source: Source = "environment" if given else "file" if _has(file, place) else "default"
        value = _value(settings, place)
        text = ("(set)" if value is not None else "") if is_secret(kind) else _text(value)
        found.append(Shown(name, text, source))
    return sorted(found, key=lambda one: one.source == "default")


def _has(table: Mapping[str, Any], place: tuple[str, ...]) -> bool:
    inside: Any = table
    for key in place:
        if not isinstance(inside, Mapping) or key not in inside:
            return False
        inside = inside[key]
    return True


def _value(settings: Settings, place: tuple[str, ...]) -> Any:
    by_alias = {info.alias or name: name for name, info in Settings.model_fields.items()}
    section: Any = getattr(settings, by_alias[place[0]])
    if place[0] == "flow":
        section = next(iter(section.values()))
    return getattr(section, place[-1])


def _text(value: Any) -> str:
    if isinstance(value, BaseModel):
        return value.model_dump_json(exclude_defaults=True)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_text(one)}" for key, one in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
