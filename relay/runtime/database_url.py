"""Reads DATABASE_URL in libpq's words, also those that the driver does not know.

Invariant: pure but for libpq's own environment variables. Each word of libpq is passed on, acted
on here, ignored because it changes nothing that we promise, or refused because leaving it out would
weaken what was asked for. A word that libpq does not have is refused by name. No error shows a
value: it may be a part of a password that was not percent-encoded.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

NOT_A_URL: Final = (
    "DATABASE_URL is no postgresql:// URL; percent-encode special characters of the password "
    "(@ is %40, / is %2F, ? is %3F, # is %23)"
)
_PORTS: Final = range(1, 65536)
_MOST_SECONDS: Final = 86_400

SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


class DatabaseUrlError(ValueError):
    """DATABASE_URL, or a variable of libpq, says what cannot be done; the message says which."""


def _one_of(*words: str) -> Callable[[str], str | None]:
    return lambda value: None if value in words else f"one of {', '.join(words)}"


def _whole_number(value: str) -> str | None:
    fine = value.isascii() and value.isdigit() and int(value[:9]) <= _MOST_SECONDS
    return None if fine and len(value) < len("100000000") else f"0 to {_MOST_SECONDS}"


def _ports(value: str) -> str | None:
    each = value.split(",")
    fine = all(
        p == "" or (p.isascii() and p.isdigit() and len(p) <= len("65535") and int(p) in _PORTS)
        for p in each
    )
    return None if fine else "1 to 65535, for each host"


def _anything(_value: str) -> str | None:
    return None


def _unless(value: str, why: str) -> Callable[[str], str | None]:
    """Refuse one value: without it, what was asked for would not hold."""
    return lambda given: None if given != value else f"anything but {value}: {why}"


def _never(why: str) -> Callable[[str], str | None]:
    return lambda _given: f"left out: {why}"


# What the driver understands by itself.
_PASSED_ON: Final[Mapping[str, Callable[[str], str | None]]] = {
    "host": _anything,
    "port": _ports,
    "dbname": _anything,
    "database": _anything,
    "user": _anything,
    "password": _anything,
    "passfile": _anything,
    "service": _anything,
    "sslmode": _one_of(*SSL_MODES),
    "sslnegotiation": _one_of("postgres", "direct"),
    "sslcert": _anything,
    "sslkey": _anything,
    "sslpassword": _anything,
    "sslrootcert": _unless("system", "name a file of the authorities to trust"),
    "sslcrl": _anything,
    "ssl_min_protocol_version": _one_of("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": _one_of("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "target_session_attrs": _one_of(
        "any", "read-write", "read-only", "primary", "standby", "prefer-standby"
    ),
    "krbsrvname": _anything,
    "gsslib": _one_of("gssapi", "sspi"),
}

# What is done here. JDBC's `ssl=true` is sslmode=require to libpq, too.
_ACTED_ON: Final[Mapping[str, Callable[[str], str | None]]] = {
    "connect_timeout": _whole_number,
    "options": _anything,
    "servicefile": _anything,
    "ssl": _one_of("true"),
    "keepalives": _whole_number,
    "keepalives_idle": _whole_number,
    "keepalives_interval": _whole_number,
    "keepalives_count": _whole_number,
}

_GSS: Final = "connections encrypted by GSSAPI are not made here: use sslmode"
_SCRAM: Final = "channel binding is not done here: use sslmode=verify-full"
_IDENTITY: Final = "it is not checked here, and the server could be another one"

# What changes nothing that we promise: our own names for our connections, always UTF8, and hints.
_IGNORED: Final[Mapping[str, Callable[[str], str | None]]] = {
    "application_name": _anything,
    "fallback_application_name": _anything,
    "client_encoding": _anything,
    "sslcompression": _anything,
    "sslsni": _anything,
    "load_balance_hosts": _anything,
    "tcp_user_timeout": _anything,
    "min_protocol_version": _anything,
    "max_protocol_version": _anything,
    "gssencmode": _unless("require", _GSS),
    "channel_binding": _unless("require", _SCRAM),
    "sslcertmode": _unless("require", "name the certificate: sslcert and sslkey"),
    "requiressl": _never("use sslmode=require"),
    "gssdelegation": _unless("1", "it is not done here"),
    "hostaddr": _never("name the address as the host"),
    "replication": _never("it is not for a client like this one"),
    "require_auth": _never(_IDENTITY),
    "requirepeer": _never(_IDENTITY),
    "sslcrldir": _never("name one file: sslcrl"),
    "sslkeylogfile": _never("use the variable SSLKEYLOGFILE"),
    "scram_client_key": _never("use the password"),
    "scram_server_key": _never("use the password"),
    "oauth_issuer": _never("use the password or a certificate"),
    "oauth_client_id": _never("use the password or a certificate"),
    "oauth_client_secret": _never("use the password or a certificate"),
    "oauth_scope": _never("use the password or a certificate"),
}

_WORDS: Final = {**_PASSED_ON, **_ACTED_ON, **_IGNORED}

# libpq's variables for the same, where the driver does not look at them or says nothing useful.
_VARIABLES: Final[Mapping[str, str]] = {
    "PGPORT": "port",
    "PGSSLMODE": "sslmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
    "PGGSSENCMODE": "gssencmode",
    "PGCHANNELBINDING": "channel_binding",
    "PGREQUIREAUTH": "require_auth",
    "PGREQUIREPEER": "requirepeer",
}


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """What a URL and libpq's variables come to.

    Attributes:
        dsn: for the driver, with the words that it knows; None: libpq's variables say where.
        timeout_seconds: `connect_timeout`; None: not given, or 0, which is libpq's word for none.
        options: the server's command-line options (`-c name=value`); empty: none.
        servicefile: where `service` is looked up; None: where libpq does.
        keepalive: of the TCP connection: words of libpq -> their numbers.
    """

    dsn: str | None = field(repr=False)
    timeout_seconds: float | None = None
    options: str = ""
    servicefile: str | None = None
    keepalive: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


def read_database_url(url: str | None, environment: Mapping[str, str]) -> DatabaseUrl:
    """Understand a URL, or its absence.

    Raises:
        DatabaseUrlError: it is no URL, or a word of it cannot be used; the message names the word.
    """
    parts = _split(url) if url else None
    given = _query(parts) if parts is not None else {}
    for variable, word in _VARIABLES.items():
        text = environment.get(variable)
        wanted = _WORDS[word](text) if text and word not in given else None
        if wanted is not None:
            raise DatabaseUrlError(f"{variable} cannot be used: {wanted}")
    return DatabaseUrl(
        dsn=None if parts is None else _for_the_driver(parts, given),
        timeout_seconds=_timeout(given, environment),
        options=given.get("options") or environment.get("PGOPTIONS", ""),
        servicefile=given.get("servicefile") or None,
        keepalive={w: int(v) for w, v in given.items() if w.startswith("keepalives") and v},
    )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise DatabaseUrlError(NOT_A_URL) from None
    if not url.isprintable():
        raise DatabaseUrlError(NOT_A_URL)  # urlsplit would leave a line's end out, silently
    if parts.scheme not in ("postgresql", "postgres") or not url.startswith(f"{parts.scheme}://"):
        raise DatabaseUrlError(NOT_A_URL)
    login, _, hosts = parts.netloc.rpartition("@")
    if (
        "@" in login
        or parts.fragment
        or "@" in parts.path
        or any(_bad_host(host) for host in hosts.split(","))
    ):
        # A /, ? or # in the password ends the host early, and its rest stands where the port is.
        raise DatabaseUrlError(f"{NOT_A_URL}; a port is a number from 1 to 65535")
    return parts


def _bad_host(host: str) -> bool:
    """Tell whether one `host`, `host:port` or `[v6]:port` cannot be one."""
    if host.startswith("["):
        inside, closed, rest = host[1:].partition("]")
        return not closed or ":" not in inside or not (rest == "" or _is_port(rest))
    name, colon, port = host.partition(":")
    return " " in name or (bool(colon) and not _is_port(colon + port))


def _is_port(text: str) -> bool:
    """Tell whether it is `:` and a port, or libpq's `:` alone for the usual one."""
    return text.startswith(":") and _ports(unquote(text[1:])) is None and "," not in text


def _query(parts: SplitResult) -> dict[str, str]:
    given: dict[str, str] = {}
    for pair in filter(None, parts.query.split("&")):
        word, equals, text = pair.partition("=")
        word = unquote(word)
        if not equals or not word.replace("_", "").isalnum():
            raise DatabaseUrlError(NOT_A_URL)
        if word not in _WORDS:
            raise DatabaseUrlError(_unknown(word, text))
        # libpq's URLs are percent-encoded only: a plus sign is a plus sign.
        value = unquote(text)
        wanted = _WORDS[word](value) if value else None
        if wanted is not None:
            raise DatabaseUrlError(f"{word} in DATABASE_URL cannot be used: {wanted}")
        given[word] = value
    return given


def _unknown(word: str, text: str) -> str:
    if "@" in text:
        return NOT_A_URL
    close = difflib.get_close_matches(word, _WORDS, 1, 0.75)
    hint = (
        f"did you mean {close[0]}?"
        if close
        else f"a setting of the server is options=-c%20{word}%3D..."
    )
    return f"unknown setting {word} in DATABASE_URL: {hint}"


def _timeout(given: Mapping[str, str], environment: Mapping[str, str]) -> float | None:
    seconds = int(given.get("connect_timeout") or environment.get("PGCONNECT_TIMEOUT") or 0)
    # libpq takes one second for two: some of a second may have passed already.
    return float(max(seconds, 2)) if seconds else None


def _for_the_driver(parts: SplitResult, given: Mapping[str, str]) -> str:
    words = {w: v for w, v in given.items() if w in _PASSED_ON and v}
    if given.get("ssl") and "sslmode" not in words:
        words["sslmode"] = "require"
    query = "&".join(f"{word}={quote(value, safe='')}" for word, value in words.items())
    return parts._replace(query=query).geturl()
