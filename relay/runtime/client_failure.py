"""The closed list of what can go wrong on our own side of a connection.

Invariant: pure, without a driver. What the other side says has codes of its own (SQLSTATE, Kafka's
error codes); `failure_code.py` joins the two.
"""

from enum import StrEnum


class ClientFailure(StrEnum):
    """What happened before the other side said anything, or without it."""

    TIMED_OUT = "timed_out"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_LOST = "connection_lost"
    NAME_NOT_RESOLVED = "name_not_resolved"
    TLS_REFUSED = "tls_refused"
    LOGIN_REFUSED = "login_refused"
    PROTOCOL_REFUSED = "protocol_refused"
    SETTINGS_REFUSED = "settings_refused"
    STANDBY = "standby"
    TOPIC_MISSING = "topic_missing"
    TOPIC_FORBIDDEN = "topic_forbidden"
    CODEC_MISSING = "codec_missing"
    REBASELINE_NEEDED = "rebaseline_needed"
    SERVERS_DIFFER = "servers_differ"
    TABLE_UNFIT = "table_unfit"
    UNEXPECTED = "unexpected"
