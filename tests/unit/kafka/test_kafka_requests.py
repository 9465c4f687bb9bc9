"""Requests in one version: a broker that does not speak it is not asked."""

import pytest
from aiokafka.errors import IncompatibleBrokerVersion

from relay.kafka.requests import (
    CANNOT_BE_ASKED,
    describe_consumer_group_request,
    describe_producers_request,
    describe_quorum_request,
    describe_topics_request,
    describe_transactions_request,
    list_transactions_request,
    list_typed_groups_request,
)

# Request, API key, version, and its bytes by Kafka's schema.
REQUESTS = [
    (
        describe_topics_request(["t"], with_operations=True),
        3,
        10,
        b"\x02" + bytes(16) + b"\x02t\x00" + b"\x00\x00\x01" + b"\x00",
    ),
    (list_typed_groups_request(), 16, 5, b"\x01\x01\x00"),
    (
        describe_quorum_request(),
        55,
        1,
        b"\x02\x13__cluster_metadata\x02" + bytes(4) + b"\x00\x00\x00",
    ),
    (
        describe_producers_request([("t", [1, 2])]),
        61,
        0,
        b"\x02\x02t\x03\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00",
    ),
    (describe_transactions_request(["x"]), 65, 0, b"\x02\x02x\x00"),
    (list_transactions_request([7]), 66, 0, b"\x01\x02" + bytes(7) + b"\x07\x00"),
    (describe_consumer_group_request("g"), 69, 0, b"\x02\x02g\x00\x00"),
]
BY_NAME = {"argnames": ("request_", "key", "version", "data"), "argvalues": REQUESTS}


@pytest.mark.parametrize(**BY_NAME)
def test_a_request_is_sent_in_its_one_version(request_, key, version, data) -> None:
    struct = request_.prepare({key: (0, version + 3)})
    assert (key, version) == (struct.API_KEY, struct.API_VERSION)
    assert version == struct.RESPONSE_TYPE.API_VERSION
    assert struct.encode() == data


@pytest.mark.parametrize(**BY_NAME)
def test_a_broker_that_does_not_speak_it_is_not_asked(request_, key, version, data) -> None:
    assert (IncompatibleBrokerVersion,) == CANNOT_BE_ASKED
    for versions in ({}, {key: (version + 1, version + 2)}, {key: (-1, version - 1)}):
        with pytest.raises(CANNOT_BE_ASKED):
            request_.prepare(versions)
