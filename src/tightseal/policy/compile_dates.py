# SPDX-License-Identifier: Apache-2.0
"""The dates of a document as Unix seconds."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from tightseal.policy.locate import Path
from tightseal.policy.read import FieldFault

__all__ = ["seconds"]

FIRST_YEAR: Final = 1971
LAST_YEAR: Final = 9998
"""Years that every clock and every time zone can tell."""


def seconds(moment: datetime | None, path: Path) -> int | None:
    """Unix seconds of a document's date.

    Raises:
        FieldFault: a year that not every clock can tell.
    """
    if moment is None:
        return None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise FieldFault(path, f"expected a year from {FIRST_YEAR} to {LAST_YEAR}")
    return int(moment.timestamp())
