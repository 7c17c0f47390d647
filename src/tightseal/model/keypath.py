# SPDX-License-Identifier: Apache-2.0
"""The key path: what is fed to the labelled chain, level by level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from tightseal.model.canonical import Value
from tightseal.model.claims import Tee
from tightseal.model.generation import Generation, GenerationName
from tightseal.model.keyuse import KeyUse, Operation

__all__ = [
    "DEFAULT_KEY_BYTES",
    "MAX_KEY_BYTES",
    "MAX_NAME_CHARS",
    "MIN_KEY_BYTES",
    "Authority",
    "IdentityKind",
    "Kdf",
    "KeyPart",
    "KeyPath",
    "KeyRequest",
    "KeyType",
    "ProtocolClass",
    "WorkloadBinding",
]

MIN_KEY_BYTES: Final = 16
MAX_KEY_BYTES: Final = 64
DEFAULT_KEY_BYTES: Final = 32
"""Lengths of a derived key, in bytes."""

MAX_NAME_CHARS: Final = 128
"""Longest tenant, purpose or label; printable ASCII."""


class Kdf(StrEnum):
    """The key derivation function of a whole chain."""

    HKDF_SHA256 = "hkdf-sha256"
    HKDF_SHA384 = "hkdf-sha384"
    HKDF_SHA512 = "hkdf-sha512"
    KBKDF_HMAC_SHA256 = "sp800-108-ctr-hmac-sha256"


class ProtocolClass(StrEnum):
    """The way in; part of every path, so that neither can make the other's key."""

    V1 = "v1"
    LEGACY = "legacy"


class KeyType(StrEnum):
    """What a purpose's key is; all but ``raw`` are key pairs."""

    RAW = "raw"
    X25519 = "x25519"
    ED25519 = "ed25519"
    P256 = "p256"
    SECP256K1 = "secp256k1"

    @property
    def operations(self) -> frozenset[Operation]:
        """What a provider can do with such a key in place of releasing it."""
        return _OPERATIONS[self]


_OPERATIONS: Final[Mapping[KeyType, frozenset[Operation]]] = MappingProxyType(
    {
        KeyType.RAW: frozenset(),
        KeyType.X25519: frozenset({Operation.AGREE, Operation.UNWRAP}),
        KeyType.ED25519: frozenset({Operation.SIGN}),
        KeyType.P256: frozenset({Operation.SIGN, Operation.AGREE}),
        KeyType.SECP256K1: frozenset({Operation.SIGN, Operation.AGREE}),
    }
)


class KeyPart(StrEnum):
    """Which part of a key is asked for."""

    PRIVATE = "private"
    """The key itself: raw bytes, or the private half of a pair."""

    PUBLIC = "public"
    """The public half of a pair; nothing secret leaves."""


class IdentityKind(StrEnum):
    """What a key belongs to."""

    MEASURED = "measured"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class Authority:
    """What stands behind the rules: a pinned policy root, or the settings digest."""

    kind: str
    value: bytes

    def as_value(self) -> Value:
        """The authority as a canonical value."""
        return [self.kind, self.value]


@dataclass(frozen=True, slots=True)
class WorkloadBinding:
    """The workload level: who the key belongs to.

    Attributes:
        identity: ``measured`` here; ``named`` where a policy gives a name.
        name: the name, where ``named``; else ``None``.
        tee: kind of TEE.
        attributes: names and values that always enter (TD attributes and XFAM, SGX
            attributes, SNP policy).
        measurements: the selected measurements with their names.
        authority: policy root or settings digest.
    """

    identity: IdentityKind
    name: str | None
    tee: Tee
    attributes: tuple[tuple[str, bytes], ...]
    measurements: tuple[tuple[str, bytes], ...]
    authority: Authority

    def as_value(self) -> Value:
        """The binding as a canonical value."""
        return {
            "identity": self.identity.value,
            "name": self.name,
            "tee": self.tee.value,
            "attributes": dict(self.attributes),
            "measurements": dict(self.measurements),
            "authority": self.authority.as_value(),
        }


@dataclass(frozen=True, slots=True)
class KeyPath:
    """Everything that a key depends on besides the root.

    Attributes:
        kdf: the chain's KDF.
        trust_domain: as text; see ``TrustDomain``.
        tenant: tenant name.
        workload: the workload level.
        protocol_class: the way in.
        generation: version of the root; 0 for a platform's own sealing key.
        purpose: what the key is for.
        label: a sub-key of the purpose; empty for the purpose's own.
        length: bytes of the key; of a pair, those of its private half.
        key_type: raw bytes, or which kind of pair.
    """

    kdf: Kdf
    trust_domain: str
    tenant: str
    workload: WorkloadBinding
    protocol_class: ProtocolClass
    generation: int
    purpose: str
    label: str = ""
    length: int = DEFAULT_KEY_BYTES
    key_type: KeyType = KeyType.RAW

    def as_value(self) -> Value:
        """The path as a canonical value, for the journal."""
        return {
            "kdf": self.kdf.value,
            "trust_domain": self.trust_domain,
            "tenant": self.tenant,
            "workload": self.workload.as_value(),
            "protocol_class": self.protocol_class.value,
            "generation": self.generation,
            "purpose": self.purpose,
            "label": self.label,
            "length": self.length,
            "type": self.key_type.value,
        }


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """One key that a workload asks for.

    Attributes:
        purpose: such as ``disk``; printable ASCII, 1 to ``MAX_NAME_CHARS``.
        label: a sub-key; may be empty.
        length: bytes, ``MIN_KEY_BYTES`` to ``MAX_KEY_BYTES``; of a pair, those of its
            private half, whichever part is asked for.
        part: the key itself, or the public half of a pair.
        generation: which version of the root; in words, or by number.
        create: make a wrapped key that must not be there yet; without it a key is only
            opened. Derived keys are there by themselves and are never created.
        use: what the provider does with the private half in place of releasing it;
            the part is ``private`` then, and none of it leaves.
        imported: commitment to the existing key that ``create`` is to keep in place of
            a random one, 64 bytes; see ``model.importing``.
    """

    purpose: str
    label: str = ""
    length: int = DEFAULT_KEY_BYTES
    part: KeyPart = KeyPart.PRIVATE
    generation: Generation = GenerationName.CURRENT
    create: bool = False
    use: KeyUse | None = None
    imported: bytes | None = None

    def as_value(self) -> Value:
        """The request as a canonical value; a generation is a text or a number.

        It has six members; with a use seven, with an import eight.
        """
        asked = self.generation
        value: list[Value] = [
            self.purpose,
            self.label,
            self.length,
            self.part.value,
            asked.value if isinstance(asked, GenerationName) else asked,
            self.create,
        ]
        use = None if self.use is None else self.use.as_value()
        if self.imported is not None:
            return [*value, use, self.imported]
        return value if use is None else [*value, use]
