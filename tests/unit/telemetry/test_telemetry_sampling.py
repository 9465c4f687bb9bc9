"""The standard samplers, and decisions that hold at every republish."""

from __future__ import annotations

import os
from uuid import uuid1, uuid4

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from relay.telemetry.sampling import Sampler, SamplerError, from_environment


@pytest.mark.parametrize(
    ("name", "argument", "sampler"),
    [
        (None, None, Sampler(1.0, parent_based=True)),
        ("", "0.5", Sampler(1.0, parent_based=True)),
        ("always_on", None, Sampler(1.0, parent_based=False)),
        ("always_off", None, Sampler(0.0, parent_based=False)),
        ("traceidratio", "0.25", Sampler(0.25, parent_based=False)),
        ("parentbased_always_off", None, Sampler(0.0, parent_based=True)),
        ("PARENTBASED_TRACEIDRATIO", "0.25", Sampler(0.25, parent_based=True)),
        ("parentbased_traceidratio", None, Sampler(1.0, parent_based=True)),
    ],
)
def test_the_standard_samplers(name: str | None, argument: str | None, sampler: Sampler) -> None:
    environment = {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}
    given = {key: value for key, value in environment.items() if value is not None}
    assert from_environment(given) == sampler


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER="),
        ({"OTEL_TRACES_SAMPLER": "parentbased_"}, "OTEL_TRACES_SAMPLER="),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "SAMPLER_ARG"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, "SAMPLER_ARG"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "x"}, "SAMPLER_ARG"),
    ],
)
def test_what_cannot_be_used_is_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(SamplerError, match=named):
        from_environment(environment)


@pytest.mark.parametrize("make", [uuid4, uuid1])
def test_a_ratio_of_event_ids_is_sampled_whatever_their_version(make: object) -> None:
    ids = [make().bytes for _ in range(4000)]  # type: ignore[operator]
    sampler = Sampler(0.25)
    chosen = [sampler.root(one) for one in ids]
    assert 700 < sum(chosen) < 1300
    assert chosen == [sampler.root(one) for one in ids]


def test_a_parents_decision_stands_unless_the_sampler_ignores_parents() -> None:
    for sampled in (True, False):
        assert Sampler(0.0).child(bytes(16), parent_sampled=sampled) is sampled
        assert Sampler(1.0, parent_based=False).child(bytes(16), parent_sampled=sampled)
        assert not Sampler(0.0, parent_based=False).child(b"\xff" * 16, parent_sampled=sampled)


def test_by_the_id_we_decide_as_the_sdk_does() -> None:
    ours, theirs = Sampler(0.3, parent_based=False), TraceIdRatioBased(0.3)
    for trace_id in (os.urandom(16) for _ in range(500)):
        decision = theirs.should_sample(None, int.from_bytes(trace_id), "name").decision
        expected = decision == Decision.RECORD_AND_SAMPLE
        assert ours.child(trace_id, parent_sampled=not expected) is expected
