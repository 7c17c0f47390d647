# SPDX-License-Identifier: Apache-2.0
"""One step of key derivation: a parent, a label and a value to a child.

Every KDF gets the same context: the deterministic CBOR of ``[label, value]``.

* HKDF (RFC 5869): the parent is the input key material, there is no salt, and ``info``
  is the context.
* SP 800-108r1 section 4.1, counter mode, PRF HMAC-SHA256: the parent is the key, and
  round *i* takes ``[i]_32 || Label || 0x00 || Context || [L]_32``, big-endian,
  with the label's ASCII bytes as Label and L the output length in bits.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import (
    KBKDFHMAC,
    CounterLocation,
    Mode,
)

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.canonical import Value, labelled
from tightseal.model.keypath import Kdf
from tightseal.model.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tightseal.model.labels import Label

__all__ = ["MIN_PARENT_BYTES", "check_root", "node_bytes", "step"]

MIN_PARENT_BYTES: Final = 16
"""Shortest root, in bytes: SGX's EGETKEY gives 128 bits."""

_COUNTER_BYTES: Final = 4
"""Width of the counter and of L in SP 800-108, in bytes."""

_HASHES: Final[Mapping[Kdf, type[hashes.HashAlgorithm]]] = MappingProxyType(
    {
        Kdf.HKDF_SHA256: hashes.SHA256,
        Kdf.HKDF_SHA384: hashes.SHA384,
        Kdf.HKDF_SHA512: hashes.SHA512,
        Kdf.KBKDF_HMAC_SHA256: hashes.SHA256,
    }
)


def node_bytes(kdf: Kdf) -> int:
    """Bytes of an inner node of the chain: the output size of the KDF's hash."""
    return _HASHES[kdf]().digest_size


def check_root(root: Secret) -> None:
    """Refuse a root that cannot be one: too short, or all zero.

    An all-zero root is a holder that was wiped, or a platform that answered without a
    key; keys derived from it would be known to everybody.

    Raises:
        KeyReleaseError: ``sealing_key_unavailable``.
    """
    if len(root) < MIN_PARENT_BYTES:
        detail = f"root of {len(root)} bytes, at least {MIN_PARENT_BYTES}"
        raise KeyReleaseError(Code.SEALING_KEY_UNAVAILABLE, detail)
    if root == Secret(bytes(len(root))):
        raise KeyReleaseError(Code.SEALING_KEY_UNAVAILABLE, "root is all zero")


def step(
    kdf: Kdf, *, parent: Secret, label: Label, value: Value, length: int
) -> Secret:
    """Derive ``length`` bytes from ``parent`` for this label and value.

    Does not check the parent's length or content, nor ``value`` beyond what
    deterministic CBOR can hold: the chain does, before the first step.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where ``length`` cannot be derived.
    """
    context = labelled(label, value)
    algorithm = _HASHES[kdf]()
    try:
        if kdf is Kdf.KBKDF_HMAC_SHA256:
            function: HKDF | KBKDFHMAC = KBKDFHMAC(
                algorithm=algorithm,
                mode=Mode.CounterMode,
                length=length,
                rlen=_COUNTER_BYTES,
                llen=_COUNTER_BYTES,
                location=CounterLocation.BeforeFixed,
                label=label.value.encode("ascii"),
                context=context,
                fixed=None,
            )
        else:
            function = HKDF(algorithm=algorithm, length=length, salt=None, info=context)
        return Secret(function.derive(parent.reveal()))
    except (ValueError, OverflowError) as e:
        detail = f"cannot derive {length} bytes with {kdf.value}"
        raise KeyReleaseError(Code.KEY_PATH_INVALID, detail) from e
