"""Which settings are not the defaults, and where each was said: for the log at start.

Invariant: a secret's value is never among them, nor one that the other source overrides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from relay.runtime.settings import Settings
from relay.runtime.settings_sources import (
    DEFAULT_FILE,
    FLOW,
    Place,
    file_table,
    is_secret,
    variables,
)

HIDDEN: Final = "[hidden]"


def settings_with_origin(
    config: str | Path | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Return each setting that was said, by its key: its value, and who said it.

    Args:
        config: the file that was named; None: as `load_settings` finds it.
        environment: None: `os.environ`.

    Raises:
        SettingsError: the file cannot be read.
    """
    environ = os.environ if environment is None else environment
    known, told = variables(Settings, FLOW), {}
    secret = {place for place, annotation in known.values() if is_secret(annotation)}
    hidden = {(place[0], place[-1]) for place in secret}
    file = str(config or environ.get("RELAY_CONFIG") or DEFAULT_FILE)
    for place, value in _leaves(file_table(config, environ)):
        shown = HIDDEN if (place[0], place[-1]) in hidden else value
        told[".".join(map(str, place))] = {"value": shown, "from": file}
    for name, (place, _) in known.items():
        said_by = name if environ.get(name) else f"{name}_FILE"
        if environ.get(said_by):
            shown = HIDDEN if place in secret else environ.get(name, HIDDEN)
            told[".".join(map(str, place))] = {"value": shown, "from": said_by}
    return told


def _leaves(table: Mapping[str, Any], above: Place = ()) -> Iterator[tuple[Place, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value
