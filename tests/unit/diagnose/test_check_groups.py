"""Who is said to process events, and who is not."""

from relay.diagnose.check.kafka_facts import KafkaFacts
from relay.diagnose.check.kafka_rules import _group
from relay.diagnose.check.result import Result
from relay.kafka.groups import GroupMembers
from relay.runtime.flow import Flow

FLOW = Flow()
(GROUP,) = FLOW.processor_groups


def judged(group: GroupMembers, behind: int = 0) -> Result:
    facts = KafkaFacts(
        "broker:9092", 1, {}, {}, {GROUP: group}, {GROUP: frozenset(FLOW.topics)}, {GROUP: behind}
    )
    return _group(GROUP, facts, FLOW)


def test_a_reader_that_assigns_its_partitions_itself_processes_events() -> None:
    reader = GroupMembers("Empty", 0, never_joined=True)
    assert judged(reader).state == "ok"
    assert judged(reader, behind=9).state == "warning"
    assert judged(GroupMembers("Empty", 0)).state == "failed"
