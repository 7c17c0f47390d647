# SPDX-License-Identifier: Apache-2.0
"""Intel's side of a simulated world: one root, its PKI, collateral and machines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from typing import Final, Literal

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tightseal.errors import Code, CollateralError, PlatformError, SettingsError
from tightseal.model.claims import TcbStatus, Tee, TrustDomain, Vendor
from tightseal.model.collateral import IntelCollateral
from tightseal.model.roots import TrustedRoot
from tightseal_sim.derive import Seed
from tightseal_sim.intel import catalogue
from tightseal_sim.intel.collateral import CollateralParts, SignedJson, compact
from tightseal_sim.intel.crl import Crl
from tightseal_sim.intel.pki import (
    PCK_CA_NAMES,
    PCK_LEAF_NAME,
    ROOT_NAME,
    TCB_SIGNING_NAME,
    Authority,
    CertificateRequest,
    PckFields,
    issue,
    pem_chain,
    self_signed,
)
from tightseal_sim.intel.platform import SimPlatform
from tightseal_sim.intel.signing import raw_public_key
from tightseal_sim.intel.tcb import QeIdentity, TcbInfo
from tightseal_sim.latency import QuoteGate
from tightseal_sim.state import IntelState, PlatformState, Store, WorldState

__all__ = ["PLATFORM_CAS", "IntelWorld"]

Ca = Literal["platform", "processor"]

PLATFORM_CAS: Final[tuple[Ca, ...]] = ("platform", "processor")

_DAY: Final = 86400
_VALID_DAYS: Final = 30
_MAX_PLATFORMS: Final = 1000
_MAX_NAME_CHARS: Final = 64


class IntelWorld:
    """A root of our own in Intel's place, and everything under it.

    Args:
        seed: the world's subtree.
        store: what was decided so far.
        gate: makes the quoting gate of a platform, by its name.
    """

    def __init__(
        self, seed: Seed, store: Store, gate: Callable[[str], QuoteGate]
    ) -> None:
        self.seed = seed
        self._store = store
        self._gate = gate
        self._pck: dict[str, Authority] = {}
        self._platforms: dict[str, SimPlatform] = {}

    # -- PKI -----------------------------------------------------------------------

    @cached_property
    def root(self) -> Authority:
        """The root CA."""
        return self_signed(self._request(ROOT_NAME, "root", path_length=1))

    @cached_property
    def tcb_signing(self) -> Authority:
        """The signer of TCB info and QE identities."""
        return issue(self.root, self._request(TCB_SIGNING_NAME, "tcb-signing"))

    @cached_property
    def pck_cas(self) -> dict[Ca, Authority]:
        """The platform CA and the processor CA."""
        return {
            ca: issue(self.root, self._request(PCK_CA_NAMES[ca], ca, path_length=0))
            for ca in PLATFORM_CAS
        }

    def issue_pck(self, label: str, ca: Ca, fields: PckFields) -> Authority:
        """The PCK certificate of a platform at one microcode level."""
        if label not in self._pck:
            request = self.pck_request(label, fields)
            self._pck[label] = issue(self.pck_cas[ca], request)
        return self._pck[label]

    def pck_request(self, label: str, fields: PckFields) -> CertificateRequest:
        """What a PCK CA is asked to certify."""
        return self._request(PCK_LEAF_NAME, f"pck/{label}", pck=fields)

    def pck_chain(self, leaf: Authority, ca: Ca) -> str:
        """PEM of leaf, PCK CA and root, as quotes embed it."""
        return pem_chain((leaf, self.pck_cas[ca], self.root))

    def _request(
        self,
        common_name: str,
        label: str,
        *,
        path_length: int | None = None,
        pck: PckFields | None = None,
    ) -> CertificateRequest:
        return CertificateRequest(
            common_name=common_name,
            key=self.seed.p256("key", label),
            serial=self.seed.serial("serial", label),
            path_length=path_length,
            pck=pck,
        )

    @property
    def root_certificate(self) -> bytes:
        """The root certificate, DER."""
        return self.root.der

    @cached_property
    def trusted_root(self) -> TrustedRoot:
        """The root as verifiers take it, in its own simulated trust domain."""
        point = b"\x04" + raw_public_key(self.root.key)
        domain = TrustDomain(Vendor.SIMULATED, hashlib.sha384(point).hexdigest())
        spki = self.root.key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        return TrustedRoot(domain, ROOT_NAME, spki, certificate=self.root.der)

    # -- machines ------------------------------------------------------------------

    def platform(self, name: str, *, ca: Ca = "platform") -> SimPlatform:
        """The machine of that name; it comes into being when first asked for.

        Raises:
            SettingsError: ``settings_invalid``, where the name is not 1 to 64 printable
                characters, or the machine has its PCK from the other CA.
        """
        if not 0 < len(name) <= _MAX_NAME_CHARS or not name.isprintable():
            raise SettingsError(Code.SETTINGS_INVALID, f"platform name {name!r}")
        known = self.state.platforms.get(name)
        if known is None:
            known = self._update(lambda s: _add_platform(s, name, ca)).platforms[name]
        if known.ca != ca:
            detail = f"platform {name} has a PCK of the {known.ca} CA, not the {ca} CA"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        if name not in self._platforms:
            self._platforms[name] = SimPlatform(self, name, ca, self._gate(name))
        return self._platforms[name]

    @property
    def platforms(self) -> tuple[SimPlatform, ...]:
        """Every machine that there is."""
        found = self.state.platforms.items()
        return tuple(self.platform(name, ca=p.ca) for name, p in found)

    def platform_state(self, name: str) -> PlatformState:
        """How often a machine was updated."""
        return self.state.platforms[name]

    def raise_svn(self, name: str, *, microcode: int = 0, tdx_module: int = 0) -> None:
        """Record an update of a machine."""

        def change(state: IntelState) -> IntelState:
            old = state.platforms[name]
            new = PlatformState(
                ca=old.ca,
                microcode=old.microcode + microcode,
                tdx_module=old.tdx_module + tdx_module,
            )
            return msgspec.structs.replace(
                state, platforms={**state.platforms, name: new}
            )

        self._update(change)

    # -- what Intel publishes ------------------------------------------------------

    @property
    def state(self) -> IntelState:
        """What was published and updated so far."""
        return self._store.read().intel

    def _update(self, change: Callable[[IntelState], IntelState]) -> IntelState:
        def apply(world: WorldState) -> WorldState:
            return msgspec.structs.replace(world, intel=change(world.intel))

        return self._store.update(apply).intel

    def revoke_pck(self, platform: SimPlatform) -> None:
        """Put the platform's present PCK certificate on its CA's CRL."""
        entry = (platform.name, platform.microcode)

        def change(state: IntelState) -> IntelState:
            if entry in state.revoked:
                return state
            return msgspec.structs.replace(state, revoked=(*state.revoked, entry))

        self._update(change)

    def publish_recovery(
        self,
        advisories: tuple[str, ...] = ("INTEL-SA-99001",),
        *,
        tdx_module: bool = False,
    ) -> None:
        """TCB recovery: what was UpToDate becomes OutOfDate with these advisories.

        Args:
            advisories: ids that the recovery closes.
            tdx_module: recover the TDX module instead of the microcode.
        """
        name = "module_recoveries" if tdx_module else "recoveries"

        def change(state: IntelState) -> IntelState:
            done = {name: (*getattr(state, name), tuple(advisories))}
            return msgspec.structs.replace(
                state, publications=state.publications + 1, **done
            )

        self._update(change)

    def publish_status(
        self, status: TcbStatus, advisories: tuple[str, ...] = ()
    ) -> None:
        """Give the newest TCB level another status, such as SWHardeningNeeded."""

        def change(state: IntelState) -> IntelState:
            return msgspec.structs.replace(
                state,
                status=status.value,
                advisories=tuple(advisories),
                publications=state.publications + 1,
            )

        self._update(change)

    # -- collateral ----------------------------------------------------------------

    def collateral(
        self, *, fmspc: bytes, ca: str, tee: Tee, now: int
    ) -> IntelCollateral:
        """Collateral as of the day of ``now``: issued at midnight, valid for 30 days.

        Raises:
            CollateralError: ``collateral_unavailable``, where no such platform family
                or CA exists.
        """
        return self.collateral_parts(fmspc=fmspc, ca=ca, tee=tee, now=now).assemble()

    def collateral_parts(
        self, *, fmspc: bytes, ca: str, tee: Tee, now: int
    ) -> CollateralParts:
        """The same, before signing.

        Raises:
            CollateralError: ``collateral_unavailable``.
        """
        family = _ca(ca)
        return CollateralParts(
            tcb_info=self.sign(compact(self.tcb_info(fmspc, tee, now).as_json())),
            qe_identity=self.sign(compact(self.qe_identity(tee, now).as_json())),
            root_crl=self.root_crl(now),
            pck_crl=self.pck_crl(family, now),
            pck_crl_chain=self.pck_ca_chain(family),
        )

    def sign(self, text: str) -> SignedJson:
        """A text to be signed by the TCB signing key."""
        return SignedJson(text, self.tcb_signing.key, self.tcb_signing_chain)

    @cached_property
    def tcb_signing_chain(self) -> str:
        """PEM of the TCB signing certificate and the root."""
        return pem_chain((self.tcb_signing, self.root))

    def pck_ca_chain(self, ca: str) -> str:
        """PEM of a PCK CA and the root.

        Raises:
            CollateralError: ``collateral_unavailable``.
        """
        return pem_chain((self.pck_cas[_ca(ca)], self.root))

    def tcb_info(self, fmspc: bytes, tee: Tee, now: int) -> TcbInfo:
        """TCB info of a platform family.

        Raises:
            CollateralError: ``collateral_unavailable``.
        """
        if fmspc not in catalogue.FMSPCS.values():
            detail = f"no TCB info for FMSPC {fmspc.hex()}"
            raise CollateralError(Code.COLLATERAL_UNAVAILABLE, detail)
        state = self.state
        issued = _issued_at(now)
        return TcbInfo(
            tee=tee,
            fmspc=fmspc,
            pceid=catalogue.PCEID,
            issued_at=issued,
            next_update=issued + _VALID_DAYS * _DAY,
            evaluation_number=catalogue.EVALUATION_NUMBER + state.publications,
            levels=catalogue.platform_levels(state),
            modules=catalogue.module_identities(state),
        )

    def qe_identity(self, tee: Tee, now: int) -> QeIdentity:
        """Identity of the quoting enclave for a TEE.

        Raises:
            CollateralError: ``collateral_unavailable``, for SNP.
        """
        if tee not in catalogue.QE_LEVELS:
            detail = f"no quoting enclave for {tee.value}"
            raise CollateralError(Code.COLLATERAL_UNAVAILABLE, detail)
        issued = _issued_at(now)
        return QeIdentity(
            tee=tee,
            issued_at=issued,
            next_update=issued + _VALID_DAYS * _DAY,
            evaluation_number=catalogue.EVALUATION_NUMBER + self.state.publications,
            mr_signer=catalogue.QE_MRSIGNER,
            levels=catalogue.QE_LEVELS[tee],
        )

    def root_crl(self, now: int) -> Crl:
        """The root's CRL."""
        issued = _issued_at(now)
        return Crl(self.root, 1, issued, issued + _VALID_DAYS * _DAY)

    def pck_crl(self, ca: str, now: int) -> Crl:
        """A PCK CA's CRL; its number grows with every revocation.

        Raises:
            CollateralError: ``collateral_unavailable``.
        """
        family = _ca(ca)
        state = self.state
        serials = tuple(
            self.seed.serial("serial", f"pck/{name}/{microcode}")
            for name, microcode in state.revoked
            if state.platforms[name].ca == family
        )
        issued = _issued_at(now)
        until = issued + _VALID_DAYS * _DAY
        return Crl(self.pck_cas[family], 1 + len(serials), issued, until, serials)


def _ca(ca: str) -> Ca:
    for known in PLATFORM_CAS:
        if ca == known:
            return known
    raise CollateralError(Code.COLLATERAL_UNAVAILABLE, f"no PCK CA named {ca!r}")


def _issued_at(now: int) -> int:
    """Midnight (UTC) of the day, so that a day's collateral is one and the same."""
    try:
        datetime.fromtimestamp(now + _VALID_DAYS * _DAY, UTC)
    except (OverflowError, ValueError, OSError) as e:
        raise CollateralError(Code.COLLATERAL_UNAVAILABLE, f"time {now}") from e
    return now - now % _DAY


def _add_platform(state: IntelState, name: str, ca: Ca) -> IntelState:
    if name in state.platforms:
        return state
    if len(state.platforms) >= _MAX_PLATFORMS:
        detail = f"a simulated world has at most {_MAX_PLATFORMS} platforms"
        raise PlatformError(Code.PLATFORM_FAILED, detail)
    platforms = {**state.platforms, name: PlatformState(ca=ca)}
    return msgspec.structs.replace(state, platforms=platforms)
