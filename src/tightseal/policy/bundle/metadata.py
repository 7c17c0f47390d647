# SPDX-License-Identifier: Apache-2.0
"""One metadata file: bytes to a typed value whose signatures can be judged.

``tuf.api.metadata`` holds the values and counts signatures. It takes more than a bundle
may hold, so each file is first read by a form of our own (:mod:`schema`), and then what
the library made of it must encode to the very bytes that were signed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

import msgspec
from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical
from tuf.api.exceptions import LengthOrHashMismatchError, UnsignedMetadataError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import SerializationError

from tightseal.errors import Code, SettingsError
from tightseal.model.canonical import labelled
from tightseal.model.labels import Label
from tightseal.policy.bundle.publickeys import check_keys
from tightseal.policy.bundle.schema import FORMS, ISSUED
from tightseal.policy.bundle.strictjson import decode_json

__all__ = [
    "SignedFile",
    "issued_at",
    "policy_root_of",
    "read_root",
    "read_snapshot",
    "read_targets",
    "read_timestamp",
    "require_content",
    "root_digest",
]

_Role = TypeVar("_Role", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class SignedFile(Generic[_Role]):
    """A metadata file of a good form. Nothing is said yet about its signatures.

    Attributes:
        path: in the bundle.
        data: the file.
        metadata: what the library made of it.
        payload: the bytes that were signed: canonical JSON of the part ``signed``.
    """

    path: str
    data: bytes
    metadata: Metadata[_Role]
    payload: bytes

    @property
    def signed(self) -> _Role:
        """The part that was signed."""
        return self.metadata.signed

    @property
    def role(self) -> str:
        """Its name, such as ``timestamp`` or ``tenant-acme``."""
        return self.path.removeprefix("metadata/").removesuffix(".json")

    @property
    def version(self) -> int:
        """Of the role."""
        return self.metadata.signed.version

    @property
    def expires(self) -> int:
        """Unix time of the first second in which it is no longer valid."""
        return int(self.metadata.signed.expires.timestamp())

    def require_signed(
        self, role: str, by: SignedFile[Root] | SignedFile[Targets]
    ) -> None:
        """Refuse where too few of the role's keys, as ``by`` names them, signed.

        Raises:
            SettingsError: ``bundle_undersigned``.
        """
        signatures = self.metadata.signatures
        try:
            by.signed.verify_delegate(role, self.payload, signatures)
        except UnsignedMetadataError as e:
            detail = f"{self.path}: {e}, as {by.path} asks"
            raise SettingsError(Code.BUNDLE_UNDERSIGNED, detail) from e


def require_content(
    path: str, data: bytes, listed: MetaFile | TargetFile, *, by: str
) -> None:
    """Refuse a file that is not the one that was listed, by length and hashes.

    Raises:
        SettingsError: ``bundle_incomplete``.
    """
    try:
        listed.verify_length_and_hashes(data)
    except LengthOrHashMismatchError as e:
        detail = f"{path}: not the file that {by} lists: {e}"
        raise SettingsError(Code.BUNDLE_INCOMPLETE, detail) from e


def read_root(path: str, data: bytes) -> SignedFile[Root]:
    """Read a root.

    Raises:
        SettingsError: ``bundle_malformed``.
    """
    return _read(path, data, Root)


def read_timestamp(path: str, data: bytes) -> SignedFile[Timestamp]:
    """Read a timestamp; as :func:`read_root`."""
    return _read(path, data, Timestamp)


def read_snapshot(path: str, data: bytes) -> SignedFile[Snapshot]:
    """Read a snapshot; as :func:`read_root`."""
    return _read(path, data, Snapshot)


def read_targets(path: str, data: bytes) -> SignedFile[Targets]:
    """Read the metadata of ``targets`` or of a tenant; as :func:`read_root`."""
    return _read(path, data, Targets)


def policy_root_of(root_json: bytes) -> bytes:
    """The policy root, 32 bytes, of ``1.root.json``; see :func:`root_digest`.

    Raises:
        SettingsError: ``bundle_malformed``.
    """
    return root_digest(read_root("1.root.json", root_json))


def root_digest(first: SignedFile[Root]) -> bytes:
    """The policy root: SHA-256 over the labelled signed part of the first root.

    More signatures, and later roots, do not change it.

    Returns:
        32 bytes. Signatures are not checked.
    """
    return hashlib.sha256(labelled(Label.POLICY_ROOT, first.payload)).digest()


def issued_at(timestamp: SignedFile[Timestamp]) -> int:
    """When a timestamp was signed, by its own word; Unix seconds."""
    text = timestamp.signed.unrecognized_fields[ISSUED]
    return _unix_time(timestamp.path, text)


def _unix_time(path: str, text: str) -> int:
    """Unix seconds of a moment of the form that metadata has.

    Raises:
        SettingsError: ``bundle_malformed``, where there is no such moment.
    """
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as e:
        raise _refused(path, f"{text!r} is no moment") from e
    return int(moment.timestamp())


def _read(path: str, data: bytes, kind: type[_Role]) -> SignedFile[_Role]:
    value = decode_json(path, data)
    try:
        form = msgspec.convert(value, FORMS[kind.type])
        payload = (encode_canonical(value["signed"]) or "").encode()
        check_keys(path, form.signed)
        metadata: Metadata[_Role] = Metadata.from_dict(value)
        same = metadata.signed_bytes == payload
    except (
        AttributeError,
        FormatError,
        KeyError,
        SerializationError,
        TypeError,
        ValueError,
    ) as e:
        raise _refused(path, f"{type(e).__name__}: {e}") from e
    # The library drops what it does not know of; then it would judge other bytes than
    # those that the form was read from.
    if not same or not isinstance(metadata.signed, kind):
        raise _refused(path, "means another thing to the TUF library")
    return SignedFile(path, data, metadata, payload)


def _refused(path: str, why: str) -> SettingsError:
    return SettingsError(Code.BUNDLE_MALFORMED, f"{path}: {why}")
