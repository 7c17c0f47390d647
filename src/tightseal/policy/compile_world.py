# SPDX-License-Identifier: Apache-2.0
"""Which world evidence must be of, and by how many verifiers it must be judged."""

from __future__ import annotations

from tightseal.model.claims import Tee, Vendor
from tightseal.policy.document import Choice
from tightseal.policy.locate import Path
from tightseal.policy.read import FieldFault

__all__ = ["one_verifier", "trust_domain_of"]


def trust_domain_of(named: str | None, tee: Tee, path: Path) -> str:
    """The trust domain that is named, or the TEE's vendor.

    Raises:
        FieldFault: evidence of this TEE never chains there.
    """
    vendor = Vendor.AMD if tee is Tee.SNP else Vendor.INTEL
    other = Vendor.INTEL if tee is Tee.SNP else Vendor.AMD
    if named == other.value:
        message = f"{tee.value} evidence never chains to {other.value}"
        raise FieldFault((*path, "trust_domain"), message)
    return named or vendor.value


def one_verifier(choice: Choice | None, tee: Tee) -> bool:
    """Whether one verifier's word is enough; by default where there is only one."""
    return tee is Tee.SNP if choice is None else choice is Choice.ACCEPT
