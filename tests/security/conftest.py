"""Servers that ask who one is: TLS, client certificates, passwords; certificates are made here."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
import trustme
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import MavenContext

from relay.embedded import EmbeddedKafka, EmbeddedPostgres
from relay.embedded.folders import (
    one_at_a_time,
    run_folder,
    server_account,
    shared_cache_folder,
)
from relay.embedded.ports import free_port

KEY_PASSWORD = "of-the-key"
USER, PASSWORD = "relay-user", "kafka-secret-5d1c"
SUPER_USER = "User:ANONYMOUS"


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path
    encrypted_key: Path
    both: Path


class Authority:
    """A certificate authority of the tests' own."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._ca = trustme.CA(organization_name=name)
        self.file = folder / f"{name}-ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str, *identities: str, expired: bool = False) -> Certificate:
        """Issue a certificate for hosts, addresses or (by `common_name`) a user."""
        not_after = datetime(2020, 1, 1, tzinfo=UTC) if expired else None
        leaf = self._ca.issue_cert(*identities, common_name=name, not_after=not_after)
        key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
        pkcs8 = (Encoding.PEM, PrivateFormat.PKCS8)  # the form that Java reads
        plain = key.private_bytes(*pkcs8, NoEncryption())
        locked = key.private_bytes(*pkcs8, BestAvailableEncryption(KEY_PASSWORD.encode()))
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        return Certificate(
            self._write(f"{name}.pem", chain),
            self._write(f"{name}-key.pem", plain),
            self._write(f"{name}-locked.pem", locked),
            self._write(f"{name}-both.pem", plain + chain),
        )

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / f"{self._name}-{name}"
        path.write_bytes(content)
        path.chmod(0o600)
        return path


@dataclass(frozen=True)
class Certificates:
    """What everybody in these tests has."""

    trusted: Authority
    other: Authority
    server: Certificate
    expired: Certificate
    elsewhere: Certificate
    client: Certificate
    stranger: Certificate


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    trusted, other = Authority(folder, "trusted"), Authority(folder, "other")
    return Certificates(
        trusted,
        other,
        server=trusted.issue("server", "127.0.0.1", "localhost"),
        expired=trusted.issue("expired", "127.0.0.1", "localhost", expired=True),
        elsewhere=trusted.issue("elsewhere", "kafka.example.org"),
        client=trusted.issue("tls_user", "client.example.org"),
        stranger=other.issue("tls_user", "client.example.org"),
    )


# --- Kafka ----------------------------------------------------------------------------------------

# Listener -> protocol. One broker, and a listener for each thing that can be right or wrong.
LISTENERS = {
    "PLAINTEXT": "PLAINTEXT",
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "ELSEWHERE": "SSL",
    "SASLTLS": "SASL_SSL",
    "SASLCLEAR": "SASL_PLAINTEXT",
}


class SecureKafka(EmbeddedKafka):
    """A broker with a listener of each kind on top of the plain one."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        super().__init__(folder)
        self._certificates = certificates
        self._ports = {name: free_port() for name in LISTENERS if name != "PLAINTEXT"}

    def address(self, listener: str) -> str:
        return f"127.0.0.1:{self._ports.get(listener, self.port)}"

    def _configure(self) -> None:
        super()._configure()
        path = self.folder / "server.properties"
        lines = path.read_text().splitlines()
        controller = next(one for one in lines if one.startswith("listeners=")).split(",")[1]
        mine = [f"{name}://{self.address(name)}" for name in LISTENERS]
        protocols = ",".join(f"{name}:{kind}" for name, kind in LISTENERS.items())
        settings = {
            "listeners": ",".join([*mine, controller]),
            "advertised.listeners": ",".join(mine),
            "listener.security.protocol.map": f"{protocols},CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            **self._tls("tls", self._certificates.server),
            **self._tls("mutual", self._certificates.server),
            "listener.name.mutual.ssl.client.auth": "required",
            **self._tls("expired", self._certificates.expired),
            **self._tls("elsewhere", self._certificates.elsewhere),
            **self._tls("sasltls", self._certificates.server),
            **_sasl("sasltls", "SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"),
            **_sasl("saslclear", "SCRAM-SHA-256"),
        }
        kept = [one for one in lines if one.partition("=")[0] not in settings]
        path.write_text("\n".join([*kept, *(f"{k}={v}" for k, v in settings.items())]) + "\n")

    def _tls(self, listener: str, certificate: Certificate) -> dict[str, str]:
        prefix = f"listener.name.{listener}.ssl."
        return {
            f"{prefix}keystore.type": "PEM",
            f"{prefix}keystore.location": str(certificate.both),
            f"{prefix}truststore.type": "PEM",
            f"{prefix}truststore.location": str(self._certificates.trusted.file),
        }


def _sasl(listener: str, *mechanisms: str) -> dict[str, str]:
    prefix = f"listener.name.{listener}."
    found = {f"{prefix}sasl.enabled.mechanisms": ",".join(mechanisms)}
    module = "org.apache.kafka.common.security"
    for one in mechanisms:
        name = f"{prefix}{one.lower()}.sasl.jaas.config"
        if one == "PLAIN":
            login = f'{module}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        else:
            login = f"{module}.scram.ScramLoginModule required;"
        found[name] = login
    return found


@pytest.fixture(scope="session")
def secure_kafka(certificates: Certificates) -> Iterator[SecureKafka]:
    with run_folder() as folder:
        broker = SecureKafka(folder / "kafka", certificates)
        broker.start()
        try:
            _make_scram_user(broker.bootstrap_servers)
            yield broker
        finally:
            broker.kill()


def _make_scram_user(bootstrap_servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for kind in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        wanted = UserScramCredentialUpsertion(
            USER, ScramCredentialInfo(kind, 4096), PASSWORD.encode()
        )
        for done in admin.alter_user_scram_credentials([wanted]).values():
            done.result(30)


# --- PostgreSQL -----------------------------------------------------------------------------------

# The wheel's PostgreSQL is built without OpenSSL; these are built with it (Maven Central, 15 MB).
BUILD, BUILD_GROUP = "18.1.0", "io.zonky.test.postgres"
BUILDS = {
    ("linux", "x86_64"): (
        "linux-amd64",
        "65d0723e0274ad3ec6230dcbdfe034af6ee096fce15a77b0f9b8be71d2702934",
    ),
    ("linux", "aarch64"): (
        "linux-arm64v8",
        "ea0f16b754fc0a10d9d8993bbd426c20f8c709b318b28e49b42d9cac1c958b8f",
    ),
    ("darwin", "arm64"): (
        "darwin-arm64v8",
        "7398c6c19d11594a944dc0ddc79fdbb611164312e1f509a8c86b09724027401e",
    ),
    ("darwin", "x86_64"): (
        "darwin-amd64",
        "3b4f16dcf57250d8f9c5e9270a7dfc3921b66d66534d00f8f366e8263e862d11",
    ),
}


def tls_programs() -> Path:
    """The folder of the programs of a PostgreSQL that speaks TLS, fetched once."""
    name, sha256 = BUILDS[sys.platform, platform.machine()]
    cache = shared_cache_folder()
    folder = cache / f"postgres-tls-{BUILD}"
    with one_at_a_time(cache / "postgres-tls.lock"):
        if not folder.exists():
            unfinished = cache / "postgres-tls.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            _unpack(_jar(f"embedded-postgres-binaries-{name}", sha256, unfinished), unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(folder)
    return folder / "bin"


def _jar(artifact: str, sha256: str, folder: Path) -> Path:
    addresses = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    context = MavenContext(repo_cache=folder / "jar", remote_repos=addresses, timeout=60)
    found = Path(context.project(BUILD_GROUP, artifact).at_version(BUILD).artifact().resolve())
    assert hashlib.sha256(found.read_bytes()).hexdigest() == sha256
    return found


def _unpack(jar: Path, folder: Path) -> None:
    with zipfile.ZipFile(jar) as outer:
        (inside,) = (one for one in outer.namelist() if one.endswith(".txz"))
        with outer.open(inside) as inner, tarfile.open(fileobj=inner, mode="r|xz") as archive:
            archive.extractall(folder, filter="tar")
    shutil.rmtree(folder / "jar")


HBA = """
hostssl all tls_user     127.0.0.1/32 cert
hostssl all tls_only     127.0.0.1/32 scram-sha-256
host    all tls_only     127.0.0.1/32 reject
host    all all          127.0.0.1/32 scram-sha-256
"""


class SecurePostgres(EmbeddedPostgres):
    """A server with TLS, a user of each kind, and `pg_hba.conf` to tell them apart."""

    def __init__(
        self, folder: Path, certificates: Certificates, certificate: Certificate | None
    ) -> None:
        super().__init__(folder)
        self._certificates, self._certificate = certificates, certificate

    def _program(self, name: str) -> str:
        return str(tls_programs() / name)

    def _configure(self) -> None:
        hba = self._file("hba.conf", HBA)
        self.settings = {"hba_file": str(hba)}
        if self._certificate is not None:
            given = self._certificate
            trusted = self._certificates.trusted.file
            self.settings |= {
                "ssl": "on",
                "ssl_cert_file": str(self._file("server.pem", given.certificate.read_text())),
                "ssl_key_file": str(self._file("server.key", given.key.read_text())),
                "ssl_ca_file": str(self._file("ca.pem", trusted.read_text())),
            }
        super()._configure()

    def _file(self, name: str, text: str) -> Path:
        path = self._data / name
        path.write_text(text)
        path.chmod(0o600)
        if account := server_account():
            os.chown(path, *account)
        return path

    def url(self, user: str, password: str | None = None, **options: object) -> str:
        secret = f":{password}" if password else ""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/postgres?{query}"


def _postgres(
    certificates: Certificates, certificate: Certificate | None
) -> Iterator[SecurePostgres]:
    with run_folder() as folder:
        server = SecurePostgres(folder / "postgres", certificates, certificate)
        server.start()
        try:
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute("CREATE ROLE tls_user LOGIN")
                connection.execute(f"CREATE ROLE tls_only LOGIN PASSWORD '{PASSWORD}'")
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session")
def secure_postgres(certificates: Certificates) -> Iterator[SecurePostgres]:
    """A PostgreSQL with a certificate that clients may trust."""
    yield from _postgres(certificates, certificates.server)


@pytest.fixture(scope="session")
def expired_postgres(certificates: Certificates) -> Iterator[SecurePostgres]:
    """A PostgreSQL whose certificate is over."""
    yield from _postgres(certificates, certificates.expired)


@pytest.fixture(scope="session")
def elsewhere_postgres(certificates: Certificates) -> Iterator[SecurePostgres]:
    """A PostgreSQL with the certificate of another host."""
    yield from _postgres(certificates, certificates.elsewhere)
