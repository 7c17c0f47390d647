# SPDX-License-Identifier: Apache-2.0
"""What a counter elsewhere means for a keyring: a record, sealed, beside its file.

The counter of a TPM begins where the TPM says. The record binds one index of one TPM to
one keyring: which counter of the keyring stands for which value. It is sealed under
the keyring key, so the host can remove it or put one back, and not make one.

    record = ["tightseal-keyring-anchor", 1, salt, nonce, ciphertext]
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tightseal.errors import Code, RequestError, ServiceError
from tightseal.keys.keyring import fields
from tightseal.keys.keyring.faults import malformed, tampered
from tightseal.keys.keyring.opened import Keyring
from tightseal.keys.keyring.system import OPERATING_SYSTEM, FileSystem
from tightseal.model.canonical import Value, decode, encode, labelled
from tightseal.model.labels import Label
from tightseal.model.secret import Secret

__all__ = ["MAX_RECORD_BYTES", "AnchorFile", "AnchorRecord"]

MAX_RECORD_BYTES: Final = 1024
"""Longest record; one is about 300 bytes."""

LOCK_TRIES: Final = 300
LOCK_SECONDS: Final = 0.1

_MAGIC: Final = "tightseal-keyring-anchor"
_VERSION: Final = 1
_PARTS: Final = 5
_SALT_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_NAME_BYTES: Final = 34
_KEY_BYTES: Final = 32
_MAX_HANDLE: Final = (1 << 32) - 1
_MAX_VALUE: Final = (1 << 63) - 1
_MAX_COUNTER: Final = 1 << 53
_MEMBERS: Final = frozenset({"auth", "counter", "ek", "handle", "policy", "value"})

_THREADS: Final = threading.Lock()
"""POSIX locks exclude processes alone; within one, this does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorRecord:
    """One index of one TPM, and what its value means.

    Attributes:
        ek: Name of the TPM's endorsement key, 34 bytes.
        handle: of the index.
        policy: its policy digest, 32 random bytes.
        auth: its authorisation value, 32 random bytes.
        value: of the TPM's counter when the record was made.
        counter: of the keyring then.
    """

    ek: bytes
    handle: int
    policy: bytes
    auth: Secret = field(repr=False)
    value: int
    counter: int

    def remembered(self, value: int) -> int:
        """The keyring's counter that a value of the TPM's counter stands for."""
        return self.counter + value - self.value

    def seal(self, keyring: Keyring) -> bytes:
        """The record under the keyring key."""
        plain = encode(
            {
                "auth": self.auth.reveal(),
                "counter": self.counter,
                "ek": self.ek,
                "handle": self.handle,
                "policy": self.policy,
                "value": self.value,
            }
        )
        salt, nonce = (secrets.token_bytes(n) for n in (_SALT_BYTES, _NONCE_BYTES))
        data = _box(keyring, salt).encrypt(nonce, plain, _bound_to(keyring))
        return encode([_MAGIC, _VERSION, salt, nonce, data])

    @classmethod
    def open(cls, data: bytes, keyring: Keyring) -> AnchorRecord:
        """Read a record that lay with the host.

        Raises:
            KeyReleaseError: ``keyring_malformed``; ``keyring_tampered``, where it is
                not of this keyring, or under another keyring key.
        """
        parts = fields.elements(_decoded(data), _PARTS, "anchor record")
        if len(parts) != _PARTS or parts[:2] != [_MAGIC, _VERSION]:
            raise malformed("anchor record: not of a version that is read here")
        salt = fields.octets(parts[2], _SALT_BYTES, "anchor record: salt")
        nonce = fields.octets(parts[3], _NONCE_BYTES, "anchor record: nonce")
        if not isinstance(parts[4], bytes):
            raise malformed("anchor record: ciphertext")
        try:
            plain = _box(keyring, salt).decrypt(nonce, parts[4], _bound_to(keyring))
        except InvalidTag as e:
            why = "changed, of another keyring, or from before its key was renewed"
            raise tampered(f"anchor record: {why}") from e
        return cls._read(_decoded(plain))

    @classmethod
    def _read(cls, value: Value) -> AnchorRecord:
        read = fields.members(value, _MEMBERS, "anchor record")
        return cls(
            ek=fields.octets(read["ek"], _NAME_BYTES, "anchor record: ek"),
            handle=fields.whole(read["handle"], 0, _MAX_HANDLE, "anchor: handle"),
            policy=fields.octets(read["policy"], _KEY_BYTES, "anchor record: policy"),
            auth=Secret(fields.octets(read["auth"], _KEY_BYTES, "anchor record: auth")),
            value=fields.whole(read["value"], 0, _MAX_VALUE, "anchor record: value"),
            counter=fields.whole(read["counter"], 1, _MAX_COUNTER, "anchor: counter"),
        )


class AnchorFile:
    """Where the record lies: beside the keyring's file.

    Args:
        keyring: the keyring's file; its folder must exist.
        system: the operating system's calls.
        sleep: waits for another process that has the lock.
    """

    def __init__(
        self,
        keyring: Path,
        *,
        system: FileSystem = OPERATING_SYSTEM,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        path = keyring.absolute()
        self._path = f"{path}.anchor"
        self._folder = str(path.parent)
        self._system = system
        self._sleep = sleep

    @property
    def path(self) -> str:
        """For messages."""
        return self._path

    def read(self) -> bytes | None:
        """Its bytes; ``None`` where there is none.

        Raises:
            ServiceError: ``state_unavailable``.
            KeyReleaseError: ``keyring_malformed``, where it is too long.
        """
        with self._failing():
            try:
                fd = self._system.open(self._path, os.O_RDONLY)
            except FileNotFoundError:
                return None
            data = b""
            try:
                while len(data) <= MAX_RECORD_BYTES:
                    more = self._system.read(fd, MAX_RECORD_BYTES + 1 - len(data))
                    if not more:
                        return data
                    data += more
            finally:
                self._system.close(fd)
        raise malformed(f"anchor record: longer than {MAX_RECORD_BYTES} bytes")

    def write(self, data: bytes) -> None:
        """Replace it, whole or not at all; under ``alone``.

        Raises:
            ServiceError: ``state_unavailable``.
        """
        new = f"{self._path}.new"
        with self._failing():
            fd = self._system.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                left = data
                while left:
                    left = left[self._system.write(fd, left) :]
                self._system.fsync(fd)
            finally:
                self._system.close(fd)
            self._system.rename(new, self._path)
            self._sync_folder()

    def remove(self) -> None:
        """Remove it, where there is one; under ``alone``.

        Raises:
            ServiceError: ``state_unavailable``.
        """
        with self._failing():
            with suppress(FileNotFoundError):
                self._system.unlink(self._path)
            self._sync_folder()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep our other processes and threads out: two that count up count twice.

        Raises:
            ServiceError: ``state_unavailable``, also where another one does not end.
        """
        with _THREADS:
            with self._failing():
                fd = self._system.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT)
            try:
                self._lock(fd)
                yield
            finally:
                with suppress(OSError):
                    self._system.close(fd)

    def _lock(self, fd: int) -> None:
        for _ in range(LOCK_TRIES):
            try:
                self._system.lock(fd)
            except BlockingIOError:
                self._sleep(LOCK_SECONDS)
            except OSError as e:
                raise self._unavailable(e) from e
            else:
                return
        detail = f"{self._path}.lock: another process has it"
        raise ServiceError(Code.STATE_UNAVAILABLE, detail)

    def _sync_folder(self) -> None:
        fd = self._system.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._system.fsync(fd)
        finally:
            self._system.close(fd)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise self._unavailable(e) from e

    def _unavailable(self, error: OSError) -> ServiceError:
        return ServiceError(
            Code.STATE_UNAVAILABLE, f"{self._path}: {error.strerror or error}"
        )


def _box(keyring: Keyring, salt: bytes) -> AESGCM:
    key = keyring.derive(Label.KDF_KEYRING_ANCHOR, salt)
    try:
        return AESGCM(key.reveal())
    finally:
        key.wipe()


def _bound_to(keyring: Keyring) -> bytes:
    return labelled(Label.SEAL_KEYRING_ANCHOR, keyring.header.keyring_id)


def _decoded(data: bytes) -> Value:
    try:
        return decode(data, max_bytes=MAX_RECORD_BYTES)
    except RequestError as e:
        raise malformed(f"anchor record: {e.detail}") from e
