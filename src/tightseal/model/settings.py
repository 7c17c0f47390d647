# SPDX-License-Identifier: Apache-2.0
"""Release settings: what changes which key leaves, and to whom.

They come only from the measured configuration or, later, a signed bundle. Their digest
is part of the provider's identity, and where no policy root is pinned it enters every
key path: whoever edits them gets other keys.

The digest covers only what differs from the default. So a later version may add a
setting without changing anybody's keys, and for the same reason **a default, once
released, never changes**: the table of defaults is a golden file in the tests.
"""

from __future__ import annotations

import base64
import binascii
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from tightseal.errors import Code, SettingsError
from tightseal.model.canonical import Value, digest
from tightseal.model.claims import MEASUREMENT_NAMES, TcbStatus, Tee
from tightseal.model.exchange import MAX_KEY_REQUESTS
from tightseal.model.keypath import MAX_NAME_CHARS, Authority, Kdf
from tightseal.model.labels import Label
from tightseal.model.logclass import AuditLogSettings, LogClass
from tightseal.model.verifiers import VerifierException, VerifierMode
from tightseal.model.wire_fields import MAX_EVENT_LOG_BYTES, MAX_EVIDENCE_BYTES

__all__ = [
    "DECIDED_BY_DOCUMENTS",
    "FIRST_START",
    "MEASURED_ALONE",
    "ExpiredPolicy",
    "KeyringAnchorRule",
    "LegacyDerivation",
    "LegacySettings",
    "LimitSettings",
    "PlatformRule",
    "ReleaseSettings",
    "RootKind",
    "SlotProviderSettings",
    "SlotSigner",
    "SnpMinimum",
]

MAX_SIMULATED_ROOTS: Final = 4
"""Most simulated roots that can be switched on at once."""

MAX_PER_MINUTE: Final = 1_000_000
"""Highest limit by the minute."""

MAX_ROTATE_DAYS: Final = 36_500
"""Longest age of a generation, in days: a hundred years."""

ALWAYS_BOUND: Final = {
    Tee.TDX: ("td_attributes", "xfam"),
    Tee.SGX: ("attributes",),
    Tee.SNP: ("policy",),
}
"""Attributes that enter every measured key, besides the selected measurements."""

LAUNCH_MEASUREMENTS: Final = {
    Tee.TDX: ("mrtd",),
    Tee.SGX: ("mrenclave", "mrsigner"),
    Tee.SNP: ("snp_measurement", "id_key_digest", "author_key_digest"),
}
"""What names the code that was launched, or who signed it; every selection has one.

All else is chosen by the host (MRCONFIGID, HOST_DATA) or extended by whatever runs: a
host with firmware of its own puts any value into an RTMR.
"""


FIRST_START: Final = "first-start"
"""In place of a policy root: that of the first bundle that comes; development only."""

DECIDED_BY_DOCUMENTS: Final = (
    "accepted_tcb",
    "snp_minimum_tcb",
    "tdx_identity",
    "sgx_identity",
    "snp_identity",
    "platform",
    "kdf",
    "tenant",
)
"""Settings of the built-in policy; under a policy root the documents decide instead."""

MEASURED_ALONE: Final = (
    "policy_root",
    "root",
    "keyring_id",
    "keyring_anchor",
    "simulated_roots",
)
"""Settings that no bundle can change: they say whom to believe in the first place."""


class RootKind(StrEnum):
    """What keys are derived from."""

    PLATFORM = "platform"
    """The platform's own sealing key: the sidecar, which stores nothing."""

    KEYRING = "keyring"
    """Random roots in a keyring, opened through slots: the service."""


class ExpiredPolicy(StrEnum):
    """What happens when the policy in force has expired and no newer one came."""

    KEEP = "keep"
    """It goes on deciding, and health says so: a late signature costs no disk."""

    REFUSE = "refuse"
    """Nothing is released until a newer one comes."""


class KeyringAnchorRule(StrEnum):
    """What must have been asked about a keyring before anything of it is used."""

    ANY = "any"
    """What host settings name, or nothing."""

    TPM = "tpm"
    """The counter of a TPM, whatever host settings say."""


class PlatformRule(StrEnum):
    """Which platforms a workload may run on."""

    SAME = "same"
    """The provider's own machine, by verified PPID and PIID, or chip id."""

    ANY = "any"


class SlotSigner(StrEnum):
    """Whether slots of a keyring may belong to the signer of the enclave."""

    REFUSE = "refuse"

    ALLOW = "allow"
    """Whoever has the signing key can build an enclave that opens such a slot."""


class LegacyDerivation(StrEnum):
    """How the legacy protocol derives a key."""

    CHAIN = "chain"
    """The labelled chain, with protocol class ``legacy``."""

    COMPATIBLE = "compatible"
    """``SHA256(sealing key | MRTD | RTMR0..3)``, as the systems it replaces do; it can
    reproduce the keys of this same enclave only, and leaves attributes out."""


class LegacySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The framed TCP protocol of gramine-sealing-key-provider and dstack.

    Attributes:
        enabled: whether the protocol is served at all.
        derivation: the labelled chain, or the compatible formula.
        json_errors: answer a refusal with a framed JSON error instead of closing.
    """

    enabled: bool = False
    derivation: LegacyDerivation = LegacyDerivation.CHAIN
    json_errors: bool = False


class SnpMinimum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Lowest accepted ``reported_tcb`` component values; AMD publishes no status.

    Attributes:
        bootloader, tee, snp, microcode: minimum per component.
        fmc: minimum for Turin's FMC; 0 where the product has none.
    """

    bootloader: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    tee: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    snp: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    microcode: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    fmc: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0


PerMinute = Annotated[int, msgspec.Meta(ge=0, le=MAX_PER_MINUTE)]


class LimitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds that decide whether a request is looked at, and how often one is granted.

    Attributes:
        max_evidence_bytes: longest evidence.
        max_event_log_bytes: longest event log sent along.
        max_keys: most keys in one exchange.
        platform_per_minute: most releases to one platform, by verified PPID or chip id,
            in a minute, over all nodes; 0 for no limit.
        workload_per_minute: most releases to one workload, likewise.
        tenant_per_minute: most releases to one tenant, likewise.
        platform_denials_per_minute: most denials by the policy of authentic evidence of
            one platform, likewise; until the next minute it then gets nothing.
    """

    max_evidence_bytes: Annotated[int, msgspec.Meta(ge=4096, le=MAX_EVIDENCE_BYTES)] = (
        1 << 18
    )
    max_event_log_bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_EVENT_LOG_BYTES)] = (
        1 << 18
    )
    max_keys: Annotated[int, msgspec.Meta(ge=1, le=MAX_KEY_REQUESTS)] = 16
    platform_per_minute: PerMinute = 0
    workload_per_minute: PerMinute = 0
    tenant_per_minute: PerMinute = 0
    platform_denials_per_minute: PerMinute = 0


class SlotProviderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The provider that slots of class ``provider`` have their keys from: its pin.

    Whoever chose it could open the keyring, so it is never a host setting.

    Attributes:
        tee: its TEE: ``sgx`` or ``snp``; a TD's measurement leaves out its software.
        measurement: of its image, hex; empty: no provider is pinned.
        keyring_id: its keyring, 64 hex digits, or ``sidecar``.
        policy_root: the root that it pins, 64 hex digits; empty: none.
        settings_digest: of its release settings, 128 hex digits; empty: any that its
            policy root has signed.
        trust_domains: of its platform: ``intel``, ``amd``, ``simulated:<root key id>``.
        accepted_tcb: Intel TCB statuses of its platform.
        allow_simulated: has to be said besides naming a simulated trust domain.
    """

    tee: Tee = Tee.SGX
    measurement: Annotated[
        str, msgspec.Meta(pattern=r"^([0-9a-f]{64}|[0-9a-f]{96})?\Z")
    ] = ""
    keyring_id: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64}|sidecar)?\Z")] = ""
    policy_root: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    settings_digest: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{128})?\Z")] = ""
    trust_domains: Annotated[tuple[str, ...], msgspec.Meta(max_length=16)] = ()
    accepted_tcb: tuple[TcbStatus, ...] = (TcbStatus.UP_TO_DATE,)
    allow_simulated: bool = False

    @property
    def pinned(self) -> bool:
        """Whether a provider is pinned at all."""
        parts = (
            self.measurement,
            self.keyring_id,
            self.policy_root,
            self.settings_digest,
            self.trust_domains,
        )
        return any(parts)

    def __post_init__(self) -> None:
        """Refuse half a pin.

        Raises:
            SettingsError: ``settings_invalid``, naming what is missing.
        """
        if not self.pinned:
            return
        given = {
            "measurement": self.measurement,
            "keyring_id": self.keyring_id,
            "trust_domains": self.trust_domains,
            "settings_digest or policy_root": self.settings_digest or self.policy_root,
        }
        if missing := [name for name, value in given.items() if not value]:
            _refuse(f"slot_provider lacks {', '.join(missing)}")


Name = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[a-z0-9][a-z0-9._-]*\Z"
    ),
]


class ReleaseSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Every release setting with its default.

    Attributes:
        verifier: which verifiers judge Intel evidence.
        verifier_exceptions: rules on which one verifier may be overruled, by name.
        accepted_tcb: Intel TCB statuses that get keys.
        snp_minimum_tcb: lowest accepted AMD component versions.
        tdx_identity, sgx_identity, snp_identity: the measurements that a ``measured``
            key belongs to.
        platform: which platforms a workload may run on.
        kdf: KDF of every chain.
        tenant: the tenant that keys are derived under.
        nonce_life: seconds that a challenge can be answered.
        attested_key_life: seconds after which the attested key is renewed.
        simulated_roots: base64 of the DER root certificates of simulated worlds that
            are accepted. Empty in production.
        policy_root: the pinned policy root, 64 hex digits: documents in signed bundles
            decide. Empty: the built-in policy of these settings. ``first-start``: the
            root of the first bundle that comes, in simulated worlds only.
        root: whether keys come from the platform's sealing key or from a keyring.
        keyring_id: the one keyring that is opened, 64 hex digits; empty: any that opens
            here. Workloads pin it in any case.
        expired_policy: whether a policy whose signatures have expired goes on.
        rotate_after_days: a provider rotates its keyring by itself once the current
            generation is that old by signed time; 0 for never.
        slot_signer: whether slots of the keyring may belong to the signer of the
            enclave: whoever has the signing key can build one that opens them.
        slot_provider: pin of the provider that slots have their keys from.
        keyring_anchor: what must have been asked about the keyring before anything of
            it is used: ``tpm`` is asked even where host settings switch it off.
        legacy: the framed TCP protocol.
        limits: bounds on requests.
        audit_log: what must have seen the entry of a release before its key leaves.
    """

    verifier: VerifierMode = VerifierMode.BOTH
    verifier_exceptions: tuple[VerifierException, ...] = ()
    accepted_tcb: tuple[TcbStatus, ...] = (TcbStatus.UP_TO_DATE,)
    snp_minimum_tcb: SnpMinimum = SnpMinimum()
    tdx_identity: tuple[str, ...] = (
        "mrtd",
        "rtmr0",
        "rtmr1",
        "rtmr2",
        "rtmr3",
        "mr_config_id",
        "mr_owner",
        "mr_owner_config",
    )
    sgx_identity: tuple[str, ...] = ("mrenclave", "isv_prod_id", "config_id")
    snp_identity: tuple[str, ...] = (
        "snp_measurement",
        "host_data",
        "vmpl",
        "id_key_digest",
    )
    platform: PlatformRule = PlatformRule.SAME
    kdf: Kdf = Kdf.HKDF_SHA256
    tenant: Name = "default"
    nonce_life: Annotated[int, msgspec.Meta(ge=10, le=600)] = 120
    attested_key_life: Annotated[int, msgspec.Meta(ge=60, le=86_400)] = 3600
    simulated_roots: Annotated[
        tuple[str, ...], msgspec.Meta(max_length=MAX_SIMULATED_ROOTS)
    ] = ()
    policy_root: Annotated[
        str, msgspec.Meta(pattern=rf"^([0-9a-f]{{64}}|{FIRST_START})?\Z")
    ] = ""
    root: RootKind = RootKind.PLATFORM
    keyring_id: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    expired_policy: ExpiredPolicy = ExpiredPolicy.KEEP
    rotate_after_days: Annotated[int, msgspec.Meta(ge=0, le=MAX_ROTATE_DAYS)] = 0
    slot_signer: SlotSigner = SlotSigner.REFUSE
    slot_provider: SlotProviderSettings = SlotProviderSettings()
    keyring_anchor: KeyringAnchorRule = KeyringAnchorRule.ANY
    legacy: LegacySettings = LegacySettings()
    limits: LimitSettings = LimitSettings()
    audit_log: AuditLogSettings = AuditLogSettings()

    def __post_init__(self) -> None:
        """Refuse what the types cannot express.

        Raises:
            SettingsError: ``settings_invalid``, naming the setting.
        """
        for tee, names in self.identity_selections().items():
            _check_selection(tee, names)
        _check_unique("accepted_tcb", self.accepted_tcb)
        _check_unique("verifier_exceptions", self.verifier_exceptions)
        if not self.accepted_tcb:
            _refuse("accepted_tcb is empty: no Intel evidence could get a key")
        if TcbStatus.REVOKED in self.accepted_tcb:
            _refuse("accepted_tcb names Revoked, which is never accepted")
        for text in self.simulated_roots:
            _decode_root(text)

    def check_measured(self) -> None:
        """Refuse what the measured configuration must leave to signed bundles.

        Under a policy root the settings digest is in no key path, so what changes a
        release has to be signed: else a host that edits a file would keep the keys.

        Raises:
            SettingsError: ``settings_invalid``, naming the settings.
        """
        if not self.policy_root:
            if self.audit_log.least is LogClass.ANCHORED:
                _refuse("audit_log.least is anchored: without policy_root is no state")
            return
        if self.policy_root == FIRST_START and not self.simulated_roots:
            _refuse(
                "policy_root is first-start, which is for simulated worlds: the host "
                "would choose who decides; give the root that the approvers made"
            )
        if unsigned := sorted(set(self.differences()) - set(MEASURED_ALONE)):
            _refuse(
                f"{', '.join(unsigned)}: under a policy root it comes in the signed "
                "bundle's release.toml; leave it out here"
            )

    def identity_selections(self) -> dict[Tee, tuple[str, ...]]:
        """The selected measurements of each TEE."""
        return {
            Tee.TDX: self.tdx_identity,
            Tee.SGX: self.sgx_identity,
            Tee.SNP: self.snp_identity,
        }

    def simulated_root_certificates(self) -> tuple[bytes, ...]:
        """The simulated roots as DER certificates, not yet parsed."""
        return tuple(_decode_root(text) for text in self.simulated_roots)

    def differences(self) -> dict[str, Value]:
        """The settings that differ from their default, nested, as canonical values."""
        return _differences(self)

    def digest(self) -> bytes:
        """SHA-512 over the labelled encoding of :meth:`differences`; 64 bytes."""
        return digest(Label.SETTINGS, self.differences())

    def authority(self, policy_root: bytes | None = None) -> Authority:
        """What stands behind the rules: the policy root, or these settings alone."""
        if policy_root is not None:
            return Authority(kind="policy_root", value=policy_root)
        return Authority(kind="settings_digest", value=self.digest())

    def under(self, measured: ReleaseSettings) -> ReleaseSettings:
        """These settings, as a signed bundle brought them, beside the measured ones.

        What is measured alone is taken from there, whatever the bundle says.
        """
        kept = {name: getattr(measured, name) for name in MEASURED_ALONE}
        return msgspec.structs.replace(self, **kept)


def _differences(settings: msgspec.Struct) -> dict[str, Value]:
    changed: dict[str, Value] = {}
    for field in msgspec.structs.fields(type(settings)):
        value = getattr(settings, field.name)
        if value == field.default:
            continue
        if isinstance(value, msgspec.Struct):
            changed[field.name] = _differences(value)
        else:
            changed[field.name] = msgspec.to_builtins(value)
    return changed


def _check_selection(tee: Tee, names: tuple[str, ...]) -> None:
    setting = f"{tee.value}_identity"
    _check_unique(setting, names)
    if not names:
        _refuse(f"{setting} is empty: every workload would share its keys")
    unknown = set(names) - set(MEASUREMENT_NAMES[tee])
    if unknown:
        known = ", ".join(MEASUREMENT_NAMES[tee])
        _refuse(f"{setting} names {sorted(unknown)}; known are {known}")
    if not set(names) & set(LAUNCH_MEASUREMENTS[tee]):
        launch = " or ".join(LAUNCH_MEASUREMENTS[tee])
        _refuse(f"{setting} lacks {launch}: any code could take on the rest")


def _check_unique(setting: str, values: tuple[str, ...]) -> None:
    if len(set(values)) != len(values):
        _refuse(f"{setting} names something twice")


def _decode_root(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        message = "simulated_roots: not the base64 of a DER certificate"
        raise SettingsError(Code.SETTINGS_INVALID, message) from e


def _refuse(message: str) -> None:
    raise SettingsError(Code.SETTINGS_INVALID, message)
