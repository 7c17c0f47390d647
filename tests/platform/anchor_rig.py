# SPDX-License-Identifier: Apache-2.0
"""A keyring on disk, a TPM that remembers it, and what a host does to both."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tightseal.keys.keyring import (
    AnchorFile,
    AnchorRecord,
    Keyring,
    KeyringFile,
    Terms,
    keep_new,
    new_keyring,
    rotate,
)
from tightseal.keys.keyring.system import OPERATING_SYSTEM, FileSystem
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.tpm_counter import (
    CounterIndex,
    define_counter,
    remove_counter,
)
from tightseal.platform.slots.tpm_objects import open_sessions
from tightseal.platform.slots.tpm_session import Link, Session, SessionKind
from tightseal.platform.slots.tpm_wire import OpenTpm
from tightseal.release.keyring import KeyringKeeper, Ways
from tightseal.release.tpmanchor import AnchorTpm, TpmAnchor

NOW: Final = 1_800_000_000
DOMAIN: Final = "intel"
NO_AUTH: Final = Secret(b"")
TERMS: Final = Terms(trust_domain=DOMAIN, policy_root=None, policy_version=0)


class EnclaveSlot:
    """A slot whose key follows from its place alone."""

    slot_class = SlotClass.SGX

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        made: dict[str, Value] = {"form": 1}
        return made, self.open(made, keyring_id=keyring_id, slot_id=slot_id)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        assert parameters == {"form": 1}
        return Secret(hashlib.sha256(b"enclave" + keyring_id + slot_id).digest())


SLOT: Final = EnclaveSlot()


def fresh_keyring() -> Keyring:
    return new_keyring(
        (SLOT,),
        trust_domain=DOMAIN,
        policy_root=None,
        minimum_policy_version=0,
        slot_classes=frozenset(SlotClass),
        now=NOW,
    )


@dataclass
class Provider:
    """One provider's file, and the TPM that it asks.

    Attributes:
        path: of the keyring.
        tpm: that it asks.
        system: calls to the operating system.
    """

    path: Path
    tpm: AnchorTpm
    system: FileSystem = OPERATING_SYSTEM

    @property
    def file(self) -> KeyringFile:
        return KeyringFile(self.path, system=self.system)

    @property
    def record(self) -> AnchorFile:
        return AnchorFile(self.path, system=self.system)

    @property
    def record_path(self) -> Path:
        return Path(self.record.path)

    def make(self) -> None:
        keep_new(self.file, fresh_keyring(), anchor=None)

    def anchor(self, keyring: Keyring) -> TpmAnchor:
        return TpmAnchor(keyring, file=self.record, tpm=self.tpm)

    def begin(self, *, adopt: bool = False) -> None:
        keyring = self.unanchored().keyring
        self.anchor(keyring).begin(adopt=adopt)

    def ways(self) -> Ways:
        return Ways(file=self.file, slot_keys=(SLOT,), terms=TERMS, keyed=self.anchor)

    def start(self) -> KeyringKeeper:
        return KeyringKeeper(self.ways())

    def unanchored(self) -> KeyringKeeper:
        return KeyringKeeper(replace(self.ways(), keyed=None))

    def remembered(self) -> int | None:
        keyring = self.unanchored().keyring
        return self.anchor(keyring).remembered(keyring.header.keyring_id)

    def counter(self) -> int:
        return self.unanchored().keyring.header.counter

    def opened_record(self) -> AnchorRecord:
        data = self.record.read()
        assert data is not None
        return AnchorRecord.open(data, self.unanchored().keyring)


def rotated(keyring: Keyring) -> Keyring:
    return rotate(keyring, now=NOW)


@contextmanager
def session_of(open_tpm: OpenTpm) -> Iterator[tuple[Link, Session]]:
    with open_tpm() as exchange:
        link = Link(exchange, sleep=lambda _: None)
        with open_sessions(link, (SessionKind.HMAC,)) as (_, (session,)):
            yield link, session


def index_of(record: AnchorRecord) -> CounterIndex:
    return CounterIndex(record.handle, record.policy, record.auth)


def remove_index(open_tpm: OpenTpm, handle: int) -> None:
    """As the owner of the TPM may at any time."""
    with session_of(open_tpm) as (link, session):
        assert remove_counter(link, session, handle, owner_auth=NO_AUTH)


def make_index(open_tpm: OpenTpm, index: CounterIndex) -> int:
    """As the owner of the TPM may, with what it knows."""
    with session_of(open_tpm) as (link, session):
        return define_counter(link, session, index, owner_auth=NO_AUTH)
