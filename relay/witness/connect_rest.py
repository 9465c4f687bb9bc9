"""Hop 2, witnessed: asks Kafka Connect's REST interface how a connector and its tasks are.

Invariant: reads only, within seconds, and never raises: what cannot be had is said in words. The
state of a connector says little about its tasks: one that failed leaves it RUNNING (KIP-52).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from relay.runtime.printable import printable
from relay.runtime.rest import REST_FAILURES, get

_TRACE_CHARACTERS: Final = 300
_NOT_FOUND: Final = 404
_OK: Final = 200


def connector_state(url: str, connector: str) -> dict[str, Any]:
    """Return what Kafka Connect says, for relay.publisher.

    Args:
        url: of a worker, with user and password in it where it asks for them.
        connector: its name.

    Returns:
        `{"state", "tasks": [{"id", "state", "trace"}], "topics", "slot"}`, `{"state": "ABSENT"}`
        where there is no such connector, or `{"unreachable": why}`. `topics` are those that it
        needs beside the events', `slot` is the one that it reads; both are absent where its
        configuration does not say.
    """
    name = quote(connector, safe="")
    try:
        status, body = get(url, f"/connectors/{name}/status")
        told, config = get(url, f"/connectors/{name}/config")
    except REST_FAILURES as error:
        return {"unreachable": printable(str(error) or repr(error))[:_TRACE_CHARACTERS]}
    if status == _NOT_FOUND:
        return {"state": "ABSENT", "tasks": []}
    if status != _OK:
        return {"unreachable": f"HTTP {status}"}
    found = _read(body)
    return found | _configured(config) if told == _OK and "state" in found else found


def _configured(body: bytes) -> dict[str, Any]:
    """Return what a connector of Debezium needs; nothing else of its configuration is kept."""
    try:
        config = {str(name): str(text) for name, text in json.loads(body).items()}
    except (ValueError, AttributeError):
        return {}
    prefix = config.get("topic.prefix")
    if prefix is None or "PostgresConnector" not in config.get("connector.class", ""):
        return {}
    topics = []
    if config.get("heartbeat.interval.ms", "0") != "0":
        topics.append(f"{config.get('topic.heartbeat.prefix', '__debezium-heartbeat')}.{prefix}")
    if config.get("message.prefix.exclude.list") != ".*":
        topics.append(f"{prefix}.message")
    return {
        "topics": [printable(one) for one in topics],
        "slot": printable(config.get("slot.name", "debezium")),
    }


def _read(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
        state = str(found["connector"]["state"])
        tasks = [_task(one) for one in found["tasks"]]
    except (ValueError, KeyError, TypeError):
        return {"unreachable": "the answer is not Kafka Connect's"}
    return {"state": printable(state), "tasks": tasks}


def _task(task: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": int(task["id"]),
        "state": printable(str(task["state"])),
        "trace": _last_cause(str(task.get("trace") or "")),
    }


def _last_cause(trace: str) -> str:
    """Return the innermost cause of a Java trace, in one line."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    last = causes[-1] if causes else next(iter(lines), "")
    return printable(last)[:_TRACE_CHARACTERS]
