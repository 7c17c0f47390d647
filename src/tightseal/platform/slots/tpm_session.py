# SPDX-License-Identifier: Apache-2.0
"""Salted sessions with one TPM: authenticated both ways, secrets encrypted.

TCG TPM Library Part 1, revision 1.59: sections 11.4.10 (KDFa, KDFe), 17 and 19
(sessions, HMAC), 21 (parameter encryption), annex C.6.1 (ECC salt). The salt is made
for one key of the TPM, its EK. So whoever sits on the bus or in the driver reads no
secret, changes no command, and cannot answer in the TPM's place.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from tightseal.platform.slots.tpm_wire import (
    COORDINATE_BYTES,
    MAX_MESSAGE_BYTES,
    TPM_ALG_AES,
    TPM_ALG_CFB,
    TPM_ALG_SHA256,
    Exchange,
    Reader,
    TpmError,
    ecc_point,
    sized,
)

__all__ = ["Command", "Handle", "Link", "Session", "SessionKind", "kdf_a", "kdf_e"]

TPM_ST_NO_SESSIONS: Final = 0x8001
TPM_ST_SESSIONS: Final = 0x8002
TPM_RS_PW: Final = 0x40000009
TPM_RH_NULL: Final = 0x40000007
TPM_RC_RETRY: Final = frozenset({0x922, 0x90A, 0x908})
"""RETRY, TESTING, YIELDED: nothing was done, ask again (Part 2, section 6.6.3)."""

MAX_TRIES: Final = 20
RETRY_SECONDS: Final = 0.1
DIGEST_BYTES: Final = 32
DIGEST_BITS: Final = 256
AES_BITS: Final = 128
AES_BYTES: Final = 16

CONTINUE: Final = 0x01
DECRYPT: Final = 0x20
ENCRYPT: Final = 0x40


class Command(IntEnum):
    """TPM_CC of the commands in use (Part 2, section 6.5.2)."""

    NV_UNDEFINE_SPACE = 0x122
    NV_DEFINE_SPACE = 0x12A
    CREATE_PRIMARY = 0x131
    NV_INCREMENT = 0x134
    NV_READ = 0x14E
    CREATE = 0x153
    LOAD = 0x157
    UNSEAL = 0x15E
    FLUSH_CONTEXT = 0x165
    NV_READ_PUBLIC = 0x169
    START_AUTH_SESSION = 0x176
    PCR_READ = 0x17E
    POLICY_PCR = 0x17F


_SECRET_FIRST: Final = frozenset({Command.CREATE, Command.NV_DEFINE_SPACE})
"""Commands whose first parameter is a secret."""

_ANSWERS_NOTHING: Final = frozenset(
    {Command.NV_DEFINE_SPACE, Command.NV_UNDEFINE_SPACE, Command.NV_INCREMENT}
)
"""Commands whose response has no parameter that could be encrypted."""


class SessionKind(IntEnum):
    """TPM_SE."""

    HMAC = 0
    POLICY = 1


@dataclass(frozen=True, slots=True)
class Handle:
    """A handle with its Name, which enters the HMAC of a command.

    Attributes:
        value: 32 bits.
        name: as ``name_of``; of hierarchies and sessions the handle itself.
    """

    value: int
    name: bytes = b""

    @property
    def wire(self) -> bytes:
        """Four bytes."""
        return struct.pack(">I", self.value)

    @property
    def bound_name(self) -> bytes:
        """What enters the HMAC."""
        return self.name or self.wire


class Session:
    """A session whose key only this process and the owner of the EK know.

    ``auth`` is the authorisation value of what the session authorises.
    """

    def __init__(self, handle: Handle, key: bytes, nonce_tpm: bytes) -> None:
        self.handle = handle
        self._key = key
        self._nonce_tpm = nonce_tpm
        self._nonce_caller = b""

    def protect(
        self, code: Command, handles: Sequence[Handle], parameters: bytes, auth: bytes
    ) -> tuple[bytes, bytes]:
        """The authorisation area, and the parameters with the first one encrypted."""
        self._nonce_caller = os.urandom(DIGEST_BYTES)
        attributes = CONTINUE
        if code not in _ANSWERS_NOTHING:
            attributes |= ENCRYPT
        if code in _SECRET_FIRST:
            attributes |= DECRYPT
            parameters = self._first_parameter(parameters, auth, response=False)
        names = b"".join(h.bound_name for h in handles)
        digest = hashlib.sha256(struct.pack(">I", code) + names + parameters).digest()
        tag = self._tag(auth, digest, self._nonce_caller, self._nonce_tpm, attributes)
        area = (
            self.handle.wire
            + sized(self._nonce_caller)
            + bytes([attributes])
            + sized(tag)
        )
        return area, parameters

    def check(
        self, code: Command, parameters: bytes, area: Reader, auth: bytes
    ) -> bytes:
        """The response's parameters in the clear, once they are the TPM's.

        Raises:
            TpmError: where the HMAC does not fit: it is not the TPM of the EK.
        """
        self._nonce_tpm = area.sized()
        attributes = area.number(1)
        given = area.sized()
        area.end()
        digest = hashlib.sha256(struct.pack(">II", 0, code) + parameters).digest()
        tag = self._tag(auth, digest, self._nonce_tpm, self._nonce_caller, attributes)
        bare = code in _ANSWERS_NOTHING
        encrypted = bare or attributes & ENCRYPT
        if not hmac.compare_digest(tag, given) or not encrypted:
            detail = f"{code.name}: the answer is not by the TPM with the pinned EK"
            raise TpmError(detail)
        if bare:
            return parameters
        return self._first_parameter(parameters, auth, response=True)

    def _tag(
        self, auth: bytes, digest: bytes, newer: bytes, older: bytes, attributes: int
    ) -> bytes:
        data = digest + newer + older + bytes([attributes])
        return hmac.digest(self._key + auth, data, "sha256")

    def _first_parameter(
        self, parameters: bytes, auth: bytes, *, response: bool
    ) -> bytes:
        """Part 1, section 21.3: AES-CFB over the content of the first TPM2B."""
        nonces = self._nonce_caller, self._nonce_tpm
        newer, older = reversed(nonces) if response else nonces
        bits = AES_BITS + 8 * AES_BYTES
        stream = kdf_a(self._key + auth, b"CFB", newer, older, bits)
        cipher = Cipher(AES(stream[:AES_BYTES]), CFB(stream[AES_BYTES:]))
        reader = Reader(parameters)
        first = reader.sized()
        step = cipher.decryptor() if response else cipher.encryptor()
        return sized(step.update(first) + step.finalize()) + reader.rest()


class Link:
    """Commands over one open TPM.

    Args:
        exchange: carries them.
        sleep: waits where the TPM asks to be asked again.
    """

    def __init__(
        self, exchange: Exchange, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._exchange = exchange
        self._sleep = sleep

    def run(
        self,
        code: Command,
        parameters: bytes = b"",
        *,
        handles: Sequence[Handle] = (),
        session: Session | None = None,
        password: bytes | None = None,
        auth: bytes = b"",
        gives_handle: bool = False,
    ) -> tuple[Handle, Reader]:
        """One command; the handle that it gives (0 for none) and its parameters.

        Args:
            code: which.
            parameters: marshalled.
            handles: marshalled in this order; their Names enter the HMAC.
            session: authorises the first handle, and protects command and response.
            password: authorises the first handle in the clear, without a session.
            auth: authorisation value of the first handle, for ``session``.
            gives_handle: whether the response begins with one.

        Raises:
            TpmError: refused, malformed, or not by the TPM of the session.
        """
        area = b""
        if session is not None:
            area, parameters = session.protect(code, handles, parameters, auth)
        elif password is not None:
            pw = struct.pack(">I", TPM_RS_PW)
            area = pw + sized(b"") + bytes([CONTINUE]) + sized(password)
        body = b"".join(h.wire for h in handles)
        if area:
            body += struct.pack(">I", len(area)) + area
        tag = TPM_ST_SESSIONS if area else TPM_ST_NO_SESSIONS
        answer = self._ask(code, tag, body + parameters)
        handle = Handle(answer.number(4) if gives_handle else 0)
        if not area:
            return handle, answer
        out = answer.take(answer.number(4))
        if session is not None:
            out = session.check(code, out, answer, auth)
        return handle, Reader(out)

    def start(self, kind: SessionKind, *, key: Handle, public: bytes) -> Session:
        """A session salted to a P-256 key of the TPM, whose TPMT_PUBLIC is known.

        Raises:
            TpmError: as ``run``.
        """
        encrypted, salt = _salt(public)
        nonce = os.urandom(DIGEST_BYTES)
        parameters = (
            sized(nonce)
            + sized(encrypted)
            + struct.pack(
                ">BHHHH", kind, TPM_ALG_AES, AES_BITS, TPM_ALG_CFB, TPM_ALG_SHA256
            )
        )
        handle, answer = self.run(
            Command.START_AUTH_SESSION,
            parameters,
            handles=(key, Handle(TPM_RH_NULL)),
            gives_handle=True,
        )
        nonce_tpm = answer.sized()
        answer.end()
        session_key = kdf_a(salt, b"ATH", nonce_tpm, nonce, DIGEST_BITS)
        return Session(handle, session_key, nonce_tpm)

    def flush(self, handle: Handle) -> None:
        """Forget an object or a session.

        Raises:
            TpmError: as ``run``.
        """
        self.run(Command.FLUSH_CONTEXT, handle.wire)

    def _ask(self, code: Command, tag: int, body: bytes) -> Reader:
        command = struct.pack(">HII", tag, 10 + len(body), code) + body
        if len(command) > MAX_MESSAGE_BYTES:
            raise TpmError(f"{code.name}: command of {len(command)} bytes")
        for _ in range(MAX_TRIES):
            answer = Reader(self._exchange(command))
            got_tag, size, rc = (answer.number(n) for n in (2, 4, 4))
            if rc not in TPM_RC_RETRY:
                break
            self._sleep(RETRY_SECONDS)
        if rc:
            raise TpmError(f"{code.name}: TPM response code {rc:#x}", rc)
        rest = answer.rest()
        if got_tag != tag or size != 10 + len(rest):
            raise TpmError(f"{code.name}: answer with tag {got_tag:#x}, size {size}")
        return Reader(rest)


def kdf_a(key: bytes, label: bytes, u: bytes, v: bytes, bits: int) -> bytes:
    """KDFa: SP 800-108 in counter mode with HMAC-SHA256; at most 256 bits."""
    context = label + b"\0" + u + v + struct.pack(">I", bits)
    return hmac.digest(key, struct.pack(">I", 1) + context, "sha256")[: bits // 8]


def kdf_e(shared: bytes, label: bytes, u: bytes, v: bytes) -> bytes:
    """KDFe: the concatenation KDF of SP 800-56A with SHA-256; 256 bits."""
    return hashlib.sha256(
        struct.pack(">I", 1) + shared + label + b"\0" + u + v
    ).digest()


def _salt(public: bytes) -> tuple[bytes, bytes]:
    """A salt for the owner of this key: TPMS_ECC_POINT, and the salt itself."""
    x, y = ecc_point(public)
    numbers = ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
    )
    try:
        theirs = numbers.public_key()
    except ValueError as e:
        raise TpmError("the EK is not a point of P-256") from e
    mine = ec.generate_private_key(ec.SECP256R1())
    shared = mine.exchange(ec.ECDH(), theirs)
    point = mine.public_key().public_numbers()
    own_x, own_y = (n.to_bytes(COORDINATE_BYTES, "big") for n in (point.x, point.y))
    return sized(own_x) + sized(own_y), kdf_e(shared, b"SECRET", own_x, x)
