# SPDX-License-Identifier: Apache-2.0
"""Approvers as TUF keys, and what signs for them: a key file, an HSM, a KMS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Key, Signature, Signer, SSlibKey

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.keyfile import (
    SigningKey,
    generate_key,
    is_encrypted,
    load_signing_key,
    public_file,
    read_public,
    read_public_key,
    write_key_pair,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "EXTRAS",
    "SigningKey",
    "approver_key",
    "generate_key",
    "is_encrypted",
    "load_signing_key",
    "open_signer",
    "public_file",
    "read_public",
    "sign_bytes",
    "write_key_pair",
]

EXTRAS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "awskms": "awskms",
        "azurekms": "azurekms",
        "gcpkms": "gcpkms",
        "hsm": "hsm",
        "hv": "vault",
        "tkey": "tkey",
    }
)
"""Schemes of keys that are no files, and the extra of securesystemslib of each."""


def approver_key(file: Path) -> Key:
    """A public half as a key of TUF metadata; its id is a hash of it.

    Args:
        file: PEM; Ed25519, or what an HSM or KMS has: ECDSA on P-256, or RSA.

    Raises:
        SettingsError: ``settings_invalid``: unreadable, or a kind that TUF has not.
    """
    public = read_public_key(file)
    try:
        key = SSlibKey.from_crypto(public)
    except ValueError as e:
        detail = f"{file}: {type(public).__name__}, expected Ed25519, ECDSA or RSA"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    return key


def open_signer(
    reference: str, *, public: Path | None, secret: Callable[[str], str]
) -> Signer:
    """What signs for an approver.

    Args:
        reference: a key file; or a URI of securesystemslib: ``hsm:``, ``awskms:`` and
            the other schemes of ``EXTRAS``.
        public: the public half; for URIs, which do not tell it.
        secret: asked for ``passphrase`` of a file, or for the ``pin`` of a device.

    Raises:
        SettingsError: ``settings_invalid``: not a key, a library is missing, or the
            device or service refuses.
    """
    scheme = reference.partition(":")[0]
    if scheme in EXTRAS:
        return _device(reference, scheme, public, secret)
    file = Path(reference)
    passphrase = secret("passphrase").encode() if is_encrypted(file) else None
    key = load_signing_key(file, passphrase=passphrase)
    return CryptoSigner(key.private())


def _device(
    uri: str, scheme: str, public: Path | None, secret: Callable[[str], str]
) -> Signer:
    if public is None:
        detail = f"{scheme}: give the public half too, with --public FILE"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    key = approver_key(public)
    try:
        signer = Signer.from_priv_key_uri(uri, key, secret)
    except (UnsupportedLibraryError, ImportError) as e:
        raise _library_missing(scheme) from e
    except Exception as e:
        # Drivers and services raise what they like; none of it holds the key.
        detail = f"{scheme}: {type(e).__name__}: {e}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    return signer


def sign_bytes(signer: Signer, payload: bytes) -> Signature:
    """Sign, and check that the signature is of the key that was named.

    Raises:
        SettingsError: ``settings_invalid``: it could not be made, or does not verify.
    """
    try:
        signature = signer.sign(payload)
        signer.public_key.verify_signature(signature, payload)
    except Exception as e:
        # As above: an HSM that is gone, a KMS that says no, a key that is another.
        detail = f"not signed by {signer.public_key.keyid}: {type(e).__name__}: {e}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    return signature


def _library_missing(scheme: str) -> SettingsError:
    detail = (
        f"{scheme}: keys need a library: "
        f"pip install 'securesystemslib[{EXTRAS[scheme]}]'"
    )
    return SettingsError(Code.SETTINGS_INVALID, detail)
