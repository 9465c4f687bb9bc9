"""Which settings there are, in which units, with which defaults.

Invariant: a setting that is not here is an error at start, and so is one that contradicts another.
Passwords are secrets: they are in no repr and in no error.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from relay.runtime.flow import SchemaRegistry
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.settings_limits import (
    Bytes,
    Days,
    DaysAhead,
    Parallel,
    Patience,
    Pause,
    Port,
    Rows,
    SessionTimeout,
)
from relay.runtime.trace_link import trace_link

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]


class Section(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class DatabaseSettings(Section):
    """PostgreSQL: the order service's database, where the schema `relay` is too."""

    url: SecretStr | None = Field(
        default=None, description="postgresql:// URL; without it libpq's `PG*` variables say where"
    )

    @property
    def dsn(self) -> str | None:
        """The URL in clear, for the driver; None: libpq's variables say where."""
        return self.url.get_secret_value() if self.url else None


class KafkaSettings(Section):
    """Kafka, in librdkafka's words."""

    bootstrap_servers: str = Field(
        default="localhost:9092", description="host:port, comma-separated"
    )
    security_protocol: str = Field(
        default="PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    sasl_mechanism: str | None = Field(
        default=None, description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; needs a SASL protocol"
    )
    sasl_username: str | None = Field(default=None, description="needs a SASL protocol")
    sasl_password: SecretStr | None = Field(default=None, description="needs a SASL protocol")
    ssl_ca_location: str | None = Field(
        default=None, description="file of certificates to trust, PEM"
    )
    ssl_certificate_location: str | None = Field(
        default=None, description="our certificate, PEM file"
    )
    ssl_key_location: str | None = Field(default=None, description="its key, PEM file")
    ssl_key_password: SecretStr | None = Field(default=None, description="the key's password")

    def connection(self) -> KafkaConnection:
        """Return the connection; raises KafkaSettingsError where settings contradict."""
        plain = {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in self
        }
        return KafkaConnection(**plain)


class PublishSettings(Section):
    """The relay (`relay run`)."""

    source: str | None = Field(
        default=None, description="`ce_source`; by default `/` and the flow's name"
    )
    dataschemas: Mapping[str, str] = Field(
        default_factory=dict, description="event type -> URI for `ce_dataschema`"
    )
    compression: Compression = Field(default="none", description="of batches")
    page_rows: Rows = Field(default=1600, description="rows read at a time")
    page_bytes: Bytes = Field(default=4_000_000, description="bytes of payload read at a time")
    pages_in_flight: Parallel = Field(
        default=3, description="pages being sent at once; as many are sent twice after a kill -9"
    )
    batch_bytes: Bytes = Field(default=900_000, description="bytes of the largest batch")
    poll_seconds: Pause = Field(default=0.003, description="seconds between reads, rows flowing")
    idle_poll_seconds: Pause = Field(
        default=0.1, description="longest pause between reads, reached after 2.5 s without rows"
    )
    largest_record_bytes: Bytes = Field(
        default=32_000_000, description="bytes of payload beyond which an event is parked unread"
    )
    checkpoint_seconds: Pause = Field(
        default=0.01, description="least seconds between checkpoints, unless a page is full"
    )
    lease_seconds: Patience = Field(
        default=3.0, description="seconds until a dead relay is replaced"
    )
    request_timeout_seconds: Patience = Field(default=15.0, description="seconds for one request")
    drain_seconds: Patience = Field(
        default=10.0, description="seconds for what is under way at stop"
    )


class PublisherSettings(Section):
    """Who publishes the outbox: `relay run`, or somebody else, whom `relay witness` follows."""

    kind: Literal["relay", "external"] = Field(
        default="relay", description="relay, or external: Debezium, Sequin, a poller of your own"
    )
    slot: str | None = Field(
        default=None, description="external: the publisher's replication slot, where it has one"
    )
    connector: str | None = Field(
        default=None, description="external: the connector's name in Kafka Connect"
    )
    connect_url: SecretStr | None = Field(
        default=None,
        description="external: REST interface of a Kafka Connect worker, as http://connect:8083; "
        "user and password may stand in it",
    )
    witness_group: str = Field(
        default="relay-witness",
        description="external: the consumer group of `relay witness`; one for each installation",
    )

    @model_validator(mode="after")
    def _named_where_external(self) -> Self:
        named = [key for key in ("slot", "connector", "connect_url") if getattr(self, key)]
        if self.kind == "relay" and named:
            raise ValueError(f'{", ".join(named)}: given only with kind = "external"')
        if self.connect_url is not None and self.connector is None:
            raise ValueError("connect_url needs connector, the name to ask for")
        return self


class RegistrySettings(Section):
    """The schema registry, for returns in Avro; the relay itself never asks it."""

    url: SecretStr | None = Field(
        default=None,
        description="http(s) URL of Confluent's registry or one like it, as http://registry:8081;"
        " user and password may stand in it",
    )
    ca_location: str | None = Field(
        default=None, description="file of certificates to trust, PEM; not given: the system's"
    )

    @model_validator(mode="after")
    def _an_address(self) -> Self:
        if self.url is not None:
            parts = urlsplit(self.url.get_secret_value())
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("url is an http:// or https:// address")
        return self

    def registry(self) -> SchemaRegistry | None:
        """Return where it is; None: no setting says."""
        if self.url is None:
            return None
        return SchemaRegistry(self.url.get_secret_value(), self.ca_location)


class ConfirmSettings(Section):
    """The confirmation consumer (`relay confirm`)."""

    batch_records: Rows = Field(default=2000, description="returns in one transaction at most")
    connections: Parallel = Field(
        default=3, description="batches applied at once, each on a database connection of its own"
    )
    session_timeout_seconds: SessionTimeout = Field(
        default=8.0, description="seconds until Kafka gives a dead consumer's partitions away"
    )
    drain_seconds: Patience = Field(
        default=5.0, description="seconds a rebalance waits for a batch"
    )
    stall_seconds: Patience = Field(
        default=10.0, description="seconds without an answer until the consumer is made anew"
    )
    quarantine_rows: Rows = Field(
        default=100_000, description="refused returns held; beyond them only places are kept"
    )
    quarantine_bytes: Bytes = Field(
        default=1_000_000_000, description="bytes of refused returns held; beyond them only places"
    )

    @model_validator(mode="after")
    def _drains_within_the_session(self) -> Self:
        if self.drain_seconds >= self.session_timeout_seconds:
            raise ValueError("drain_seconds must be less than session_timeout_seconds")
        return self


class MaintenanceSettings(Section):
    """What the relay makes ahead and clears away."""

    every_seconds: Pause = Field(default=60.0, description="seconds between runs")
    days_ahead: DaysAhead = Field(default=7, description="days for which partitions are made ahead")
    outbox_days: Days = Field(
        default=30, description="days after which a partition is dropped; 36500 or more: never"
    )
    ledger_days: Days = Field(default=60, description="days the delivery ledger is kept")
    inbox_days: Days = Field(default=60, description="days returns are remembered")
    position_days: Days = Field(default=14, description="days positions are kept")
    record_days: Days = Field(default=180, description="days process and outage records are kept")
    kept_days: Days = Field(
        default=365, description="days that rows of stuck orders outlive their day's partition"
    )

    @model_validator(mode="after")
    def _ledger_outlives_outbox(self) -> Self:
        if self.ledger_days < self.outbox_days:
            raise ValueError("ledger_days must not be less than outbox_days: rows without proof")
        if self.inbox_days < self.outbox_days:
            raise ValueError(
                "inbox_days must not be less than outbox_days: the oldest event can be replayed,"
                " and its return would not be known again"
            )
        return self


class LogSettings(Section):
    """The services' logs, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level"
    )
    format: Literal["json", "text"] = Field(
        default="json", description="json: one object a line; or text"
    )

    @field_validator("level", mode="before")
    @classmethod
    def _in_any_case(cls, level: Any) -> Any:
        return level.lower() if isinstance(level, str) else level


class MetricsSettings(Section):
    """The services' HTTP port: /metrics, /livez, /readyz."""

    enabled: bool = Field(default=True, description="whether there is one")
    host: str = Field(default="127.0.0.1", description="address; 0.0.0.0 for all")
    port: Port | None = Field(
        default=None, description="TCP port; by default 9464 (run), 9465 (confirm); 0: any free one"
    )


class TraceSettings(Section):
    """Where a trace can be looked at; where spans go is said by `OTEL_*`."""

    url: str | None = Field(
        default=None,
        description="of the trace viewer: a Jaeger's address, e.g. http://localhost:16686, or any "
        "address with {trace_id} in it (Grafana); links are printed",
    )
    wait_seconds: float = Field(
        default=1.0,
        ge=0,
        le=86_400,
        description="a row that waited longer in the outbox has a span `wait TOPIC` of its own",
    )

    def link(self, trace_id: str | None) -> str | None:
        """Return where a trace can be looked at; None when that is not known."""
        return trace_link(self.url, trace_id)


class ProbeSettings(Section):
    """Canaries (`relay probe`)."""

    through_processor: bool = Field(
        default=False,
        description="yes states that the order processor answers canaries (`ce_type` relay.canary)",
    )


class WatchSettings(Section):
    """What is recorded for the diagnosis while all is well."""

    inside: bool = Field(
        default=True,
        description="whether `relay run` and `relay confirm` watch; one does, by lease",
    )
    position_seconds: Pause = Field(default=10.0, description="seconds between positions")
    round_seconds: Pause = Field(
        default=10.0, description="seconds between looks for overdue orders, at least"
    )
