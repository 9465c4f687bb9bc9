"""The database says no, or does another thing than it is told: grants, locks, triggers."""

from dataclasses import dataclass, field, replace
from random import Random

from tests.nights.cast import Cast
from tests.nights.causes.cause import Cause
from tests.nights.stage import Stage
from tests.nights.truth import Truth, lost

_FUNCTION = """CREATE FUNCTION public.{name}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN {body} END $$;
CREATE TRIGGER {name} {when} UPDATE ON public.orders FOR EACH ROW
    WHEN (OLD.customer_id = '{customer}') EXECUTE FUNCTION public.{name}()"""
# Body and time of a trigger, and what is true of the orders that it keeps from coming back.
_TRIGGERS: dict[str, tuple[str, str, Truth]] = {
    "trigger refuses": (
        "RAISE EXCEPTION 'customer % is frozen', NEW.customer_id USING ERRCODE = '23514';",
        "BEFORE",
        lost("trigger refuses", "confirm", "return_quarantined", "apply_failed"),
    ),
    "trigger keeps the status": (
        "NEW.status := OLD.status; RETURN NEW;",
        "BEFORE",
        Truth("trigger keeps the status", "confirm", (
            ("return_skipped", None), ("return_quarantined", None), ("not_confirmed", None),
        ), unproven=True),
    ),
}  # fmt: skip
_STANDING: dict[str, Truth] = {
    "rows locked": lost("rows locked", "confirm", "not_confirmed", "order_row_locked"),
    "consumer may not update": lost(
        "consumer may not update", "confirm", "not_confirmed", "permission_denied"
    ),
    # Before it has said so it is merely behind.
    "relay may not read": replace(
        lost("relay may not read", "publish", "not_published", "permission_denied"),
        before=(("not_published", "relay_behind"),),
    ),
}
_REVOKED = {
    "consumer may not update": (
        """REVOKE UPDATE ON orders FROM relay_confirmer;
           REVOKE UPDATE (status, version, returned_at, return_reason) ON orders
             FROM relay_confirmer""",
        "confirm",
    ),
    "relay may not read": ("REVOKE SELECT ON relay.outbox FROM relay_publisher", "relay"),
}

_GRANTED = {
    "consumer may not update": """
        GRANT UPDATE (status, version, returned_at, return_reason) ON orders TO relay_confirmer""",
    "relay may not read": "GRANT SELECT ON relay.outbox TO relay_publisher",
}


@dataclass
class Refusal(Cause):
    """The database does not do what a service asks of it."""

    how: str
    count: int
    customer: str = field(default="", init=False)

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "Refusal":
        """Draw one that the cast can have: only who is not the owner can be refused."""
        hows = [*_TRIGGERS, "rows locked", *(_REVOKED if cast.roles else ())]
        return cls(luck.choice(hows), luck.choice((1, 3, 6, 12)))

    @property
    def stands_at(self) -> int:  # type: ignore[override]
        """Triggers are for one customer; the rest stands in everybody's way."""
        if self.how in _TRIGGERS:
            return 0
        return 2 if self.how == "relay may not read" else 5

    @property
    def relays_own(self) -> bool:  # type: ignore[override]
        """A right of the relay's."""
        return self.how == "relay may not read"

    def prepare(self, stage: Stage) -> None:
        """Its orders have a customer of their own."""
        self.customer = stage.customer()

    async def make(self, stage: Stage) -> None:
        """Put it in the way, and place orders."""
        orders, pg = stage.ids(self.count), stage.world.pg
        stage.journal.note("refusal", how=self.how)
        if self.how in _TRIGGERS:
            body, when, truth = _TRIGGERS[self.how]
            name = f"t_{self.customer.replace('-', '_')}"
            await pg.execute(
                _FUNCTION.format(name=name, body=body, when=when, customer=self.customer)
            )
            await stage.among_others(orders, self.customer, truth)
            await stage.through(orders)
            await stage.healthy(4)
            return
        truth = _STANDING[self.how]
        if self.how == "rows locked":
            await self._locked(stage, orders, truth)
            return
        await pg.execute(_REVOKED[self.how][0])
        await stage.place(orders, truth=truth)
        if self.stands_at == 5:
            await stage.through(orders)

    async def _locked(self, stage: Stage, orders: list[str], truth: Truth) -> None:
        """Somebody has the rows before their returns come: the relay waits for that."""
        stage.world.freeze("relay")
        await stage.place(orders, truth=truth)
        await stage.world.lock(
            "SELECT FROM orders WHERE order_id = ANY ($1::uuid[]) FOR UPDATE", orders
        )
        stage.world.thaw("relay")
        await stage.through(orders)

    async def mend(self, stage: Stage) -> bool:
        """Take it out of the way."""
        pg = stage.world.pg
        if self.how in _TRIGGERS:
            await pg.execute(f"DROP TRIGGER t_{self.customer.replace('-', '_')} ON public.orders")
        elif self.how in _REVOKED:
            await pg.execute(_GRANTED[self.how])
        else:
            await stage.world.doing.aclose()
        return True

    async def settle(self, stage: Stage) -> None:
        """Wait until the service has said so."""
        if self.how in _REVOKED:
            await stage.world.until_complaining(_REVOKED[self.how][1], "permission denied")

    def __str__(self) -> str:
        return f"{self.count} orders: {self.how}"
