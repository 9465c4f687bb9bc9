"""Settings: one shape from file and environment; what is wrong is named, secrets are not."""

import contextlib
import os
import re
from pathlib import Path

import pytest

from relay.cli.confirm import confirm_options
from relay.cli.watchdog import watch_options
from relay.consumers.confirm.options import ConfirmOptions
from relay.diagnose.watch.round import WatchOptions
from relay.publish.maintenance.duties import MaintenanceOptions, maintenance_options
from relay.publish.options import PublishOptions, publish_options
from relay.runtime.flow import ApplyColumns, ApplyFunction, Flow, Observe
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.settings import Settings, load_settings
from relay.runtime.settings_page import page
from relay.runtime.settings_sources import SettingsError, variables

SECRET = "s3cr3t-geheim"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No relay.toml of this machine is read."""
    monkeypatch.chdir(tmp_path)


def load(config: Path | None = None, **environment: str) -> Settings:
    return load_settings(config, environment)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text, "utf-8")
    return path


def test_without_anything_the_sample_is_meant() -> None:
    settings = load()
    assert settings.database.dsn is None
    assert settings.kafka == KafkaConnection()
    assert settings.flow == Flow()


def test_defaults_are_those_of_the_parts() -> None:
    settings = load()
    assert publish_options(settings) == PublishOptions()
    assert maintenance_options(settings) == MaintenanceOptions()
    assert confirm_options(settings) == ConfirmOptions()
    assert watch_options(settings) == WatchOptions()


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    config = toml(tmp_path, "[publish]\npage_rows = 7\npage_bytes = 8\n[log]\nlevel = 'debug'")
    settings = load(config, RELAY_PUBLISH_PAGE_ROWS="9")
    assert (settings.publish.page_rows, settings.publish.page_bytes) == (9, 8)
    assert settings.log.level == "debug"


def test_the_file_is_named_by_option_variable_or_place(tmp_path: Path) -> None:
    config = toml(tmp_path, "[publish]\npage_rows = 7")
    assert load(RELAY_CONFIG=str(config)).publish.page_rows == 7
    (tmp_path / "relay.toml").write_text("[publish]\npage_rows = 5")
    assert load().publish.page_rows == 5
    assert load(config).publish.page_rows == 7


def test_set_but_empty_is_not_set() -> None:
    assert load(DATABASE_URL="", RELAY_PUBLISH_PAGE_ROWS="").publish.page_rows == 1600


def test_a_flow_from_a_file(tmp_path: Path) -> None:
    config = toml(
        tmp_path,
        """
        [flow.bookings]
        aggregate_type = "booking"
        events_topic = "bookings"
        returns_topic = "bookings.back"
        processor_groups = ["a", "b"]
        initial_status = "new"
        status_ranks = { new = 0, done = 5, failed = 5 }
        [flow.bookings.events."booking.made"]
        deadline_seconds = 60
        [flow.bookings.events."booking.noted"]
        topic = "notes"
        [flow.bookings.columns]
        table = "shop.bookings"
        key_column = "id"
        key_type = "bigint"
        """,
    )
    flow = load(config).flow
    assert (flow.name, flow.processor_groups) == ("bookings", ("a", "b"))
    assert flow.topics == {"bookings", "notes"}
    assert flow.deadline_seconds("booking.made") == 60
    assert flow.deadline_seconds("booking.noted") is None
    assert flow.terminal_statuses == {"done", "failed"}
    assert flow.apply == ApplyColumns("shop.bookings", "id", "bigint")


def test_a_flow_from_the_environment() -> None:
    flow = load(
        RELAY_FLOW_EVENTS_TOPIC="e",
        RELAY_FLOW_PROCESSOR_GROUPS="a, b",
        RELAY_FLOW_EVENTS='{"x.y": {"deadline_seconds": 5}, "x.z": {"topic": "q"}}',
    ).flow
    assert flow.processor_groups == ("a", "b")
    assert {name: (r.topic, r.deadline_seconds) for name, r in flow.events.items()} == {
        "x.y": ("e", 5),
        "x.z": ("q", None),
    }


def test_the_environment_speaks_of_the_flow_that_the_file_names(tmp_path: Path) -> None:
    config = toml(tmp_path, "[flow.bookings]\nevents_topic = 'b'")
    flow = load(config, RELAY_FLOW_RETURNS_TOPIC="r").flow
    assert (flow.name, flow.events_topic, flow.returns_topic) == ("bookings", "b", "r")


def test_the_other_ways_to_apply(tmp_path: Path) -> None:
    assert load(RELAY_FLOW_APPLY="observe").flow.apply == Observe()
    given = {"RELAY_FLOW_APPLY": "function", "RELAY_FLOW_FUNCTION": "shop.returned"}
    assert load(**given).flow.apply == ApplyFunction("shop.returned")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RELAY_PUBLSH_PAGE_ROWS": "1"}, "RELAY_PUBLISH_PAGE_ROWS"),
        ({"RELAY_NONSENSE": "1"}, "RELAY_NONSENSE"),
        ({"KAFKA_SASL_PASWORD": "x"}, "KAFKA_SASL_PASSWORD"),
        ({"RELAY_PUBLISH_PAGE_ROWS": "many"}, "RELAY_PUBLISH_PAGE_ROWS"),
        ({"RELAY_PUBLISH_PAGE_ROWS": "0"}, "RELAY_PUBLISH_PAGE_ROWS"),
        ({"RELAY_PUBLISH_COMPRESSION": "zip"}, "RELAY_PUBLISH_COMPRESSION"),
        ({"RELAY_METRICS_PORT": "70000"}, "RELAY_METRICS_PORT"),
        ({"RELAY_FLOW_EVENTS": "{"}, "RELAY_FLOW_EVENTS is not JSON"),
        ({"RELAY_FLOW_EVENTS": '{"a": {"topik": "b"}}'}, "RELAY_FLOW_EVENTS.a.topik"),
        ({"RELAY_FLOW_APPLY": "function"}, "function"),
        ({"RELAY_FLOW_FUNCTION": "f"}, "function"),
        ({"RELAY_FLOW_INITIAL_STATUS": "nowhere"}, "initial_status"),
        ({"RELAY_FLOW_EVENTS_TOPIC": "orders.returns"}, "returns topic"),
        ({"RELAY_MAINTENANCE_OUTBOX_DAYS": "90"}, "ledger_days"),
        ({"RELAY_CONFIRM_DRAIN_SECONDS": "10"}, "drain_seconds"),
        ({"KAFKA_SECURITY_PROTOCOL": "sasl"}, "KAFKA_SECURITY_PROTOCOL"),
        ({"KAFKA_SASL_MECHANISM": "PLAIN"}, "KAFKA_SASL_MECHANISM"),
        ({"KAFKA_SASL_PASSWORD": "x"}, "KAFKA_SASL_PASSWORD"),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "KAFKA_SASL_MECHANISM"),
        ({"KAFKA_SSL_CA_LOCATION": "/ca"}, "KAFKA_SSL_CA_LOCATION"),
        ({"DATABASE_URL_FILE": "/nowhere"}, "DATABASE_URL_FILE"),
        ({"RELAY_CONFIG": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_is_wrong_is_named(environment: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(named)):
        load(**environment)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[publsh]\npage_rows = 1", "publsh: did you mean publish?"),
        ("[publish]\npage_row = 1", "publish.page_row: did you mean page_rows?"),
        ("[flow.orders]\nevent_topic = 'x'", "flow.orders.event_topic"),
        ("[flow.orders.columns]\nkey = 'x'", "flow.orders.columns.key"),
        ("[flow.orders.events.'a']\ndeadline = 1", 'flow.orders.events."a".deadline'),
        ("[flow.a]\n[flow.b]", "aggregate_type 'order' is used by each"),
        ("publish = 3", "publish"),
        ("[publish]\npage_rows = 'x'", "publish.page_rows"),
        ("[publish", "settings.toml"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(named)):
        load(toml(tmp_path, text))


def test_secrets_come_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"postgresql://u:{SECRET}@h/d\n")
    assert load(DATABASE_URL_FILE=str(secret)).database.dsn == f"postgresql://u:{SECRET}@h/d"


def test_a_secret_and_its_file_contradict(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="both set"):
        load(DATABASE_URL="postgresql://a", DATABASE_URL_FILE="/b")


def test_secrets_are_not_shown() -> None:
    settings = load(
        DATABASE_URL=f"postgresql://u:{SECRET}@h/d",
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_MECHANISM="PLAIN",
        KAFKA_SASL_USERNAME="u",
        KAFKA_SASL_PASSWORD=SECRET,
    )
    assert settings.kafka.sasl_password == SECRET
    for shown in (repr(settings), str(settings), repr(settings.kafka), settings.model_dump_json()):
        assert SECRET not in shown


@pytest.mark.parametrize(
    "environment",
    [
        {"KAFKA_SASL_PASSWORD": SECRET},
        {"DATABASE_URL": f"postgresql://u:{SECRET}@h", "RELAY_PUBLISH_PAGE_ROWS": "x"},
        {"KAFKA_SASL_PASSWORT": SECRET},
    ],
)
def test_no_error_shows_a_secret(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**environment)
    text = repr(caught.value) + str(caught.value.__cause__) + repr(caught.value.__context__)
    assert SECRET not in text


def test_every_setting_is_documented_as_it_is() -> None:
    written = Path(__file__).parents[3].joinpath("docs/settings.md").read_text("utf-8")
    assert written == page(), "run: python -m relay.runtime.settings_page > docs/settings.md"


def test_every_variable_has_its_line_with_a_unit_in_name_or_text() -> None:
    text = page()
    for name in variables(Settings):
        assert f"`{name}`" in text
    for line in text.splitlines():
        if line.startswith("| `") and re.search(r"_(seconds|bytes|days|rows|records)`", line):
            assert re.search(r"second|byte|day|row|return|overdue|pending", line.split("|")[-2]), (
                line
            )


def test_a_file_of_the_current_folder_that_others_could_have_put_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "relay.toml"
    file.write_text("[publish]\npage_rows = 7")
    file.chmod(0o646)
    with pytest.raises(SettingsError, match="everybody may write"):
        load_settings(environment={})
    assert load_settings(file, environment={}).publish.page_rows == 7
    file.chmod(0o644)
    assert load_settings(environment={}).publish.page_rows == 7
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with contextlib.suppress(PermissionError):  # root's own file would be trusted
        os.chown(file, 54321, 54321)
    with pytest.raises(SettingsError, match="another user"):
        load_settings(environment={})
