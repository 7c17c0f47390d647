# SPDX-License-Identifier: Apache-2.0
"""A bundle in a file: read when it changes, at most as long as a bundle may be."""

from __future__ import annotations

import os
from pathlib import Path

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.archive import MAX_BUNDLE_BYTES

__all__ = ["BundleFile"]


class BundleFile:
    """Gives a file's bytes once for each time that it changed.

    Args:
        path: of the bundle; it may come later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None

    def again(self) -> None:
        """Take the file for changed: what came of it was no judgement of it."""
        self._seen = None

    def changed(self) -> bytes | None:
        """The bytes, where the file is another than last time; else ``None``.

        Raises:
            SettingsError: ``bundle_malformed``, where it cannot be read or is too long.
        """
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                mark = (found.st_ino, found.st_mtime_ns, found.st_size)
                if mark == self._seen:
                    return None
                data = file.read(MAX_BUNDLE_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as e:
            detail = f"host.policy_bundle {self._path}: {e.strerror}"
            raise SettingsError(Code.BUNDLE_MALFORMED, detail) from e
        self._seen = mark
        if len(data) > MAX_BUNDLE_BYTES:
            detail = f"{self._path}: longer than {MAX_BUNDLE_BYTES} bytes"
            raise SettingsError(Code.BUNDLE_MALFORMED, detail)
        return data
