"""Turns environment variables and a TOML file into one shape of nested tables.

Invariant: pure but for reading the named files. `RELAY_<TABLE>_<KEY>` is `[table] key`;
DATABASE_URL and KAFKA_* keep the names that other programs use. A variable `X_FILE` names the file
that holds the secret X. A variable of ours, or a key, that is not known is an error that names the
nearest known one.
"""

import difflib
import json
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr

from relay.runtime.service_links import is_service_link

FLOW = "orders"
"""The flow that the environment speaks of when no file names one."""

DEFAULT_FILE = "relay.toml"

# Read by others than the settings: relay.cli, relay.embedded.
OTHER_VARIABLES = {
    "RELAY_CONFIG": "the settings file",
    "RELAY_FLOW": "the flow that a command or consumer is about, where the file has several",
    "RELAY_TRACEBACK": "set: errors come with their traceback",
    "RELAY_LANG": "the language of what is printed for people: en, zh; by default LANG's",
}

_PREFIXES = {"database": "DATABASE_", "kafka": "KAFKA_"}


class SettingsError(Exception):
    """A setting is unknown, unusable, or contradicts another; the message names it."""


Place = tuple[str, ...]
"""Where a setting is in the file: ("publish", "page_rows")."""


def variables(model: type[BaseModel], flow: str = FLOW) -> dict[str, tuple[Place, Any]]:
    """Return every environment variable of ours: name -> (place in the file, its type)."""
    found: dict[str, tuple[Place, Any]] = {}
    for table, section in sections(model).items():
        place = (table, flow) if table == "flow" else (table,)
        prefix = _PREFIXES.get(table, f"RELAY_{table.upper()}_")
        for key, info in section.model_fields.items():
            found[prefix + key.upper()] = ((*place, key), info.annotation)
    return found


def sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the tables of the file: name -> model."""
    return {
        info.alias or name: _model_of(info.annotation) for name, info in model.model_fields.items()
    }


def _model_of(annotation: Any) -> type[BaseModel]:
    """Return the model in `Model`, `Model | None` or `Mapping[str, Model]`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    raise TypeError(f"no table in {annotation}")


def from_environment(
    model: type[BaseModel], environment: Mapping[str, str], flow: str
) -> dict[str, Any]:
    """Return the tables that the environment speaks of.

    Raises:
        SettingsError: a RELAY_* variable is unknown, a secret's file cannot be read, or a mapping
            is not JSON.
    """
    environment = _without_service_links(environment)
    known = variables(model, flow)
    secrets = {f"{name}_FILE": name for name, (_, kind) in known.items() if is_secret(kind)}
    refuse_unknown_variables(environment, {*known, *secrets, *OTHER_VARIABLES})
    table: dict[str, Any] = {}
    for name, (place, kind) in known.items():
        text = _text(name, environment)
        if text:  # set but empty is not set, as shells and compose files leave it
            _put(table, place, _value(name, kind, text))
    return table


def _without_service_links(environment: Mapping[str, str]) -> Mapping[str, str]:
    prefixes = ("RELAY_", *_PREFIXES.values())
    return {
        name: value
        for name, value in environment.items()
        if not (name.startswith(prefixes) and is_service_link(name, environment))
    }


def refuse_unknown_variables(environment: Mapping[str, str], known: set[str]) -> None:
    """Refuse a RELAY_* variable that is not ours, and a near miss of the others' names."""
    for name in environment:
        if name in known or name.startswith("RELAY_TEST_"):
            continue
        if name.startswith("RELAY_"):
            raise SettingsError(f"unknown variable {name}{nearest(name, known)}")
        if name.startswith("KAFKA_") and difflib.get_close_matches(name, known, 1, 0.9):
            raise SettingsError(f"unknown variable {name}{nearest(name, known)}")


def nearest(name: str, known: set[str]) -> str:
    """Return `: did you mean X?`, or nothing when nothing is near."""
    close = difflib.get_close_matches(name, sorted(known), 1, 0.6)
    return f": did you mean {close[0]}?" if close else ""


def _text(name: str, environment: Mapping[str, str]) -> str | None:
    text, file = environment.get(name), environment.get(f"{name}_FILE")
    if not file:
        return text
    if text:
        raise SettingsError(f"{name} and {name}_FILE are both set: unset one")
    try:
        return Path(file).read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name}_FILE: {error}") from None


def is_secret(annotation: Any) -> bool:
    """Tell whether a setting's type is a secret's."""
    return SecretStr in (annotation, *get_args(annotation))


def _value(name: str, annotation: Any, text: str) -> Any:
    kinds = {get_origin(a) or a for a in _alternatives(annotation)}
    if kinds & {tuple, frozenset, list}:
        return [part.strip() for part in text.split(",") if part.strip()]
    if Mapping in kinds or any(isinstance(k, type) and issubclass(k, BaseModel) for k in kinds):
        try:
            return json.loads(text, object_pairs_hook=_once_each, parse_constant=_refuse_constant)
        except ValueError as error:
            raise SettingsError(f"{name} is not JSON: {error}") from None
        except RecursionError:
            raise SettingsError(f"{name} is not JSON: it is nested too deeply") from None
    return text


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; JSON itself lets the last of two win, silently."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _value in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return made


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _alternatives(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, UnionType):
        yield from (a for a in get_args(annotation) if a is not NoneType)
    else:
        yield annotation


def _put(table: dict[str, Any], place: Place, value: Any) -> None:
    for key in place[:-1]:
        table = table.setdefault(key, {})
    table[place[-1]] = value


def file_table(config: str | Path | None, environment: Mapping[str, str]) -> dict[str, Any]:
    """Read the settings file; a named one must exist, ./relay.toml need not.

    Raises:
        SettingsError: it cannot be read, is not TOML, or stands unnamed in the current folder and
            is somebody else's.
    """
    named = config or environment.get("RELAY_CONFIG")
    path = Path(named or DEFAULT_FILE)
    try:
        if not named:
            _refuse_foreign(path)
        return tomllib.loads(path.read_text("utf-8"))
    except RecursionError:
        raise SettingsError(f"{path}: it is nested too deeply") from None
    except FileNotFoundError:
        if named:
            raise SettingsError(f"there is no settings file {path}") from None
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: {error}") from None


def _refuse_foreign(path: Path) -> None:
    """Refuse a file of the current folder that somebody else could have put there.

    It can say where Kafka is, and the password from the environment would follow.

    Raises:
        SettingsError: it is neither this user's nor root's, or everybody may write to it.
    """
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & stat.S_IWOTH:
        raise SettingsError(
            f"./{path} belongs to another user, or everybody may write to it: name it with"
            " --config or RELAY_CONFIG if it is meant"
        )


def refuse_unknown_keys(model: type[BaseModel], table: Mapping[str, Any]) -> None:
    """Refuse a table or a key of the file that no setting has, with the nearest that one has.

    Raises:
        SettingsError: names the key by its whole place.
    """
    known = sections(model)
    _refuse_others(table, set(known), "")
    for name, section in known.items():
        inside = table.get(name)
        if name == "flow" and isinstance(inside, Mapping):
            for flow, settings in inside.items():
                _refuse_in_section(section, settings, f"flow.{flow}.")
        else:
            _refuse_in_section(section, inside, f"{name}.")


def _refuse_in_section(section: type[BaseModel], table: Any, prefix: str) -> None:
    if not isinstance(table, Mapping):
        return  # not a table: the validation says so
    _refuse_others(table, set(section.model_fields), prefix)
    for name in ("columns", "decoder"):
        inner = section.model_fields.get(name)
        if inner is not None:
            _refuse_in_section(_model_of(inner.annotation), table.get(name), f"{prefix}{name}.")
    events = section.model_fields.get("events")
    if events is not None and isinstance(table.get("events"), Mapping):
        for event_type, event in table["events"].items():
            inside = f'{prefix}events."{event_type}".'
            _refuse_in_section(_model_of(events.annotation), event, inside)


def _refuse_others(table: Mapping[str, Any], known: set[str], prefix: str) -> None:
    for key in table:
        if key not in known:
            raise SettingsError(f"unknown setting {prefix}{key}{nearest(key, known)}")


def refuse_odd_text(table: Mapping[str, Any], place: tuple[int | str, ...] = ()) -> None:
    """Refuse text that nothing could store or send: a NUL, or bytes that are no UTF-8.

    Raises:
        SettingsError: names the setting.
    """
    for key, value in table.items():
        inside = (*place, key)
        values = value if isinstance(value, list) else [value]
        for text in (str(key), *(one for one in values if isinstance(one, str))):
            if "\0" in text or text != text.encode("utf-8", "replace").decode("utf-8"):
                raise SettingsError(f"{'.'.join(map(str, place or inside))}: no UTF-8 text")
        for one in values:
            if isinstance(one, Mapping):
                refuse_odd_text(one, inside)


def shown_name(place: tuple[int | str, ...], environ: Mapping[str, Any]) -> str:
    """Return what the user wrote: the variable when the environment has it, else the file's key."""
    keys = [str(key) for key in place]
    depth = 3 if keys[0] == "flow" else 2
    inside: Any = environ
    for key in keys[:depth]:
        inside = inside.get(key) if isinstance(inside, Mapping) else None
    if inside is None or len(keys) < depth:
        return ".".join(keys)
    variable = _PREFIXES.get(keys[0], f"RELAY_{keys[0].upper()}_") + keys[depth - 1].upper()
    return ".".join((variable, *keys[depth:]))
