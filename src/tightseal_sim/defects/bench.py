# SPDX-License-Identifier: Apache-2.0
"""The bench on which evidence and collateral are made whole or spoiled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tightseal.model.claims import Tee
from tightseal.model.collateral import IntelCollateral
from tightseal.model.roots import TrustedRoot
from tightseal_sim.defects.case import Case, Expect
from tightseal_sim.intel.collateral import CollateralParts, SignedJson, compact
from tightseal_sim.intel.enclave import EnclaveImage, SimEnclave
from tightseal_sim.intel.pki import Authority
from tightseal_sim.intel.platform import SimPlatform
from tightseal_sim.intel.quote import QuoteForm, QuoteParts, assemble
from tightseal_sim.intel.tcb import TcbLevel
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.intel.world import Ca, IntelWorld
from tightseal_sim.world import World

__all__ = [
    "REPORT_DATA",
    "Bench",
    "Offsets",
    "edit_identity",
    "edit_tcb",
    "flip",
    "impostor",
    "put",
    "resign_identity",
    "resign_tcb",
]

REPORT_DATA = bytes(range(64))

_ATTACKER_SEED = bytes(31) + b"\xa7"

Json = dict[str, Any]
JsonChange = Callable[[Json], object]


@dataclass(frozen=True, slots=True)
class Offsets:
    """Where things stand in a version 4 quote with 32 bytes of QE auth data."""

    user_data: int = 28
    mrtd: int = 48 + 136
    report_data: int = 48 + 520
    sig_len: int = 632
    signature: int = 636
    attestation_key: int = 700
    qe_report: int = 770 + 64
    qe_signature: int = 1154
    qe_auth: int = 1220
    cert_type: int = 1252
    pem: int = 1258 + 400


@dataclass
class Bench:
    """Machines, workloads and collateral of one pristine world, at one time."""

    world: World
    now: int
    intel: IntelWorld = field(init=False)

    def __post_init__(self) -> None:
        """Take the pristine twin, so that the caller's world stays as it is."""
        self.world = self.world.pristine()
        self.intel = self.world.intel

    @cached_property
    def attacker(self) -> IntelWorld:
        """Another world, whose root nobody trusts."""
        return World.in_memory(_ATTACKER_SEED).intel

    @cached_property
    def platform(self) -> SimPlatform:
        """The machine of most cases."""
        return self.intel.platform("defects-a")

    @cached_property
    def other_platform(self) -> SimPlatform:
        """Another machine of the same world."""
        return self.intel.platform("defects-b")

    @cached_property
    def td(self) -> SimTd:
        """The TD of most cases."""
        return self.platform.launch_td(TdImage())

    @cached_property
    def enclave(self) -> SimEnclave:
        """The enclave of most cases."""
        return self.platform.load_enclave(EnclaveImage("tightseal-provider"))

    def td_parts(self, form: QuoteForm = QuoteForm.V4_TD10, **image: Any) -> QuoteParts:
        """A TD's quote before signing, from an image with these changes."""
        td = self.platform.launch_td(TdImage(**image)) if image else self.td
        return td.quote_parts(REPORT_DATA, form=form)

    def sgx_parts(self, **image: Any) -> QuoteParts:
        """An enclave's quote before signing, from an image with these changes."""
        changed = replace(self.enclave.image, **image)
        return self.platform.load_enclave(changed).quote_parts(REPORT_DATA)

    def parts(self, tee: Tee) -> QuoteParts:
        """The unspoiled quote of a TEE before signing."""
        return self.sgx_parts() if tee is Tee.SGX else self.td_parts()

    def collateral(self, tee: Tee = Tee.TDX, *, ca: Ca = "platform") -> CollateralParts:
        """The unspoiled collateral before signing."""
        fmspc = self.intel.platform(f"fmspc-{ca}", ca=ca).fmspc
        return self.intel.collateral_parts(fmspc=fmspc, ca=ca, tee=tee, now=self.now)

    def levels(
        self, parts: CollateralParts, tee: Tee, *levels: TcbLevel
    ) -> CollateralParts:
        """The collateral with these platform levels only, signed."""
        found = [level.as_json(tee) for level in levels]
        return edit_tcb(parts, lambda info: info.update(tcbLevels=found))

    def case(
        self,
        name: str,
        title: str,
        expect: Expect,
        *,
        number: int | None = None,
        tee: Tee = Tee.TDX,
        evidence: QuoteParts | bytes | None = None,
        collateral: CollateralParts | IntelCollateral | None = None,
        root: TrustedRoot | None = None,
        seen_before: IntelCollateral | None = None,
    ) -> Case:
        """Put a case together; what is not given is unspoiled."""
        given = self.parts(tee) if evidence is None else evidence
        beside = self.collateral(tee) if collateral is None else collateral
        return Case(
            name=name,
            title=title,
            tee=tee,
            evidence=given if isinstance(given, bytes) else assemble(given),
            collateral=beside
            if isinstance(beside, IntelCollateral)
            else beside.assemble(),
            now=self.now,
            root=root or self.intel.trusted_root,
            expect=expect,
            number=number,
            seen_before=seen_before,
        )


def flip(data: bytes, at: int, mask: int = 1) -> bytes:
    """``data`` with bits of one byte flipped."""
    return put(data, at, bytes([data[at] ^ mask]))


def put(data: bytes, at: int, value: bytes) -> bytes:
    """``data`` with bytes put over it."""
    return data[:at] + value + data[at + len(value) :]


def edit_tcb(parts: CollateralParts, change: JsonChange) -> CollateralParts:
    """Change the TCB info and sign it again."""
    return replace(parts, tcb_info=_edit(parts.tcb_info, change))


def edit_identity(parts: CollateralParts, change: JsonChange) -> CollateralParts:
    """Change the QE identity and sign it again."""
    return replace(parts, qe_identity=_edit(parts.qe_identity, change))


def resign_tcb(parts: CollateralParts, by: Authority, chain: str) -> CollateralParts:
    """The TCB info signed by another, with that one's chain."""
    signed = replace(parts.tcb_info, signer=by.key, chain=chain)
    return replace(parts, tcb_info=signed)


def resign_identity(
    parts: CollateralParts, by: Authority, chain: str
) -> CollateralParts:
    """The QE identity signed by another, with that one's chain."""
    signed = replace(parts.qe_identity, signer=by.key, chain=chain)
    return replace(parts, qe_identity=signed)


def impostor(genuine: Authority, attacker: Authority) -> Authority:
    """The genuine certificate, with a key that is not its own."""
    return Authority(attacker.key, genuine.certificate)


def _edit(signed: SignedJson, change: JsonChange) -> SignedJson:
    value = json.loads(signed.text)
    change(value)
    return replace(signed, text=compact(value))
