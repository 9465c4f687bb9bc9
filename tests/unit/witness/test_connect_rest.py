"""What is read of a connector: its state, and of its configuration only what a check needs."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from relay.witness.connect_rest import connector_state

CONFIG = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "database.password": "secret",
    "topic.prefix": "shop",
    "slot.name": "relay_outbox",
    "heartbeat.interval.ms": "10000",
}
STATUS = {
    "connector": {"state": "RUNNING"},
    "tasks": [{"id": 0, "state": "FAILED", "trace": "a.B: outer\n\tat x\nCaused by: c.D: inner"}],
}


class Answers(BaseHTTPRequestHandler):
    """Kafka Connect's, for one connector."""

    config: dict[str, str] | None = CONFIG

    def do_GET(self) -> None:
        known = {"/connectors/outbox/status": STATUS, "/connectors/outbox/config": self.config}
        found = known.get(self.path)
        self.send_response(200 if found is not None else 404)
        self.end_headers()
        self.wfile.write(json.dumps(found or {"error_code": 404}).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_task_that_failed_and_what_the_connector_needs(url: str) -> None:
    found = connector_state(url, "outbox")
    assert found == {
        "state": "RUNNING",
        "tasks": [{"id": 0, "state": "FAILED", "trace": "c.D: inner"}],
        "topics": ["__debezium-heartbeat.shop", "shop.message"],
        "slot": "relay_outbox",
    }
    assert connector_state(url, "another") == {"state": "ABSENT", "tasks": []}


@pytest.mark.parametrize(
    ("change", "topics"),
    [
        ({"message.prefix.exclude.list": ".*"}, ["__debezium-heartbeat.shop"]),
        ({"heartbeat.interval.ms": "0"}, ["shop.message"]),
        ({"topic.heartbeat.prefix": "beat", "message.prefix.exclude.list": ".*"}, ["beat.shop"]),
        ({"connector.class": "com.example.Other"}, None),
    ],
)
def test_topics_by_configuration(
    url: str, change: dict[str, str], topics: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answers, "config", CONFIG | change)
    assert connector_state(url, "outbox").get("topics") == topics


def test_a_configuration_that_may_not_be_read_leaves_the_state(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answers, "config", None)
    assert set(connector_state(url, "outbox")) == {"state", "tasks"}
