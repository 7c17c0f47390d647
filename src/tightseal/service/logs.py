# SPDX-License-Identifier: Apache-2.0
"""Structured log lines on standard error, with a guard against secrets.

Every line of a provider that accepts simulated roots says ``simulated=true``.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, MutableMapping
from enum import Enum
from typing import Any, Final, TextIO, cast

import msgspec
import structlog

from tightseal.model.secret import Secret
from tightseal.service.settings import LogFormat, LogLevel, LogSettings

__all__ = ["configure_logs", "error_fields", "redact", "scrub", "set_level"]

SECRET_NAMES: Final = re.compile(
    r"(^|_)(key|keys|secret|seed|root|password|token|envelope|encrypted_key)$"
)
"""Field names whose values never reach a log, whatever they hold."""

BLOB: Final = re.compile(r"b(['\"]).*?\1|[0-9A-Fa-f]{32,}|[A-Za-z0-9+/_-]{40,}={0,2}")
"""What may be key material in the text of an exception that we did not write."""

MAX_MESSAGE_CHARS: Final = 300
MAX_FRAMES: Final = 12
LEVELS: Final[dict[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
}
"""Severity of the logging methods; any other is an error, and always written."""

Event = MutableMapping[str, Any]


class _Level:
    """The least severe line written; changed by SIGHUP while the provider runs."""

    value: int = logging.INFO


def configure_logs(
    settings: LogSettings,
    *,
    simulated: bool,
    worker: int | None = None,
    stream: TextIO | None = None,
) -> None:
    """Set up logging of this process, ours and that of the libraries.

    Args:
        settings: format and level.
        simulated: whether every line must say that simulated roots are accepted.
        worker: the number of this worker process, if there are several.
        stream: where lines go; standard error by default.
    """
    always: dict[str, Any] = {}
    if simulated:
        always["simulated"] = True
    if worker is not None:
        always["worker"] = worker
    set_level(settings.level)
    sink = _Sink(stream or sys.stderr)
    structlog.configure(
        # Said, since whatever else ran in this process may have set another.
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        processors=[
            _drop_below_level,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add(always),
            sink.say_lost,
            redact,
            _renderer(settings.format),
        ],
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", sink)),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(logging.WARNING)
    # A scanner's malformed request is not worth two lines of a library's own.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def set_level(level: LogLevel) -> None:
    """Change the least severe line that is written."""
    _Level.value = LEVELS.get(level.value, logging.ERROR)


def redact(_logger: object, _method: str, event: Event) -> Event:
    """Replace whatever is or may be secret; the last processor before rendering."""
    return {name: _safe(name, value) for name, value in event.items()}


def error_fields(error: BaseException) -> dict[str, Any]:
    """Describe an error that is not of our tree: its type and the way to it.

    Its message may quote the value that broke something, so blobs in it are cut out.
    """
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    return {
        "error": type(error).__qualname__,
        "message": scrub(str(error)),
        "frames": [f"{f.filename}:{f.lineno} {f.name}" for f in frames],
    }


def scrub(text: str) -> str:
    """Cut out of a foreign text what may be key material, and bound its length."""
    return BLOB.sub("<cut>", text)[:MAX_MESSAGE_CHARS]


def _safe(name: str, value: object) -> object:
    if SECRET_NAMES.search(name):
        return "<redacted>"
    if isinstance(value, Secret):
        return repr(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(k): _safe(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe("", v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return scrub(str(value))


def _drop_below_level(_logger: object, method: str, event: Event) -> Event:
    if LEVELS.get(method, logging.ERROR) < _Level.value:
        raise structlog.DropEvent
    return event


def _add(always: dict[str, Any]) -> Callable[[object, str, Event], Event]:
    def add(_logger: object, _method: str, event: Event) -> Event:
        event.update(always)
        return event

    return add


def _renderer(kind: LogFormat) -> Callable[[object, str, Event], str]:
    if kind is LogFormat.TEXT:
        return structlog.dev.ConsoleRenderer(colors=False)
    encoder = msgspec.json.Encoder()

    def render(_logger: object, _method: str, event: Event) -> str:
        return encoder.encode(event).decode()

    return render


class _Sink:
    """Where lines go. A line that cannot be written is lost, and counted.

    A full disk under the log would else end background threads, and leave requests
    without their answers. Decisions have their entries in the journal, not here.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0

    def write(self, text: str) -> None:
        """Write a line, if that is possible."""
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            self._lost += 1
        else:
            self._lost = 0

    def flush(self) -> None:
        """A line is flushed when it is written."""

    def say_lost(self, _logger: object, _method: str, event: Event) -> Event:
        """Add how many lines were lost before this one."""
        if self._lost:
            event["lines_lost"] = self._lost
        return event


class _Forward(logging.Handler):
    """Brings the libraries' own log records into ours."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields |= error_fields(record.exc_info[1])
        message = scrub(record.getMessage())
        log = structlog.get_logger()
        severe = record.levelno >= logging.ERROR
        (log.error if severe else log.warning)("library", text=message, **fields)
