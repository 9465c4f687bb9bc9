"""Which event a record is of: what our relay, Debezium and strangers write into headers."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.kafka.event_headers import event_id_of, event_id_text

EVENT = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.mark.parametrize(
    "headers",
    [
        [("ce_id", EVENT.encode())],
        [("id", EVENT.encode())],
        [("ce_id", f'"{EVENT}"'.encode())],
        [("id", f'"{EVENT}"'.encode())],
        [("id", str(uuid4()).encode()), ("ce_id", EVENT.encode())],
        [("ce_id", None), ("id", EVENT.encode())],
        [("ce_id", EVENT.upper().encode())],
        [("ce_id", EVENT.replace("-", "").encode())],
    ],
)
def test_an_event_is_known_by_either_header_with_and_without_quotes(
    headers: list[tuple[str, bytes | None]],
) -> None:
    assert event_id_of(headers) == EVENT


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("ce_id", b"")],
        [("ce_id", b'""')],
        [("ce_id", b"not-a-uuid")],
        [("ce_id", b"\xff" * 36)],
        [("ce_id", b"01890a5d-ac96-774b-bcce-b302099a805g")],
        [("ce_id", "\u0660\u0661\u0668\u0669\u0660a5d-ac96-774b-bcce-b302099a8057".encode())],
        [("ID", EVENT.encode())],
    ],
)
def test_what_is_no_event_id_is_none(headers: list[tuple[str, bytes | None]]) -> None:
    assert event_id_of(headers) is None


def test_a_foreign_id_is_shown_as_it_is() -> None:
    assert event_id_text([("ce_id", b'"order-7"')]) == "order-7"


@given(st.binary(max_size=60))
def test_no_bytes_are_too_odd_to_be_read(value: bytes) -> None:
    headers = [("ce_id", value)]
    found = event_id_of(headers)
    assert found is None or str(UUID(found)) == found
