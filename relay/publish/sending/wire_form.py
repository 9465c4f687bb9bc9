"""Hop 2: gives each row of a page the wire form of its flow.

Invariant: pure; a page of one form, which nearly every page is, is encoded as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from relay.publish.reading.page import Page
from relay.publish.sending.debezium import DebeziumEncoder
from relay.publish.sending.record import RecordEncoder
from relay.runtime.flow import Wire
from relay.runtime.flows import Routes

_DEFAULT: Final[Wire] = "cloudevents"  # of a row that goes nowhere


class WireEncoder:
    """Encodes pages.

    Args:
        routes: say which flow a row is of.
        source: `ce_source`; None: `/` and the flow's name.
        dataschemas: event type -> `ce_dataschema`.
        epoch: the relay's tenure, which every record names.
    """

    def __init__(
        self, routes: Routes, source: str | None, dataschemas: Mapping[str, str], epoch: int
    ) -> None:
        self._routes = routes
        self._encoders: Mapping[Wire, RecordEncoder | DebeziumEncoder] = {
            "cloudevents": RecordEncoder(routes, source, dataschemas, epoch),
            "debezium": DebeziumEncoder(routes, epoch),
        }
        self._only = _DEFAULT if routes.wires <= {_DEFAULT} else None

    def tails(
        self,
        rows: Page,
        kinds: Sequence[str],
        traceparents: Sequence[bytes],
        tracestates: Sequence[bytes | None],
        replay_id: bytes | None = None,
    ) -> list[bytes]:
        """Encode each row's record from its key to its end; what stands before is its batch's."""
        wires = {kind: self._wire(kind) for kind in set(kinds)} if self._only is None else {}
        forms = set(wires.values()) or {_DEFAULT}
        if len(forms) == 1:
            encoder = self._encoders[forms.pop()]
            return encoder.tails(rows, kinds, traceparents, tracestates, replay_id)
        tails = [b""] * len(kinds)
        for form in forms:
            places = [place for place, kind in enumerate(kinds) if wires[kind] == form]
            encoded = self._encoders[form].tails(
                rows.at(places),
                [kinds[place] for place in places],
                [traceparents[place] for place in places],
                [tracestates[place] for place in places],
                replay_id,
            )
            for place, tail in zip(places, encoded, strict=True):
                tails[place] = tail
        return tails

    def _wire(self, kind: str) -> Wire:
        flow = self._routes.flow_of(kind)
        return _DEFAULT if flow is None else flow.wire
