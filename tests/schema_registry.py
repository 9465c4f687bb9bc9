"""A schema registry for tests: a real HTTP server with the part of Confluent's REST contract that
producers and readers of records use, and ways to fail.

POST /subjects/{subject}/versions, GET /schemas/ids/{id}, GET /subjects/{subject}/versions/{n}, GET
/subjects. Errors are `{"error_code", "message"}` with the codes of the contract.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class SchemaRegistry:
    """What it holds, and what it was asked.

    Attributes:
        failing: the HTTP status of every answer; None: it works.
        login: what Authorization has to be; None: nothing.
        asked: paths, in the order they came.
    """

    port: int = 0
    schemas: dict[int, dict[str, Any]] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)
    failing: int | None = None
    login: str | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def register(
        self, subject: str, schema: Any, kind: str = "AVRO", references: tuple[Any, ...] = ()
    ) -> int:
        """Register a schema; returns its number."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        entry = {"schema": text} | ({"schemaType": kind} if kind != "AVRO" else {})
        entry |= {"references": list(references)} if references else {}
        number = 100_001 + len(self.schemas)
        self.schemas[number] = entry
        self.subjects.setdefault(subject, []).append(number)
        return number

    def answer(self, path: str, authorization: str | None) -> tuple[int, Any]:
        """Return status and body of a GET."""
        self.asked.append(path)
        if self.failing is not None:
            return self.failing, {"error_code": 50001, "message": "error in the backend datastore"}
        if self.login is not None and authorization != self.login:
            return 401, {"error_code": 401, "message": "Unauthorized"}
        if found := re.fullmatch(r"/schemas/ids/(\d+)", path):
            entry = self.schemas.get(int(found[1]))
            missing = {"error_code": 40403, "message": f"Schema {found[1]} not found"}
            return (200, entry) if entry else (404, missing)
        if found := re.fullmatch(r"/subjects/([^/]+)/versions/(\d+)", path):
            numbers = self.subjects.get(found[1], [])
            if not 0 < int(found[2]) <= len(numbers):
                return 404, {"error_code": 40402, "message": "Version not found"}
            number = numbers[int(found[2]) - 1]
            return 200, self.schemas[number] | {"id": number, "subject": found[1]}
        known = (200, sorted(self.subjects)), (404, {"error_code": 404, "message": "Not Found"})
        return known[path != "/subjects"]


def framed(number: int, data: bytes) -> bytes:
    """Return a value in Confluent's framing."""
    return b"\0" + number.to_bytes(4, "big") + data


@contextmanager
def schema_registry(port: int = 0, held: SchemaRegistry | None = None) -> Iterator[SchemaRegistry]:
    """Serve one, on any free port or one that is given."""
    registry = held or SchemaRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = registry.answer(self.path, self.headers.get("Authorization"))
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    registry.port = server.server_port
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
