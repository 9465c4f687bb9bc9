"""Every hop's sampling decision, by the standard `OTEL_TRACES_SAMPLER` settings.

Invariant: the decision for one trace is the same at every republish, and a trace whose caller
decided keeps that decision under the `parentbased_` samplers (the default). An unknown sampler or
a ratio that is no ratio is an error at start that names the variable.

Source: OpenTelemetry specification, configuration/sdk-environment-variables.md and
trace/tracestate-probability-sampling.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from zlib import crc32

_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")
_CRC_RANGE: Final = 2**32
_LOW_64_BITS: Final = 2**64


class SamplerError(ValueError):
    """OTEL_TRACES_SAMPLER or OTEL_TRACES_SAMPLER_ARG is not usable: correct it or unset it."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """Decides whether a span is recorded. `ratio` is the share of traces begun here, 0 to 1."""

    ratio: float = 1.0
    parent_based: bool = True

    def root(self, trace_id: bytes) -> bool:
        """Decide for a trace that begins here.

        The id is hashed, not compared: an id made of a UUID is not evenly spread (its variant
        bits alone would make a ratio of 0.5 sample nothing).
        """
        if self.ratio >= 1:
            return True
        return self.ratio > 0 and crc32(trace_id) < self.ratio * _CRC_RANGE

    def child(self, trace_id: bytes, *, parent_sampled: bool) -> bool:
        """Decide for a span whose trace began elsewhere, by the id if not by the parent.

        By the id, the rule is the SDKs': its low 64 bits, so that all processes of a trace agree.
        """
        if self.parent_based:
            return parent_sampled
        return int.from_bytes(trace_id[8:]) < round(self.ratio * _LOW_64_BITS)


def from_environment(environment: Mapping[str, str]) -> Sampler:
    """Read `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`.

    Raises:
        SamplerError: the sampler is not one of the six standard ones, or the ratio is no ratio.
    """
    name = environment.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    kind = name.removeprefix("parentbased_")
    if kind not in _SAMPLERS:
        known = ", ".join((*_SAMPLERS, *(f"parentbased_{one}" for one in _SAMPLERS)))
        raise SamplerError(f"OTEL_TRACES_SAMPLER={name!r} is not one of {known}")
    fixed = {"always_on": 1.0, "always_off": 0.0}
    ratio = fixed[kind] if kind in fixed else _ratio(environment.get("OTEL_TRACES_SAMPLER_ARG", ""))
    return Sampler(ratio, parent_based=name.startswith("parentbased_"))


def _ratio(text: str) -> float:
    try:
        ratio = float(text) if text.strip() else 1.0
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise SamplerError(f"OTEL_TRACES_SAMPLER_ARG={text!r} is not a number from 0 to 1")
    return ratio
