"""How a broker, or the way to it, fails; any other error is a fault of ours.

Invariant: constants. Who catches one of these says what was not looked at, and why.
"""

from typing import Final

from aiokafka.errors import KafkaError

BROKER_FAILURES: Final = (KafkaError, OSError, TimeoutError)

READING_FAILURES: Final = (*BROKER_FAILURES, AssertionError)
"""The same for who reads what a stranger wrote: aiokafka asserts on some of its answers."""
