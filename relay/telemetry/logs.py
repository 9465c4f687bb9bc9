"""Every hop's log lines: on stderr, one line each, with trace ids, without secrets and payloads.

Invariant: whatever data a field holds, a record stays one line and cannot forge another, a password
does not leave, and a payload is never written. Nothing here raises for what is logged.

JSON fields: time, level, logger, message, then whatever the line says; `traceparent` becomes
`trace_id` and `span_id`, and inside a span its ids are added.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog
from opentelemetry import trace
from structlog.typing import Processor

from relay.runtime.printable import printable
from relay.runtime.repeats import Repeats
from relay.telemetry.redaction import HIDDEN, redact
from relay.telemetry.traceparent import parse

Format = Literal["json", "text"]

_SECRET_KEY: Final = re.compile(
    r"(?i)pass(word|wd)?$|secret|token|authorization|api_?key|credential"
)
_PAYLOAD_KEYS: Final = frozenset({"payload", "body", "raw"})
_VALUE_CHARACTERS: Final = 8192
_OUR_LOGGER: Final = "relay"
_written: list[Format] = ["text"]


def configure(
    level: str,
    log_format: Format,
    *,
    stream: TextIO | None = None,
    environment: Mapping[str, str] | None = None,
    always: Mapping[str, str] | None = None,
) -> None:
    """Send this process's logs, and those of the libraries in it, to stderr.

    Args:
        level: least level of our own lines; libraries' are warnings and worse at least.
        log_format: `json`, one object a line, or `text` for people.
        stream: instead of stderr.
        environment: for NO_COLOR; usually `os.environ`.
        always: fields of every line of JSON: `instance`, `version`.
    """
    _written[0] = log_format
    target = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _with_trace_ids,
    ]
    if log_format == "json":
        shared.append(_adding(always or {}))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    color = target.isatty() and not (environment or {}).get("NO_COLOR")
    _install(target, _formatter(shared, log_format, color=color), level)


def is_text() -> bool:
    """Tell whether this process's logs are written for people."""
    return _written[0] == "text"


def configure_command() -> None:
    """Send a command's own warnings to stderr, and nothing else: stdout is for its answer.

    structlog's own default is stdout, from its debug lines on.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            _without_secrets,
            _ordered,
            _TextLine(color=False),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        cache_logger_on_first_use=False,
    )


def _adding(always: Mapping[str, str]) -> Processor:
    def add(
        _logger: object, _method: str, fields: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        for name, value in always.items():
            fields.setdefault(name, value)
        return fields

    return add


def _formatter(
    shared: list[Processor], log_format: Format, *, color: bool
) -> structlog.stdlib.ProcessorFormatter:
    finish: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("message"),
        _without_secrets,
        _ordered,
        _as_json if log_format == "json" else _TextLine(color=color),
    ]
    return structlog.stdlib.ProcessorFormatter(processors=finish, foreign_pre_chain=shared)


def _install(target: TextIO, formatter: logging.Formatter, level: str) -> None:
    handler = logging.StreamHandler(target)
    handler.setFormatter(formatter)
    handler.addFilter(LibraryRepeats())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    logging.getLogger(_OUR_LOGGER).setLevel(level.upper())


class LibraryRepeats(logging.Filter):
    """Lets a library say a thing of one kind once a minute: aiokafka does every 100 ms.

    Our own lines all pass: they are written once a change, and once a minute while it lasts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._repeats = Repeats(clock)

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line passes."""
        if record.name.partition(".")[0] == _OUR_LOGGER:
            return True
        return self._repeats.due(f"{record.name} {record.levelname}")


def _with_trace_ids(
    _logger: object, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace `traceparent` by its ids; without one, take those of the current span."""
    given = fields.pop("traceparent", None)
    text = given.decode("ascii", "replace") if isinstance(given, bytes) else given
    context = parse(text) if isinstance(text, str) else None
    if context is not None:
        fields.setdefault("trace_id", context.trace_id)
        fields.setdefault("span_id", context.span_id)
        return fields
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        fields.setdefault("trace_id", trace.format_trace_id(current.trace_id))
        fields.setdefault("span_id", trace.format_span_id(current.span_id))
    return fields


def _without_secrets(
    _logger: object, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {_text(key): _harmless(str(key), value) for key, value in fields.items()}


def _harmless(key: str, value: object) -> object:
    """Make a value fit to be written: no secret, no payload, no object of somebody's."""
    if key in _PAYLOAD_KEYS:
        size = f" of {len(value)} characters" if isinstance(value, str | bytes) else ""
        return f"[{key}{size} not logged]"
    if _SECRET_KEY.search(key):
        return HIDDEN
    match value:
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {_text(name): _harmless(str(name), one) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_harmless(key, one) for one in value]
        case _:
            return _text(value)


def _text(value: object) -> str:
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception as error:  # noqa: BLE001 - a broken __str__ must not break the hop
        text = f"[{type(value).__name__}: {type(error).__name__}]"
    return redact(text[:_VALUE_CHARACTERS])


def _ordered(
    _logger: object, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    first = {key: fields.pop(key, "") for key in ("time", "level", "logger", "message")}
    return {**first, **fields}


def _as_json(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> str:
    """Write one line of ASCII: every control character and line separator is escaped by JSON."""
    return json.dumps(fields, allow_nan=True)


class _TextLine:
    """Writes a line for people: time, level, message, then key=value."""

    _COLORS: Final = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31;1m"}

    def __init__(self, *, color: bool) -> None:
        self._color = color

    def __call__(self, _logger: object, _method: str, fields: MutableMapping[str, Any]) -> str:
        time, level = fields.pop("time"), fields.pop("level")
        logger, message = fields.pop("logger"), fields.pop("message")
        exception = fields.pop("exception", None)
        rest = " ".join(f"{printable(key)}={_quoted(value)}" for key, value in fields.items())
        mark = self._COLORS.get(level, "") if self._color else ""
        line = f"{time} {mark}{level:<7}{mark and chr(27) + '[0m'} {printable(message)}"
        parts = [line, rest, f"({printable(logger)})"]
        if exception is not None:
            parts.append(f"| {printable(exception)}")
        return " ".join(part for part in parts if part)


def _quoted(value: object) -> str:
    text = printable(json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value)
    return json.dumps(text, ensure_ascii=False) if " " in text or "=" in text or not text else text
