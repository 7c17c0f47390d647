# SPDX-License-Identifier: Apache-2.0
"""The built-in policy: the release settings as a policy of measured keys.

One workload for each TEE, which all evidence fits: its keys belong to the selected
measurements, so whoever presents others gets others. Purposes, labels, lengths and
protocols are free.
"""

from __future__ import annotations

from types import MappingProxyType

from tightseal.model.claims import Tee
from tightseal.model.keypath import IdentityKind, KeyPart, KeyType, ProtocolClass
from tightseal.model.settings import ReleaseSettings
from tightseal.model.verifiers import VerifierMode
from tightseal.policy.compile_tcb import compile_tcb
from tightseal.policy.compiled import Image, KeyRule, Policy, Workload
from tightseal.policy.document import TcbRules
from tightseal.policy.index import ImageIndex

__all__ = ["builtin_policy"]


def builtin_policy(settings: ReleaseSettings) -> Policy:
    """The policy of a provider without documents.

    It has no names, so its grants have none, and it demands no counting.

    Args:
        settings: the release settings; what they leave open is refused, as everywhere.
    """
    everyone = {tee: _image(settings, tee) for tee in Tee}
    return Policy((), ImageIndex(()), everyone=MappingProxyType(everyone))


def _image(settings: ReleaseSettings, tee: Tee) -> Image:
    workload = Workload(
        tenant=settings.tenant,
        name="",
        identity=IdentityKind.MEASURED,
        tee=tee,
        trust_domain=None,
        platform=settings.platform,
        one_verifier=_one_verifier(settings, tee),
        binds=tuple(sorted(settings.identity_selections()[tee])),
        tcb=compile_tcb(_tcb(settings, tee), tee, ()),
        keys=(),
        every_key=KeyRule(
            purpose="",
            key_type=KeyType.RAW,
            kdf=settings.kdf,
            length=None,
            protocols=frozenset(ProtocolClass),
            labels=None,
            parts=frozenset({KeyPart.PRIVATE}),
        ),
    )
    return Image(workload, label="", begins=None, ends=None, selectors=())


def _one_verifier(settings: ReleaseSettings, tee: Tee) -> bool:
    """One verifier's word counts where only one can judge, or a setting says so."""
    return (
        tee is Tee.SNP
        or settings.verifier is not VerifierMode.BOTH
        or bool(settings.verifier_exceptions)
    )


def _tcb(settings: ReleaseSettings, tee: Tee) -> TcbRules:
    if tee is Tee.SNP:
        return TcbRules(snp=settings.snp_minimum_tcb)
    return TcbRules(statuses=settings.accepted_tcb)
