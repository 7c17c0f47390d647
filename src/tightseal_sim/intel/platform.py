# SPDX-License-Identifier: Apache-2.0
"""A simulated machine: one PPID under which both its SGX and its TDX quotes stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cryptography.hazmat.primitives.asymmetric import ec

from tightseal.errors import Code, PlatformError
from tightseal.model.claims import Tee
from tightseal_sim.intel import catalogue
from tightseal_sim.intel.egetkey import CpuSecrets
from tightseal_sim.intel.enclave import EnclaveImage, SimEnclave
from tightseal_sim.intel.pki import (
    Authority,
    ConfigurationFlags,
    PckFields,
    PlatformTcb,
)
from tightseal_sim.intel.quote import (
    TEE_SGX,
    TEE_TDX,
    QuoteForm,
    QuoteHeader,
    QuoteParts,
    TdBody,
)
from tightseal_sim.intel.structures import ReportBody
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.latency import QuoteGate

if TYPE_CHECKING:
    from tightseal_sim.intel.world import IntelWorld

__all__ = ["SimPlatform"]


@dataclass(frozen=True, slots=True)
class _Certified:
    """What a microcode level fixes: PCK, chain and attestation keys."""

    pck: Authority
    chain: str
    attestation_keys: dict[Tee, ec.EllipticCurvePrivateKey]


class SimPlatform:
    """A machine. Its identity is derived from the world's seed and its name.

    Args:
        world: the world that it belongs to.
        name: its name.
        ca: which PCK CA certified it.
        gate: its quoting slot.
    """

    def __init__(
        self,
        world: IntelWorld,
        name: str,
        ca: Literal["platform", "processor"],
        gate: QuoteGate,
    ) -> None:
        self.world = world
        self.name = name
        self.ca = ca
        self.gate = gate
        self._seed = world.seed.child("platform", name)
        self.ppid = self._seed.octets("ppid", length=16)
        self.piid = self._seed.octets("piid", length=16) if ca == "platform" else None
        self.fmspc = catalogue.FMSPCS[ca]
        self.pceid = catalogue.PCEID
        self._certified: dict[int, _Certified] = {}

    # -- security versions ---------------------------------------------------------

    @property
    def microcode(self) -> int:
        """How often the microcode was updated."""
        return self.world.platform_state(self.name).microcode

    @property
    def tdx_module(self) -> int:
        """How often the TDX module was updated."""
        return self.world.platform_state(self.name).tdx_module

    @property
    def tcb(self) -> PlatformTcb:
        """Present security versions."""
        return catalogue.platform_tcb(self.microcode)

    @property
    def cpusvn(self) -> bytes:
        """Present CPUSVN, 16 bytes."""
        return self.tcb.cpusvn

    @property
    def pcesvn(self) -> int:
        """Present PCESVN."""
        return self.tcb.pcesvn

    def microcode_update(self) -> None:
        """Raise CPUSVN; a new PCK key and certificate come with it."""
        self.world.raise_svn(self.name, microcode=1)

    def tdx_module_update(self) -> None:
        """Raise the TDX module's SVN under the running TDs."""
        self.world.raise_svn(self.name, tdx_module=1)

    # -- certification -------------------------------------------------------------

    @property
    def pck_fields(self) -> PckFields:
        """What the present PCK certificate says."""
        scalable = self.ca == "platform"
        return PckFields(
            ppid=self.ppid,
            tcb=self.tcb,
            pceid=self.pceid,
            fmspc=self.fmspc,
            sgx_type=1 if scalable else 0,
            piid=self.piid,
            flags=ConfigurationFlags() if scalable else None,
        )

    @property
    def pck(self) -> Authority:
        """The present PCK key and certificate."""
        return self._present().pck

    @property
    def pck_chain(self) -> str:
        """PEM of PCK leaf, PCK CA and root."""
        return self._present().chain

    def _present(self) -> _Certified:
        level = self.microcode
        if level not in self._certified:
            label = f"{self.name}/{level}"
            pck = self.world.issue_pck(label, self.ca, self.pck_fields)
            keys = {
                tee: self._seed.p256("attestation-key", tee.value, str(level))
                for tee in (Tee.SGX, Tee.TDX)
            }
            chain = self.world.pck_chain(pck, self.ca)
            self._certified[level] = _Certified(pck, chain, keys)
        return self._certified[level]

    def sgx_quote_parts(self, body: ReportBody) -> QuoteParts:
        """A version 3 quote over an enclave's report body, before signing."""
        return self._parts(Tee.SGX, QuoteForm.V3_SGX, body.pack())

    def td_quote_parts(self, body: TdBody, form: QuoteForm) -> QuoteParts:
        """A version 4 or 5 quote over a TD report body, before signing."""
        return self._parts(Tee.TDX, form, body.pack(form))

    def _parts(self, tee: Tee, form: QuoteForm, body: bytes) -> QuoteParts:
        present = self._present()
        qe_id = self._seed.octets("qe-id", tee.value, length=16)
        sgx = tee is Tee.SGX
        qe = catalogue.qe_report(tee, self.cpusvn)
        header = QuoteHeader(
            version=form.version,
            tee_type=TEE_SGX if sgx else TEE_TDX,
            user_data=qe_id.ljust(20, b"\0"),
            qe_svn=qe.isv_svn if sgx else 0,
            pce_svn=self.pcesvn if sgx else 0,
        )
        return QuoteParts(
            header=header,
            body=body,
            body_type=form.body_type or None,
            attestation_key=present.attestation_keys[tee],
            qe=qe,
            qe_signer=present.pck.key,
            chain=present.chain,
        )

    # -- what runs on it -----------------------------------------------------------

    def launch_td(self, image: TdImage) -> SimTd:
        """Start a TD.

        Raises:
            PlatformError: ``platform_unsupported``, on a machine of the processor CA,
                which has no TDX.
        """
        if self.ca != "platform":
            detail = f"platform {self.name} has no TDX: its PCK is of the processor CA"
            raise PlatformError(Code.PLATFORM_UNSUPPORTED, detail)
        return SimTd(self, image)

    def load_enclave(self, image: EnclaveImage) -> SimEnclave:
        """Start an SGX enclave.

        Raises:
            PlatformError: ``platform_unsupported``, where the image asks for attributes
                that only Intel's own enclaves get.
        """
        return SimEnclave(self, image)

    @property
    def cpu_secrets(self) -> CpuSecrets:
        """What EGETKEY derives from, at the present CPUSVN."""
        return CpuSecrets(
            seal_base=self._seed.octets("seal-base", length=16),
            report_base=self._seed.octets("report-base", length=16),
            owner_epoch=self._seed.octets("owner-epoch", length=16),
            report_key_id=self._seed.octets("report-key-id", length=32),
            cpu_svn=self.cpusvn,
        )
