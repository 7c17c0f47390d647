# SPDX-License-Identifier: Apache-2.0
"""Publishes the audit log as tiles while a provider runs.

Needed where nobody outside can read the journal, as on an encrypted mount. What is
published lags by seconds; no release waits for it, since the receipt has its own proof.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from tightseal.audit.journal import SqliteJournal
from tightseal.audit.publish import publish
from tightseal.audit.tiles import TileStore
from tightseal.errors import Code, ServiceError

__all__ = ["TilePublisher"]

_NOTHING_TO_DO: Final = frozenset({Code.LOG_MISSING, Code.STATE_CONFLICT})
"""No entry yet; or another worker is at it."""


@dataclass(slots=True)
class TilePublisher:
    """Brings tiles up to the journal's head, on a thread of its own.

    A log that was published never before takes long, and health must be looked at
    meanwhile. Of several workers one publishes at a time.

    Attributes:
        journal: of this worker.
        store: gets the tiles; used by that thread alone.
        done: entries that this worker saw published.
    """

    journal: SqliteJournal
    store: TileStore
    done: int = 0
    _failed: ServiceError | None = None
    _thread: threading.Thread | None = None

    def look(self) -> None:
        """Begin to publish what is new; raises how the last attempt failed.

        Raises:
            ServiceError: ``log_tampered``, where journal and tiles are not of one log;
                ``journal_failed``, ``log_unreachable``.
        """
        if self._thread is not None and self._thread.is_alive():
            return
        failed, self._failed = self._failed, None
        if self.journal.head().frontier.size > self.done:
            self._thread = threading.Thread(
                target=self._publish, name="log-tiles", daemon=True
            )
            self._thread.start()
        if failed is not None:
            raise failed

    def wait(self, seconds: float) -> None:
        """Wait until what was begun is done."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _publish(self) -> None:
        try:
            with self.store.alone(wait=False):
                self.done = publish(self.journal, self.store).size
        except ServiceError as e:
            if e.code not in _NOTHING_TO_DO:
                self._failed = e
