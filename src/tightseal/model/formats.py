# SPDX-License-Identifier: Apache-2.0
"""The format of what nodes write into a state that they share, as one number.

A newer version may have records that an older one cannot read, or whose meaning it
would not heed. It writes none of them before the state is raised to the format that
allows them. The state says its format by a kind of records, ``format-2`` and so on, and
the sealed head names every kind: so each process sees it in every read and write, and
one that is too old for it can do nothing any more, from the commit on that raised it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tightseal.errors import Code, ServiceError

__all__ = [
    "FIRST_FORMAT",
    "FORMAT",
    "MAX_FORMAT",
    "format_in",
    "format_kind",
    "require_understood",
]

FIRST_FORMAT: Final = 1
"""The format of a state that says nothing: no kind names it."""

FORMAT = 1
"""The newest format that this version reads and writes; it reads every older one."""

MAX_FORMAT: Final = 999
"""No state is of a higher format."""

_PREFIX: Final = "format-"


def format_kind(number: int) -> str:
    """The kind whose presence says that a state is of this format, 2 or higher."""
    return f"{_PREFIX}{number}"


def format_in(kinds: Iterable[str]) -> int:
    """The format of a state whose head names these kinds.

    A kind of that prefix without a number, or beyond ``MAX_FORMAT``, is none that a
    version of ours makes; it counts as the highest, so that it is not passed over.
    """
    found = FIRST_FORMAT
    for kind in kinds:
        if kind.startswith(_PREFIX):
            digits = kind.removeprefix(_PREFIX)
            sane = digits.isascii() and digits.isdigit() and len(digits) <= len("999")
            found = max(found, int(digits) if sane else MAX_FORMAT)
    return found


def require_understood(kinds: Iterable[str]) -> None:
    """Refuse a state that was raised beyond this version.

    Raises:
        ServiceError: ``state_schema_unsupported``.
    """
    found = format_in(kinds)
    if found > FORMAT:
        detail = f"state of format {found}, this version understands {FORMAT}"
        raise ServiceError(
            Code.STATE_SCHEMA_UNSUPPORTED,
            f"{detail}: newer nodes raised it; run their version here too",
        )
