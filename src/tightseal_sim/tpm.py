# SPDX-License-Identifier: Apache-2.0
"""A simulated TPM 2.0: the commands that the slot sends, answered as the library says.

TCG TPM Library Parts 1 and 3, revision 1.59. Primary keys grow from the hierarchies'
seeds, so the storage key is another one after TPM2_Clear and the EK is not. No
authorisation values, one bank of PCRs, no limits on objects. Tests hold it beside
swtpm.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from tightseal.platform.slots.tpm_session import (
    Command,
    SessionKind,
    kdf_a,
    kdf_e,
)
from tightseal.platform.slots.tpm_wire import (
    EK_TEMPLATE,
    MAX_MESSAGE_BYTES,
    SRK_TEMPLATE,
    Exchange,
    Reader,
    TpmError,
    name_of,
    pcr_digest,
    pcr_selection,
    policy_pcr,
    sized,
)
from tightseal_sim.derive import Seed
from tightseal_sim.tpm_nv import (
    RC_HANDLE,
    RC_UNINITIALIZED,
    NvCounter,
    NvMemory,
)

__all__ = ["SimTpm"]

OWNER: Final = 0x40000001
ENDORSEMENT: Final = 0x4000000B
PASSWORD: Final = 0x40000009
DIGEST_BYTES: Final = 32
PCRS: Final = 24
READ_AT_ONCE: Final = 8

RC_COMMAND_SIZE: Final = 0x142
RC_COMMAND_CODE: Final = 0x143
RC_AUTH_UNAVAILABLE: Final = 0x12F
RC_NO_HANDLE: Final = 0x184
RC_VALUE: Final = 0x1C4
RC_INSUFFICIENT: Final = 0x1DA
RC_INTEGRITY: Final = 0x1DF
RC_NO_SESSION: Final = 0x918
RC_POLICY_FAIL: Final = 0x99D
RC_BAD_AUTH: Final = 0x9A2
"""Response codes with their positions (Part 2, section 6.6), as swtpm gives them."""

_DECRYPT, _ENCRYPT = 0x20, 0x40


class _RefusedError(Exception):
    def __init__(self, rc: int) -> None:
        super().__init__(hex(rc))
        self.rc = rc


@dataclass(repr=False)
class _Object:
    """A loaded object: a P-256 storage key, or a sealed secret."""

    public: bytes
    key: ec.EllipticCurvePrivateKey | None = None
    wrapping: bytes = b""
    secret: bytes = b""
    policy: bytes = b""


@dataclass(repr=False)
class _Session:
    kind: SessionKind
    key: bytes
    nonce_tpm: bytes
    nonce_caller: bytes = b""
    policy: bytes = bytes(DIGEST_BYTES)


@dataclass
class _Connection:
    """Handles of one connection: the kernel's resource manager keeps them apart."""

    objects: dict[int, _Object] = field(default_factory=dict)
    sessions: dict[int, _Session] = field(default_factory=dict)
    next_handle: int = 0x80000000
    next_session: int = 0x02000000


@dataclass
class _Call:
    """One command: its handles, parameters, and what authorises it."""

    handles: list[int]
    parameters: Reader
    session: _Session | None
    connection: _Connection


class SimTpm:
    """A TPM that grows from a seed.

    Args:
        seed: 32 bytes; the same seed is the same TPM.

    Attributes:
        pcrs: the SHA-256 bank.
        nv: its NV memory.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = Seed(seed)
        self._clears = 0
        self.nv = NvMemory()
        self.pcrs = dict.fromkeys(range(PCRS), bytes(DIGEST_BYTES))
        self._handlers: dict[Command, Callable[[_Call], tuple[bytes, bytes]]] = {
            Command.CREATE_PRIMARY: self._create_primary,
            Command.CREATE: self._create,
            Command.LOAD: self._load,
            Command.UNSEAL: self._unseal,
            Command.FLUSH_CONTEXT: self._flush,
            Command.START_AUTH_SESSION: self._start,
            Command.PCR_READ: self._pcr_read,
            Command.POLICY_PCR: self._policy_pcr,
            Command.NV_DEFINE_SPACE: self._nv_define,
            Command.NV_UNDEFINE_SPACE: self._nv_undefine,
            Command.NV_INCREMENT: self._nv_increment,
            Command.NV_READ: self._nv_read,
            Command.NV_READ_PUBLIC: self._nv_read_public,
        }

    def clear(self) -> None:
        """TPM2_Clear: a new seed for the owner's hierarchy; the EK stays."""
        self._clears += 1
        self.nv.clear()

    def extend(self, pcr: int, digest: bytes) -> None:
        """TPM2_PCR_Extend with 32 bytes."""
        self.pcrs[pcr] = hashlib.sha256(self.pcrs[pcr] + digest).digest()

    def reboot(self) -> None:
        """All PCRs zero again, before anything is measured."""
        self.pcrs = dict.fromkeys(range(PCRS), bytes(DIGEST_BYTES))

    @contextmanager
    def open(self) -> Iterator[Exchange]:
        """A connection with handles of its own."""
        connection = _Connection()
        yield lambda command: self._exchange(connection, command)

    # -- commands -------------------------------------------------------------------

    def _exchange(self, connection: _Connection, command: bytes) -> bytes:
        try:
            if len(command) > MAX_MESSAGE_BYTES:
                raise _RefusedError(RC_COMMAND_SIZE)
            reader = Reader(command)
            tag, size, code = reader.number(2), reader.number(4), reader.number(4)
            if size != len(command):
                raise _RefusedError(RC_COMMAND_SIZE)
            return self._run(connection, tag, code, reader)
        except TpmError:
            return _answer(0x8001, b"", RC_INSUFFICIENT)
        except _RefusedError as e:
            return _answer(0x8001, b"", e.rc)

    def _run(
        self, connection: _Connection, tag: int, number: int, reader: Reader
    ) -> bytes:
        if number not in (*Command,):
            raise _RefusedError(RC_COMMAND_CODE)
        code = Command(number)
        handles = [reader.number(4) for _ in range(_HANDLES.get(code, 0))]
        session, attributes = None, 0
        if tag == _SESSIONS_TAG:
            area = Reader(reader.take(reader.number(4)))
            parameters = reader.rest()
            session, attributes, parameters = self._authorise(
                connection, code, handles, area, parameters
            )
        else:
            parameters = reader.rest()
        call = _Call(handles, Reader(parameters), session, connection)
        handle, out = self._handlers[code](call)
        if tag != _SESSIONS_TAG:
            return _answer(tag, handle + out)
        area_out = sized(b"") + bytes([1]) + sized(b"")
        if session is not None:
            out, area_out = self._protect(code, session, attributes, out, call)
        body = handle + struct.pack(">I", len(out)) + out + area_out
        return _answer(tag, body)

    def _authorise(
        self,
        connection: _Connection,
        code: Command,
        handles: list[int],
        area: Reader,
        parameters: bytes,
    ) -> tuple[_Session | None, int, bytes]:
        handle, nonce = area.number(4), area.sized()
        attributes, given = area.number(1), area.sized()
        if handle == PASSWORD:
            if code is Command.UNSEAL:
                raise _RefusedError(RC_AUTH_UNAVAILABLE)
            if given:
                raise _RefusedError(RC_BAD_AUTH)
            return None, attributes, parameters
        session = connection.sessions.get(handle)
        if session is None:
            raise _RefusedError(RC_NO_SESSION)
        if code in _ON_OBJECTS and handles[0] not in connection.objects:
            raise _RefusedError(RC_NO_HANDLE)
        for index in handles[1:]:
            if code in _ON_INDICES and index not in self.nv.indices:
                raise _RefusedError(RC_HANDLE)
        session.nonce_caller = nonce
        names = b"".join(self._name(connection, h) for h in handles)
        digest = hashlib.sha256(struct.pack(">I", code) + names + parameters).digest()
        tail = nonce + session.nonce_tpm + bytes([attributes])
        if not hmac.compare_digest(
            hmac.digest(session.key + self._auth(handles), digest + tail, "sha256"),
            given,
        ):
            raise _RefusedError(RC_BAD_AUTH)
        if attributes & _DECRYPT:
            auth = self._auth(handles)
            parameters = _first(session, parameters, auth, response=False)
        return session, attributes, parameters

    def _auth(self, handles: list[int]) -> bytes:
        """The authorisation value of what is authorised: only indices have one."""
        index = self.nv.indices.get(handles[0])
        return b"" if index is None else index.auth

    def _name(self, connection: _Connection, handle: int) -> bytes:
        index = self.nv.indices.get(handle)
        return _name(connection, handle) if index is None else index.name

    def _protect(
        self,
        code: Command,
        session: _Session,
        attributes: int,
        out: bytes,
        call: _Call,
    ) -> tuple[bytes, bytes]:
        auth = self._auth(call.handles)
        session.nonce_tpm = os.urandom(DIGEST_BYTES)
        if attributes & _ENCRYPT:
            out = _first(session, out, auth, response=True)
        digest = hashlib.sha256(struct.pack(">II", 0, code) + out).digest()
        tail = session.nonce_tpm + session.nonce_caller + bytes([attributes])
        tag = hmac.digest(session.key + auth, digest + tail, "sha256")
        return out, sized(session.nonce_tpm) + bytes([attributes]) + sized(tag)

    def _create_primary(self, call: _Call) -> tuple[bytes, bytes]:
        call.parameters.sized()
        template = call.parameters.sized()
        hierarchy = call.handles[0]
        known = {ENDORSEMENT: EK_TEMPLATE, OWNER: SRK_TEMPLATE}
        if template != known.get(hierarchy):
            raise _RefusedError(RC_VALUE)
        name = "endorsement" if hierarchy == ENDORSEMENT else f"owner/{self._clears}"
        key = self._seed.p256("tpm", name)
        point = key.public_key().public_numbers()
        blank = 68 if hierarchy == ENDORSEMENT else 4
        public = template[:-blank] + b"".join(
            sized(n.to_bytes(32, "big")) for n in (point.x, point.y)
        )
        wrapping = self._seed.octets("tpm-storage", name, length=32)
        handle = _loaded(call.connection, _Object(public, key, wrapping))
        return handle, sized(public)

    def _create(self, call: _Call) -> tuple[bytes, bytes]:
        parent = _object(call, 0)
        sensitive = Reader(call.parameters.sized())
        sensitive.sized()
        secret, template = sensitive.sized(), call.parameters.sized()
        unique = hashlib.sha256(os.urandom(DIGEST_BYTES) + secret).digest()
        public = template[:-2] + sized(unique)
        nonce = os.urandom(DIGEST_BYTES)[:12]
        blob = nonce + AESGCM(parent.wrapping).encrypt(nonce, secret, name_of(public))
        return b"", sized(blob) + sized(public)

    def _load(self, call: _Call) -> tuple[bytes, bytes]:
        parent = _object(call, 0)
        blob, public = call.parameters.sized(), call.parameters.sized()
        try:
            cipher = AESGCM(parent.wrapping)
            secret = cipher.decrypt(blob[:12], blob[12:], name_of(public))
        except (InvalidTag, ValueError) as e:
            raise _RefusedError(RC_INTEGRITY) from e
        reader = Reader(public)
        reader.take(8)
        made = _Object(public, secret=secret, policy=reader.sized())
        return _loaded(call.connection, made), sized(name_of(public))

    def _unseal(self, call: _Call) -> tuple[bytes, bytes]:
        found, session = _object(call, 0), call.session
        if session is None or session.kind is not SessionKind.POLICY:
            raise _RefusedError(RC_AUTH_UNAVAILABLE)
        if session.policy != found.policy:
            raise _RefusedError(RC_POLICY_FAIL)
        return b"", sized(found.secret)

    def _flush(self, call: _Call) -> tuple[bytes, bytes]:
        handle = call.parameters.number(4)
        connection = call.connection
        if (
            connection.objects.pop(handle, None) is None
            and connection.sessions.pop(handle, None) is None
        ):
            raise _RefusedError(RC_VALUE)
        return b"", b""

    def _start(self, call: _Call) -> tuple[bytes, bytes]:
        salting = _object(call, 0)
        if salting.key is None:
            raise _RefusedError(RC_NO_HANDLE)
        nonce, point = call.parameters.sized(), Reader(call.parameters.sized())
        kind = SessionKind(call.parameters.number(1))
        x, y = point.sized(), point.sized()
        numbers = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
        )
        shared = salting.key.exchange(ec.ECDH(), numbers.public_key())
        own_x = salting.key.public_key().public_numbers().x.to_bytes(32, "big")
        salt = kdf_e(shared, b"SECRET", x, own_x)
        nonce_tpm = os.urandom(DIGEST_BYTES)
        key = kdf_a(salt, b"ATH", nonce_tpm, nonce, 256)
        connection = call.connection
        handle = connection.next_session
        connection.next_session += 1
        connection.sessions[handle] = _Session(kind, key, nonce_tpm)
        return struct.pack(">I", handle), sized(nonce_tpm)

    def _pcr_read(self, call: _Call) -> tuple[bytes, bytes]:
        chosen = sorted(_selection(call.parameters))[:READ_AT_ONCE]
        values = b"".join(sized(self.pcrs[pcr]) for pcr in chosen)
        head = struct.pack(">I", 1) + pcr_selection(chosen)
        return b"", head + struct.pack(">I", len(chosen)) + values

    def _policy_pcr(self, call: _Call) -> tuple[bytes, bytes]:
        session = call.connection.sessions.get(call.handles[0])
        if session is None:
            raise _RefusedError(RC_NO_HANDLE)
        expected = call.parameters.sized()
        values = {pcr: self.pcrs[pcr] for pcr in _selection(call.parameters)}
        if expected != pcr_digest(values):
            raise _RefusedError(RC_VALUE)
        session.policy = policy_pcr(values)
        return b"", b""

    def _nv_define(self, call: _Call) -> tuple[bytes, bytes]:
        auth, public = call.parameters.sized(), call.parameters.sized()
        if rc := self.nv.define(auth, public):
            raise _RefusedError(rc)
        return b"", b""

    def _nv_undefine(self, call: _Call) -> tuple[bytes, bytes]:
        del self.nv.indices[self._index(call, 1).handle]
        return b"", b""

    def _nv_increment(self, call: _Call) -> tuple[bytes, bytes]:
        self.nv.increment(self._index(call, 1))
        return b"", b""

    def _nv_read(self, call: _Call) -> tuple[bytes, bytes]:
        value = self.nv.read(self._index(call, 1))
        if value is None:
            raise _RefusedError(RC_UNINITIALIZED)
        return b"", value

    def _nv_read_public(self, call: _Call) -> tuple[bytes, bytes]:
        index = self._index(call, 0)
        return b"", sized(index.shown) + sized(index.name)

    def _index(self, call: _Call, position: int) -> NvCounter:
        found = self.nv.indices.get(call.handles[position])
        if found is None:
            raise _RefusedError(RC_HANDLE)
        return found


_SESSIONS_TAG: Final = 0x8002
_HANDLES: Final = {
    Command.CREATE_PRIMARY: 1,
    Command.CREATE: 1,
    Command.LOAD: 1,
    Command.UNSEAL: 1,
    Command.START_AUTH_SESSION: 2,
    Command.POLICY_PCR: 1,
    Command.NV_DEFINE_SPACE: 1,
    Command.NV_UNDEFINE_SPACE: 2,
    Command.NV_INCREMENT: 2,
    Command.NV_READ: 2,
    Command.NV_READ_PUBLIC: 1,
}
_ON_INDICES: Final = (
    Command.NV_UNDEFINE_SPACE,
    Command.NV_INCREMENT,
    Command.NV_READ,
)
_ON_OBJECTS: Final = (Command.CREATE, Command.LOAD, Command.UNSEAL)


def _answer(tag: int, body: bytes, rc: int = 0) -> bytes:
    return struct.pack(">HII", tag, 10 + len(body), rc) + body


def _loaded(connection: _Connection, made: _Object) -> bytes:
    handle = connection.next_handle
    connection.next_handle += 1
    connection.objects[handle] = made
    return struct.pack(">I", handle)


def _object(call: _Call, index: int) -> _Object:
    found = call.connection.objects.get(call.handles[index])
    if found is None:
        raise _RefusedError(RC_NO_HANDLE)
    return found


def _name(connection: _Connection, handle: int) -> bytes:
    found = connection.objects.get(handle)
    return struct.pack(">I", handle) if found is None else name_of(found.public)


def _selection(reader: Reader) -> list[int]:
    reader.take(6)
    bits = int.from_bytes(reader.take(reader.number(1)), "little")
    return [pcr for pcr in range(PCRS) if bits >> pcr & 1]


def _first(
    session: _Session, parameters: bytes, auth: bytes, *, response: bool
) -> bytes:
    """Encrypt the first TPM2B of a response, or decrypt that of a command."""
    nonces = session.nonce_caller, session.nonce_tpm
    newer, older = reversed(nonces) if response else nonces
    stream = kdf_a(session.key + auth, b"CFB", newer, older, 256)
    cipher = Cipher(AES(stream[:16]), CFB(stream[16:]))
    reader = Reader(parameters)
    content = reader.sized()
    step = cipher.encryptor() if response else cipher.decryptor()
    return sized(step.update(content) + step.finalize()) + reader.rest()
