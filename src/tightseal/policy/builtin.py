# SPDX-License-Identifier: Apache-2.0
"""The built-in policy: identity ``measured``, over the release settings alone.

A key belongs to the selected measurements of the workload. The rules stand in the order
in which they are judged; every one leaves a reason for the operator's log.
"""

from __future__ import annotations

from dataclasses import dataclass

from tightseal.errors import Code, PolicyError
from tightseal.model.claims import Claims, PlatformIdentity, Tee, TrustDomain
from tightseal.model.grant import Grant, Reason
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    KeyPath,
    KeyRequest,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.model.settings import (
    ALWAYS_BOUND,
    LAUNCH_MEASUREMENTS,
    LegacyDerivation,
    PlatformRule,
    ReleaseSettings,
)

__all__ = ["Circumstances", "decide"]

_OWNER_BOUND = ("mr_config_id", "mr_owner", "mr_owner_config")


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a decision depends on besides the claims.

    Attributes:
        settings: the release settings.
        authority: policy root or settings digest; enters every key path.
        provider_platform: the provider's own platform, from its verified quote.
        provider_domain: the trust domain of the provider's own quote.
        protocol_class: the way in.
        generation: the generation of the root that keys are derived from.
        root_simulated: whether the root itself is of a simulated platform.
    """

    settings: ReleaseSettings
    authority: Authority
    provider_platform: PlatformIdentity
    provider_domain: TrustDomain
    protocol_class: ProtocolClass
    generation: int = 0
    root_simulated: bool = False


def decide(
    claims: Claims, *, keys: tuple[KeyRequest, ...], circumstances: Circumstances
) -> Grant:
    """Decide whether these claims get these keys.

    Args:
        claims: from verified evidence.
        keys: the key requests, in order.
        circumstances: settings and the provider's own verified identity.

    Returns:
        the grant, with one key path for each request.

    Raises:
        PolicyError: with the code of the first rule that says no; ``reasons`` on the
            error holds every rule judged so far.
    """
    trace: list[Reason] = []
    _require_not_debug(claims, trace)
    _require_not_migratable(claims, trace)
    _require_domain(claims, circumstances, trace)
    _require_root(circumstances, trace)
    _require_verifiers(claims, circumstances, trace)
    _require_tcb(claims, circumstances, trace)
    _require_platform(claims, circumstances, trace)
    binding = _bind(claims, circumstances, trace)
    domain = _weaker(claims.trust_domain, circumstances.provider_domain)
    paths = tuple(
        KeyPath(
            kdf=circumstances.settings.kdf,
            trust_domain=str(domain),
            tenant=circumstances.settings.tenant,
            workload=binding,
            protocol_class=circumstances.protocol_class,
            generation=circumstances.generation,
            purpose=key.purpose,
            label=key.label,
            length=key.length,
        )
        for key in keys
    )
    return Grant(paths=paths, reasons=tuple(trace))


def _judge(
    trace: list[Reason], code: Code, rule: str, *, expected: str, got: str, holds: bool
) -> None:
    """Note a rule, and deny where it does not hold."""
    trace.append(Reason(rule=rule, expected=expected, got=got, satisfied=holds))
    if not holds:
        error = PolicyError(code, f"{rule}: expected {expected}, got {got}")
        error.reasons = tuple(trace)
        raise error


def _require_not_debug(claims: Claims, trace: list[Reason]) -> None:
    _judge(
        trace,
        Code.DEBUG_ENABLED,
        "debug",
        expected="false",
        got=str(claims.debug).lower(),
        holds=not claims.debug,
    )


def _require_not_migratable(claims: Claims, trace: list[Reason]) -> None:
    _judge(
        trace,
        Code.SNP_MIGRATABLE,
        "migration agent",
        expected="false",
        got=str(claims.migratable).lower(),
        holds=not claims.migratable,
    )


def _require_domain(
    claims: Claims, circumstances: Circumstances, trace: list[Reason]
) -> None:
    """Keys never cross between a simulated world and another domain.

    A simulated root was already switched on for the verifier to accept it; this rule
    keeps a provider on real hardware from serving simulated workloads under its own
    root, and the other way round.
    """
    ours, theirs = circumstances.provider_domain, claims.trust_domain
    _judge(
        trace,
        Code.TRUST_DOMAIN_MISMATCH,
        "trust domain",
        expected=str(ours),
        got=str(theirs),
        holds=ours.simulated == theirs.simulated
        and (not ours.simulated or _same_world(claims, circumstances)),
    )


def _same_world(claims: Claims, circumstances: Circumstances) -> bool:
    """Whether two simulated identities come from one simulated root."""
    theirs = claims.trust_domain.root_key_id
    return theirs == circumstances.provider_domain.root_key_id


def _require_root(circumstances: Circumstances, trace: list[Reason]) -> None:
    """Keep keys of a hardware root from simulated workloads.

    The chain has the trust domain in it; the compatible formula leaves it out. A host
    carries all quotes: where a simulated root is switched on, it can sign them itself,
    the provider's own among them, and would get the key of the real workload.
    """
    compatible = LegacyDerivation.COMPATIBLE
    if (
        circumstances.protocol_class is not ProtocolClass.LEGACY
        or circumstances.settings.legacy.derivation is not compatible
    ):
        return
    ours = circumstances.provider_domain
    _judge(
        trace,
        Code.TRUST_DOMAIN_MISMATCH,
        "root of the compatible formula",
        expected=f"simulated, as {ours}" if ours.simulated else f"of {ours}",
        got="simulated" if circumstances.root_simulated else "of hardware",
        holds=ours.simulated == circumstances.root_simulated,
    )


def _require_verifiers(
    claims: Claims, circumstances: Circumstances, trace: list[Reason]
) -> None:
    """One verifier's word counts where only one can judge, or a setting says so."""
    settings = circumstances.settings
    allowed = (
        claims.tee is Tee.SNP
        or settings.verifier.value != "both"
        or bool(settings.verifier_exceptions)
    )
    _judge(
        trace,
        Code.SINGLE_VERIFIER_NOT_ACCEPTED,
        "verifiers",
        expected="two that agree",
        got="one" if claims.single_verifier else "two that agree",
        holds=not claims.single_verifier or allowed,
    )


def _require_tcb(
    claims: Claims, circumstances: Circumstances, trace: list[Reason]
) -> None:
    settings = circumstances.settings
    if claims.tcb is not None:
        _judge(
            trace,
            Code.TCB_STATUS_NOT_ACCEPTED,
            "tcb status",
            expected=" or ".join(s.value for s in settings.accepted_tcb),
            got=claims.tcb.status.value,
            holds=claims.tcb.status in settings.accepted_tcb,
        )
    if claims.snp_tcb is None:
        return
    minimum, got = settings.snp_minimum_tcb, claims.snp_tcb
    for name in ("bootloader", "tee", "snp", "microcode", "fmc"):
        least: int = getattr(minimum, name)
        value: int | None = getattr(got, name)
        _judge(
            trace,
            Code.TCB_STATUS_NOT_ACCEPTED,
            f"snp tcb {name}",
            expected=f"at least {least}",
            got="absent" if value is None else str(value),
            holds=(value or 0) >= least,
        )


def _require_platform(
    claims: Claims, circumstances: Circumstances, trace: list[Reason]
) -> None:
    if circumstances.settings.platform is PlatformRule.ANY:
        return
    ours, theirs = circumstances.provider_platform, claims.platform
    known = theirs.ppid is not None or theirs.chip_id is not None
    _judge(
        trace,
        Code.PLATFORM_UNKNOWN,
        "platform identity",
        expected="a PPID or chip id in the verified certificate",
        got="present" if known else "none",
        holds=known,
    )
    _judge(
        trace,
        Code.PLATFORM_MISMATCH,
        "platform",
        expected=f"the provider's own ({_show(ours)})",
        got=_show(theirs),
        holds=ours.same_machine(theirs),
    )


def _show(platform: PlatformIdentity) -> str:
    parts = (
        f"{name} {value.hex()}"
        for name, value in (
            ("ppid", platform.ppid),
            ("piid", platform.piid),
            ("chip id", platform.chip_id),
        )
        if value is not None
    )
    return ", ".join(parts) or "unknown"


def _bind(
    claims: Claims, circumstances: Circumstances, trace: list[Reason]
) -> WorkloadBinding:
    """Take the selected measurements, refusing a selection that binds nothing."""
    names = circumstances.settings.identity_selections()[claims.tee]
    if claims.tee is Tee.TDX and "rtmr3" not in names:
        # Without RTMR3 nothing names the application: any image of the same base
        # system would get the key, unless its owner's fields are in the identity.
        owner = [n for n in names if n in _OWNER_BOUND]
        _judge(
            trace,
            Code.IDENTITY_UNBOUND,
            "rtmr3 left out",
            expected="a non-zero mr_config_id, mr_owner or mr_owner_config",
            got=", ".join(owner) + " all zero" if owner else "none selected",
            holds=any(any(claims.measurements[n]) for n in owner),
        )
    launch = [n for n in names if n in LAUNCH_MEASUREMENTS[claims.tee]]
    bound = [n for n in launch if any(claims.measurements[n])]
    _judge(
        trace,
        Code.IDENTITY_UNBOUND,
        "identity",
        expected=f"{' or '.join(launch)} that is not all zero",
        got=", ".join(bound) or "all zero",
        holds=bool(bound),
    )
    return WorkloadBinding(
        identity=IdentityKind.MEASURED,
        name=None,
        tee=claims.tee,
        attributes=tuple((n, claims.measurements[n]) for n in ALWAYS_BOUND[claims.tee]),
        measurements=tuple((n, claims.measurements[n]) for n in sorted(names)),
        authority=circumstances.authority,
    )


def _weaker(evidence: TrustDomain, provider: TrustDomain) -> TrustDomain:
    """The weaker of two roots: a simulated one makes the whole exchange simulated."""
    return evidence if evidence.simulated or not provider.simulated else provider
