"""Hop 2's errors: each says what happened and what to do next; none is caught to be ignored."""

from __future__ import annotations

from relay.runtime.client_failure import ClientFailure


class PublishError(Exception):
    """Hop 2 cannot go on by itself."""


class RestoredDatabaseError(PublishError):
    """The checkpoint belongs to another database, or to a later state of this one.

    After a restore transaction numbers start over: going on would skip new rows in silence.
    """

    failure = ClientFailure.REBASELINE_NEEDED


class LeaseLostError(PublishError):
    """Another relay took over, or this one could not renew in time: it stands by."""


class CheckpointConflictError(LeaseLostError):
    """A checkpoint write hit no row: somebody else's epoch or sequence stands there."""


class ServersDifferError(PublishError):
    """Reader and writer connections reached different servers: name one host in DATABASE_URL."""

    failure = ClientFailure.SERVERS_DIFFER


class TopicWaitError(PublishError):
    """A topic is missing or forbidden; the message is what the relay waits for.

    Attributes:
        failure: which of the two.
    """

    def __init__(self, message: str, failure: ClientFailure) -> None:
        super().__init__(message)
        self.failure = failure


class ProducerBrokenError(PublishError):
    """The producer must be thrown away: what it sent last has no known outcome."""


class TopicForbiddenError(ProducerBrokenError):
    """The broker kept refusing this user's records for one topic."""

    failure = ClientFailure.TOPIC_FORBIDDEN

    def __init__(self, topic: str, message: str) -> None:
        super().__init__(message)
        self.topic = topic


class RecordRefusedError(ProducerBrokenError):
    """The broker refused a batch for its size.

    Attributes:
        topic: where it was to go.
        outbox_ids: the rows in it.
        size_bytes: of the batch.
    """

    def __init__(self, topic: str, outbox_ids: tuple[int, ...], size_bytes: int) -> None:
        super().__init__(
            f"{topic} refused a batch of {len(outbox_ids)} records, {size_bytes} bytes:"
            " larger than its max.message.bytes"
        )
        self.topic = topic
        self.outbox_ids = outbox_ids
        self.size_bytes = size_bytes
