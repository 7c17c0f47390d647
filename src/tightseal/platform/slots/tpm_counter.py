# SPDX-License-Identifier: Apache-2.0
"""A counter in a TPM's NV memory, which only rises, in sessions salted to its EK.

TCG TPM Library, revision 1.59: Part 1 section 37 (NV memory), Part 2 section 13
(TPMA_NV, TPMS_NV_PUBLIC), Part 3 section 31 (commands). The first increment of a new
counter gives more than any counter ever had on that TPM, deleted ones included.

The index has an authorisation value that the host does not know, and a random policy
digest that nothing satisfies. So nobody else counts it up, and one that was deleted and
made again by somebody else has another value: no answer of it is taken. Deleting
it is the owner's, whom nothing here stops.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from tightseal.model.secret import Secret
from tightseal.platform.slots.tpm_objects import TPM_RH_OWNER
from tightseal.platform.slots.tpm_session import Command, Handle, Link, Session
from tightseal.platform.slots.tpm_wire import (
    TPM_ALG_SHA256,
    Reader,
    TpmError,
    name_of,
    sized,
)

__all__ = [
    "AUTH_BYTES",
    "NO_INDEX",
    "POLICY_BYTES",
    "CounterIndex",
    "counter_handle",
    "define_counter",
    "increment_counter",
    "read_counter",
    "remove_counter",
]

OWNER_INDICES: Final = 0x01800000
"""First handle that is the owner's to give (Registry of Reserved TPM 2.0 Handles)."""

INDEX_BITS: Final = 22
AUTH_BYTES: Final = 32
POLICY_BYTES: Final = 32
COUNTER_BYTES: Final = 8

NO_INDEX: Final = 0x8B
"""TPM_RC_HANDLE: there is no such index."""

# TPMA_NV
AUTH_WRITE: Final = 1 << 2
TYPE_COUNTER: Final = 1 << 4
AUTH_READ: Final = 1 << 18
NO_DA: Final = 1 << 25
WRITTEN: Final = 1 << 29

ATTRIBUTES: Final = AUTH_WRITE | TYPE_COUNTER | AUTH_READ | NO_DA
"""Not ORDERLY: each increment is in NV memory before it is answered."""


def counter_handle(keyring_id: bytes) -> int:
    """The index of a keyring: it follows from the id, so one TPM has one at most.

    Args:
        keyring_id: 32 bytes.
    """
    bits = int.from_bytes(keyring_id[:4], "big") >> (32 - INDEX_BITS)
    return OWNER_INDICES | bits


@dataclass(frozen=True, slots=True)
class CounterIndex:
    """A counter's index, as it was defined.

    Attributes:
        handle: its number.
        policy: its policy digest, 32 random bytes: its Name is its own.
        auth: its authorisation value, 32 bytes.
    """

    handle: int
    policy: bytes
    auth: Secret = field(repr=False)

    def public(self, *, written: bool) -> bytes:
        """TPMS_NV_PUBLIC before or after the first increment."""
        attributes = ATTRIBUTES | (WRITTEN if written else 0)
        head = struct.pack(">IHI", self.handle, TPM_ALG_SHA256, attributes)
        return head + sized(self.policy) + struct.pack(">H", COUNTER_BYTES)

    def named(self, *, written: bool = True) -> Handle:
        """With its Name, which is built here and enters each HMAC."""
        return Handle(self.handle, name_of(self.public(written=written)))

    @property
    def auth_value(self) -> bytes:
        """As a TPM keeps it: without zeros at the end (Part 1, 19.6.4.3)."""
        return self.auth.reveal().rstrip(b"\0")


def define_counter(
    link: Link, session: Session, index: CounterIndex, *, owner_auth: Secret
) -> int:
    """Make the counter, and count it up once; its value. None may be there.

    Raises:
        TpmError: as ``Link.run``.
    """
    link.run(
        Command.NV_DEFINE_SPACE,
        sized(index.auth_value) + sized(index.public(written=False)),
        handles=(TPM_RH_OWNER,),
        session=session,
        auth=owner_auth.reveal().rstrip(b"\0"),
    )
    _increment(link, session, index, written=False)
    return read_counter(link, session, index)


def increment_counter(link: Link, session: Session, index: CounterIndex) -> None:
    """Count up by one; it is durable once this returns.

    Raises:
        TpmError: as ``Link.run``. It may have been counted all the same.
    """
    _increment(link, session, index, written=True)


def read_counter(link: Link, session: Session, index: CounterIndex) -> int:
    """The value, as the TPM of the session has it now.

    Raises:
        TpmError: as ``Link.run``.
    """
    handle = index.named()
    _, answer = link.run(
        Command.NV_READ,
        struct.pack(">HH", COUNTER_BYTES, 0),
        handles=(handle, handle),
        session=session,
        auth=index.auth_value,
    )
    value = answer.sized()
    answer.end()
    if len(value) != COUNTER_BYTES:
        raise TpmError(f"NV_READ: a counter of {len(value)} bytes")
    return int.from_bytes(value, "big")


def remove_counter(
    link: Link, session: Session, handle: int, *, owner_auth: Secret
) -> bool:
    """Delete whatever is at a handle; whether the TPM says that there was something.

    That there is nothing is not authenticated: defining the index then fails.

    Raises:
        TpmError: as ``Link.run``.
    """
    try:
        _, answer = link.run(Command.NV_READ_PUBLIC, handles=(Handle(handle),))
    except TpmError as e:
        if e.rc == NO_INDEX:
            return False
        raise
    public, name = answer.sized(), answer.sized()
    if Reader(public).number(4) != handle:
        raise TpmError("NV_READ_PUBLIC: another index")
    link.run(
        Command.NV_UNDEFINE_SPACE,
        handles=(TPM_RH_OWNER, Handle(handle, name)),
        session=session,
        auth=owner_auth.reveal().rstrip(b"\0"),
    )
    return True


def _increment(
    link: Link, session: Session, index: CounterIndex, *, written: bool
) -> None:
    handle = index.named(written=written)
    link.run(
        Command.NV_INCREMENT,
        handles=(handle, handle),
        session=session,
        auth=index.auth_value,
    )
