# SPDX-License-Identifier: Apache-2.0
"""Log events of a library: silent on the terminal unless the application wants them.

structlog prints to standard output until it is configured, which would mix log lines
into the output of any program that uses the client. So events go to structlog where the
application has configured it, and to the standard library's ``logging`` otherwise.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import structlog

__all__ = ["Log"]

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class Log:
    """A named log; events are names, and everything else is a field."""

    def __init__(self, name: str) -> None:
        self._name = name

    def info(self, event: str, **fields: Any) -> None:
        """Something happened as it should."""
        self._emit("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something is off and was handled."""
        self._emit("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something failed."""
        self._emit("error", event, fields)

    def _emit(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if structlog.is_configured():
            getattr(structlog.get_logger(self._name), level)(event, **fields)
            return
        logging.getLogger(self._name).log(_LEVELS[level], "%s %s", event, fields)
