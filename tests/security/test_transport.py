"""TLS, client certificates and passwords to both servers: what works, and what an error says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import asyncpg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from relay.diagnose.check import run_check as check_run
from relay.kafka.refusal import KafkaRefusedError, refusal
from relay.outbox import Item, NewOrder, place_order
from relay.runtime.database import DatabaseRefusedError, DatabaseUnreachableError, connect
from relay.runtime.kafka_connection import KafkaConnection, KafkaSettingsError
from relay.runtime.migrations import migrate

USER, PASSWORD, KEY_PASSWORD = "relay-user", "kafka-secret-5d1c", "of-the-key"
SCRAM_256 = {
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-256",
    "KAFKA_SASL_USERNAME": USER,
    "KAFKA_SASL_PASSWORD": PASSWORD,
}


def tls(authority: Any, certificate: Any = None) -> dict[str, str]:
    found = {"security_protocol": "SSL", "ssl_ca_location": str(authority.file)}
    if certificate is not None:
        found["ssl_certificate_location"] = str(certificate.certificate)
        found["ssl_key_location"] = str(certificate.key)
    return found


def sasl(mechanism: str, password: str = PASSWORD, protocol: str = "SASL_SSL") -> dict[str, str]:
    return {
        "security_protocol": protocol,
        "sasl_mechanism": mechanism,
        "sasl_username": USER,
        "sasl_password": password,
    }


def kafka(secure_kafka: Any, listener: str, **settings: str) -> KafkaConnection:
    return KafkaConnection(secure_kafka.address(listener), **settings)


# --- Kafka: taken, or told what to correct ----------------------------------------------------


def works(certificates: Any) -> list[tuple[str, Mapping[str, str]]]:
    trusted = certificates.trusted
    ca = {"ssl_ca_location": str(trusted.file)}
    mutual = tls(trusted, certificates.client)
    locked = mutual | {
        "ssl_key_location": str(certificates.client.encrypted_key),
        "ssl_key_password": KEY_PASSWORD,
    }
    return [
        ("PLAINTEXT", {}),
        ("TLS", tls(trusted)),
        ("MUTUAL", mutual),
        ("MUTUAL", locked),
        ("SASLTLS", sasl("SCRAM-SHA-256") | ca),
        ("SASLTLS", sasl("SCRAM-SHA-512") | ca),
        ("SASLTLS", sasl("PLAIN") | ca),
        ("SASLCLEAR", sasl("SCRAM-SHA-256", protocol="SASL_PLAINTEXT")),
    ]


async def test_what_is_right_is_taken(secure_kafka: Any, certificates: Any) -> None:
    for listener, settings in works(certificates):
        assert await refusal(kafka(secure_kafka, listener, **settings)) is None, settings


def refused(certificates: Any) -> list[tuple[str, Mapping[str, str], str, str]]:
    trusted, other = certificates.trusted, certificates.other
    ca = {"ssl_ca_location": str(trusted.file)}
    clear = "SASL_PLAINTEXT"
    password, protocol = "KAFKA_SASL_PASSWORD", "KAFKA_SECURITY_PROTOCOL"
    return [
        ("TLS", tls(other), "not signed by an authority", "KAFKA_SSL_CA_LOCATION"),
        ("EXPIRED", tls(trusted), "has expired", "renew the broker's certificate"),
        ("ELSEWHERE", tls(trusted), "another host name", "KAFKA_BOOTSTRAP_SERVERS"),
        ("MUTUAL", tls(trusted), "asks for a client certificate", "KAFKA_SSL_CERTIFICATE"),
        ("MUTUAL", tls(trusted, certificates.stranger), "refuses our client", "KAFKA_SSL_KEY"),
        ("TLS", {}, "speaks TLS on this port", f"{protocol} to SSL or SASL_SSL"),
        ("SASLTLS", sasl("SCRAM-SHA-256", protocol=clear), "speaks TLS", f"{protocol} to SASL_SSL"),
        ("PLAINTEXT", tls(trusted), "does not speak TLS", f"{protocol} to PLAINTEXT"),
        ("SASLTLS", sasl("SCRAM-SHA-256", "wrong") | ca, "refuses user 'relay-user'", password),
        ("SASLTLS", sasl("SCRAM-SHA-512", "wrong") | ca, "by SCRAM-SHA-512", password),
        ("SASLTLS", sasl("PLAIN", "wrong") | ca, "by PLAIN", password),
        ("SASLCLEAR", sasl("SCRAM-SHA-512", protocol=clear), "does not take", "SASL_MECHANISM"),
        ("PLAINTEXT", sasl("PLAIN", protocol=clear), "asks for no password", f"{protocol} to PLAI"),
        ("SASLCLEAR", {}, "asks for a user and a password", f"{protocol} to SASL_PLAINTEXT"),
        ("SASLTLS", tls(trusted), "asks for a user and a password", f"{protocol} to SASL_SSL"),
    ]


async def test_what_is_wrong_is_named_with_what_to_do(secure_kafka: Any, certificates: Any) -> None:
    for listener, settings, said, hint in refused(certificates):
        found = await refusal(kafka(secure_kafka, listener, **settings))
        assert isinstance(found, KafkaRefusedError), (listener, settings)
        assert said in str(found), (listener, settings, str(found))
        assert hint in found.hint, (listener, settings, found.hint)
        assert "wrong" not in str(found)
        assert PASSWORD not in str(found)


async def test_a_broker_that_is_away_refuses_nobody() -> None:
    assert await refusal(KafkaConnection("127.0.0.1:1")) is None
    assert await refusal(KafkaConnection("no-such-host.invalid:9092")) is None


async def test_one_good_server_of_two_is_enough(secure_kafka: Any, certificates: Any) -> None:
    both = f"{secure_kafka.address('EXPIRED')},{secure_kafka.address('TLS')}"
    assert await refusal(KafkaConnection(both, **tls(certificates.trusted))) is None


def test_files_that_cannot_be_used_are_named(certificates: Any, tmp_path: Any) -> None:
    client, server = certificates.client, certificates.server
    no_pem = tmp_path / "no.pem"
    no_pem.write_text("nothing")
    good = tls(certificates.trusted, client)
    cases = {
        "KAFKA_SSL_CA_LOCATION": good | {"ssl_ca_location": str(no_pem)},
        "No such file": good | {"ssl_ca_location": str(tmp_path / "absent.pem")},
        "not the certificate's": good | {"ssl_key_location": str(server.key)},
        "no PEM file": good | {"ssl_certificate_location": str(no_pem)},
        "set KAFKA_SSL_KEY_PASSWORD": good | {"ssl_key_location": str(client.encrypted_key)},
        "or KAFKA_SSL_KEY_PASSWORD is not": good
        | {"ssl_key_location": str(client.encrypted_key), "ssl_key_password": "wrong"},
    }
    for said, settings in cases.items():
        with pytest.raises(KafkaSettingsError, match=said) as caught:
            KafkaConnection("a:1", **settings).client_options("x")
        assert "wrong" not in str(caught.value)


# --- PostgreSQL -------------------------------------------------------------------------------


def verified(certificates: Any, **more: object) -> dict[str, object]:
    return {"sslmode": "verify-full", "sslrootcert": certificates.trusted.file, **more}


def of(certificate: Any, key: Any = None) -> dict[str, object]:
    return {"sslcert": certificate.certificate, "sslkey": key or certificate.key}


async def test_postgresql_takes_what_is_right(secure_postgres: Any, certificates: Any) -> None:
    full = verified(certificates)
    locked = of(certificates.client, certificates.client.encrypted_key)
    for url in (
        secure_postgres.url("tls_only", PASSWORD, **full),
        secure_postgres.url("tls_user", **full, **of(certificates.client)),
        secure_postgres.url("tls_user", **full, **locked, sslpassword=KEY_PASSWORD),
    ):
        connection = await connect(url, "relay-test")
        try:
            seen = await connection.fetchrow(
                "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            )
            assert seen["ssl"]
            assert seen["version"] == "TLSv1.3"
        finally:
            await connection.close()
    stored = await _superuser(
        secure_postgres, "SELECT rolpassword FROM pg_authid WHERE rolname = 'tls_only'"
    )
    assert stored.startswith("SCRAM-SHA-256$")


async def _superuser(server: Any, query: str) -> Any:
    connection = await asyncpg.connect(server.dsn())
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_postgresql_s_refusals_say_what_to_do(
    secure_postgres: Any,
    expired_postgres: Any,
    elsewhere_postgres: Any,
    certificates: Any,
    postgres_url: str,
) -> None:
    full, server = verified(certificates), secure_postgres
    other = full | {"sslrootcert": certificates.other.file}
    absent = full | {"sslrootcert": "/absent/ca.pem"}
    no_database = server.url("tls_only", PASSWORD, **full).replace("/postgres?", "/absent?")
    cases = [
        (server.url("tls_only", PASSWORD, **other), "not signed by", "sslrootcert=FILE"),
        (expired_postgres.url("tls_only", PASSWORD, **full), "expired", "renew the server's"),
        (elsewhere_postgres.url("tls_only", PASSWORD, **full), "another host", "use the host name"),
        (server.url("tls_only", "wrong", **full), "password authentication", "correct user and"),
        (server.url("tls_only", PASSWORD, sslmode="disable"), "no encryption", "sslmode=verify-f"),
        (server.url("tls_user", **full), "client certificate", "add sslcert=FILE"),
        (server.url("tls_user", **full, **of(certificates.stranger)), "refuses our", "sslcert and"),
        (server.url("tls_only", PASSWORD, **absent), "/absent/ca.pem", "correct the path"),
        (no_database, '"absent" does not exist', "correct its name"),
        (f"{postgres_url}?sslmode=require", "does not speak TLS", "turn TLS on"),
    ]
    for url, said, hint in cases:
        refused = str(await refusal_by_postgresql(url))
        assert said in refused, (said, refused)
        assert hint in refused, (hint, refused)
        for secret in (PASSWORD, "wrong"):
            assert secret not in refused


async def refusal_by_postgresql(url: str) -> DatabaseRefusedError:
    """Return how a connection is refused.

    With TLS 1.3 a server hangs up on a client whose handshake is already done: now and then its
    reason is lost with the connection, and a service asks again.
    """
    for _ in range(20):
        try:
            connection = await connect(url, "relay-test")
        except DatabaseRefusedError as refused:
            return refused
        except DatabaseUnreachableError:
            continue
        else:
            await connection.close()
            raise AssertionError(f"{url} was let in")
    raise AssertionError(f"{url} was never told why")


# --- the whole program on servers like these ----------------------------------------------------


@pytest.fixture
def surrounded(secure_kafka: Any, secure_postgres: Any, certificates: Any) -> dict[str, str]:
    """The environment of a program that reaches both servers by TLS and SCRAM."""
    suffix = "tls"
    names = {"events": f"orders.events.{suffix}", "returns": f"orders.returns.{suffix}"}
    admin = AdminClient({"bootstrap.servers": secure_kafka.bootstrap_servers})
    new = [NewTopic(name, 3, 1) for name in names.values()]
    for done in admin.create_topics(new).values():
        done.result(30)
    return SCRAM_256 | {
        "DATABASE_URL": secure_postgres.url("loop", PASSWORD, **verified(certificates)).replace(
            "/postgres?", "/loop?"
        ),
        "KAFKA_BOOTSTRAP_SERVERS": secure_kafka.address("SASLTLS"),
        "KAFKA_SSL_CA_LOCATION": str(certificates.trusted.file),
        "RELAY_FLOW_EVENTS_TOPIC": names["events"],
        "RELAY_FLOW_RETURNS_TOPIC": names["returns"],
        "RELAY_METRICS_ENABLED": "false",
    }


async def test_the_whole_loop_by_tls_and_scram(
    surrounded: dict[str, str],
    secure_postgres: Any,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    await _superuser(secure_postgres, f"CREATE ROLE loop LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    await _superuser(secure_postgres, "CREATE DATABASE loop")
    await migrate(surrounded["DATABASE_URL"], sample=True)
    services = [
        relay_process(*command, env=surrounded)
        for command in (("run",), ("confirm",), ("sample", "processor"))
    ]
    pg = await asyncpg.connect(surrounded["DATABASE_URL"])
    try:
        async with pg.transaction():
            order = await place_order(pg, NewOrder("c", [Item("tea", 1, "9.95")], "EUR"))

        async def returned() -> bool:
            status = await pg.fetchval("SELECT status FROM orders")
            assert all(one.is_running() for one in services), [one.stderr for one in services]
            return bool(status == "confirmed")

        await eventually(returned, 60)
        in_clear = await pg.fetchval(
            """SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
                WHERE datname = 'loop' AND NOT ssl"""
        )
        assert in_clear == 0
    finally:
        await pg.close()
    found = await asyncio.to_thread(relay_command, "diagnose", str(order.order_id), env=surrounded)
    assert "returned" in found.stdout, found.stderr
    checked = await asyncio.to_thread(relay_command, "check", "--all", env=surrounded)
    for name in ("database.connection", "kafka.connection"):
        assert f" ok {name}" in checked.stdout, checked.stdout + checked.stderr
    for one in services:
        assert one.terminate() == 0
        assert PASSWORD not in one.stderr + one.stdout


@pytest.mark.parametrize("command", [("run",), ("confirm",), ("sample", "processor")])
async def test_a_service_that_never_got_in_ends_and_says_why(
    database: str,
    secure_kafka: Any,
    certificates: Any,
    relay_command: Callable[..., Any],
    command: tuple[str, ...],
) -> None:
    reach = SCRAM_256 | {
        "KAFKA_BOOTSTRAP_SERVERS": secure_kafka.address("SASLTLS"),
        "KAFKA_SSL_CA_LOCATION": str(certificates.trusted.file),
        "RELAY_METRICS_ENABLED": "false",
    }
    env = reach | {"KAFKA_SASL_PASSWORD": "wrong-marker"}
    done = await asyncio.to_thread(relay_command, *command, env=env, within_seconds=60)
    assert done.returncode == 1, done.stderr
    assert "kafka_refused" in done.stderr
    assert "correct KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD" in done.stderr
    assert "wrong-marker" not in done.stderr + done.stdout


async def test_check_and_diagnose_say_why_the_broker_refuses(
    database: str, secure_kafka: Any, certificates: Any, relay_command: Callable[..., Any]
) -> None:
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": secure_kafka.address("TLS"),
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_SSL_CA_LOCATION": str(certificates.other.file),
    }
    checked = await asyncio.to_thread(relay_command, "check", env=env)
    assert checked.returncode == 3
    assert "NO kafka.connection" in checked.stdout
    assert "not signed by an authority that we trust" in checked.stdout
    assert "name the authority's certificates in KAFKA_SSL_CA_LOCATION" in checked.stdout
    pg = await asyncpg.connect(database)
    try:
        async with pg.transaction():
            order = await place_order(pg, NewOrder("c", [Item("tea", 1, "9.95")], "EUR"))
        await pg.execute(
            """INSERT INTO relay.delivery_ledger
                      (epoch, topic, partition, base_offset, record_count, outbox_ids, id_range)
               SELECT 1, 'orders.events', 0, 0, 1, ARRAY[id], int8range(id, id, '[]')
                 FROM relay.outbox"""
        )
    finally:
        await pg.close()
    told = await asyncio.to_thread(relay_command, "diagnose", str(order.order_id), env=env)
    assert "not signed by an authority that we trust" in told.stdout, told.stdout + told.stderr


def test_check_warns_of_a_password_in_the_clear() -> None:
    plain = KafkaConnection("a:1", **sasl("PLAIN", protocol="SASL_PLAINTEXT"))
    (found,) = check_run._password_in_clear(plain)
    assert "in the clear" in found.found
    assert "SASL_SSL" in found.fix
    scram = sasl("SCRAM-SHA-256", protocol="SASL_PLAINTEXT")
    assert check_run._password_in_clear(KafkaConnection("a:1", **scram)) == []
