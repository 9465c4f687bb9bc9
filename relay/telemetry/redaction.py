"""Text of others made fit to be shown: no password in it.

Invariant: pure, and light: the command line's errors go through here, and it starts quickly.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"
_URL_PASSWORD: Final = re.compile(r"(://[^:/@\s]*:)\S*@")
_NAMED_PASSWORD: Final = re.compile(
    r"(?i)(pass(?:word|wd)|secret|token|authorization)(['\"]?\s*[=:]\s*)"
    r"('[^']*'|\"[^\"]*\"|(?:bearer |basic )?[^\s,;&'\"]+)"
)


def redact(text: str) -> str:
    """Hide passwords in URLs, connection strings and printed settings."""
    hidden = _URL_PASSWORD.sub(rf"\1{HIDDEN}@", text)
    return _NAMED_PASSWORD.sub(rf"\1\2{HIDDEN}", hidden)
