# SPDX-License-Identifier: Apache-2.0
"""The form of a key path: what may enter the chain at all.

Only form is judged here. Which measurements a key must belong to is for policy to say.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.pairs import PRIVATE_BYTES
from tightseal.model.claims import MEASUREMENT_NAMES, Tee
from tightseal.model.exchange import MAX_GENERATION
from tightseal.model.keypath import (
    MAX_KEY_BYTES,
    MAX_NAME_CHARS,
    MIN_KEY_BYTES,
    Authority,
    IdentityKind,
    Kdf,
    KeyPath,
    KeyType,
    ProtocolClass,
    WorkloadBinding,
)

__all__ = [
    "MAX_BINDING_PAIRS",
    "MAX_BINDING_VALUE_BYTES",
    "check_path",
]

MAX_BINDING_PAIRS: Final = 32
"""Most attributes, and most measurements, of one workload."""

MAX_BINDING_VALUE_BYTES: Final = 64
"""Longest value of an attribute or measurement, in bytes (SGX CONFIGID)."""

_NAME: Final = re.compile(rf"[\x20-\x7e]{{1,{MAX_NAME_CHARS}}}")
_FIELD_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TRUST_DOMAIN: Final = re.compile(r"intel|amd|simulated:[0-9a-f]{96}")
_AUTHORITY_BYTES: Final = frozenset({32, 48, 64})


def check_path(path: KeyPath) -> None:
    """Check every field of a key path before anything is derived from it.

    Raises:
        KeyReleaseError: ``key_path_invalid``, naming the field.
    """
    _member("kdf", path.kdf, Kdf)
    _member("protocol_class", path.protocol_class, ProtocolClass)
    if not _matches(_TRUST_DOMAIN, path.trust_domain):
        _refuse("trust_domain", "intel, amd or simulated:<96 hex digits>")
    _name("tenant", path.tenant)
    _name("purpose", path.purpose)
    if path.label != "":
        _name("label", path.label)
    _whole("generation", path.generation, 0, MAX_GENERATION)
    _member("key_type", path.key_type, KeyType)
    _whole("length", path.length, MIN_KEY_BYTES, MAX_KEY_BYTES)
    if path.key_type is not KeyType.RAW and path.length != PRIVATE_BYTES:
        _refuse("length", f"{PRIVATE_BYTES}, where the key is a pair")
    _binding(path.workload)


def _binding(binding: WorkloadBinding) -> None:
    _member("identity", binding.identity, IdentityKind)
    _member("tee", binding.tee, Tee)
    if binding.identity is IdentityKind.NAMED:
        _name("name", binding.name)
    elif binding.name is not None:
        _refuse("name", "none where the identity is measured")
    elif not binding.measurements:
        _refuse("measurements", "at least one where the identity is measured")
    _pairs("attributes", binding.attributes)
    _pairs("measurements", binding.measurements)
    known = MEASUREMENT_NAMES[binding.tee]
    if any(name not in known for name, _ in binding.measurements):
        _refuse("measurements", f"names of {binding.tee.value}: {', '.join(known)}")
    _authority(binding.authority)


def _authority(authority: Authority) -> None:
    _name("authority.kind", authority.kind)
    if _byte_count(authority.value) not in _AUTHORITY_BYTES:
        _refuse("authority.value", "a digest of 32, 48 or 64 bytes")


def _pairs(field: str, pairs: tuple[tuple[str, bytes], ...]) -> None:
    """A name twice would let one value hide another when the pairs become a map."""
    if len(pairs) > MAX_BINDING_PAIRS:
        _refuse(field, f"at most {MAX_BINDING_PAIRS} pairs")
    if len({name for name, _ in pairs}) != len(pairs):
        _refuse(field, "every name once")
    for name, value in pairs:
        if not _matches(_FIELD_NAME, name):
            _refuse(field, "names of lower-case letters, digits and underscores")
        if not 1 <= _byte_count(value) <= MAX_BINDING_VALUE_BYTES:
            _refuse(field, f"values of 1 to {MAX_BINDING_VALUE_BYTES} bytes")


def _byte_count(value: object) -> int:
    return len(value) if isinstance(value, bytes) else -1


def _name(field: str, value: object) -> None:
    if not _matches(_NAME, value):
        _refuse(field, f"printable ASCII, 1 to {MAX_NAME_CHARS} characters")


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _whole(field: str, value: object, low: int, high: int) -> None:
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not low <= value <= high
    ):
        _refuse(field, f"a whole number from {low} to {high}")


def _member(field: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        _refuse(field, f"a {kind.__name__}")


def _refuse(field: str, expected: str) -> NoReturn:
    raise KeyReleaseError(Code.KEY_PATH_INVALID, f"{field}: expected {expected}")
