"""Draws a trace as Jaeger's timeline has it, from Jaeger's own data: for where its pages are not.

    python tools/draw_trace.py http://localhost:16686/api/traces/TRACE_ID > trace.svg

A row is a span: indented below its parent, siblings by their start; services have their colours, an
error its mark.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_ROW, _LEFT, _WIDTH, _HEAD = 28, 460, 700, 44
_COLOURS = ("#17b8be", "#f8dca1", "#b7885e", "#ffcb99", "#f89570", "#829ae3", "#e79fd5")


def rows(trace: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield depth and span, in the order in which Jaeger shows them; spans know their service."""
    spans = [
        span | {"service": trace["processes"][span["processID"]]["serviceName"]}
        for span in trace["spans"]
    ]
    ids = {span["spanID"] for span in spans}
    below: dict[str | None, list[dict[str, Any]]] = {}
    for span in sorted(spans, key=lambda one: one["startTime"]):
        parent = span["references"][0]["spanID"] if span["references"] else None
        below.setdefault(parent if parent in ids else None, []).append(span)

    def walk(parent: str | None, depth: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for span in below.get(parent, ()):
            yield depth, span
            yield from walk(span["spanID"], depth + 1)

    return walk(None, 0)


def is_error(span: Mapping[str, Any]) -> bool:
    """Tell whether Jaeger marks the span red."""
    return any(tag["key"] == "error" and tag["value"] is True for tag in span["tags"])


def draw(found: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
    """Return the rows as an SVG picture."""
    first = min(span["startTime"] for _, span in found)
    last = max(span["startTime"] + span["duration"] for _, span in found)
    whole = max(last - first, 1)
    services = list(dict.fromkeys(span["service"] for _, span in found))
    height = _HEAD + _ROW * len(found) + 8
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 20}" height="{height}">',
        "<style>text {font: 13px sans-serif} .small {font-size: 11px}</style>",
        f'<rect width="100%" height="{height}" fill="#fff"/>',
    ]
    for quarter in range(5):
        x = _LEFT + _WIDTH * quarter / 4
        out.append(f'<path d="M{x} 30V{height}" stroke="#ddd"/>')
        anchor = "end" if quarter == 4 else "start"  # noqa: PLR2004 - the last line
        at = _time(whole * quarter / 4)
        out.append(f'<text x="{x}" y="24" text-anchor="{anchor}">{at}</text>')
    for number, (depth, span) in enumerate(found):
        y, x = _HEAD + _ROW * number, 12 + 20 * depth
        colour = _COLOURS[services.index(span["service"]) % len(_COLOURS)]
        mark = '<tspan fill="#db2828">&#9679; </tspan>' if is_error(span) else ""
        out.append(f'<rect x="{x}" y="{y}" width="4" height="20" fill="{colour}"/>')
        out.append(
            f'<text x="{x + 10}" y="{y + 15}">{mark}{escape(span["service"])} '
            f'<tspan fill="#777" class="small">{escape(span["operationName"])}</tspan></text>'
        )
        left = _LEFT + _WIDTH * (span["startTime"] - first) / whole
        width = max(2.0, _WIDTH * span["duration"] / whole)
        fill = "#db2828" if is_error(span) else colour
        out.append(
            f'<rect x="{min(left, _LEFT + _WIDTH - 2):.1f}" y="{y + 4}" width="{width:.1f}" '
            f'height="12" fill="{fill}"/>'
        )
        beside = left + width + 4 if left + width < _LEFT + _WIDTH - 70 else left - 4
        anchor = "start" if beside > left else "end"
        out.append(
            f'<text x="{beside:.1f}" y="{y + 15}" fill="#777" class="small" '
            f'text-anchor="{anchor}">{_time(span["duration"])}</text>'
        )
    return "\n".join([*out, "</svg>", ""])


def _time(microseconds: float) -> str:
    if microseconds < 1000:  # noqa: PLR2004
        return f"{microseconds:.0f}us"
    if microseconds < 1_000_000:  # noqa: PLR2004
        return f"{microseconds / 1000:.0f}ms"
    return f"{microseconds / 1e6:.2f}s"


def main() -> None:
    """Draw the trace at the address that is given."""
    with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:  # noqa: S310 - a person's own
        (trace,) = json.load(answer)["data"]
    sys.stdout.write(draw(list(rows(trace))))


if __name__ == "__main__":
    main()
