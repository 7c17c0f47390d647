# SPDX-License-Identifier: Apache-2.0
"""One wrapped key as its record holds it, sealed under a root.

The value of a record is deterministic CBOR: ``[1, key path, created_by, sealed]``, with
``sealed`` a nonce of 12 bytes and the output of AES-256-GCM. The generation in the path
is that of the root it is wrapped under. The key that wraps is derived along that path
(``KDF_WRAPPED_KEY``): each record has one of its own for each generation, and seals
with it about once. The associated data is the record's name, path and ``created_by``: a
value that was moved to another record, or whose path was edited, does not open.

The record lies in the sealed state store, which shows what was changed or put back
alone. This seal ties the key to its generation besides: copies of a record that was
wrapped under one open no more once its root is gone, wherever they were kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tightseal.errors import Code, KeyReleaseError, RequestError, ServiceError
from tightseal.keys.chain import wrapping_key
from tightseal.keys.form import check_path
from tightseal.keys.pairs import private_half, seed_bytes
from tightseal.model.canonical import Value, decode, encode, labelled
from tightseal.model.claims import Tee
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPath,
    KeyType,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.model.labels import Label
from tightseal.model.ports import KeyRoots
from tightseal.model.secret import Secret

__all__ = ["REQUEST_HASH_BYTES", "Entropy", "WrappedRecord", "random_key"]

REQUEST_HASH_BYTES: Final = 32

_FORM: Final = 1
_MEMBERS: Final = 4
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16

Entropy = Callable[[int], bytes]
"""Random bytes, as many as are asked for."""


def random_key(path: KeyPath, entropy: Entropy) -> Secret:
    """A new key of the path's type and length; of a pair, the private half."""
    if path.key_type is KeyType.RAW:
        return Secret(entropy(path.length))
    seed = Secret(entropy(seed_bytes(path.key_type)))
    try:
        return private_half(seed, path.key_type)
    finally:
        seed.wipe()


@dataclass(frozen=True, slots=True)
class WrappedRecord:
    """A wrapped key.

    Attributes:
        path: along which it is wrapped; its generation is that of the root.
        created_by: SHA-256 of the request that created the key, 32 bytes.
        sealed: nonce and ciphertext with its tag.
    """

    path: KeyPath
    created_by: bytes
    sealed: bytes = field(repr=False)

    @classmethod
    def seal(
        cls,
        key: Secret,
        *,
        name: str,
        root: Secret,
        path: KeyPath,
        created_by: bytes,
        entropy: Entropy,
    ) -> WrappedRecord:
        """Wrap a key for the record of this name.

        Raises:
            KeyReleaseError: ``key_path_invalid``; ``sealing_key_unavailable``, where
                the root is short or all zero.
        """
        bare = cls(path, created_by, b"")
        nonce = entropy(_NONCE_BYTES)
        wrapping = wrapping_key(root, path)
        try:
            sealed = AESGCM(wrapping.reveal()).encrypt(
                nonce, key.reveal(), bare._associated(name)
            )
        finally:
            wrapping.wipe()
        return replace(bare, sealed=nonce + sealed)

    def open(self, *, name: str, root: Secret) -> Secret:
        """The key; ``path.length`` bytes.

        Raises:
            ServiceError: ``state_tampered``, where this is not what was sealed for the
                record of this name under this root.
            KeyReleaseError: as :meth:`seal`.
        """
        nonce, sealed = self.sealed[:_NONCE_BYTES], self.sealed[_NONCE_BYTES:]
        wrapping = wrapping_key(root, self.path)
        try:
            return Secret(
                AESGCM(wrapping.reveal()).decrypt(nonce, sealed, self._associated(name))
            )
        except InvalidTag as e:
            generation = self.path.generation
            detail = f"not sealed under this root of generation {generation}"
            raise _tampered(f"{detail} for this record") from e
        finally:
            wrapping.wipe()

    def moved(
        self, generation: int, *, name: str, roots: KeyRoots, entropy: Entropy
    ) -> WrappedRecord:
        """The same key under another generation; raises as ``seal`` and ``open``."""
        path = replace(self.path, generation=generation)
        key = self.open(name=name, root=roots.root(self.path.generation))
        try:
            return WrappedRecord.seal(
                key,
                name=name,
                root=roots.root(generation),
                path=path,
                created_by=self.created_by,
                entropy=entropy,
            )
        finally:
            key.wipe()

    def encode(self) -> bytes:
        """The value of the record."""
        return encode([_FORM, self.path.as_value(), self.created_by, self.sealed])

    @classmethod
    def decode(cls, value: bytes) -> WrappedRecord:
        """Read the value of a record.

        Raises:
            ServiceError: ``state_tampered``, where it has another form.
        """
        try:
            parts = decode(value)
        except RequestError as e:
            raise _tampered(e.detail) from e
        if not isinstance(parts, list) or len(parts) != _MEMBERS or parts[0] != _FORM:
            raise _tampered("not a record of this version")
        _, path_value, created_by, sealed = parts
        if not isinstance(created_by, bytes) or len(created_by) != REQUEST_HASH_BYTES:
            raise _tampered("the request hash is malformed")
        path = _path(path_value)
        size = _NONCE_BYTES + path.length + _TAG_BYTES
        if not isinstance(sealed, bytes) or len(sealed) != size:
            raise _tampered("the sealed key is malformed")
        return cls(path, created_by, sealed)

    def _associated(self, name: str) -> bytes:
        covered: list[Value] = [name, self.path.as_value(), self.created_by]
        return labelled(Label.SEAL_WRAPPED_KEY, covered)


def _path(value: Any) -> KeyPath:
    """A key path from what :meth:`KeyPath.as_value` gave, and from nothing else."""
    try:
        workload = value["workload"]
        path = KeyPath(
            kdf=Kdf(value["kdf"]),
            trust_domain=value["trust_domain"],
            tenant=value["tenant"],
            workload=WorkloadBinding(
                identity=IdentityKind(workload["identity"]),
                name=workload["name"],
                tee=Tee(workload["tee"]),
                attributes=tuple(workload["attributes"].items()),
                measurements=tuple(workload["measurements"].items()),
                authority=Authority(*workload["authority"]),
            ),
            protocol_class=ProtocolClass(value["protocol_class"]),
            generation=value["generation"],
            purpose=value["purpose"],
            label=value["label"],
            length=value["length"],
            key_type=KeyType(value["type"]),
        )
        check_path(path)
    except (KeyError, TypeError, ValueError, AttributeError, KeyReleaseError) as e:
        raise _tampered("the key path is malformed") from e
    if path.as_value() != value:
        raise _tampered("the key path is malformed")
    return path


def _tampered(what: str) -> ServiceError:
    return ServiceError(Code.STATE_TAMPERED, f"wrapped key: {what}")
