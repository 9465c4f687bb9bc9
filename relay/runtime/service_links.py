"""Setup: tells variables that Kubernetes puts into every container from settings of ours.

A Service named `relay`, or `relay-confirm`, gives each pod of its namespace RELAY_PORT=tcp://...,
RELAY_SERVICE_HOST and their like (https://kubernetes.io/docs/concepts/services-networking/service/,
"Environment variables"), unless its pods say `enableServiceLinks: false`.

Invariant: pure. A variable is a link only when its name, its value and the host that always comes
with it have Kubernetes' form: a misspelt setting never is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Final

_PROTOCOL: Final = r"(?:tcp|udp|sctp)"
_PORT_PREFIX: Final = r"_PORT_[1-9]\d{0,4}_(?:TCP|UDP|SCTP)"


def _is_address(value: str) -> bool:
    try:
        ip_address(value.strip("[]"))
    except ValueError:
        return False
    return True


def _is_port(value: str) -> bool:
    return re.fullmatch(r"[1-9]\d{0,4}", value) is not None


def _is_protocol(value: str) -> bool:
    return re.fullmatch(_PROTOCOL, value) is not None


def _is_url(value: str) -> bool:
    match = re.fullmatch(rf"{_PROTOCOL}://(.+):([1-9]\d{{0,4}})", value)
    return match is not None and _is_address(match[1])


# What stands behind the service's name, longest first, and the form of its value.
_FORMS: Final[tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...]] = tuple(
    (re.compile(rf"(?P<service>[A-Z][A-Z0-9_]*?){suffix}"), fits)
    for suffix, fits in (
        (rf"{_PORT_PREFIX}_PROTO", _is_protocol),
        (rf"{_PORT_PREFIX}_PORT", _is_port),
        (rf"{_PORT_PREFIX}_ADDR", _is_address),
        (_PORT_PREFIX, _is_url),
        ("_PORT", _is_url),
        ("_SERVICE_HOST", _is_address),
        ("_SERVICE_PORT", _is_port),
        ("_SERVICE_PORT_[A-Z0-9_]+", _is_port),
    )
)


def is_service_link(name: str, environment: Mapping[str, str]) -> bool:
    """Tell whether Kubernetes made this variable, be it RELAY_METRICS_PORT=tcp://..., too."""
    value = environment[name]
    for pattern, fits in _FORMS:
        match = pattern.fullmatch(name)
        if match is not None and fits(value):
            host = environment.get(f"{match['service']}_SERVICE_HOST", "")
            if _is_address(host):
                return True
    return False
