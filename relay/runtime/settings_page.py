"""Writes docs/settings.md from the settings themselves, so that it cannot be wrong.

`python -m relay.runtime.settings_page > docs/settings.md`; a test compares the two.
"""

import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relay.runtime.flow_settings import ColumnsSettings, DecoderSettings, EventSettings
from relay.runtime.settings import Settings
from relay.runtime.settings_sources import OTHER_VARIABLES, is_secret, sections, variables

_HEAD = """# Settings

Every setting can stand in a TOML file (`--config FILE`, else `RELAY_CONFIG`, else `./relay.toml`)
or in the environment, which wins. `./relay.toml` is refused where it is another user's, or
everybody may write to it: name it then. A setting that nobody knows, that cannot be used, or that
contradicts another one is an error at start that names it. Lists in variables are comma-separated,
mappings are JSON. A secret can be read from a file: `DATABASE_URL_FILE=/run/secrets/database_url`.
Durations are in seconds, sizes in bytes, as the names say. Without `DATABASE_URL`, libpq's
variables (`PGHOST`, `PGPORT`, `PGUSER`, `PGDATABASE`, `PGPASSFILE`, `PGSSLMODE`, ...) say where
PostgreSQL is. Variables that Kubernetes makes for a Service named `relay` or `relay-...`
(`RELAY_PORT=tcp://...`, `RELAY_SERVICE_HOST`) are ignored. Where spans go is said by the standard
`OTEL_*` variables.

This page is written by `python -m relay.runtime.settings_page`.
"""

_EXAMPLE = """
## Example

```toml
[database]
url = "postgresql://relay@db.example/shop"

[kafka]
bootstrap_servers = "kafka-1.example:9092,kafka-2.example:9092"

[flow.orders]
processor_groups = ["fulfilment"]
status_ranks = { submitted = 0, processing = 10, confirmed = 20, rejected = 20 }

[flow.orders.events."order.placed"]
deadline_seconds = 900

[flow.orders.columns]
table = "shop.orders"
key_column = "id"
key_type = "bigint"
submitted_at_column = "created"
```
"""


def page() -> str:
    """Return the page's text."""
    names = {place: name for name, (place, _kind) in variables(Settings, "<name>").items()}
    parts = [_HEAD]
    for table, section in sections(Settings).items():
        place = (table, "<name>") if table == "flow" else (table,)
        parts.append("\n".join(_table(f"[{'.'.join(place)}]", section, place, names)))
    inner = (
        ("[flow.<name>.columns]", ColumnsSettings),
        ('[flow.<name>.events."<type>"]', EventSettings),
        ("[flow.<name>.decoder]", DecoderSettings),
    )
    parts += ["\n".join(_table(title, section, (), {})) for title, section in inner]
    others = [f"| `{name}` | {says} |" for name, says in OTHER_VARIABLES.items()]
    parts.append(
        "\n".join(["\n## Other variables\n", "| variable | what |", "| --- | --- |", *others])
    )
    return "\n".join(parts) + "\n" + _EXAMPLE


def _table(
    title: str, section: type[BaseModel], place: tuple[str, ...], names: dict[Any, str]
) -> Iterator[str]:
    yield f"\n## `{title}`\n\n{section.__doc__}\n"
    yield "| key | variable | default | what |"
    yield "| --- | --- | --- | --- |"
    for key, info in section.model_fields.items():
        name = names.get((*place, key))
        variable = f"`{name}`" if name else ""
        if name and is_secret(info.annotation):
            variable += f" or `{name}_FILE`"
        yield f"| `{key}` | {variable} | {_default(info)} | {_says(info)} |"


def _default(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True)
    if default is None:
        return ""
    if isinstance(default, tuple):
        return f"`{', '.join(default)}`"
    if isinstance(default, dict):
        shown = ", ".join(f"{key} = {_inner(value)}" for key, value in default.items())
        return f"`{shown}`" if shown else ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _inner(value: Any) -> Any:
    if not isinstance(value, BaseModel):
        return value
    given = {k: v for k, v in value.model_dump().items() if v is not None}
    return "{" + ", ".join(f"{key} = {inner}" for key, inner in given.items()) + "}"


def _says(info: FieldInfo) -> str:
    said = info.description or ""
    choices = [a for a in (info.annotation, *get_args(info.annotation)) if get_origin(a) is Literal]
    words = [str(word) for choice in choices for word in get_args(choice)]
    missing = [word for word in words if word not in said]
    return f"{said} ({', '.join(words)})" if missing else said


if __name__ == "__main__":
    sys.stdout.write(page())
