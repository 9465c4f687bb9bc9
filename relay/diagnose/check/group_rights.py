"""Hop 5: what whoever asks may do with a consumer group.

Invariant: reads only; nobody joins to find out.

aiokafka 0.14 asks in version 3 of the request and reads the answer as version 2, without the
rights; so the pair is put together here.
"""

from __future__ import annotations

from typing import ClassVar, Final

from aiokafka.errors import for_code
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request
from aiokafka.protocol.coordination import FindCoordinatorRequest

from relay.kafka.broker import Broker

_GROUP_COORDINATOR: Final = 0


class _GroupV3(DescribeGroupsRequest_v3):  # type: ignore[misc]
    RESPONSE_TYPE = DescribeGroupsResponse_v3


class _DescribeGroup(Request[_GroupV3]):  # type: ignore[misc]
    API_KEY: ClassVar[int] = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_GroupV3]) -> _GroupV3:
        with_rights = True
        return request_struct_class([self._group], with_rights)


async def group_operations(broker: Broker, group: str) -> frozenset[int]:
    """Return the operations (Kafka's AclOperation codes) that we may do with a group.

    Raises:
        KafkaError: it may not even be described, or nobody answers.
    """
    found = await broker.send(FindCoordinatorRequest(group, _GROUP_COORDINATOR))
    if found.error_code:
        raise for_code(found.error_code)(group)
    answer = await broker.send(_DescribeGroup(group), found.coordinator_id)
    (described,) = answer.groups
    error_code, *_, operations = described
    if error_code:
        raise for_code(error_code)(group)
    # A broker that does not know it says the least number there is.
    return frozenset(bit for bit in range(32) if operations > 0 and operations >> bit & 1)
