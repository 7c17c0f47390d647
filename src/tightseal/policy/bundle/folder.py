# SPDX-License-Identifier: Apache-2.0
"""The folder that approvers work in: documents and metadata as files, fit for git.

    FOLDER/targets/policy/NAME.toml            documents
    FOLDER/targets/tenants/TENANT/NAME.toml    documents of a tenant
    FOLDER/targets/release.toml                release settings, where there are some
    FOLDER/metadata/                           what was signed; written by commands
    FOLDER/approvers/NAME.pub                  what keys are called, for people
    FOLDER/published.tsb                       the bundle that was published last

Hidden files are passed over. Other files in ``targets`` that no bundle could hold are
refused, so that nobody takes them for signed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.archive import (
    MAX_BUNDLE_BYTES,
    MAX_FILES,
    MAX_METADATA_BYTES,
    MAX_TARGET_BYTES,
    is_target,
)
from tightseal.policy.bundle.keyfile import MAX_KEY_FILE_BYTES
from tightseal.policy.bundle.signers import approver_key

__all__ = [
    "APPROVERS",
    "METADATA",
    "PUBLISHED",
    "TARGETS_FOLDER",
    "Folder",
    "keep_approver",
    "read_folder",
    "read_published",
    "write_files",
]

METADATA: Final = "metadata"
TARGETS_FOLDER: Final = "targets"
APPROVERS: Final = "approvers"
PUBLISHED: Final = "published.tsb"

MAX_DEPTH: Final = 3
"""Deepest folder below ``targets``: ``tenants/NAME``, and one to name in an error."""

_FILE_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds.

    Attributes:
        path: of the folder.
        files: metadata and documents, by their paths in a bundle.
        names: what keys are called, by key id; for people, trusted for nothing.
    """

    path: Path
    files: Mapping[str, bytes]
    names: Mapping[str, str]


def read_folder(path: Path) -> Folder:
    """Read a folder. Nothing is judged but its form.

    Raises:
        SettingsError: ``bundle_incomplete``, where there is no such folder;
            ``bundle_malformed``, for links, files that no bundle can hold, or too many
            or too long ones; ``settings_invalid``, for a public half that is none.
    """
    if not path.is_dir():
        detail = f"{path}: no folder; tightseal policy init {path} --approver FILE"
        raise SettingsError(Code.BUNDLE_INCOMPLETE, detail)
    files: dict[str, bytes] = {}
    for file in _walk(path / METADATA, depth=0):
        if file.suffix == ".json":
            files[f"{METADATA}/{file.name}"] = _read(file, MAX_METADATA_BYTES)
    for file in _walk(path / TARGETS_FOLDER, depth=MAX_DEPTH):
        target = file.relative_to(path / TARGETS_FOLDER).as_posix()
        if not is_target(target):
            detail = (
                f"{file}: a bundle holds release.toml, policy/NAME.toml and "
                "tenants/TENANT/NAME.toml alone, in lower case"
            )
            raise SettingsError(Code.BUNDLE_MALFORMED, detail)
        files[f"{TARGETS_FOLDER}/{target}"] = _read(file, MAX_TARGET_BYTES)
        if len(files) > MAX_FILES:
            detail = f"{path}: more than {MAX_FILES} files"
            raise SettingsError(Code.BUNDLE_MALFORMED, detail)
    return Folder(path, files, _names(path))


def read_published(path: Path) -> bytes | None:
    """The bundle that was published last from a folder; ``None`` where none was.

    Raises:
        SettingsError: ``bundle_malformed``, where it cannot be read.
    """
    file = path / PUBLISHED
    return _read(file, MAX_BUNDLE_BYTES) if os.path.lexists(file) else None


def keep_approver(path: Path, file: Path) -> tuple[str, bytes]:
    """Where a public half is kept in a folder, and what is written there.

    Args:
        path: the folder.
        file: the public half; its name is what the key is called from now on.

    Raises:
        SettingsError: ``settings_invalid``, where it is none, or another key has the
            name.
    """
    key = approver_key(file)
    kept = path / APPROVERS / f"{file.stem}.pub"
    if os.path.lexists(kept) and approver_key(kept).keyid != key.keyid:
        detail = f"{kept}: another key is called {file.stem}; rename {file}"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return f"{APPROVERS}/{file.stem}.pub", _read(file, MAX_KEY_FILE_BYTES)


def write_files(path: Path, files: Mapping[str, bytes]) -> None:
    """Put files into a folder, each whole or not at all, in their order.

    All of them are written and synced beside their places first, then moved there. A
    crash leaves old files, or new ones up to some place in the order: both are whole,
    and signing again goes on from there.

    Raises:
        SettingsError: ``settings_invalid``, where one cannot be written.
    """
    staged: list[tuple[Path, Path]] = []
    try:
        for name, data in files.items():
            place = path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
            staged.append((temporary, place))
            _write_synced(temporary, data)
        for temporary, place in staged:
            temporary.replace(place)
        for folder in {place.parent for _, place in staged}:
            _sync_folder(folder)
    except OSError as e:
        detail = f"{e.filename or path}: {e.strerror}; what was there is still whole"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    finally:
        for temporary, _ in staged:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _write_synced(file: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(file, flags, _FILE_MODE), "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _walk(folder: Path, *, depth: int) -> Iterator[Path]:
    """Files of a folder and of those in it, in order; links are refused."""
    if not os.path.lexists(folder):
        return
    for entry in _entries(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            detail = f"{entry}: a link; a bundle holds files alone"
            raise SettingsError(Code.BUNDLE_MALFORMED, detail)
        if entry.is_dir():
            if depth > 0:
                yield from _walk(entry, depth=depth - 1)
        else:
            yield entry


def _entries(folder: Path) -> Sequence[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as e:
        raise SettingsError(Code.BUNDLE_MALFORMED, f"{folder}: {e.strerror}") from e


def _names(path: Path) -> dict[str, str]:
    return {
        approver_key(file).keyid: file.stem
        for file in _walk(path / APPROVERS, depth=0)
        if file.suffix == ".pub"
    }


def _read(file: Path, limit: int) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(file, flags), "rb") as opened:
            data = opened.read(limit + 1)
    except OSError as e:
        raise SettingsError(Code.BUNDLE_MALFORMED, f"{file}: {e.strerror}") from e
    if len(data) > limit:
        detail = f"{file}: longer than {limit} bytes"
        raise SettingsError(Code.BUNDLE_MALFORMED, detail)
    return data
