# SPDX-License-Identifier: Apache-2.0
"""A holder for key bytes that keeps them out of logs, reprs and pickles."""

from __future__ import annotations

import hmac
from typing import NoReturn

__all__ = ["Secret"]


class Secret:
    """Key bytes that do not show themselves.

    ``wipe`` overwrites this object's own copy. Python cannot promise more: copies made
    by ``reveal``, by libraries, or by the interpreter stay until memory is reused.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = bytearray(data)

    def reveal(self) -> bytes:
        """The bytes themselves; name it where it is really needed."""
        return bytes(self._data)

    def wipe(self) -> None:
        """Overwrite this object's copy with zeros."""
        for i in range(len(self._data)):
            self._data[i] = 0

    def __len__(self) -> int:
        return len(self._data)

    def __eq__(self, other: object) -> bool:
        """Compare in constant time, and only with another secret."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._data, other._data)

    # A secret in a set or dictionary would be found by a hash that is not keyed.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<secret of {len(self._data)} bytes>"

    def __reduce__(self) -> NoReturn:
        message = "a secret does not leave the process"
        raise TypeError(message)
