# SPDX-License-Identifier: Apache-2.0
"""What verified evidence says: the only thing that policy may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from tightseal.model.canonical import Value

__all__ = [
    "MEASUREMENT_NAMES",
    "Check",
    "Claims",
    "Outcome",
    "PlatformIdentity",
    "SnpTcb",
    "Tcb",
    "TcbStatus",
    "Tee",
    "TrustDomain",
    "Vendor",
]


class Tee(StrEnum):
    """The kind of trusted execution environment that made the evidence."""

    TDX = "tdx"
    SGX = "sgx"
    SNP = "snp"


class TcbStatus(StrEnum):
    """Intel's TCB status, merged over platform, quoting enclave and TDX module.

    A closed enumeration (Intel PCS v4, TCB info v3, and the two relaunch statuses that
    Intel's QVL adds for TD 1.5). ``REVOKED`` never appears in claims: it is refused.
    """

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    REVOKED = "Revoked"


class Vendor(StrEnum):
    """Who stands behind a root key."""

    INTEL = "intel"
    AMD = "amd"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """The root that evidence chains to.

    Attributes:
        vendor: Intel, AMD or a simulated world.
        root_key_id: lower-case hex of SHA-384 over the root's public key bits (the
            BIT STRING content of its SubjectPublicKeyInfo); for Intel's root this is
            the ``root_key_id`` that other verifiers print.
    """

    vendor: Vendor
    root_key_id: str

    def __str__(self) -> str:
        """``intel``, ``amd`` or ``simulated:<root key id>``: what enters key paths."""
        if self.vendor is Vendor.SIMULATED:
            return f"{self.vendor.value}:{self.root_key_id}"
        return self.vendor.value

    @property
    def simulated(self) -> bool:
        """Whether the root is not a vendor's."""
        return self.vendor is Vendor.SIMULATED


@dataclass(frozen=True, slots=True)
class Tcb:
    """The state of the platform's trusted computing base, by Intel's collateral.

    Attributes:
        status: merged status; never ``REVOKED``.
        advisory_ids: the union over platform, QE and TDX module.
        evaluation_number: the smaller of TCB info's and QE identity's
            ``tcbEvaluationDataNumber``.
        date: ``tcbDate`` of the matched platform level, as Intel writes it.
        dynamic_platform, cached_keys, smt_enabled: from the PCK certificate; ``None``
            where it does not say (processor CA).
    """

    status: TcbStatus
    advisory_ids: frozenset[str]
    evaluation_number: int
    date: str
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class SnpTcb:
    """AMD's TCB version, split by component (SEV-SNP ABI, TCB_VERSION).

    ``fmc`` exists from Turin on and is ``None`` before.
    """

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None


@dataclass(frozen=True, slots=True)
class PlatformIdentity:
    """Which machine: read from verified certificates only.

    An identity that is absent or all zero is ``None`` and matches nothing.

    Attributes:
        ppid: Intel PPID, 16 bytes.
        piid: Intel platform instance id, 16 bytes; platform CA only.
        fmspc: Intel FMSPC, 6 bytes; names a family of platforms, not a machine.
        chip_id: AMD chip id (64 bytes, 8 on Turin) from a VCEK; VLEKs have none.
    """

    ppid: bytes | None = None
    piid: bytes | None = None
    fmspc: bytes | None = None
    chip_id: bytes | None = None

    def same_machine(self, other: PlatformIdentity) -> bool:
        """Whether both are known and are one machine.

        PPID must be equal, and PIID where either side has one; or the AMD chip ids.
        """
        if self.ppid is not None and other.ppid is not None:
            return self.ppid == other.ppid and self.piid == other.piid
        if self.chip_id is not None and other.chip_id is not None:
            return self.chip_id == other.chip_id
        return False


class Outcome(StrEnum):
    """How a named check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOTED = "noted"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One named check of a verifier's numbered list.

    Attributes:
        name: stable name, such as ``quote_signature``.
        outcome: passed, failed, noted (tolerated and reported) or skipped.
        spec: where the rule comes from.
    """

    name: str
    outcome: Outcome
    spec: str


MEASUREMENT_NAMES: Final[Mapping[Tee, tuple[str, ...]]] = MappingProxyType(
    {
        Tee.TDX: (
            "mrtd",
            "rtmr0",
            "rtmr1",
            "rtmr2",
            "rtmr3",
            "mr_config_id",
            "mr_owner",
            "mr_owner_config",
            "mr_seam",
            "mr_signer_seam",
            "mr_service_td",
            "td_attributes",
            "xfam",
            "tee_tcb_svn",
        ),
        Tee.SGX: (
            "mrenclave",
            "mrsigner",
            "isv_prod_id",
            "isv_svn",
            "isv_ext_prod_id",
            "isv_family_id",
            "config_id",
            "config_svn",
            "attributes",
            "misc_select",
            "cpu_svn",
        ),
        Tee.SNP: (
            "snp_measurement",
            "host_data",
            "id_key_digest",
            "author_key_digest",
            "family_id",
            "image_id",
            "guest_svn",
            "vmpl",
            "policy",
            "report_id",
            "reported_tcb",
        ),
    }
)
"""The measurement names of each TEE, in report order. Values are the raw bytes."""


_MIGRATE_MA: Final = 18


@dataclass(frozen=True, slots=True)
class Claims:
    """What verified evidence says. Made by verifiers only.

    Attributes:
        tee: kind of TEE.
        trust_domain: vendor and root key id of the chain that verified.
        measurements: name to bytes as they stand in the report (little-endian where
            the report is); exactly the names of ``MEASUREMENT_NAMES[tee]``.
        report_data: 64 bytes that the workload chose.
        debug: whether the host may read the workload (SNP: whether policy allows it).
        platform: identity from verified certificates.
        tcb: Intel's judgement; ``None`` for SNP.
        snp_tcb: AMD's component versions; ``None`` for Intel.
        single_verifier: whether only one verifier judged this evidence.
        checks: the checks made, in order.
        not_checked: what the caller still has to judge, in words.
        report_data_bound: whether the workload itself chose ``report_data``; ``False``
            for evidence wrapped by a paravisor (Azure HCL), whose report data commits
            to the paravisor's runtime data instead.
        evidence_hash: SHA-256 over the evidence cut to its declared length.
    """

    tee: Tee
    trust_domain: TrustDomain
    measurements: Mapping[str, bytes]
    report_data: bytes
    debug: bool
    platform: PlatformIdentity
    tcb: Tcb | None
    snp_tcb: SnpTcb | None = None
    single_verifier: bool = False
    checks: tuple[Check, ...] = ()
    not_checked: tuple[str, ...] = ()
    report_data_bound: bool = True
    evidence_hash: bytes = field(default=b"")

    @property
    def migratable(self) -> bool:
        """Whether a migration agent of the host's choice may move the workload away.

        SNP policy bit 18 (MIGRATE_MA), which the measurement does not cover. TDs that
        are migratable never get this far: the verifiers refuse them.
        """
        if self.tee is not Tee.SNP:
            return False
        policy = int.from_bytes(self.measurements["policy"], "little")
        return bool(policy >> _MIGRATE_MA & 1)

    def as_value(self) -> Value:
        """The claims as a canonical value, for digests and logs; checks left out."""
        tcb = self.tcb
        return {
            "tee": self.tee.value,
            "trust_domain": str(self.trust_domain),
            "root_key_id": self.trust_domain.root_key_id,
            "measurements": dict(self.measurements),
            "report_data": self.report_data,
            "debug": self.debug,
            "ppid": self.platform.ppid,
            "piid": self.platform.piid,
            "fmspc": self.platform.fmspc,
            "chip_id": self.platform.chip_id,
            "tcb": None
            if tcb is None
            else {
                "status": tcb.status.value,
                "advisory_ids": sorted(tcb.advisory_ids),
                "evaluation_number": tcb.evaluation_number,
                "date": tcb.date,
            },
            "single_verifier": self.single_verifier,
            "evidence_hash": self.evidence_hash,
        }
