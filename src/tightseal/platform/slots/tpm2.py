# SPDX-License-Identifier: Apache-2.0
"""Slot ``tpm2``: a random key sealed by a TPM 2.0 to its PCRs. A second factor.

A host TPM opens for the host: it sees the PCRs that the host's boot made, and not this
TEE. Beside a first factor it ties the keyring to this machine and to how it was booted.

The private half of the sealed object is stored; its public half is built here, so that
its PCR policy is the one that is meant. Everything secret passes in sessions salted to
the TPM's endorsement key (EK), which is made from the standard template each time; its
Name is the pin. Where no pin is handed in, the stored one is believed: whoever can
change storage and sits on the way to the TPM can then read what this factor gives. That
the EK is a real TPM's is not checked; the operator compares the pin with the vendor's
certificate once.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from tightseal.errors import PlatformError
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.derive import Place, sealed, short, unavailable, unsealed
from tightseal.platform.slots.parameters import FORM, Parameters
from tightseal.platform.slots.tpm_objects import (
    Sealed,
    create_sealed,
    open_sessions,
    read_pcrs,
    storage_key,
    unseal,
)
from tightseal.platform.slots.tpm_session import Link, SessionKind
from tightseal.platform.slots.tpm_wire import (
    PCR_BYTES,
    PCR_COUNT,
    OpenTpm,
    TpmError,
)

__all__ = ["Tpm2Slot"]

NAME_BYTES: Final = 34
UNIQUE_BYTES: Final = 32
MAX_PRIVATE_BYTES: Final = 512
MATERIAL_BYTES: Final = 32

_OTHER: Final = "the sealed object holds another key"


class Tpm2Slot:
    """The slot of class ``tpm2``.

    Args:
        open_tpm: opens the TPM; see ``open_device``.
        pcrs: PCRs of the SHA-256 bank that every slot must be bound to, stored ones
            too; at least one.
        ek_name: Name of the EK, 34 bytes: 0x000b and SHA-256 over its TPMT_PUBLIC.
        owner_auth: authorisation value of the owner hierarchy, where it has one.
        sleep: waits where the TPM asks to be asked again.

    Raises:
        KeyReleaseError: ``slot_unavailable``, for PCRs or a Name that cannot be.
    """

    def __init__(
        self,
        open_tpm: OpenTpm,
        *,
        pcrs: Collection[int],
        ek_name: bytes | None = None,
        owner_auth: Secret | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._open_tpm = open_tpm
        self._pcrs = frozenset(pcrs)
        self._ek_name = ek_name
        self._auth = owner_auth or Secret(b"")
        self._sleep = sleep
        if not self._pcrs or not self._pcrs <= set(range(PCR_COUNT)):
            raise unavailable(SlotClass.TPM2, f"PCRs {sorted(self._pcrs)}: one of 0-23")
        if ek_name is not None and len(ek_name) != NAME_BYTES:
            raise unavailable(SlotClass.TPM2, f"EK name: not {NAME_BYTES} bytes")

    @property
    def slot_class(self) -> SlotClass:
        """``tpm2``."""
        return SlotClass.TPM2

    def create(
        self, *, keyring_id: bytes, slot_id: bytes
    ) -> tuple[Mapping[str, Value], Secret]:
        """Parameters and key of a new slot, bound to the present PCRs.

        What was sealed is opened again before it counts.

        Raises:
            KeyReleaseError: ``slot_unavailable``.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        material = Secret(os.urandom(MATERIAL_BYTES))
        with self._tpm() as link:
            values = read_pcrs(link, self._pcrs)
            with open_sessions(link, (SessionKind.HMAC,)) as (ek_name, (session,)):
                self._check_ek(ek_name, self._ek_name or ek_name)
                with storage_key(link, session, self._auth) as parent:
                    made = create_sealed(
                        link, session, parent=parent, values=values, secret=material
                    )
            again = self._unseal(link, made, ek_name)
        if again != material:
            raise unavailable(self.slot_class, "the TPM gave back another key")
        public: dict[str, Value] = {
            "form": FORM,
            "pcrs": [[pcr, values[pcr]] for pcr in sorted(values)],
            "ek": ek_name,
            "unique": made.unique,
            "private": made.private,
        }
        return sealed(material, public, place)

    def open(
        self, parameters: Mapping[str, Value], *, keyring_id: bytes, slot_id: bytes
    ) -> Secret:
        """The key again, from the same TPM with the same PCRs.

        Raises:
            KeyReleaseError: ``slot_unavailable``: PCRs that changed, by number; a TPM
                that was cleared; another EK; no TPM.
        """
        place = Place(self.slot_class, keyring_id=keyring_id, slot_id=slot_id)
        stored, ek_name = self._stored(parameters)
        with self._tpm() as link:
            self._check_pcrs(read_pcrs(link, stored.values), stored.values)
            material = self._unseal(link, stored, ek_name)
        return unsealed(material, parameters, place, causes=_OTHER)

    def rewrap(self, parameters: Mapping[str, Value]) -> str | None:
        """Why the slot should be made anew: other PCRs are asked for, or ``None``.

        Raises:
            KeyReleaseError: ``slot_unavailable``.
        """
        stored, _ = self._stored(parameters)
        if stored.values.keys() == self._pcrs:
            return None
        return f"bound to PCRs {sorted(stored.values)}, now {sorted(self._pcrs)}"

    def _stored(self, parameters: Mapping[str, Value]) -> tuple[Sealed, bytes]:
        names = ("pcrs", "ek", "unique", "private")
        read = Parameters(self.slot_class, parameters, names)
        values: dict[int, bytes] = {}
        for item in read.items("pcrs", PCR_COUNT):
            pcr, value = _pair(item)
            if pcr is None or value is None or pcr <= max(values, default=-1):
                raise read.refused("pcrs: not pairs of PCR and 32 bytes, in order")
            values[pcr] = value
        if not self._pcrs <= values.keys():
            why = f"bound to PCRs {sorted(values)}, at least {sorted(self._pcrs)} must"
            raise read.refused(why)
        stored = Sealed(
            values=values,
            unique=read.octets("unique", UNIQUE_BYTES),
            private=read.octets("private", 1, MAX_PRIVATE_BYTES),
        )
        ek_name = read.octets("ek", NAME_BYTES)
        if self._ek_name is not None:
            self._check_ek(ek_name, self._ek_name)
        return stored, ek_name

    def _check_ek(self, found: bytes, pinned: bytes) -> None:
        if found != pinned:
            why = f"another TPM: its EK is {short(found)}, pinned is {short(pinned)}"
            raise unavailable(self.slot_class, why)

    def _check_pcrs(self, now: Mapping[int, bytes], then: Mapping[int, bytes]) -> None:
        changed = [
            f"PCR {pcr} was {short(then[pcr])}, is {short(now[pcr])}"
            for pcr in sorted(then)
            if now[pcr] != then[pcr]
        ]
        if changed:
            raise unavailable(self.slot_class, "; ".join(changed))

    def _unseal(self, link: Link, stored: Sealed, ek_name: bytes) -> Secret:
        kinds = SessionKind.HMAC, SessionKind.POLICY
        with open_sessions(link, kinds) as (found, (session, policy)):
            self._check_ek(found, ek_name)
            with storage_key(link, session, self._auth) as parent:
                return unseal(
                    link, session=session, policy=policy, parent=parent, sealed=stored
                )

    @contextmanager
    def _tpm(self) -> Iterator[Link]:
        """An open TPM; whatever goes wrong with it is ``slot_unavailable``."""
        with ExitStack() as stack:
            try:
                exchange = stack.enter_context(self._open_tpm())
                yield Link(exchange, sleep=self._sleep)
            except OSError as e:
                number = errno.errorcode.get(e.errno or 0, type(e).__name__)
                why = f"no TPM answers: {number}: is /dev/tpmrm0 there and readable"
                raise unavailable(self.slot_class, why) from e
            except TpmError as e:
                hint = _HINTS.get(e.rc, "")
                why = f"{e.detail}: {hint}" if hint else e.detail
                raise unavailable(self.slot_class, why) from e
            except PlatformError as e:
                raise unavailable(self.slot_class, e.detail) from e


_WRONG_AUTH: Final = (
    "the owner's authorisation value is another, or it is not the TPM with the pinned"
    " EK"
)
_HINTS: Final = {
    0x9F: "the sealed object is not this storage key's: the TPM was cleared, or it is"
    " another one's",
    0x9D: "the PCRs changed while it was asked",
    0x128: "the PCRs changed while it was asked",
    0xA2: _WRONG_AUTH,
    0x8E: _WRONG_AUTH,
    0x921: "the TPM is locked out after wrong authorisation values",
    0x902: "the TPM has no room for objects: use /dev/tpmrm0",
}


def _pair(item: Value) -> tuple[int | None, bytes | None]:
    """A PCR and its value, or nothing where it is not that."""
    if not isinstance(item, list | tuple) or len(item) != 2:  # noqa: PLR2004
        return None, None
    pcr, value = item
    whole = isinstance(pcr, int) and not isinstance(pcr, bool)
    if not whole or not isinstance(value, bytes) or len(value) != PCR_BYTES:
        return None, None
    assert isinstance(pcr, int)
    return (pcr, value) if 0 <= pcr < PCR_COUNT else (None, None)
