"""Hop 5: returns read by a function of the user's own.

Invariant: an OSError of it (its own registry is away) is an outage; whatever else it raises is the
value's fault, and what it says of it is not repeated: it may quote the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from relay.consumers.returns.decoding import DecoderUnavailableError, UndecodableError
from relay.kafka.consumer.partitions import Record
from relay.runtime.flow import Decoding
from relay.runtime.settings_sources import SettingsError


@dataclass(frozen=True, slots=True)
class FunctionDecoder:
    """Calls `function(value, headers, key)`."""

    function: Callable[..., Any]
    name: str

    async def prepare(self, values: Iterable[bytes]) -> None:
        """Nothing has to be asked."""

    def decode(self, record: Record) -> Any:
        """Return what the function returns."""
        try:
            return self.function(bytes(record.value or b""), dict(record.headers), record.key)
        except OSError as error:
            raise DecoderUnavailableError(f"{self.name}: {error}") from error
        except Exception as error:
            raise UndecodableError(f"{self.name} raised {type(error).__name__}") from error


def function_decoder(decoding: Decoding) -> FunctionDecoder:
    """Return the decoder; raises SettingsError where there is no such function."""
    name = decoding.function or ""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise SettingsError(f"decoder: function {name!r}: module:function is needed")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"decoder: function {name}: {error}: install it where the services run"
            " (or set PYTHONPATH)"
        ) from error
    if not callable(found):
        raise SettingsError(f"decoder: function {name} cannot be called")
    return FunctionDecoder(found, name)
