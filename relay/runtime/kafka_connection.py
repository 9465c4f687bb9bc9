"""Hops 2 to 5: how to reach the broker, as values; this module does not speak to it.

Invariant: a connection that contradicts itself is never built (SASL credentials without a SASL
protocol would be sent nowhere, silently), and its password is in no repr.
"""

import ssl
from dataclasses import dataclass, field
from typing import Any

from relay.runtime.kafka_names import brokers

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class KafkaSettingsError(ValueError):
    """The Kafka connection settings contradict each other; the message names them."""


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """Where the broker is and how to introduce oneself: librdkafka's words, one per setting."""

    bootstrap_servers: str = "localhost:9092"
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_ca_location: str | None = None
    ssl_certificate_location: str | None = None
    ssl_key_location: str | None = None
    ssl_key_password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        problem = _contradiction(self)
        if problem:
            raise KafkaSettingsError(problem)

    @property
    def first_broker(self) -> str:
        """`host:port` of the first broker that is named, for traces."""
        return brokers(self.bootstrap_servers)[0]

    def client_options(self, client_id: str) -> dict[str, Any]:
        """Return aiokafka's keyword arguments, the same for producer, consumer and admin client.

        Raises:
            KafkaSettingsError: a certificate file is missing or is not one.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": ",".join(brokers(self.bootstrap_servers)),
            "client_id": client_id,
            "security_protocol": self.security_protocol,
        }
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context()
        if self.security_protocol.startswith("SASL_"):
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ssl_ca_location)
        except OSError as error:
            raise _unreadable("KAFKA_SSL_CA_LOCATION", self.ssl_ca_location, error) from error
        certificate = self.ssl_certificate_location
        if certificate:
            try:
                context.load_cert_chain(certificate, self.ssl_key_location, self._key_password)
            except OSError as error:
                names = "KAFKA_SSL_CERTIFICATE_LOCATION, KAFKA_SSL_KEY_LOCATION"
                files = ", ".join(filter(None, (certificate, self.ssl_key_location)))
                raise _unreadable(names, files, error) from error
        return context

    def _key_password(self) -> str:
        # Asked for an encrypted key only; without it OpenSSL would ask at the terminal, and wait.
        if self.ssl_key_password is None:
            raise KafkaSettingsError(
                f"the key {self.ssl_key_location or self.ssl_certificate_location} is encrypted: "
                "set KAFKA_SSL_KEY_PASSWORD, or KAFKA_SSL_KEY_PASSWORD_FILE"
            )
        return self.ssl_key_password


def _unreadable(settings: str, files: str | None, error: OSError) -> KafkaSettingsError:
    said = error.strerror
    if isinstance(error, ssl.SSLError):
        # OpenSSL says no more of a key that it cannot decrypt than of a file that is none.
        said = "no PEM file of that kind, or KAFKA_SSL_KEY_PASSWORD is not the key's password"
        if error.reason == "KEY_VALUES_MISMATCH":
            said = "the key is not the certificate's"
    return KafkaSettingsError(f"cannot use {files} ({settings}): {said}")


def _contradiction(connection: KafkaConnection) -> str | None:
    protocol, mechanism = connection.security_protocol, connection.sasl_mechanism
    try:
        brokers(connection.bootstrap_servers)
    except ValueError as error:
        return f"KAFKA_BOOTSTRAP_SERVERS: {error}"
    if protocol not in PROTOCOLS:
        return f"KAFKA_SECURITY_PROTOCOL is {protocol!r}: one of {', '.join(PROTOCOLS)}"
    if mechanism is not None and mechanism not in MECHANISMS:
        return f"KAFKA_SASL_MECHANISM is {mechanism!r}: one of {', '.join(MECHANISMS)}"
    return _sasl_contradiction(connection) or _ssl_contradiction(connection)


def _sasl_contradiction(connection: KafkaConnection) -> str | None:
    given = {
        "KAFKA_SASL_MECHANISM": connection.sasl_mechanism,
        "KAFKA_SASL_USERNAME": connection.sasl_username,
        "KAFKA_SASL_PASSWORD": connection.sasl_password,
    }
    protocol = connection.security_protocol
    if protocol.startswith("SASL_"):
        missing = [name for name, value in given.items() if not value]
        return (
            f"{missing[0]} is missing (KAFKA_SECURITY_PROTOCOL is {protocol})" if missing else None
        )
    extra = [name for name, value in given.items() if value]
    if extra:
        return f"{extra[0]} is set, but KAFKA_SECURITY_PROTOCOL is {protocol}: SASL_SSL meant?"
    return None


def _ssl_contradiction(connection: KafkaConnection) -> str | None:
    given = {
        "KAFKA_SSL_CA_LOCATION": connection.ssl_ca_location,
        "KAFKA_SSL_CERTIFICATE_LOCATION": connection.ssl_certificate_location,
        "KAFKA_SSL_KEY_LOCATION": connection.ssl_key_location,
        "KAFKA_SSL_KEY_PASSWORD": connection.ssl_key_password,
    }
    extra = [name for name, value in given.items() if value]
    if extra and not connection.security_protocol.endswith("SSL"):
        protocol = connection.security_protocol
        return f"{extra[0]} is set, but KAFKA_SECURITY_PROTOCOL is {protocol}: SSL meant?"
    if connection.ssl_key_location and not connection.ssl_certificate_location:
        return "KAFKA_SSL_KEY_LOCATION is set, but KAFKA_SSL_CERTIFICATE_LOCATION is not"
    return None
