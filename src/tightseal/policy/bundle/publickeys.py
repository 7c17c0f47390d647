# SPDX-License-Identifier: Apache-2.0
"""Public keys in metadata: three kinds, one text and one id for each key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import SSlibKey

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.schema import KeyJson, RoleJson, RootJson, TargetsJson

__all__ = ["MAX_RSA_BITS", "MIN_RSA_BITS", "check_keys"]

MIN_RSA_BITS: Final = 3072
MAX_RSA_BITS: Final = 8192
RSA_EXPONENT: Final = 65_537
"""RSA keys that are taken: 128 bits of strength at least, checked in bounded time."""

_PEM: Final = "-----BEGIN PUBLIC KEY-----\n"


def check_keys(path: str, signed: object) -> None:
    """Check keys, and the roles that name them (TUF 1.0, section 4.3, KEYS and ROLE).

    An id that is not the hash of its key would let one key have two ids, and so meet a
    threshold of two alone.

    Args:
        path: of the file, for errors.
        signed: its signed part, as read by its form; without keys, nothing is checked.

    Raises:
        SettingsError: ``bundle_malformed``.
    """
    if isinstance(signed, RootJson):
        keys, roles = signed.keys, dict(_top_level(signed))
    elif isinstance(signed, TargetsJson) and signed.delegations is not msgspec.UNSET:
        keys = signed.delegations.keys
        roles = {role.name: role for role in signed.delegations.roles}
    else:
        return
    for keyid, key in keys.items():
        _check_key(path, keyid, key)
    for name, role in roles.items():
        _check_role(path, name, role, keys)


def _top_level(root: RootJson) -> Iterator[tuple[str, RoleJson]]:
    for name in root.roles.__struct_fields__:
        yield name, getattr(root.roles, name)


def _check_role(
    path: str, name: str, role: RoleJson, keys: Mapping[str, KeyJson]
) -> None:
    unknown = set(role.keyids) - set(keys)
    if unknown:
        raise _refused(path, f"role {name}: no key {min(unknown)}")
    if role.threshold > len(set(role.keyids)):
        message = f"role {name}: {role.threshold} of {len(role.keyids)} keys"
        raise _refused(path, message)


def _check_key(path: str, keyid: str, key: KeyJson) -> None:
    """One key, one text, one id: what the library would write for it."""
    try:
        public = _public_key(key)
        written = SSlibKey.from_crypto(public)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise _refused(path, f"key {keyid}: no public key: {e}") from e
    given = (key.keytype, key.scheme, {"public": key.keyval.public})
    if (written.keytype, written.scheme, written.keyval) != given:
        raise _refused(path, f"key {keyid}: not the usual form of a {key.scheme} key")
    if written.keyid != keyid:
        raise _refused(path, f"key {keyid}: its id should be {written.keyid}")


def _public_key(
    key: KeyJson,
) -> Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey:
    text = key.keyval.public
    if key.keytype == "ed25519":
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    if not text.startswith(_PEM):
        message = "not PEM"
        raise ValueError(message)
    public = load_pem_public_key(text.encode())
    if isinstance(public, EllipticCurvePublicKey):
        if isinstance(public.curve, SECP256R1):
            return public
    elif isinstance(public, RSAPublicKey):
        good = MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS
        if good and public.public_numbers().e == RSA_EXPONENT:
            return public
    message = f"expected P-256 or RSA of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits"
    raise ValueError(message)


def _refused(path: str, why: str) -> SettingsError:
    return SettingsError(Code.BUNDLE_MALFORMED, f"{path}: {why}")
