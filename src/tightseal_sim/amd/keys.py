# SPDX-License-Identifier: Apache-2.0
"""Keys of the AMD world: P-384 from the seed, RSA made once and kept in the folder.

An RSA key of AMD's size takes a second to make and cannot be grown from a seed with the
library at hand, so it is made when first asked for. The first process to write a key
decides it for all.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from tightseal.errors import Code, SettingsError
from tightseal_sim.derive import Seed

__all__ = ["AMD_RSA_BITS", "OnceStore", "RsaKeys", "p384", "public_spki"]

AMD_RSA_BITS: Final = 4096
"""Size of AMD's own keys."""

_P384_ORDER: Final = int(
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
    "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
    16,
)
_WIDE_SCALAR_BYTES: Final = 72
_MAX_KEPT_BYTES: Final = 65536


def p384(seed: Seed, *names: str) -> ec.EllipticCurvePrivateKey:
    """A P-384 key; 72 bytes reduced modulo the order, so that bias is negligible."""
    wide = int.from_bytes(seed.octets(*names, length=_WIDE_SCALAR_BYTES))
    return ec.derive_private_key(wide % (_P384_ORDER - 1) + 1, ec.SECP384R1())


def public_spki(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    public = key.public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class OnceStore:
    """Bytes by name, written once: in a folder, or in memory where there is none."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """What was kept under a name, if anything."""
        kept = self._memory.get(name)
        if kept is None and self._folder is not None:
            kept = _read(self._folder / name)
            if kept is not None:
                self._memory[name] = kept
        return kept

    def keep(self, name: str, data: bytes) -> bytes:
        """Keep bytes, unless another process was first; what is kept comes back.

        Raises:
            SettingsError: ``settings_invalid``, where the folder cannot be written.
        """
        if self._folder is None:
            return self._memory.setdefault(name, data)
        path = self._folder / name
        partial = path.with_name(f"{name}.{os.getpid()}.{threading.get_ident()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                path.hardlink_to(partial)
            except FileExistsError:
                data = path.read_bytes()
            partial.unlink()
        except OSError as e:
            detail = f"simulated world {self._folder}: {e.strerror}"
            raise SettingsError(Code.SETTINGS_INVALID, detail) from e
        self._memory[name] = data
        return data


class RsaKeys:
    """RSA keys by name, made when first asked for."""

    def __init__(self, store: OnceStore, bits: int) -> None:
        self._store = store
        self._bits = bits
        self._loaded: dict[str, rsa.RSAPrivateKey] = {}
        self._lock = threading.Lock()

    def get(self, name: str) -> rsa.RSAPrivateKey:
        """The key of this name.

        Raises:
            SettingsError: ``settings_invalid``, where the folder holds something else,
                or cannot be written.
        """
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._load(f"{name}.key")
            return self._loaded[name]

    def _load(self, file: str) -> rsa.RSAPrivateKey:
        data = self._store.get(file)
        if data is None:
            made = rsa.generate_private_key(65537, self._bits)
            form = Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
            data = self._store.keep(file, made.private_bytes(*form))
        try:
            key = load_der_private_key(data, None)
        except (TypeError, ValueError) as e:
            detail = f"simulated world: {file} is no key"
            raise SettingsError(Code.SETTINGS_INVALID, detail) from e
        if not isinstance(key, rsa.RSAPrivateKey):
            detail = f"simulated world: {file} is no RSA key"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        return key


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEPT_BYTES)
    except FileNotFoundError:
        return None
    except OSError as e:
        detail = f"simulated world {path}: {e.strerror}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
