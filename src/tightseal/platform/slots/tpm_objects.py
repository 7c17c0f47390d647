# SPDX-License-Identifier: Apache-2.0
"""What the slot does with a TPM: primary keys, PCRs, sealing and unsealing.

TCG TPM Library Part 3, revision 1.59. A TPM holds three objects at most, so each is
flushed as soon as it is not needed.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from tightseal.model.secret import Secret
from tightseal.platform.slots.tpm_session import (
    Command,
    Handle,
    Link,
    Session,
    SessionKind,
)
from tightseal.platform.slots.tpm_wire import (
    EK_TEMPLATE,
    PCR_BYTES,
    SRK_TEMPLATE,
    Reader,
    TpmError,
    name_of,
    pcr_digest,
    pcr_selection,
    policy_pcr,
    sealed_template,
    sized,
)

__all__ = [
    "Sealed",
    "create_sealed",
    "open_sessions",
    "read_pcrs",
    "storage_key",
    "unseal",
]

TPM_RH_OWNER: Final = Handle(0x40000001)
TPM_RH_ENDORSEMENT: Final = Handle(0x4000000B)
MAX_PCR_READS: Final = 24

_NO_SENSITIVE: Final = sized(sized(b"") + sized(b""))
_NO_PCRS: Final = struct.pack(">I", 0)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed object, as it is stored.

    Attributes:
        values: PCRs of the SHA-256 bank, with the values that open it.
        unique: the part of its public area that the TPM chose, 32 bytes.
        private: TPM2B_PRIVATE's content: encrypted by the storage key.
    """

    values: Mapping[int, bytes]
    unique: bytes
    private: bytes

    @property
    def public(self) -> bytes:
        """TPMT_PUBLIC, built here: nothing stored can widen its policy."""
        return sealed_template(policy_pcr(self.values), self.unique)


def read_pcrs(link: Link, pcrs: Collection[int]) -> dict[int, bytes]:
    """The present values in the SHA-256 bank; unauthenticated, for messages and policy.

    Raises:
        TpmError: where there is no such bank, or the TPM refuses.
    """
    wanted, found = set(pcrs), dict[int, bytes]()
    for _ in range(MAX_PCR_READS):
        if not wanted:
            return found
        _, answer = link.run(Command.PCR_READ, pcr_selection(wanted))
        answer.take(4)
        given = _selected(answer)
        if answer.number(4) != len(given) or not given <= wanted or not given:
            break
        for pcr in sorted(given):
            found[pcr] = answer.sized()
        answer.end()
        wanted -= given
    raise TpmError(f"PCR_READ: no SHA-256 values of PCRs {sorted(wanted)}")


@contextmanager
def open_sessions(
    link: Link, kinds: Sequence[SessionKind]
) -> Iterator[tuple[bytes, list[Session]]]:
    """Sessions salted to the EK, and the EK's Name.

    The Name is over the public key that the salt is made for: whoever shows another
    TPM's key cannot answer in the session.

    Raises:
        TpmError: as ``Link.run``.
    """
    with ExitStack() as stack:
        ek, public = _primary(link, TPM_RH_ENDORSEMENT, EK_TEMPLATE, password=b"")
        with _held(link, ek):
            sessions = []
            for kind in kinds:
                session = link.start(kind, key=ek, public=public)
                stack.enter_context(_held(link, session.handle))
                sessions.append(session)
        yield ek.name, sessions


@contextmanager
def storage_key(link: Link, session: Session, owner_auth: Secret) -> Iterator[Handle]:
    """The storage key under the owner hierarchy.

    Raises:
        TpmError: as ``Link.run``.
    """
    # A TPM leaves out zeros at the end of an authorisation value (Part 1, 19.6.4.3).
    auth = owner_auth.reveal().rstrip(b"\0")
    key, _ = _primary(link, TPM_RH_OWNER, SRK_TEMPLATE, session=session, auth=auth)
    with _held(link, key):
        yield key


def create_sealed(
    link: Link,
    session: Session,
    *,
    parent: Handle,
    values: Mapping[int, bytes],
    secret: Secret,
) -> Sealed:
    """Seal a secret to these PCR values; it goes there encrypted.

    Raises:
        TpmError: as ``Link.run``, or where the TPM made another object than asked for.
    """
    policy = policy_pcr(values)
    _, answer = link.run(
        Command.CREATE,
        sized(sized(b"") + sized(secret.reveal()))
        + sized(sealed_template(policy))
        + sized(b"")
        + _NO_PCRS,
        handles=(parent,),
        session=session,
    )
    private, public = answer.sized(), answer.sized()
    head = sealed_template(policy)[:-2]
    made = Sealed(values, Reader(public[len(head) :]).sized(), private)
    if made.public != public:
        raise TpmError("CREATE: the TPM made another object than it was asked for")
    return made


def unseal(
    link: Link, *, session: Session, policy: Session, parent: Handle, sealed: Sealed
) -> Secret:
    """The secret again, under the PCR policy; it comes back encrypted.

    Raises:
        TpmError: as ``Link.run``.
    """
    handle, answer = link.run(
        Command.LOAD,
        sized(sealed.private) + sized(sealed.public),
        handles=(parent,),
        session=session,
        gives_handle=True,
    )
    loaded = Handle(handle.value, name_of(sealed.public))
    with _held(link, loaded):
        if answer.sized() != loaded.name:
            raise TpmError("LOAD: the TPM loaded another object")
        link.run(
            Command.POLICY_PCR,
            policy.handle.wire
            + sized(pcr_digest(sealed.values))
            + pcr_selection(sealed.values.keys()),
        )
        _, answer = link.run(Command.UNSEAL, handles=(loaded,), session=policy)
        return Secret(answer.sized())


@contextmanager
def _held(link: Link, handle: Handle) -> Iterator[None]:
    """Flush at the end; after a failure the failure is told, and not the flush's."""
    try:
        yield
    except BaseException:
        with suppress(TpmError, OSError):
            link.flush(handle)
        raise
    link.flush(handle)


def _primary(
    link: Link,
    hierarchy: Handle,
    template: bytes,
    *,
    session: Session | None = None,
    password: bytes | None = None,
    auth: bytes = b"",
) -> tuple[Handle, bytes]:
    """A primary key and its TPMT_PUBLIC; the Name is computed here."""
    handle, answer = link.run(
        Command.CREATE_PRIMARY,
        _NO_SENSITIVE + sized(template) + sized(b"") + _NO_PCRS,
        handles=(hierarchy,),
        session=session,
        password=password,
        auth=auth,
        gives_handle=True,
    )
    public = answer.sized()
    return Handle(handle.value, name_of(public)), public


def _selected(answer: Reader) -> set[int]:
    """The PCRs of a TPML_PCR_SELECTION with at most one bank."""
    found: set[int] = set()
    for _ in range(min(answer.number(4), 1)):
        answer.take(2)
        bits = int.from_bytes(answer.take(min(answer.number(1), PCR_BYTES)), "little")
        found |= {pcr for pcr in range(bits.bit_length()) if bits >> pcr & 1}
    return found
