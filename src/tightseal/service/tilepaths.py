# SPDX-License-Identifier: Apache-2.0
"""Where a provider serves its own log, and as what (C2SP tlog-tiles)."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CHECKPOINT_ROUTE",
    "CHECKPOINT_TYPE",
    "LOG_PREFIX",
    "TILE_ROUTE",
    "TILE_TYPE",
]

LOG_PREFIX: Final = "/v1/log/{log_id}"
"""Before every path of one log; the id is the last part of its origin."""

CHECKPOINT_ROUTE: Final = f"{LOG_PREFIX}/checkpoint"
TILE_ROUTE: Final = f"{LOG_PREFIX}/tile/{{path}}"

CHECKPOINT_TYPE: Final = "text/plain; charset=utf-8"
TILE_TYPE: Final = "application/octet-stream"
