"""Hop 5: what whoever asks may do with a consumer group.

Invariant: reads only; nobody joins to find out.

aiokafka 0.14 asks in version 3 of the request and reads the answer as version 2, without the
rights; so the pair is put together here.
"""

from __future__ import annotations

from typing import ClassVar

from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request

from relay.kafka.broker import Broker


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
    answer = await broker.ask_coordinator(group, _DescribeGroup(group))
    (described,) = answer.groups
    operations = described[-1]
    # A broker that does not know it says the least number there is.
    return frozenset(bit for bit in range(32) if operations > 0 and operations >> bit & 1)
