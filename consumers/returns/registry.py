"""Hop 5: asks a schema registry for schemas by their number: Confluent's REST interface.

Invariant: only the registry's own word (error code 40403) says that there is no such schema. No
answer, a refused login or somebody else's 404 is an outage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import orjson

from relay.consumers.returns.decoding import DecoderUnavailableError
from relay.runtime.flow import SchemaRegistry
from relay.runtime.printable import printable
from relay.runtime.rest import REST_FAILURES, get, without_login

_ACCEPT: Final = "application/vnd.schemaregistry.v1+json, application/json"
_OK: Final = 200
_NOT_FOUND: Final = 404
_NO_SUCH_SCHEMA: Final = 40403
_DEEPEST: Final = 20
_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """A schema as registered.

    Attributes:
        kind: AVRO, JSON or PROTOBUF.
        references: the texts of the schemas that it uses, each after those that it uses itself.
    """

    kind: str
    text: str
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Registry:
    """One registry."""

    where: SchemaRegistry

    def schema(self, number: int) -> RegisteredSchema | None:
        """Return the schema of that number; None: the registry says that there is none.

        Raises:
            DecoderUnavailableError: it does not answer, or not as a registry does.
        """
        found = self._get(f"/schemas/ids/{number}")
        if found is None:
            return None
        references = tuple(self._referenced(found, 0))
        return RegisteredSchema(str(found.get("schemaType") or "AVRO"), found["schema"], references)

    def check(self) -> None:
        """Raise DecoderUnavailableError where the registry cannot be asked."""
        self._asked("/subjects")

    def _referenced(self, schema: Mapping[str, Any], depth: int) -> Iterator[str]:
        if depth > _DEEPEST:
            raise DecoderUnavailableError(f"{self._name}: references go round in a circle")
        for one in schema.get("references") or ():
            subject = quote(str(one["subject"]), safe="")
            found = self._get(f"/subjects/{subject}/versions/{int(one['version'])}")
            if found is None:
                raise DecoderUnavailableError(f"{self._name}: {one['subject']} is not there")
            yield from self._referenced(found, depth + 1)
            yield found["schema"]

    def _get(self, path: str) -> Mapping[str, Any] | None:
        status, answer = self._asked(path)
        code = answer.get("error_code") if isinstance(answer, dict) else None
        if status == _NOT_FOUND and code == _NO_SUCH_SCHEMA:
            return None
        if status != _OK or not isinstance(answer, dict) or "schema" not in answer:
            raise DecoderUnavailableError(f"{self._name}: {_said(status, answer)}")
        return answer

    def _asked(self, path: str) -> tuple[int, Any]:
        try:
            status, body = get(
                self.where.url, path, accept=_ACCEPT, ca_location=self.where.ca_location
            )
        except REST_FAILURES as error:
            said = printable(str(error) or repr(error))[:_SHOWN]
            raise DecoderUnavailableError(f"{self._name} does not answer: {said}") from error
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            said = f"HTTP {status}, and the answer is no schema registry's"
            raise DecoderUnavailableError(f"{self._name}: {said}") from None
        if status not in (_OK, _NOT_FOUND):
            raise DecoderUnavailableError(f"{self._name}: {_said(status, answer)}")
        return status, answer

    @property
    def _name(self) -> str:
        return f"the schema registry at {without_login(self.where.url)}"


def _said(status: int, answer: Any) -> str:
    said = answer.get("message") if isinstance(answer, dict) else None
    return f"HTTP {status}: {printable(str(said or 'not a registry'))[:_SHOWN]}"
