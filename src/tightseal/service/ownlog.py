# SPDX-License-Identifier: Apache-2.0
"""The provider's own log outside: where it is published to, and served from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from tightseal.audit.journal import SqliteJournal
from tightseal.audit.log import log_origin
from tightseal.service.front import ServedLog
from tightseal.service.settings import HostSettings
from tightseal.service.tileplaces import reading, writing
from tightseal.service.tiles import TilePublisher

__all__ = ["OwnLog", "own_log"]

CLOSE_SECONDS: Final = 5.0
"""For a publishing that is under way when the provider ends, in seconds."""


@dataclass(frozen=True, slots=True)
class OwnLog:
    """What one worker does with the log besides keeping it.

    Attributes:
        tiles: publishes it; ``None`` where nobody does.
        served: what is served of it; ``None`` where nothing is.
        close: ends both.
    """

    tiles: TilePublisher | None
    served: ServedLog | None
    close: Callable[[], None]


def own_log(host: HostSettings, journal: SqliteJournal) -> OwnLog:
    """Open the places that the settings name; nothing is connected yet.

    Args:
        host: the settings.
        journal: of this worker.

    Raises:
        SettingsError: ``settings_invalid``.
        ServiceError: ``log_unreachable``, where the database's driver is missing;
            ``journal_failed``.
    """
    stack = ExitStack()
    if not host.log_place:
        return OwnLog(None, None, stack.close)
    log_id = journal.head().log_id
    origin = log_origin(log_id)
    store = stack.enter_context(writing(host.log_place, origin))
    tiles = TilePublisher(journal, store)
    stack.callback(tiles.wait, CLOSE_SECONDS)
    served = None
    if host.http.log:
        source = stack.enter_context(reading(host.log_place, origin))
        served = ServedLog(log_id.hex(), source)
    return OwnLog(tiles, served, stack.close)
