"""What a failed TLS handshake means, in words that a person can act upon.

Invariant: pure. Only what OpenSSL or the other side said for certain is named; anything else is
None, and whoever asked goes on as if the network had failed.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from enum import StrEnum
from typing import Final


class TlsProblem(StrEnum):
    """Why a handshake failed; the value says it to a person."""

    UNTRUSTED = "its certificate is not signed by an authority that we trust"
    EXPIRED = "its certificate has expired"
    NOT_YET = "its certificate is not valid yet: one of the two clocks is wrong"
    OTHER_HOST = "its certificate is for another host name or address"
    CLIENT_NEEDED = "it asks for a client certificate"
    CLIENT_REFUSED = "it refuses our client certificate"
    NO_TLS = "it does not speak TLS on this port"
    NOTHING_IN_COMMON = "it shares no TLS version or cipher with us"


# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_VERIFY_CODES: Final = {
    2: TlsProblem.UNTRUSTED,
    9: TlsProblem.NOT_YET,
    10: TlsProblem.EXPIRED,
    18: TlsProblem.UNTRUSTED,
    19: TlsProblem.UNTRUSTED,
    20: TlsProblem.UNTRUSTED,
    21: TlsProblem.UNTRUSTED,
    62: TlsProblem.OTHER_HOST,
    64: TlsProblem.OTHER_HOST,
}

# Parts of OpenSSL's reason; alerts are what the other side says of us (RFC 8446, section 6).
_REASONS: Final = (
    ("CERTIFICATE_REQUIRED", TlsProblem.CLIENT_NEEDED),
    ("ALERT_UNKNOWN_CA", TlsProblem.CLIENT_REFUSED),
    ("ALERT_BAD_CERTIFICATE", TlsProblem.CLIENT_REFUSED),
    ("ALERT_CERTIFICATE", TlsProblem.CLIENT_REFUSED),
    ("ALERT_UNSUPPORTED_CERTIFICATE", TlsProblem.CLIENT_REFUSED),
    ("WRONG_VERSION_NUMBER", TlsProblem.NO_TLS),
    ("HTTP_REQUEST", TlsProblem.NO_TLS),
    ("ALERT_PROTOCOL_VERSION", TlsProblem.NOTHING_IN_COMMON),
    ("ALERT_HANDSHAKE_FAILURE", TlsProblem.NOTHING_IN_COMMON),
    ("UNSUPPORTED_PROTOCOL", TlsProblem.NOTHING_IN_COMMON),
)


def tls_problem(error: BaseException) -> TlsProblem | None:
    """Return what is wrong, wherever in the chain of causes OpenSSL said it; None: not TLS."""
    for one in _chain(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return _VERIFY_CODES.get(one.verify_code, TlsProblem.UNTRUSTED)
        if isinstance(one, ssl.SSLError):
            reason = (getattr(one, "reason", None) or "").upper()
            return next((problem for part, problem in _REASONS if part in reason), None)
    return None


def said_by_tls(error: BaseException) -> str:
    """Return OpenSSL's own words, without the place in its source; empty: it said nothing."""
    for one in _chain(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            return one.verify_message
        if isinstance(one, ssl.SSLError):
            return (getattr(one, "reason", None) or "").lower().replace("_", " ")
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
