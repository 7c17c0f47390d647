# SPDX-License-Identifier: Apache-2.0
"""TPM 2.0 on the wire: the few structures that the slot needs, and who carries them.

TCG Trusted Platform Module Library, Part 2 (Structures) and Part 3 (Commands),
revision 1.59. Integers are big-endian. There is no library between: libtss2 would be
the larger part of what must be trusted, and its Python binding has no wheels.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Self, TypeAlias

from tightseal.errors import Code, PlatformError
from tightseal.platform.files import OS_FILES, FileOps

__all__ = [
    "EK_TEMPLATE",
    "MAX_MESSAGE_BYTES",
    "SRK_TEMPLATE",
    "Exchange",
    "OpenTpm",
    "Reader",
    "TpmError",
    "ecc_point",
    "name_of",
    "open_device",
    "pcr_digest",
    "pcr_selection",
    "policy_pcr",
    "sealed_template",
    "sized",
]

MAX_MESSAGE_BYTES: Final = 4096
"""Longest command or response; the usual MAX_COMMAND_SIZE."""

Exchange: TypeAlias = Callable[[bytes], bytes]
"""One command to one response; may raise ``OSError``."""

OpenTpm: TypeAlias = Callable[[], AbstractContextManager[Exchange]]
"""Opens the TPM for a row of commands: handles live as long."""

TPM_ALG_AES: Final = 0x0006
TPM_ALG_KEYEDHASH: Final = 0x0008
TPM_ALG_SHA256: Final = 0x000B
TPM_ALG_NULL: Final = 0x0010
TPM_ALG_ECC: Final = 0x0023
TPM_ALG_CFB: Final = 0x0043
TPM_ECC_NIST_P256: Final = 0x0003
TPM_CC_POLICY_PCR: Final = 0x0000017F

PCR_COUNT: Final = 24
PCR_BYTES: Final = 32
COORDINATE_BYTES: Final = 32
POLICY_BYTES: Final = 32

# TPMA_OBJECT
FIXED_TPM: Final = 1 << 1
FIXED_PARENT: Final = 1 << 4
SENSITIVE_DATA_ORIGIN: Final = 1 << 5
USER_WITH_AUTH: Final = 1 << 6
ADMIN_WITH_POLICY: Final = 1 << 7
NO_DA: Final = 1 << 10
RESTRICTED: Final = 1 << 16
DECRYPT: Final = 1 << 17


class TpmError(PlatformError):
    """A TPM refused; ``rc`` is its response code without position, 0 for other faults.

    Part 2, section 6.6: format-one codes say which handle, session or parameter they
    mean; those bits are left out.
    """

    def __init__(self, detail: str, rc: int = 0) -> None:
        super().__init__(Code.PLATFORM_FAILED, detail)
        self.rc = rc & 0xBF if rc & 0x80 else rc

    def __reduce__(self) -> tuple[type[TpmError], tuple[str, int]]:  # type: ignore[override]
        """Rebuild from detail and code."""
        return type(self), (self.detail, self.rc)


class Reader:
    """Reads a response; nothing beyond its end.

    Raises:
        TpmError: where it is too short or too long.
    """

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        end = self._at + count
        if end > len(self._data):
            raise TpmError(f"answer too short: {count} bytes wanted at {self._at}")
        part = self._data[self._at : end]
        self._at = end
        return part

    def number(self, size: int) -> int:
        """An unsigned integer of this many bytes."""
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        """A TPM2B: two bytes of length, and content."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        """Everything left."""
        return self.take(len(self._data) - self._at)

    def end(self) -> Self:
        """Refuse bytes that nobody asked for."""
        if self._at != len(self._data):
            raise TpmError(f"answer too long: {len(self._data) - self._at} bytes")
        return self


def sized(data: bytes) -> bytes:
    """A TPM2B."""
    return struct.pack(">H", len(data)) + data


def name_of(public: bytes) -> bytes:
    """The Name of an object by its TPMT_PUBLIC (Part 1, section 16), 34 bytes."""
    return struct.pack(">H", TPM_ALG_SHA256) + hashlib.sha256(public).digest()


def pcr_selection(pcrs: Collection[int]) -> bytes:
    """TPML_PCR_SELECTION of the SHA-256 bank."""
    bits = sum(1 << pcr for pcr in set(pcrs))
    return struct.pack(">IHB", 1, TPM_ALG_SHA256, 3) + bits.to_bytes(3, "little")


def pcr_digest(values: Mapping[int, bytes]) -> bytes:
    """SHA-256 over PCR values in the order of their numbers, 32 bytes."""
    joined = b"".join(values[pcr] for pcr in sorted(values))
    return hashlib.sha256(joined).digest()


def policy_pcr(values: Mapping[int, bytes]) -> bytes:
    """The policy digest after TPM2_PolicyPCR on a new session, 32 bytes."""
    return hashlib.sha256(
        bytes(POLICY_BYTES)
        + struct.pack(">I", TPM_CC_POLICY_PCR)
        + pcr_selection(values.keys())
        + pcr_digest(values)
    ).digest()


def sealed_template(policy: bytes, unique: bytes = b"") -> bytes:
    """TPMT_PUBLIC of a sealed object that only this policy opens.

    No authorisation value, no user role without the policy, not movable.
    """
    attributes = FIXED_TPM | FIXED_PARENT | ADMIN_WITH_POLICY | NO_DA
    head = struct.pack(">HHI", TPM_ALG_KEYEDHASH, TPM_ALG_SHA256, attributes)
    return head + sized(policy) + struct.pack(">H", TPM_ALG_NULL) + sized(unique)


def _storage_key(attributes: int, policy: bytes, coordinate: bytes) -> bytes:
    head = struct.pack(">HHI", TPM_ALG_ECC, TPM_ALG_SHA256, attributes)
    parameters = struct.pack(
        ">HHHHHH",
        TPM_ALG_AES,
        128,
        TPM_ALG_CFB,
        TPM_ALG_NULL,
        TPM_ECC_NIST_P256,
        TPM_ALG_NULL,
    )
    return head + sized(policy) + parameters + sized(coordinate) * 2


EK_TEMPLATE: Final = _storage_key(
    FIXED_TPM
    | FIXED_PARENT
    | SENSITIVE_DATA_ORIGIN
    | ADMIN_WITH_POLICY
    | RESTRICTED
    | DECRYPT,
    bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"),
    bytes(COORDINATE_BYTES),
)
"""Template L-2 (ECC P-256) of the TCG EK Credential Profile: the key that the vendor's
certificate in NV index 0x01c0000a is about."""

SRK_TEMPLATE: Final = _storage_key(
    FIXED_TPM
    | FIXED_PARENT
    | SENSITIVE_DATA_ORIGIN
    | USER_WITH_AUTH
    | NO_DA
    | RESTRICTED
    | DECRYPT,
    b"",
    b"",
)
"""The usual storage key under the owner hierarchy; another one after TPM2_Clear."""


def ecc_point(public: bytes) -> tuple[bytes, bytes]:
    """The coordinates in the TPMT_PUBLIC of a P-256 key, 32 bytes each.

    Raises:
        TpmError: where it is no P-256 key.
    """
    reader = Reader(public)
    kind = reader.number(2)
    reader.take(6)
    reader.sized()
    reader.take(8)
    curve = reader.number(2)
    reader.take(2)
    point = reader.sized(), reader.sized()
    reader.end()
    short = all(len(c) <= COORDINATE_BYTES for c in point)
    if kind != TPM_ALG_ECC or curve != TPM_ECC_NIST_P256 or not short:
        raise TpmError(f"key of type {kind:#x}, curve {curve:#x}, expected P-256")
    # A TPM may leave out leading zeros.
    x, y = (c.rjust(COORDINATE_BYTES, b"\0") for c in point)
    return x, y


def open_device(
    path: Path = Path("/dev/tpmrm0"), *, files: FileOps = OS_FILES
) -> OpenTpm:
    """The kernel's TPM with its resource manager, which forgets handles on close."""

    @contextmanager
    def opened() -> Iterator[Exchange]:
        fd = files.open(str(path), os.O_RDWR)

        def exchange(command: bytes) -> bytes:
            taken = files.write(fd, command)
            if taken != len(command):
                raise TpmError(f"{path}: took {taken} of {len(command)} bytes")
            return files.read(fd, MAX_MESSAGE_BYTES)

        try:
            yield exchange
        finally:
            files.close(fd)

    return opened
