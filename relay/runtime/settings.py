"""Reads the settings once, at start: a TOML file, the environment over it.

Invariant: what is unknown, unusable or contradictory is an error that names the setting (and the
nearest name that exists), before anything is connected to. No error shows a secret.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PrivateAttr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from relay.runtime.database_url import DatabaseUrlError, read_database_url
from relay.runtime.flow import Flow, FlowError
from relay.runtime.flow_settings import FlowSettings
from relay.runtime.flows import beside_each_other, named_flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.settings_model import (
    ConfirmSettings,
    DatabaseSettings,
    KafkaSettings,
    LogSettings,
    MaintenanceSettings,
    MetricsSettings,
    ProbeSettings,
    PublisherSettings,
    PublishSettings,
    RegistrySettings,
    TraceSettings,
    WatchSettings,
)
from relay.runtime.settings_sources import (
    FLOW,
    SettingsError,
    file_table,
    from_environment,
    refuse_odd_text,
    refuse_unknown_keys,
    shown_name,
)
from relay.runtime.settings_web import WebSettings


class Settings(BaseSettings):
    """All settings, validated. The environment wins over the file."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    database: DatabaseSettings = DatabaseSettings()
    kafka_settings: KafkaSettings = Field(default=KafkaSettings(), alias="kafka")
    flows: Mapping[str, FlowSettings] = Field(
        default_factory=lambda: {FLOW: FlowSettings()}, alias="flow"
    )
    publish: PublishSettings = PublishSettings()
    publisher: PublisherSettings = PublisherSettings()
    confirm: ConfirmSettings = ConfirmSettings()
    registry: RegistrySettings = RegistrySettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    trace: TraceSettings = TraceSettings()
    watch: WatchSettings = WatchSettings()
    probe: ProbeSettings = ProbeSettings()
    web: WebSettings = WebSettings()
    _flow_to_go_by: Flow | None = PrivateAttr(None)
    _named: str | None = PrivateAttr(None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - not asked: ours replaces it
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the two tables that `load_settings` made: environment first, then the file."""
        assert isinstance(init_settings, InitSettingsSource)
        given = init_settings.init_kwargs
        return tuple(InitSettingsSource(settings_cls, given[name]) for name in ("env", "file"))

    @property
    def kafka(self) -> KafkaConnection:
        """How to reach Kafka."""
        return self.kafka_settings.connection()

    @property
    def every_flow(self) -> tuple[Flow, ...]:
        """All flows, in the order of the file."""
        registry = self.registry.registry()
        flows = beside_each_other([one.flow(name, registry) for name, one in self.flows.items()])
        known = self._flow_to_go_by
        return tuple(known if known and known.name == one.name else one for one in flows)

    @property
    def flow(self) -> Flow:
        """The flow that was named, or the only one.

        Raises:
            SettingsError: there are several, and none is named.
        """
        if self._flow_to_go_by is not None:
            return self._flow_to_go_by
        try:
            return named_flow(self.every_flow, self._named)
        except FlowError as error:
            raise SettingsError(str(error)) from None

    @property
    def flow_to_name(self) -> str | None:
        """The flow's name where a command has to say which is meant; None: there is one flow.

        None, too, where several are set and none is named: whoever needs one was refused.
        """
        if len(self.flows) == 1:
            return None
        return self._named if self._flow_to_go_by is None else self._flow_to_go_by.name

    def naming(self, name: str | None) -> Self:
        """Return the same settings, of which `flow` is the flow of that name.

        Raises:
            SettingsError: there is none of that name.
        """
        changed = self.model_copy()
        changed._named = name  # noqa: SLF001 - its own
        if name is not None:
            changed.flow  # noqa: B018 - it exists
        return changed

    def going_by(self, flow: Flow) -> Self:
        """Return the same settings with another flow: the one that the processes run with."""
        changed = self.model_copy()
        changed._flow_to_go_by = flow  # noqa: SLF001 - its own
        return changed


def load_settings(
    config: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    flow: str | None = None,
) -> Settings:
    """Read the file (`config`, else RELAY_CONFIG, else ./relay.toml) and the environment.

    `flow` (else RELAY_FLOW) names the flow that a command is about; with one flow nobody needs it.

    Raises:
        SettingsError: names every setting that is unknown, unusable or contradictory.
    """
    variables = os.environ if environment is None else environment
    file = file_table(config, variables)
    refuse_unknown_keys(Settings, file)
    flow_names = list(file.get("flow", {})) or [FLOW]
    environ = from_environment(Settings, variables, flow_names[0])
    if len(flow_names) > 1 and "flow" in environ:
        (values,) = environ["flow"].values()
        variable = f"RELAY_FLOW_{next(iter(values)).upper()}"
        raise SettingsError(
            f"{variable} speaks of one flow, and the file has {', '.join(flow_names)}: set it there"
        )
    refuse_odd_text(environ)
    refuse_odd_text(file)
    try:
        settings = Settings(env=environ, file=file)  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError(_problems(error, environ)) from None
    _refuse_contradictions(settings, variables)
    return settings.naming(flow or variables.get("RELAY_FLOW") or None)


def _problems(error: ValidationError, environ: Mapping[str, Any]) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    said = (e["msg"].removeprefix("Value error, ") for e in found)
    return "; ".join(
        f"{shown_name(e['loc'], environ)}: {text}" for e, text in zip(found, said, strict=True)
    )


def _refuse_contradictions(settings: Settings, variables: Mapping[str, str]) -> None:
    try:
        settings.kafka, settings.every_flow  # noqa: B018 - built for their own checks
        read_database_url(settings.database.dsn, variables)
    except DatabaseUrlError as error:
        # Its cause may hold a part of the password.
        raise SettingsError(str(error)) from None
    except ValueError as error:
        raise SettingsError(str(error)) from error
