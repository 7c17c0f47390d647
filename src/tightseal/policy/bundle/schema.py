# SPDX-License-Identifier: Apache-2.0
"""The form of TUF metadata in a bundle: typed and bounded, nothing unknown let through.

A profile of the TUF specification 1.0, section 4. What it narrows: no field that the
specification does not name (but ``x-tightseal-issued``), three kinds of keys, hashes of
two kinds, no consistent snapshots, no hash bins.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from tightseal.policy.bundle.archive import MAX_FILES, MAX_PATH_CHARS, MAX_TENANTS
from tightseal.policy.bundle.marks import MAX_VERSION

__all__ = [
    "FORMS",
    "ISSUED",
    "MAX_ROLE_KEYS",
    "MAX_SIGNATURES",
    "KeyJson",
    "RoleJson",
    "RootJson",
    "SnapshotJson",
    "TargetsJson",
    "TimestampJson",
]

ISSUED: Final = "x-tightseal-issued"
"""Field of the timestamp: when it was signed."""

MAX_ROLE_KEYS: Final = 64
MAX_ROOT_KEYS: Final = 256
MAX_TENANT_KEYS: Final = 16_384
MAX_SIGNATURES: Final = 256
MAX_SIGNATURE_CHARS: Final = 2048
MAX_KEY_CHARS: Final = 2048
"""Bounds on the keys of one role, of the root, of all tenants; on signatures of a file;
and on hex and PEM of one of them: RSA of 8192 bits fits."""

Hex32: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Hex64: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")]
KeyId: TypeAlias = Hex32
Version: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_VERSION)]
Length: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 32)]
Text: TypeAlias = Annotated[str, Meta(max_length=MAX_PATH_CHARS)]
Moment: TypeAlias = Annotated[
    str,
    Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z"),
]
SpecVersion: TypeAlias = Annotated[str, Meta(pattern=r"^1\.0(\.[0-9]{1,4})?\Z")]


class _Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every part has in common."""


class _KeyValue(_Form, frozen=True, kw_only=True):
    public: Annotated[str, Meta(max_length=MAX_KEY_CHARS)]


class KeyJson(_Form, frozen=True, kw_only=True):
    """A public key; ``metadata`` checks that it is one."""

    keytype: Literal["ed25519", "ecdsa", "rsa"]
    scheme: Literal["ed25519", "ecdsa-sha2-nistp256", "rsassa-pss-sha256"]
    keyval: _KeyValue


class RoleJson(_Form, frozen=True, kw_only=True):
    """Whose signatures count for a role, and how many it takes."""

    keyids: Annotated[tuple[KeyId, ...], Meta(min_length=1, max_length=MAX_ROLE_KEYS)]
    threshold: Annotated[int, Meta(ge=1, le=MAX_ROLE_KEYS)]


class _Signed(_Form, frozen=True, kw_only=True):
    """Section 4.2: what all roles have in common."""

    spec_version: SpecVersion
    version: Version
    expires: Moment


class _Roles(_Form, frozen=True, kw_only=True):
    root: RoleJson
    timestamp: RoleJson
    snapshot: RoleJson
    targets: RoleJson


class RootJson(_Signed, frozen=True, kw_only=True):
    """Section 4.3."""

    type: Literal["root"] = msgspec.field(name="_type")
    consistent_snapshot: Literal[False] | msgspec.UnsetType = msgspec.UNSET
    keys: Annotated[dict[KeyId, KeyJson], Meta(max_length=MAX_ROOT_KEYS)]
    roles: _Roles


class _Hashes(_Form, frozen=True, kw_only=True):
    sha256: Hex32 | msgspec.UnsetType = msgspec.UNSET
    sha512: Hex64 | msgspec.UnsetType = msgspec.UNSET


class _MetaFile(_Form, frozen=True, kw_only=True):
    version: Version
    length: Length | msgspec.UnsetType = msgspec.UNSET
    hashes: _Hashes | msgspec.UnsetType = msgspec.UNSET


class _SnapshotMeta(_Form, frozen=True, kw_only=True):
    snapshot: _MetaFile = msgspec.field(name="snapshot.json")


class TimestampJson(_Signed, frozen=True, kw_only=True):
    """Section 4.6."""

    type: Literal["timestamp"] = msgspec.field(name="_type")
    issued: Moment = msgspec.field(name=ISSUED)
    meta: _SnapshotMeta


class SnapshotJson(_Signed, frozen=True, kw_only=True):
    """Section 4.4."""

    type: Literal["snapshot"] = msgspec.field(name="_type")
    meta: Annotated[dict[Text, _MetaFile], Meta(max_length=2 * MAX_TENANTS)]


class _TargetFile(_Form, frozen=True, kw_only=True):
    length: Length
    hashes: _Hashes


class _DelegatedRole(RoleJson, frozen=True, kw_only=True):
    name: Text
    terminating: Literal[True]
    paths: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=1)]


class _Delegations(_Form, frozen=True, kw_only=True):
    keys: Annotated[dict[KeyId, KeyJson], Meta(max_length=MAX_TENANT_KEYS)]
    roles: Annotated[tuple[_DelegatedRole, ...], Meta(max_length=MAX_TENANTS)]


class TargetsJson(_Signed, frozen=True, kw_only=True):
    """Section 4.5; of ``targets`` and of every tenant's role."""

    type: Literal["targets"] = msgspec.field(name="_type")
    targets: Annotated[dict[Text, _TargetFile], Meta(max_length=MAX_FILES)]
    delegations: _Delegations | msgspec.UnsetType = msgspec.UNSET


class _Signature(_Form, frozen=True, kw_only=True):
    keyid: KeyId
    sig: Annotated[
        str,
        Meta(max_length=MAX_SIGNATURE_CHARS, pattern=r"^([0-9a-f]{2})*\Z"),
    ]


class _File(_Form, frozen=True, kw_only=True):
    signatures: Annotated[tuple[_Signature, ...], Meta(max_length=MAX_SIGNATURES)]


class _RootFile(_File, frozen=True, kw_only=True):
    signed: RootJson


class _TimestampFile(_File, frozen=True, kw_only=True):
    signed: TimestampJson


class _SnapshotFile(_File, frozen=True, kw_only=True):
    signed: SnapshotJson


class _TargetsFile(_File, frozen=True, kw_only=True):
    signed: TargetsJson


FORMS: Final = {
    "root": _RootFile,
    "timestamp": _TimestampFile,
    "snapshot": _SnapshotFile,
    "targets": _TargetsFile,
}
"""The form of a file by the kind of its role."""
