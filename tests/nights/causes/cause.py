"""What befalls orders: one cause of a night, with the dimensions that were drawn for it."""

from abc import ABC, abstractmethod

from tests.nights.stage import Stage


class Cause(ABC):
    """One cause.

    Attributes:
        stands_at: the number of the hop that it leaves broken to the end of the night; 0: none.
            Those that stand are staged last, the later hop first: each reaches its own orders.
        relays_own: only our relay can do this; a night with another publisher has none of it.
    """

    stands_at: int = 0
    relays_own: bool = False

    def prepare(self, stage: Stage) -> None:  # noqa: B027 - most need nothing
        """Make what has to be known before the processor is started."""

    @abstractmethod
    async def make(self, stage: Stage) -> None:
        """Stage it; write into the journal what is true of its orders."""

    async def settle(self, stage: Stage) -> None:  # noqa: B027 - most need nothing
        """Wait for the facts that make it nameable, at the end of the night."""

    async def mend(self, stage: Stage) -> bool:
        """End it, as people do outside of this program; tell whether that can be done here.

        The processor is started anew afterwards, without its bugs.
        """
        del stage
        return True

    @abstractmethod
    def __str__(self) -> str: ...
