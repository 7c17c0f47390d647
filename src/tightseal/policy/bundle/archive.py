# SPDX-License-Identifier: Apache-2.0
"""A bundle as one file: deterministic CBOR that maps paths to bytes.

Only the form is judged here: which paths there can be, and how much of everything. Who
signed what is for :mod:`tightseal.policy.bundle.verify`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tightseal.errors import Code, SettingsError
from tightseal.model import canonical
from tightseal.model.keypath import MAX_NAME_CHARS

__all__ = [
    "MAX_BUNDLE_BYTES",
    "MAX_FILES",
    "MAX_METADATA_BYTES",
    "MAX_ROOTS",
    "MAX_ROOT_BYTES",
    "MAX_TARGET_BYTES",
    "MAX_TENANTS",
    "MAX_TIMESTAMP_BYTES",
    "RELEASE",
    "is_target",
    "metadata_path",
    "pack",
    "root_path",
    "root_versions",
    "target_path",
    "tenant_of_role",
    "tenant_of_target",
    "tenant_pattern",
    "tenant_role",
    "unpack",
]

FORMAT: Final = "tightseal-policy-bundle"
VERSION: Final = 1

MAX_BUNDLE_BYTES: Final = 32 << 20
"""Longest bundle."""

MAX_ROOTS: Final = 1024
"""Most versions of the root: a rotation every month for 85 years."""

MAX_TENANTS: Final = 4096
"""Most delegations."""

MAX_FILES: Final = 16_384
"""Most files: roots, roles, and the documents of all."""

MAX_ROOT_BYTES: Final = 512 << 10
"""Longest root; the first one is read before any signature can be checked."""

MAX_TIMESTAMP_BYTES: Final = 256 << 10
"""Longest timestamp. Anybody can send one beside the genuine roots, which are public,
so it is read before anything of it is known to be signed; 64 signatures by the longest
keys take less."""

MAX_METADATA_BYTES: Final = 8 << 20
"""Longest metadata of another role; holds the keys of ``MAX_TENANTS`` tenants."""

MAX_TARGET_BYTES: Final = 8 << 20
"""Longest document, as :data:`tightseal.policy.read.MAX_DOCUMENT_CHARS`."""

MAX_PATH_CHARS: Final = 320
"""Longest path: two names and what stands around them."""

RELEASE: Final = "release.toml"
"""Target path of the release settings."""

_ROLE_PREFIX: Final = "tenant-"
_NAME: Final = rf"[a-z0-9][a-z0-9._-]{{0,{MAX_NAME_CHARS - 1}}}"
_ROOT: Final = re.compile(r"metadata/([1-9][0-9]{0,3})\.root\.json")
_METADATA: Final = re.compile(
    rf"metadata/(?:timestamp|snapshot|targets|{_ROLE_PREFIX}{_NAME})\.json"
)
_TARGET: Final = re.compile(
    rf"targets/(?:release\.toml|policy/{_NAME}\.toml|tenants/{_NAME}/{_NAME}\.toml)"
)
_TENANT_ROLE: Final = re.compile(rf"{_ROLE_PREFIX}({_NAME})")
_TENANT_TARGET: Final = re.compile(rf"tenants/({_NAME})/{_NAME}\.toml")

# Heads of CBOR, RFC 8949 section 3.
_BYTES, _TEXT, _MAP = 2, 3, 5
_ONE_BYTE_ARGUMENT: Final = 24
_EIGHT_BYTE_ARGUMENT: Final = 27


def root_path(version: int) -> str:
    """Where a version of the root lies."""
    return f"metadata/{version}.root.json"


def metadata_path(role: str) -> str:
    """Where the metadata of another role lies, such as ``timestamp``."""
    return f"metadata/{role}.json"


def target_path(target: str) -> str:
    """Where a target of TUF lies: below ``targets/``."""
    return f"targets/{target}"


def root_versions(files: Mapping[str, bytes]) -> list[int]:
    """Versions of the roots that are there, in order."""
    found = (_ROOT.fullmatch(path) for path in files)
    return sorted(int(match[1]) for match in found if match)


def is_target(target: str) -> bool:
    """Whether a target of TUF has one of the forms that a bundle holds."""
    return _TARGET.fullmatch(target_path(target)) is not None


def tenant_role(tenant: str) -> str:
    """The role that signs a tenant's documents."""
    return _ROLE_PREFIX + tenant


def tenant_pattern(tenant: str) -> str:
    """The only path pattern that is delegated to a tenant's role."""
    return f"tenants/{tenant}/*.toml"


def tenant_of_role(role: str) -> str | None:
    """The tenant of a delegated role; ``None`` where the name is not of that form."""
    match = _TENANT_ROLE.fullmatch(role)
    return match[1] if match else None


def tenant_of_target(target: str) -> str | None:
    """The tenant below whose folder a target lies; ``None`` where below no tenant's."""
    match = _TENANT_TARGET.fullmatch(target)
    return match[1] if match else None


def pack(files: Mapping[str, bytes]) -> bytes:
    """Put files into a bundle.

    Args:
        files: content by path, such as ``metadata/1.root.json`` or
            ``targets/policy/base.toml``.

    Returns:
        the bundle; equal files give equal bytes.

    Raises:
        SettingsError: ``bundle_malformed``, for a path of no known form or too much of
            something.
    """
    _check(files)
    data = _encode(files)
    if len(data) > MAX_BUNDLE_BYTES:
        raise _refused(f"{len(data)} bytes, at most {MAX_BUNDLE_BYTES}")
    return data


def unpack(data: bytes) -> dict[str, bytes]:
    """Take the files out of a bundle. Nothing about signatures is looked at.

    Raises:
        SettingsError: ``bundle_malformed``, where ``data`` is longer than
            ``MAX_BUNDLE_BYTES``, or not what :func:`pack` makes of its files.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise _refused(f"{len(data)} bytes, at most {MAX_BUNDLE_BYTES}")
    files = _Reader(data).files()
    # Order of keys, shortest lengths, end of data and all beside the files: the one
    # encoding of these files, or refused.
    if _encode(files) != data:
        raise _refused("not the deterministic encoding of its files")
    _check(files)
    return files


def _encode(files: Mapping[str, bytes]) -> bytes:
    return canonical.encode({"format": FORMAT, "version": VERSION, "files": files})


def _check(files: Mapping[str, bytes]) -> None:
    if len(files) > MAX_FILES:
        raise _refused(f"{len(files)} files, at most {MAX_FILES}")
    for path, content in files.items():
        limit = _limit(path)
        if len(content) > limit:
            raise _refused(f"{path}: {len(content)} bytes, at most {limit}")


def _limit(path: str) -> int:
    """Longest content at a path; the path must be of one of the known forms."""
    root = _ROOT.fullmatch(path)
    if root is not None and int(root[1]) <= MAX_ROOTS:
        return MAX_ROOT_BYTES
    if path == metadata_path("timestamp"):
        return MAX_TIMESTAMP_BYTES
    if _METADATA.fullmatch(path):
        return MAX_METADATA_BYTES
    if _TARGET.fullmatch(path):
        return MAX_TARGET_BYTES
    raise _refused(f"no path of a bundle: {path[:MAX_PATH_CHARS]!r}")


class _Reader:
    """Reads the one shape there is; every count is bounded before it is followed.

    A reader of any CBOR would make a value of each byte of a hostile file.
    """

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def files(self) -> dict[str, bytes]:
        """The map under ``files``, which stands first, its key being the shortest."""
        if self.head(_MAP) != 3 or self.text() != "files":  # noqa: PLR2004 (three keys)
            raise _refused(f"not a {FORMAT}")
        count = self.head(_MAP)
        if count > MAX_FILES:
            raise _refused(f"{count} files, at most {MAX_FILES}")
        return {self.text(): self.take(self.head(_BYTES)) for _ in range(count)}

    def head(self, expected: int) -> int:
        """The argument of an item of a major type."""
        initial = self.take(1)[0]
        info = initial & 0x1F
        if initial >> 5 != expected or info > _EIGHT_BYTE_ARGUMENT:
            raise _refused(f"not a {FORMAT}: byte {self.at - 1} is {initial:#04x}")
        if info < _ONE_BYTE_ARGUMENT:
            return info
        return int.from_bytes(self.take(1 << (info - _ONE_BYTE_ARGUMENT)), "big")

    def text(self) -> str:
        length = self.head(_TEXT)
        if length > MAX_PATH_CHARS:
            raise _refused(f"a path of {length} bytes, at most {MAX_PATH_CHARS}")
        try:
            return self.take(length).decode("ascii")
        except UnicodeDecodeError as e:
            raise _refused("a path that is not ASCII") from e

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise _refused(f"truncated: {len(self.data)} bytes")
        part = self.data[self.at : self.at + count]
        self.at += count
        return part


def _refused(why: str) -> SettingsError:
    return SettingsError(Code.BUNDLE_MALFORMED, f"bundle: {why}")
