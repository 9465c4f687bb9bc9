"""`schemas/events/` and `schemas/asyncapi.yaml`: valid, whole, and in agreement with each other."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from relay.outbox import standard
from relay.runtime.resources import schemas_folder

FOLDER = schemas_folder()
EVENTS = sorted((FOLDER / "events").glob("*.json"))
DOCUMENT: dict[str, Any] = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text("utf-8"))
MESSAGES = DOCUMENT["components"]["messages"]


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(reference: str) -> Any:
    """Follow a reference of the document, through further ones; KeyError when it leads nowhere."""
    file, _, pointer = reference.partition("#")
    node = json.loads((FOLDER / file).read_text("utf-8")) if file else DOCUMENT
    for part in pointer.split("/")[1:]:
        node = node[part.replace("~1", "/").replace("~0", "~")]
    while isinstance(node, dict) and set(node) == {"$ref"}:
        node = resolve(node["$ref"])
    return node


def expanded(node: Any) -> Any:
    """A schema of the document with its references written out, for the validator."""
    if isinstance(node, dict):
        if set(node) == {"$ref"}:
            return expanded(resolve(node["$ref"]))
        return {key: expanded(value) for key, value in node.items()}
    return node


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
def test_an_event_schema_is_valid_and_so_are_its_examples(path: Path) -> None:
    schema = json.loads(path.read_text("utf-8"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(schema)
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    assert schema["examples"]
    for example in schema["examples"]:
        validator.validate(example)
    assert schema["title"] == path.stem
    assert schema["$id"] == f"urn:outbox-relay:schema:{path.stem}"


def test_every_event_schema_is_one_that_append_checks_against() -> None:
    assert {path.stem for path in EVENTS} == set(standard().known)


def test_every_reference_of_the_document_leads_somewhere() -> None:
    found = list(references(DOCUMENT))
    assert found
    for reference in found:
        assert resolve(reference) is not None


def test_the_document_names_each_event_and_its_schema_file() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    payloads = {message["name"]: message["payload"]["$ref"] for message in MESSAGES.values()}
    assert payloads == {path.stem: f"events/{path.name}" for path in EVENTS}


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_the_documents_examples_match_its_schemas(name: str) -> None:
    message = MESSAGES[name]
    payload = jsonschema_rs.Draft202012Validator(resolve(message["payload"]["$ref"]))
    headers = jsonschema_rs.Draft202012Validator(expanded(message["headers"]))
    assert message["examples"]
    for example in message["examples"]:
        payload.validate(example["payload"])
        headers.validate(example.get("headers", {}))


def test_operations_use_messages_of_their_own_channel() -> None:
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert operation["messages"]
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{operation['channel']['$ref']}/messages/")
