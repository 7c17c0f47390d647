# SPDX-License-Identifier: Apache-2.0
"""Where commands that sign get a passphrase: a terminal, or a file that is named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from getpass import getpass
from pathlib import Path
from typing import Final

from tightseal.cli.verify import UsageError
from tightseal.errors import Code, SettingsError

__all__ = ["asker", "new_passphrase"]

MAX_PASSPHRASE_BYTES: Final = 1024
"""Longest passphrase that is read."""


def asker(file: Path | None) -> Callable[[str], str]:
    """What answers when a key asks for its passphrase, or a device for its PIN.

    Args:
        file: holds it, alone; the terminal is asked where ``None``.
    """
    if file is not None:
        return lambda _name: _from_file(file)
    return lambda name: _ask(f"{name}: ")


def new_passphrase(file: Path | None) -> bytes:
    """A passphrase for a new key; a terminal is asked twice.

    Raises:
        UsageError: there is no terminal, or the two answers differ.
        SettingsError: ``settings_invalid``, where the file cannot be read.
    """
    if file is not None:
        return _from_file(file).encode()
    first = _ask("passphrase for the new key: ")
    if first != _ask("the same again: "):
        message = "the two passphrases differ"
        raise UsageError(message)
    return first.encode()


def _ask(prompt: str) -> str:
    if not sys.stdin.isatty():
        message = "no terminal to ask on: give --passphrase-file FILE"
        raise UsageError(message)
    return getpass(prompt, stream=sys.stderr)


def _from_file(file: Path) -> str:
    """The file without the line end that editors add."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_PASSPHRASE_BYTES + 1)
    except OSError as e:
        raise SettingsError(Code.SETTINGS_INVALID, f"{file}: {e.strerror}") from e
    if len(data) > MAX_PASSPHRASE_BYTES:
        detail = f"{file}: longer than {MAX_PASSPHRASE_BYTES} bytes"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        # The error would quote the passphrase.
        detail = f"{file}: not UTF-8"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from None
