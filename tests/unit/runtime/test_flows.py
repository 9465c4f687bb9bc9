"""Several flows beside each other: what each owns, and what is refused."""

import re
from pathlib import Path

import pytest

from relay.runtime.flow import EventRoute, Flow, FlowError
from relay.runtime.flow_record import Running, as_recorded, compared
from relay.runtime.flows import Routes, beside_each_other
from relay.runtime.settings import Settings, SettingsError, load_settings

PAYMENTS = """
[flow.payments]
aggregate_type = "payment"
events_topic = "payments.events"
returns_topic = "payments.returns"
confirm_group = "payment-confirmation"
apply = "observe"
[flow.payments.events."created"]
deadline_seconds = 60
[flow.payments.events."payment.refunded"]
"""
ORDERS = """
[flow.orders.events."created"]
deadline_seconds = 900
[flow.orders.events."order.placed"]
"""


def load(tmp_path: Path, text: str, flow: str | None = None, **variables: str) -> Settings:
    path = tmp_path / "relay.toml"
    path.write_text(text)
    return load_settings(path, variables, flow)


def test_each_owns_what_it_names(tmp_path: Path) -> None:
    settings = load(tmp_path, ORDERS + PAYMENTS)
    orders, payments = settings.every_flow
    assert (orders.is_first, payments.is_first) == (True, False)
    assert orders.others.names == ("payments",)
    assert payments.others.names == ("orders", "")
    assert orders.own_event_types == ["order.placed"]
    assert payments.own_event_types == ["payment.refunded"]
    assert payments.deadlines == {"created": 60.0}


def test_a_command_is_about_the_flow_that_is_named(tmp_path: Path) -> None:
    both = ORDERS + PAYMENTS
    assert load(tmp_path, both, "payments").flow.name == "payments"
    assert load(tmp_path, both, RELAY_FLOW="orders").flow.name == "orders"
    assert load(tmp_path, PAYMENTS).flow.name == "payments"
    with pytest.raises(SettingsError, match="which flow"):
        load(tmp_path, both).flow  # noqa: B018 - raises
    with pytest.raises(SettingsError, match="no flow 'refunds'"):
        load(tmp_path, both, "refunds")
    with pytest.raises(SettingsError, match="RELAY_FLOW_EVENTS_TOPIC speaks of one flow"):
        load(tmp_path, both, RELAY_FLOW_EVENTS_TOPIC="x")


@pytest.mark.parametrize(
    ("was", "now", "named"),
    [
        ('"payment"', '"order"', "aggregate_type 'order'"),
        ('"payments.events"', '"orders.events"', "topic 'orders.events'"),
        ('"payments.returns"', '"orders.returns"', "topic 'orders.returns'"),
        ('"payment-confirmation"', '"order-confirmation"', "confirm_group 'order-confirmation'"),
        ('"payment-confirmation"', '"order-processor"', "confirm_group"),
        ('apply = "observe"', "", "columns.table 'public.orders'"),
    ],
)
def test_what_two_flows_share_is_refused(tmp_path: Path, was: str, now: str, named: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(named)):
        load(tmp_path, ORDERS + PAYMENTS.replace(was, now))


def test_a_row_goes_where_its_aggregate_type_says_when_several_have_its_event_type(
    tmp_path: Path,
) -> None:
    routes = Routes.of(load(tmp_path, ORDERS + PAYMENTS).every_flow)
    rows = [
        ("order", "created", "orders.events"),
        ("payment", "created", "payments.events"),
        ("shipment", "created", None),
        ("whatever", "order.placed", "orders.events"),
        ("order", "payment.refunded", "payments.events"),
        ("order", "unheard.of", None),
        ("relay.canary", "relay.canary", "orders.events"),
        ("relay.canary:payments", "relay.canary", "payments.events"),
    ]
    kinds = routes.kinds([row[0] for row in rows], [row[1] for row in rows])
    assert [routes.topic(kind) for kind in kinds] == [row[2] for row in rows]
    alone = ["order.placed", "unheard.of"]
    assert routes.kinds(["order", "order"], alone) is alone


def test_what_processes_run_with_for_another_flow_is_not_compared() -> None:
    mine = Flow()
    other = Flow(
        "payments",
        "payment",
        events={"payment.made": EventRoute("payments.events")},
        events_topic="payments.events",
        returns_topic="payments.returns",
        confirm_group="payment-confirmation",
        apply=load_settings("/dev/null", {"RELAY_FLOW_APPLY": "observe"}).flow.apply,
    )
    orders, payments = beside_each_other([mine, other])
    running = [
        Running("relay", "h:1", as_recorded(orders, payments)),
        Running("confirm", "h:2", as_recorded(payments)),
    ]
    assert compared(orders, running) == (orders, [])
    assert compared(payments, running) == (payments, [])
    with pytest.raises(FlowError):
        beside_each_other([mine, mine])


ROUTER = """
[flow.payments]
aggregate_type = "payment"
returns_topic = "payments.returns"
confirm_group = "payment-confirmation"
apply = "observe"
wire = "debezium"
"""


def test_a_flow_of_the_debezium_preset_publishes_every_type_of_its_aggregate(
    tmp_path: Path,
) -> None:
    (flow,) = load(tmp_path, ROUTER).every_flow
    assert (flow.events_topic, flow.every_event) == ("outbox.event.payment", True)
    routes = Routes.of([flow])
    kinds = routes.kinds(["payment", "customer", "customer"], ["any", "any", "order.placed"])
    topics = ["outbox.event.payment", None, "outbox.event.payment"]
    assert [routes.topic(kind) for kind in kinds] == topics
    # Beside another flow, the aggregate type alone decides, for the relay and for the diagnosis.
    orders, payments = load(tmp_path, ORDERS + ROUTER).every_flow
    assert (orders.own_event_types, payments.own_event_types) == ([], [])
    routes = Routes.of([orders, payments])
    kinds = routes.kinds(["payment", "order", "order"], ["order.placed", "order.placed", "any"])
    assert [routes.topic(kind) for kind in kinds] == [topics[0], "orders.events", None]


def test_headers_of_ours_are_nobody_elses(tmp_path: Path) -> None:
    for name in ("id", "relay_epoch", "traceparent"):
        with pytest.raises(SettingsError, match="is written by the relay itself"):
            load(tmp_path, ROUTER + f'wire_headers = {{ {name} = "event_type" }}')
    with pytest.raises(SettingsError, match="wire = debezium"):
        load(tmp_path, '[flow.orders]\nwire_headers = { a = "event_type" }')
