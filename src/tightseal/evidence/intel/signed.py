# SPDX-License-Identifier: Apache-2.0
"""The form of what Intel signs: certificates and CRLs, and the names in them."""

from __future__ import annotations

from typing import Final

from tightseal.model import der
from tightseal.model.der import DerError

__all__ = ["ECDSA_WITH_SHA256", "common_name", "signed_content"]

ECDSA_WITH_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
"""The AlgorithmIdentifier ecdsa-with-SHA256, without parameters."""

_COMMON_NAME: Final = bytes.fromhex("550403")


def signed_content(data: bytes) -> tuple[bytes, list[bytes]]:
    """What is signed in a certificate or CRL, whole, and its elements, each whole.

    The algorithm must be ecdsa-with-SHA256 without parameters, inside and outside
    alike. The outer one is covered by no signature, so that any other form would let
    bytes change without a signature noticing (RFC 5280 section 4.1.1.2).

    Raises:
        DerError: where the algorithm is another, or the form is.
    """
    outer = der.whole_children(der.single(data, der.SEQUENCE))
    if len(outer) != len(("signed", "algorithm", "signature")):
        raise DerError("expected signed content, algorithm and signature")
    fields = der.whole_children(der.single(outer[0], der.SEQUENCE))
    inner = next((f for f in fields if f[0] == der.SEQUENCE), b"")
    if not outer[1] == inner == ECDSA_WITH_SHA256:
        raise DerError("not signed with ECDSA and SHA-256")
    return outer[0], fields


def common_name(name: bytes) -> str:
    """The only common name in a Name (RFC 5280 section 4.1.2.4), ASCII.

    Raises:
        ValueError: none, several, of another type, or another form.
    """
    found: list[bytes] = []
    for _, names in der.children(der.single(name, der.SEQUENCE)):
        for _, attribute in der.children(names):
            oid, value = der.children(attribute)
            if oid == (der.OBJECT_IDENTIFIER, _COMMON_NAME):
                if value[0] not in (der.UTF8_STRING, der.PRINTABLE_STRING):
                    raise DerError("common name of unsupported type")
                found.append(value[1])
    if len(found) != 1:
        raise DerError(f"{len(found)} common names, expected 1")
    return found[0].decode("ascii")
