from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import click

from relay.cli.timeline_text import timeline_lines
from relay.diagnose.causes import Cause
from relay.diagnose.report.diagnosis import Diagnosis, HopLine, Mark
from relay.diagnose.report.timeline import timeline
from relay.diagnose.verdicts import HOPS, Hop, Verdict

PLACED = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def after(milliseconds: float | None) -> datetime | None:
    return None if milliseconds is None else PLACED + timedelta(milliseconds=milliseconds)


def diagnosis(
    times: tuple[float | None, ...],
    marks: str = "ooooo",
    verdict: Verdict = Verdict.RETURNED,
    cause: Cause = Cause.IN_TIME,
    hop: Hop | None = None,
    order_id: str = "order-1",
) -> Diagnosis:
    named = {"o": Mark.OK, "x": Mark.NO, "?": Mark.UNSURE, "-": Mark.NOT_REACHED}
    lines = tuple(
        HopLine(one, named[mark], after(at), f"proof of {one}")
        for one, mark, at in zip(HOPS, marks, times, strict=True)
    )
    return Diagnosis(
        order_id=order_id,
        verdict=verdict,
        cause=cause,
        hop=hop,
        lines=lines,
        next=(),
        meaning="",
        fix="",
        placed_at=PLACED,
        due_at=PLACED + timedelta(seconds=900),
        trace_id=TRACE,
    )


def lost() -> Diagnosis:
    times = (0, 20, None, None, None)
    return diagnosis(
        times, "ooox-", Verdict.NO_RETURN, Cause.RETURN_NEVER_SENT, Hop.RETURN, "order-2"
    )


def test_each_hop_took_the_time_since_the_last_one_that_has_one() -> None:
    told = timeline(diagnosis((0, 20, None, 45, 1045)))
    took = [one.took_seconds for one in told.hops]
    assert took == [None, 0.02, None, 0.025, 1.0]
    assert told.gap is None
    assert told.whole_seconds == 1.045


def test_a_proof_written_late_makes_no_negative_time() -> None:
    told = timeline(diagnosis((0, 30, None, 25, 50)))
    assert [one.took_seconds for one in told.hops] == [None, 0.03, None, 0.0, 0.02]


def test_the_gap_is_the_hop_that_is_blamed() -> None:
    told = timeline(lost())
    assert (told.gap, told.returned_at, told.whole_seconds) == (Hop.RETURN, None, None)


def test_an_order_on_its_way_has_its_gap_at_the_first_hop_not_done() -> None:
    waiting = diagnosis((0, 20, None, None, None), "oo??-", Verdict.IN_FLIGHT, Cause.MOVING)
    assert timeline(waiting).gap is Hop.PROCESS


def test_json_holds_what_the_contract_names() -> None:
    told = timeline(lost()).as_json("http://localhost:16686/")
    assert (told["order_id"], told["verdict"], told["gap"]) == ("order-2", "no_return", "return")
    assert told["trace_url"] == f"http://localhost:16686/trace/{TRACE}?uiFind=relay-watchdog"
    assert told["trace_sampled"] is True
    assert [hop["hop"] for hop in told["hops"]] == [str(hop) for hop in HOPS]
    assert [hop["state"] for hop in told["hops"]] == ["ok", "ok", "ok", "no", "not_reached"]


def test_text_shows_proofs_times_and_the_link() -> None:
    lines = list(timeline_lines(timeline(diagnosis((0, 20, None, 45, 1045))), PLACED, "http://j"))
    text = click.unstyle("\n".join(lines))
    assert lines[0] == "order order-1  RETURNED: returned / in_time"
    assert "+20 ms  proof of publish" in text
    assert "+1.00 s  proof of confirm" in text
    assert " placed to returned: 1.04 s" in text or " placed to returned: 1.05 s" in text
    assert lines[-1] == f" trace {TRACE}  http://j/trace/{TRACE}"


def test_an_order_that_was_not_sampled_has_no_dead_link() -> None:
    quiet = replace(diagnosis((0, 20, None, 45, 1045)), traceparent=f"00-{TRACE}-{'7' * 16}-00")
    lines = list(timeline_lines(timeline(quiet), PLACED, "http://j"))
    assert lines[-1] == f" trace {TRACE}  not sampled"
    assert timeline(quiet).as_json("http://j")["trace_url"] is None
    # What the watchdog wrote is there, whoever sampled.
    told = replace(lost(), traceparent=quiet.traceparent, trace_told=True)
    link = f"http://j/trace/{TRACE}?uiFind=relay-watchdog"
    assert timeline(told).as_json("http://j")["trace_url"] == link


def test_text_names_the_gap_and_the_next_command() -> None:
    text = click.unstyle("\n".join(timeline_lines(timeline(lost()), PLACED, None)))
    assert " NO 4 return" in text
    assert "the gap is at `return`; why: relay diagnose order-2" in text


def test_an_order_id_cannot_act_on_the_terminal() -> None:
    hostile = diagnosis((0, 1, 2, 3, 4), order_id="\x1b[2Jorder\n5")
    assert "\x1b[2J" not in "".join(timeline_lines(timeline(hostile), PLACED, None))
