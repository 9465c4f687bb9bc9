"""Hops 2 to 5: which names and addresses Kafka takes: brokers, topics, groups.

Invariant: pure. What a broker would refuse, or a client would fail on without a word of the
setting, is said here, when the settings are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from itertools import combinations
from typing import Final

DEFAULT_PORT: Final = 9092
_PORTS: Final = range(1, 65536)
_LONGEST_TOPIC: Final = 249
"""Characters: the broker makes a folder of the name."""
_LONGEST_GROUP: Final = 255

_TOPIC: Final = re.compile(r"[a-zA-Z0-9._-]+")
# A name as DNS has it, with the underscores that container networks add; or an IPv4 address.
_HOST: Final = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9._-]*[a-zA-Z0-9_.])?")
_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>.*))?")


def brokers(text: str) -> tuple[str, ...]:
    """Return `host:port` of each broker in a comma-separated list; blanks and empty places go.

    Raises:
        ValueError: one is no address; the message says which, and what is wrong with it.
    """
    found = tuple(_broker(part.strip()) for part in text.split(",") if part.strip())
    if not found:
        raise ValueError("is empty: host:port is needed")
    return found


def _broker(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError(_not_an_address(text))
    host, port = match["host"], match["port"]
    if match["v6"] is not None:
        host = f"[{_ipv6(match['v6'], text)}]"
    elif not _HOST.fullmatch(host):
        raise ValueError(_not_an_address(text))
    return f"{host}:{DEFAULT_PORT if port is None else _port(port, text)}"


def _ipv6(address: str, text: str) -> str:
    try:
        return str(IPv6Address(address))
    except ValueError:
        raise ValueError(f"{text!r} has no IPv6 address in its brackets") from None


def _port(port: str, text: str) -> int:
    if port.isascii() and port.isdigit() and len(port) <= len("65535") and int(port) in _PORTS:
        return int(port)
    raise ValueError(f"{text!r} has no port from 1 to 65535 behind its host")


def _not_an_address(text: str) -> str:
    if "://" in text:
        return f"{text!r} is no host:port: leave out what stands before the host"
    if text.count(":") > 1 and "[" not in text:
        return f"{text!r} is no host:port: an IPv6 address stands in brackets, [::1]:9092"
    return f"{text!r} is no host:port"


def topic_problem(name: str) -> str | None:
    """Return why Kafka refuses a topic's name; None: it takes it."""
    if not name:
        return "is empty"
    if name in (".", ".."):
        return f"is {name!r}, which Kafka refuses"
    if len(name) > _LONGEST_TOPIC:
        return f"has {len(name)} characters, and Kafka takes {_LONGEST_TOPIC}"
    if not _TOPIC.fullmatch(name):
        return f"{name!r} is no topic's name: letters, digits, dots, underscores, hyphens"
    return None


def colliding_topics(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that Kafka takes for one: its metrics write dots as underscores."""
    for first, second in combinations(sorted(set(names)), 2):
        if first.replace(".", "_") == second.replace(".", "_"):
            return first, second
    return None


def group_problem(name: str) -> str | None:
    """Return why a consumer group cannot have this name; None: it can."""
    if not name.strip():
        return "is empty"
    if name != name.strip() or not name.isprintable():
        return f"{name!r} has blanks at an end, or characters that cannot be printed"
    if len(name) > _LONGEST_GROUP:
        return f"has {len(name)} characters, and {_LONGEST_GROUP} are the most"
    return None
