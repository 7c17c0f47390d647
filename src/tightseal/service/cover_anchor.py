# SPDX-License-Identifier: Apache-2.0
"""Has the state take the log's head, for answers that wait to be anchored."""

from __future__ import annotations

import queue
import threading
from typing import Final

import structlog

from tightseal.audit.journal import SqliteJournal
from tightseal.audit.nodes import JournalNodes, NodeCache
from tightseal.errors import TightsealError
from tightseal.model.logclass import WITHOUT_ANCHOR, LogClass, LogCover
from tightseal.model.state import StateStore
from tightseal.release.logmark import LogMark
from tightseal.service.cover import Waiting, prove_entry
from tightseal.service.logs import error_fields

__all__ = ["AnchorDesk"]

PAUSE_SECONDS: Final = 0.1
FAILED_SECONDS: Final = 1.0
"""Until the state is asked again: after another worker came first, and after it failed.
"""

log = structlog.get_logger("tightseal.cover")


class AnchorDesk:
    """Implements ``Desk`` for ``anchored``: one write to the state for all who wait.

    Args:
        journal: of this worker.
        store: the state.
        mark: of the journal in the state.
    """

    def __init__(
        self, journal: SqliteJournal, store: StateStore, mark: LogMark
    ) -> None:
        self._journal = journal
        self._store = store
        self._mark = mark
        self._cache = NodeCache()
        self._inbox: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.why = ""
        self.covered = 0
        """Entries of the newest head that the state was seen to have."""

    def put(self, waiting: Waiting) -> None:
        """As of ``Desk``."""
        self._inbox.put(waiting)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="log-anchor", daemon=True
            )
            self._thread.start()

    def look(self) -> None:
        """As of ``Desk``: the background thread looks at the state itself."""

    def close(self) -> None:
        """As of ``Desk``."""
        self._inbox.put(None)

    def _run(self) -> None:
        left: list[Waiting] = []
        pause: float | None = None
        while True:
            try:
                came = [self._inbox.get(timeout=pause)]
            except queue.Empty:
                came = []
            while not self._inbox.empty():
                came.append(self._inbox.get())
            if None in came:
                return
            left += [one for one in came if one is not None]
            left = [one for one in left if not one.done.done()]
            pause = self._round(left) if left else None
            left = [one for one in left if not one.done.done()]
            if not left:
                pause = None

    def _round(self, waiting: list[Waiting]) -> float:
        """Cover who can be; seconds until it is worth trying again."""
        try:
            self._mark.look()
            size, root = self._mark.taken()
            anchor = self._store.freshness().anchor
        except TightsealError as e:
            self.why = f"{e.code.value}: {e.detail}"
            log.error("log_not_anchored", code=e.code.value, detail=e.detail)  # noqa: TRY400
            return FAILED_SECONDS
        except Exception as e:  # noqa: BLE001  # the thread must outlive one round
            self.why = type(e).__name__
            log.error("log_not_anchored", **error_fields(e))  # noqa: TRY400
            return FAILED_SECONDS
        self.why, self.covered = "", size
        nodes = JournalNodes(self._journal, size, self._cache)
        cover = LogCover(LogClass.ANCHORED, size, root, anchor)
        for one in waiting:
            if one.held.index >= size:
                continue
            if anchor in WITHOUT_ANCHOR and not one.held.need.without_anchor:
                self.why = f"the state has anchor {anchor.value}"
                continue
            try:
                prove_entry(one.held, size=size, root=root, nodes=nodes)
            except TightsealError as e:
                one.fail(e)
            else:
                one.finish(cover, b"")
        return PAUSE_SECONDS
