"""Finds the contract's data files (`schemas/`), inside the package or beside it.

Invariant: one folder per process, the installed one first. When neither exists, the error says so.
"""

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


class MissingSchemasError(Exception):
    """The folder `schemas/` is neither in the installed package nor in the checkout."""


@cache
def schemas_folder() -> Path:
    """Return the folder that holds `events/`, `sql/` and `asyncapi.yaml`.

    Raises:
        MissingSchemasError: the installation is incomplete.
    """
    places = (_PACKAGE / "schemas", _PACKAGE.parent / "schemas")
    for place in places:
        if (place / "sql").is_dir():
            return place
    looked = " nor ".join(str(place) for place in places)
    raise MissingSchemasError(f"no schemas in {looked}: install outbox-relay again")


def sql_folder() -> Path:
    """Return the folder of the numbered migrations (`sample/` is below it)."""
    return schemas_folder() / "sql"
