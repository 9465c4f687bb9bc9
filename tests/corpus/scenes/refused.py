"""What services may not do, or cannot reach: grants, row-level security, locks, wrong addresses."""

from tests.corpus.fault import Act, Fault, Orders, Scene, overdue
from tests.corpus.world import World

NOWHERE = "127.0.0.1:9"


async def consumer_may_not_update(world: World, orders: Orders) -> None:
    """Somebody tidied the grants on the orders table."""
    await world.pg.execute("REVOKE UPDATE ON orders FROM relay_confirmer")
    await world.pg.execute(
        "REVOKE UPDATE (status, version, returned_at, return_reason) ON orders FROM relay_confirmer"
    )
    await world.place_these(orders)
    await world.until_answered(orders)


async def consumer_may_again(world: World) -> None:
    """The grants come back."""
    await world.pg.execute(
        "GRANT UPDATE (status, version, returned_at, return_reason) ON orders TO relay_confirmer"
    )


async def consumer_complains(world: World, orders: Orders) -> None:
    """Wait until the consumer has said so."""
    await world.until_complaining("confirm", "permission denied")
    await overdue(world, orders)


async def relay_may_not_read(world: World, orders: Orders) -> None:
    """And those on the outbox."""
    await world.pg.execute("REVOKE SELECT ON relay.outbox FROM relay_publisher")
    await world.place_these(orders)


async def relay_may_again(world: World) -> None:
    """The grant comes back."""
    await world.pg.execute("GRANT SELECT ON relay.outbox TO relay_publisher")


async def relay_complains(world: World, orders: Orders) -> None:
    """Wait until the relay has said so."""
    await world.until_complaining("relay", "permission denied")
    await overdue(world, orders)


async def rows_hidden(world: World, orders: Orders) -> None:
    """Row-level security hides a customer's orders from the consumer."""
    await world.pg.execute(
        """ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
           CREATE POLICY everybody ON orders USING (true);
           CREATE POLICY hidden ON orders AS RESTRICTIVE FOR ALL TO relay_confirmer
               USING (customer_id <> 'c-hidden');
           GRANT SELECT (customer_id) ON orders TO relay_confirmer"""
    )
    await world.place_these(orders, "c-hidden")
    await world.until_quarantined(orders)


async def rows_shown(world: World) -> None:
    """Row-level security goes."""
    await world.pg.execute("ALTER TABLE orders DISABLE ROW LEVEL SECURITY")


async def consumer_elsewhere(world: World, orders: Orders) -> None:
    """The consumer is started with the address of no broker."""
    world.restart("consumer", KAFKA_BOOTSTRAP_SERVERS=NOWHERE)
    await world.place_these(orders)
    await world.until_answered(orders)


async def consumer_waits_for_broker(world: World, orders: Orders) -> None:
    """Wait until the consumer has said so."""
    await world.until_complaining("confirm", "broker")
    await overdue(world, orders)


async def consumer_at_home(world: World) -> None:
    """The right address again."""
    world.restart("consumer")


async def relay_elsewhere(world: World, orders: Orders) -> None:
    """The relay, too."""
    world.restart("relay", KAFKA_BOOTSTRAP_SERVERS=NOWHERE)
    await world.place_these(orders)


async def relay_waits_for_broker(world: World, orders: Orders) -> None:
    """Wait until the relay has said so."""
    await world.until_complaining("relay", "broker")
    await overdue(world, orders)


async def relay_at_home(world: World) -> None:
    """The right address again."""
    world.restart("relay")


async def lease_locked(world: World, orders: Orders) -> None:
    """A forgotten transaction holds the lease's row; the relay is restarted meanwhile."""
    world.kill("relay")
    await world.lock("SELECT FROM relay.lease WHERE duty = 'relay' FOR UPDATE")
    world.begin("relay")
    await world.place_these(orders)


async def relay_stands_by(world: World, orders: Orders) -> None:
    """Wait until nobody holds the lease any more, and a relay stands by."""
    await world.until_complaining("relay", "the lease")
    await world.eventually(
        lambda: world.pg.fetchval(
            "SELECT expires_at < clock_timestamp() FROM relay.lease WHERE duty = 'relay'"
        ),
        30,
    )
    await overdue(world, orders)


async def opening(world: World) -> None:
    """Each service has its own role."""
    await world.least_privilege()
    world.begin_all()
    await world.until_up()


SCENE = Scene(
    "refused",
    acts=(
        Act(
            (
                Fault(
                    "consumer's grant revoked", "configuration",
                    ("confirm", "not_confirmed", "permission_denied"),
                    consumer_may_not_update, consumer_complains, consumer_may_again,
                ),
                Fault(
                    "relay's grant revoked", "configuration",
                    ("publish", "not_published", "permission_denied"),
                    relay_may_not_read, relay_complains, relay_may_again,
                ),
            ),
            come_back=True,
        ),
        Act(
            (
                Fault(
                    "row-level security hides orders", "configuration",
                    ("confirm", "return_quarantined", "order_hidden"),
                    rows_hidden, mend=rows_shown,
                ),
            )
        ),
        Act(
            (
                Fault(
                    "consumer has a wrong broker address", "configuration",
                    ("confirm", "not_confirmed", "broker_unreachable"),
                    consumer_elsewhere, consumer_waits_for_broker, consumer_at_home,
                ),
                Fault(
                    "relay has a wrong broker address", "configuration",
                    ("publish", "not_published", "broker_unreachable"),
                    relay_elsewhere, relay_waits_for_broker, relay_at_home,
                ),
            ),
            come_back=True,
        ),
        Act(
            (
                Fault(
                    "the lease's row is locked", "people",
                    ("publish", "not_published", "lease_stuck"),
                    lease_locked, relay_stands_by,
                ),
            ),
            come_back=True,
        ),
    ),
    opening=opening,
)  # fmt: skip
