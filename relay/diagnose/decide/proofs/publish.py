"""Hop 2: what proves that our relay did not publish an event, or that its record is gone."""

from collections.abc import Callable
from datetime import timedelta

from relay.diagnose.causes import Cause
from relay.diagnose.decide.duty import Standing, standing
from relay.diagnose.decide.proofs.fact import (
    CLOSED,
    EVENT_ROW,
    HELD,
    RECORD_THERE,
    RETURN_CAME,
    RETURNS_UNREAD,
    SENT,
    SETTLED,
    Fact,
    Proof,
    complains,
    found,
    held,
    living,
    sent,
    topic_of,
)
from relay.diagnose.decide.publish import (
    CHECKPOINT_STILL_SECONDS,
    RELAY,
    just_started,
    lease_is_stuck,
    made_again_since,
)
from relay.diagnose.evidence.order import EventSeen, Evidence, Found
from relay.diagnose.evidence.system_state import CheckpointSeen, LeaseSeen, Missing
from relay.diagnose.verdicts import Verdict

_GRACE = timedelta(seconds=CHECKPOINT_STILL_SECONDS)


def _moves(evidence: Evidence) -> bool:
    checkpoint, now_at = evidence.around.checkpoint, evidence.around.now_at
    return isinstance(checkpoint, CheckpointSeen) and now_at - checkpoint.updated_at < _GRACE


def _still(evidence: Evidence) -> bool:
    return not isinstance(evidence.around.checkpoint, Missing) and not _moves(evidence)


def _there(evidence: Evidence) -> bool:
    around = evidence.around
    lease = around.lease
    holds = isinstance(lease, LeaseSeen) and lease.connected is True
    return holds or RELAY in around.newcomers or bool(living(around.relays, evidence))


def _young(evidence: Evidence) -> bool:
    event = evidence.event
    return isinstance(event, EventSeen) and evidence.around.now_at - event.created_at < _GRACE


def _stands(*ways: Standing) -> Callable[[Evidence], bool]:
    def holds(evidence: Evidence) -> bool:
        relays = evidence.around.relays
        if isinstance(relays, Missing):
            return False
        return standing(relays, evidence.around.now_at) in ways

    return holds


def _may_begin(evidence: Evidence) -> bool:
    around = evidence.around
    return _moves(evidence) or _young(evidence) or (
        not isinstance(around.relays, Missing) and just_started(around, _GRACE)
    )  # fmt: skip


def _needs_rebaseline(evidence: Evidence) -> bool:
    checkpoint = evidence.around.checkpoint
    marked = isinstance(checkpoint, CheckpointSeen) and checkpoint.rebaseline_needed
    return marked or complains("relay", Cause.REBASELINE_NEEDED)(evidence)


def _topic_absent(evidence: Evidence) -> bool:
    event = evidence.event
    seen = topic_of(evidence, event.topic if isinstance(event, EventSeen) else None)
    absent = seen is not None and not seen.exists
    return absent or complains("relay", Cause.TOPIC_MISSING)(evidence)


def _missing_topic(evidence: Evidence) -> bool:
    topic = topic_of(evidence, sent(evidence)[-1].topic if sent(evidence) else None)
    return found(evidence) is Found.NO_TOPIC or (topic is not None and not topic.exists)


def _made_again(evidence: Evidence) -> bool:
    newest = sent(evidence)[-1]
    topic = topic_of(evidence, newest.topic)
    return found(evidence) is Found.OTHER or (
        topic is not None and made_again_since(topic, newest)
    )  # fmt: skip


def _past_retention(evidence: Evidence) -> bool:
    newest = sent(evidence)[-1]
    topic = topic_of(evidence, newest.topic)
    kept = None if topic is None else topic.retention_seconds
    age = (evidence.around.now_at - newest.published_at).total_seconds()
    return kept is not None and age >= kept


def _compacted(evidence: Evidence) -> bool:
    topic = topic_of(evidence, sent(evidence)[-1].topic)
    return topic is not None and topic.compacted


def _is(*places: Found) -> Callable[[Evidence], bool]:
    return lambda evidence: found(evidence) in places


def _held_for(reason: str) -> Fact:
    return Fact(
        f"quarantine holds its own row for `{reason}`",
        lambda e: any(one.own and one.reason == reason for one in held(e)),
    )


_ALIVE = Fact("a relay is alive", lambda e: bool(living(e.around.relays, e)))
_NEWCOMER = Fact("a relay has just connected", lambda e: RELAY in e.around.newcomers)
_MOVES = Fact("the checkpoint moves", _moves)
_EXTERNAL = Fact("another program publishes", lambda e: e.around.publisher is not None)
_HANDED_OVER = Fact("the checkpoint is past its row", lambda e: e.handed_over is True)
_BEYOND = (CLOSED, SETTLED, RETURN_CAME, RETURNS_UNREAD)
_UNSENT = (*_BEYOND, SENT, HELD)


def _relay(*seen: Fact, never: tuple[Fact, ...] = ()) -> Proof:
    return Proof((EVENT_ROW, *seen), (*_UNSENT, _EXTERNAL, _HANDED_OVER, *never))


def _relay_says(cause: Cause) -> Proof:
    return _relay(Fact("the relay recorded it, of itself or of an outage", complains(RELAY, cause)))


def _parked(*seen: Fact) -> Proof:
    return Proof((EVENT_ROW, HELD, *seen), (*_BEYOND, SENT))


def _gone(*seen: Fact, never: tuple[Fact, ...] = ()) -> Proof:
    return Proof((EVENT_ROW, SENT, *seen), (*_BEYOND, RECORD_THERE, *never))


PUBLISH: dict[tuple[Verdict, Cause], Proof] = {
    (Verdict.NOT_PUBLISHED, Cause.RELAY_DOWN): _relay(
        Fact("no relay is alive or paused, by their own records", _stands(Standing.DOWN)),
        never=(_ALIVE, _NEWCOMER),
    ),
    (Verdict.NOT_PUBLISHED, Cause.RELAY_PAUSED): _relay(
        Fact("a relay without heartbeat holds its connection", _stands(Standing.PAUSED)),
        never=(_ALIVE, _NEWCOMER),
    ),
    (Verdict.NOT_PUBLISHED, Cause.RELAY_BEHIND): _relay(
        Fact("the checkpoint moves, or row or relay are some seconds old", _may_begin)
    ),
    (Verdict.NOT_PUBLISHED, Cause.RELAY_STUCK): _relay(
        Fact("a relay is alive, or has just connected", _there),
        Fact("the checkpoint was read, and stands still, or there is none", _still),
        never=(_MOVES,),
    ),
    (Verdict.NOT_PUBLISHED, Cause.LEASE_STUCK): _relay(
        Fact("a relay stands by, and nobody, or no relay, holds the lease", lambda e: (
            not isinstance(e.around.relays, Missing) and lease_is_stuck(e.around))),
    ),
    (Verdict.NOT_PUBLISHED, Cause.REBASELINE_NEEDED): Proof(
        (EVENT_ROW, Fact("the checkpoint or the relay itself says so", _needs_rebaseline)), _UNSENT
    ),
    (Verdict.NOT_PUBLISHED, Cause.CHECKPOINT_SKIPPED): Proof((EVENT_ROW, _HANDED_OVER), _UNSENT),
    (Verdict.NOT_PUBLISHED, Cause.SENT_TO_OTHER_TOPIC): Proof(
        (SENT, Fact("only on topics that no setting names", lambda e: e.strayed)), _BEYOND
    ),
    (Verdict.NOT_PUBLISHED, Cause.TOPIC_MISSING): Proof(
        (EVENT_ROW, Fact("the broker, or the relay, says that there is none", _topic_absent)),
        (*_UNSENT, _HANDED_OVER),
    ),
    (Verdict.NOT_PUBLISHED, Cause.PERMISSION_DENIED): _relay_says(Cause.PERMISSION_DENIED),
    (Verdict.NOT_PUBLISHED, Cause.DATABASE_REFUSES): _relay_says(Cause.DATABASE_REFUSES),
    (Verdict.NOT_PUBLISHED, Cause.DATABASE_UNREACHABLE): _relay_says(Cause.DATABASE_UNREACHABLE),
    (Verdict.NOT_PUBLISHED, Cause.BROKER_UNREACHABLE): _relay_says(Cause.BROKER_UNREACHABLE),
    (Verdict.PARKED, Cause.TOO_LARGE): _parked(_held_for("too_large")),
    (Verdict.PARKED, Cause.NO_TOPIC_MAPPED): _parked(_held_for("no_topic")),
    (Verdict.PARKED, Cause.REFUSED_BY_BROKER): _parked(
        Fact("its own row is held", lambda e: any(one.own for one in held(e)))
    ),
    (Verdict.PARKED, Cause.PARKED_BEHIND): _parked(
        Fact("an earlier event's row is held, or its own for that", lambda e: any(
            not one.own or one.reason == "order_parked" for one in held(e))),
    ),
    (Verdict.PARKED, Cause.RELEASE_PENDING): _parked(
        Fact("its release was requested", lambda e: any(
            one.state == "release_requested" for one in held(e))),
    ),
    (Verdict.PARKED, Cause.DISCARDED_BY_HAND): _parked(
        Fact("its own row was discarded", lambda e: any(
            one.own and one.state == "discarded" for one in held(e))),
    ),
    (Verdict.RECORD_MISSING, Cause.TOPIC_RECREATED): _gone(
        Fact("the log shrank, or begins younger than the record, or another stands there",
             _made_again),
    ),
    (Verdict.RECORD_MISSING, Cause.TOPIC_MISSING): _gone(
        Fact("the broker says that there is no such topic", _missing_topic)
    ),
    (Verdict.RECORD_MISSING, Cause.RECORDS_DELETED): _gone(
        Fact("the log begins behind it, or has a hole there",
             _is(Found.GONE_BEFORE, Found.GONE_WITHIN)),
        never=(Fact("retention, or compaction, explains it", lambda e: (
            _past_retention(e) if found(e) is Found.GONE_BEFORE else _compacted(e))),),
    ),
    (Verdict.RECORD_MISSING, Cause.RECORD_EXPIRED): _gone(
        Fact("the log begins behind it", _is(Found.GONE_BEFORE)),
        Fact("it is older than the topic's retention", _past_retention),
    ),
    (Verdict.RECORD_MISSING, Cause.COMPACTED): _gone(
        Fact("there is a hole within the log", _is(Found.GONE_WITHIN)),
        Fact("the topic is compacted", _compacted),
    ),
    (Verdict.RECORD_MISSING, Cause.LOG_TRUNCATED): _gone(
        Fact("the log ends before it", _is(Found.GONE_AFTER))
    ),
    (Verdict.RECORD_MISSING, Cause.RECORD_ALTERED): _gone(
        Fact("another record, or none, stands there", _is(Found.OTHER, Found.GONE_WITHIN))
    ),
}  # fmt: skip
