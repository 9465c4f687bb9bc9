"""Hops 2 to 5: why the broker does not take us: asked once more, by hand, after a client failed.

Invariant: it changes nothing and raises nothing: a few bytes to each bootstrap server, within
seconds, and what they answer becomes an error that names the setting to correct. aiokafka itself
says `Unable to bootstrap` for a wrong password, an expired certificate and a dead broker alike.
What is not certain is not said: None, and the caller's own error stands.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from contextlib import suppress
from typing import Any, Final

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from relay.runtime.client_failure import ClientFailure
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.kafka_names import brokers
from relay.runtime.tls import TlsProblem, said_by_tls, tls_problem

ASK_SECONDS: Final = 3.0
_FAILURES: Final = (KafkaError, OSError, TimeoutError, EOFError, ValueError, AssertionError)

_TLS_FIXES: Final = {
    TlsProblem.UNTRUSTED: "name the authority's certificates in KAFKA_SSL_CA_LOCATION",
    TlsProblem.EXPIRED: "renew the broker's certificate",
    TlsProblem.NOT_YET: "correct the clock, or the broker's certificate",
    TlsProblem.OTHER_HOST: "use the name that is in the certificate in KAFKA_BOOTSTRAP_SERVERS and "
    "in the broker's advertised.listeners",
    TlsProblem.CLIENT_NEEDED: "set KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION",
    TlsProblem.CLIENT_REFUSED: "correct KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION, "
    "or the broker's truststore",
    TlsProblem.NO_TLS: "set KAFKA_SECURITY_PROTOCOL to PLAINTEXT or SASL_PLAINTEXT, or name the "
    "TLS port",
    TlsProblem.NOTHING_IN_COMMON: "allow TLS 1.2 or 1.3 at the broker",
}


class KafkaRefusedError(KafkaError):  # type: ignore[misc]
    """The broker answers and does not take us: the settings are wrong, and somebody must act.

    Attributes:
        hint: what to correct.
        failure: which kind of refusal it is.
    """

    def __init__(self, said: str, hint: str, failure: ClientFailure) -> None:
        super().__init__(f"{said}: {hint}")
        self.hint = hint
        self.failure = failure

    def __str__(self) -> str:
        return str(self.args[0])


async def refusal(kafka: KafkaConnection, seconds: float = ASK_SECONDS) -> KafkaRefusedError | None:
    """Ask each bootstrap server why it refuses us; None: it does not, or cannot be reached."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            asked = [
                _ask_one(kafka, host, port)
                for host, port, _ in collect_hosts(
                    list(brokers(kafka.bootstrap_servers)), randomize=False
                )
            ]
            answers = await asyncio.gather(*asked)
            if None not in answers:
                return next((one for one in answers if isinstance(one, KafkaRefusedError)), None)
    return None


async def _ask_one(
    kafka: KafkaConnection, host: str, port: int
) -> KafkaRefusedError | KafkaError | None:
    """Connect as a client does: None, taken; KafkaRefusedError, why not; another, unreachable."""
    where = f"Kafka at {host}:{port}"
    options = kafka.client_options("relay-ask")
    del options["bootstrap_servers"]
    greeted = False
    try:
        connection = await create_conn(
            host, port, request_timeout_ms=int(ASK_SECONDS * 1000), **options
        )
        greeted = True
        try:
            await connection.send(MetadataRequest([]))
        finally:
            connection.close()
    except _FAILURES as error:
        found = (
            _sasl(kafka, error)
            or _tls(error)
            or await _protocol(kafka, host, port, greeted=greeted)
        )
        if found is None:
            return KafkaError(str(error))
        said, hint, failure = found
        return KafkaRefusedError(f"{where}: {said}", hint, failure)
    return None


Refusal = tuple[str, str, ClientFailure]


def _sasl(kafka: KafkaConnection, error: BaseException) -> Refusal | None:
    if isinstance(error, SaslAuthenticationFailed):
        said = f"it refuses user {kafka.sasl_username!r} by {kafka.sasl_mechanism}"
        hint = "correct KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD or KAFKA_SASL_MECHANISM"
        return said, hint, ClientFailure.LOGIN_REFUSED
    if isinstance(error, UnsupportedSaslMechanismError):
        said = f"it does not take {kafka.sasl_mechanism}"
        hint = "set KAFKA_SASL_MECHANISM to one that is enabled on that listener"
        return said, hint, ClientFailure.LOGIN_REFUSED
    if isinstance(error, IllegalSaslStateError):
        plain = kafka.security_protocol.removeprefix("SASL_")
        hint = f"set KAFKA_SECURITY_PROTOCOL to {plain}"
        return "it asks for no password on this port", hint, ClientFailure.PROTOCOL_REFUSED
    return None


def _tls(error: BaseException) -> Refusal | None:
    problem = tls_problem(error)
    if problem is None:
        return None
    said = f"{problem} ({said_by_tls(error)})"
    return said, _TLS_FIXES[problem], ClientFailure.TLS_REFUSED


async def _protocol(
    kafka: KafkaConnection, host: str, port: int, *, greeted: bool
) -> Refusal | None:
    """Tell whether the port speaks another protocol than the one that is set."""
    with_tls = kafka.security_protocol.endswith("SSL")
    sasl = kafka.security_protocol.startswith("SASL_")
    if with_tls and not greeted:
        if await _speaks_plainly(host, port):
            fix = _TLS_FIXES[TlsProblem.NO_TLS]
            return TlsProblem.NO_TLS.value, fix, ClientFailure.PROTOCOL_REFUSED
        return None
    if not with_tls and not greeted:
        if await _speaks_tls(host, port):
            right = "SASL_SSL" if sasl else "SSL or SASL_SSL"
            hint = f"set KAFKA_SECURITY_PROTOCOL to {right}"
            return "it speaks TLS on this port", hint, ClientFailure.PROTOCOL_REFUSED
        return None
    if sasl or not await _closes_again(kafka, host, port):
        return None
    right = "SASL_SSL" if with_tls else "SASL_PLAINTEXT"
    return (
        "it asks for a user and a password on this port",
        f"set KAFKA_SECURITY_PROTOCOL to {right}, and KAFKA_SASL_MECHANISM, _USERNAME, _PASSWORD",
        ClientFailure.LOGIN_REFUSED,
    )


async def _closes_again(kafka: KafkaConnection, host: str, port: int) -> bool:
    """Tell whether it greets us and closes at the first question once more: no coincidence."""
    options: dict[str, Any] = kafka.client_options("relay-ask")
    del options["bootstrap_servers"]
    try:
        connection = await create_conn(
            host, port, request_timeout_ms=int(ASK_SECONDS * 1000), **options
        )
    except _FAILURES:
        return False
    try:
        await connection.send(MetadataRequest([]))
    except KafkaConnectionError:
        return True
    except _FAILURES:
        return False
    finally:
        connection.close()
    return False


# ApiVersions, version 0: length, API key 18, version 0, correlation id 1, no client id.
_API_VERSIONS: Final = struct.pack(">ihhih", 10, 18, 0, 1, -1)
_ANSWER: Final = struct.Struct(">ii")


async def _speaks_plainly(host: str, port: int) -> bool:
    """Tell whether a broker answers without TLS."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    try:
        writer.write(_API_VERSIONS)
        _length, correlation_id = _ANSWER.unpack(await reader.readexactly(_ANSWER.size))
    except (OSError, EOFError):
        return False
    finally:
        writer.close()
    return bool(correlation_id == 1)


async def _speaks_tls(host: str, port: int) -> bool:
    """Tell whether a TLS handshake begins; nothing of ours is sent, so nothing is verified."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        _reader, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLError as error:
        return tls_problem(error) not in (None, TlsProblem.NO_TLS)
    except OSError:
        return False
    writer.close()
    return True
