# SPDX-License-Identifier: Apache-2.0
"""Files that operators pass around: read within bounds, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from tightseal.errors import Code, SettingsError
from tightseal.model.action import SignedAction
from tightseal.model.action_file import parse_action
from tightseal.model.wire_operator import MAX_ACTION_BYTES

__all__ = ["read_action", "read_action_bytes", "write_file"]

FILE_MODE: Final = 0o644


def read_action_bytes(file: Path) -> bytes:
    """A file that may be an action; one byte too many shows that it is too long.

    Raises:
        SettingsError: ``settings_invalid``, where it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_ACTION_BYTES + 1)
    except OSError as e:
        raise SettingsError(Code.SETTINGS_INVALID, f"{file}: {e.strerror}") from e


def read_action(file: Path) -> SignedAction:
    """An action with its signatures, none of which is checked.

    Raises:
        SettingsError: as :func:`read_action_bytes`.
        RequestError: ``action_malformed``.
    """
    return parse_action(read_action_bytes(file))


def write_file(file: Path, data: bytes, *, replace: bool) -> None:
    """A new file, or a new version of one, whole or not at all.

    Raises:
        SettingsError: ``settings_invalid``, where it cannot be written, or is there.
    """
    fresh = file.with_name(f"{file.name}.{secrets.token_hex(4)}") if replace else file
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(fresh, flags, FILE_MODE), "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        if replace:
            fresh.replace(file)
    except OSError as e:
        raise SettingsError(Code.SETTINGS_INVALID, f"{file}: {e.strerror}") from e
