"""Which servers the tests run on: today's are kind, those of other people are not.

`make test WORLD=shanghai` runs the suites on the servers of that world; a world is data. Tests
start their servers through `postgres_options` and `kafka_options`, and are to hold in every world.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from tests.worlds.programs import kafka_lock, postgres_programs

KIND = "kind"
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class World:
    """What differs from the servers that the embedded ones are by default.

    Attributes:
        postgres: major version; empty: the wheel's. `debian`: the operating system's own, which
            alone speaks other languages.
        postgres_settings: of postgresql.conf.
        language: a locale for `lc_messages`.
        kafka: release; empty: that of the embedded broker.
        kafka_settings: of server.properties.
        brokers: of the run's own cluster.
        local_time: TZ of our own processes, as POSIX writes it: it needs no file of zones.
    """

    name: str
    postgres: str = ""
    postgres_settings: Mapping[str, str] = field(default_factory=lambda: _NONE)
    language: str = ""
    kafka: str = ""
    kafka_settings: Mapping[str, str] = field(default_factory=lambda: _NONE)
    brokers: int = 1
    local_time: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of our own processes."""
        return {"TZ": self.local_time} if self.local_time else {}

    def postgres_options(self, settings: Mapping[str, str] = _NONE) -> dict[str, Any]:
        """Return what an EmbeddedPostgres of this world is described with."""
        options: dict[str, Any] = {"settings": {**self.postgres_settings, **settings}}
        if self.postgres:
            options |= postgres_programs(self.postgres, self.language)
        if self.language:
            options["settings"]["lc_messages"] = self.language
        return options

    def standby_options(self, settings: Mapping[str, str] = _NONE) -> dict[str, Any]:
        """Return the same for servers that are copied: only the wheel brings pg_basebackup."""
        return {"settings": {**self.postgres_settings, **settings}}

    def kafka_options(self, settings: Mapping[str, str] = _NONE) -> dict[str, Any]:
        """Return what an EmbeddedKafka of this world is described with."""
        options: dict[str, Any] = {"settings": {**self.kafka_settings, **settings}}
        if self.kafka:
            options["lock_file"] = kafka_lock(self.kafka)
        return options


def _settings(**settings: str) -> Mapping[str, str]:
    return MappingProxyType(settings)


WORLDS: Mapping[str, World] = MappingProxyType(
    {
        world.name: world
        for world in (
            World(KIND),
            World(
                "shanghai",
                local_time="CST-8",
                postgres="16",
                postgres_settings=_settings(
                    timezone="Asia/Shanghai",
                    datestyle="German, DMY",
                    intervalstyle="sql_standard",
                    bytea_output="escape",
                    quote_all_identifiers="on",
                    extra_float_digits="-15",
                    search_path="shop, public",
                    plan_cache_mode="force_generic_plan",
                ),
                kafka="4.0",
                kafka_settings=MappingProxyType({"compression.type": "zstd"}),
            ),
            World(
                "kathmandu",
                local_time="<+0545>-5:45",
                postgres="14",
                postgres_settings=_settings(
                    timezone="Asia/Kathmandu",
                    datestyle="SQL, DMY",
                    intervalstyle="iso_8601",
                    array_nulls="off",
                    extra_float_digits="0",
                    default_transaction_isolation="repeatable read",
                ),
                kafka="3.9",
                kafka_settings=MappingProxyType(
                    {"compression.type": "lz4", "log.message.timestamp.type": "LogAppendTime"}
                ),
            ),
            World(
                "berlin",
                local_time="CET-1CEST,M3.5.0,M10.5.0/3",
                postgres="debian",
                language="de_DE.UTF-8",
                postgres_settings=_settings(
                    timezone="Europe/Berlin",
                    datestyle="German, DMY",
                    intervalstyle="postgres_verbose",
                    transform_null_equals="on",
                    statement_timeout="60s",
                    idle_in_transaction_session_timeout="60s",
                ),
                kafka="4.2",
                kafka_settings=MappingProxyType({"compression.type": "gzip"}),
            ),
            World(
                "newfoundland",
                local_time="NST3:30NDT,M3.2.0,M11.1.0",
                postgres="17",
                postgres_settings=_settings(
                    timezone="America/St_Johns",
                    datestyle="Postgres, MDY",
                    intervalstyle="postgres_verbose",
                    bytea_output="escape",
                    default_transaction_isolation="serializable",
                ),
                kafka="4.1",
                kafka_settings=MappingProxyType({"compression.type": "snappy"}),
                brokers=3,
            ),
            World(
                "lordhowe",
                local_time="<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
                postgres="15",
                postgres_settings=_settings(
                    timezone="Australia/Lord_Howe",
                    datestyle="ISO, YMD",
                    intervalstyle="sql_standard",
                    row_security="on",
                    default_transaction_isolation="serializable",
                    default_transaction_deferrable="on",
                    synchronous_commit="local",
                ),
                kafka="4.3",
                kafka_settings=MappingProxyType(
                    {
                        "group.consumer.migration.policy": "bidirectional",
                        "message.timestamp.after.max.ms": "9223372036854775807",
                        "transaction.partition.verification.enable": "true",
                    }
                ),
            ),
        )
    }
)


def chosen() -> World:
    """Return the world that the environment names, `kind` by default."""
    name = os.environ.get("WORLD") or KIND
    if name not in WORLDS:
        raise KeyError(f"WORLD={name} is none of {', '.join(WORLDS)}")
    return WORLDS[name]


WORLD = chosen()
