# SPDX-License-Identifier: Apache-2.0
"""What a quote stands on: a PCK chain and collateral that passed every check together.

Whether they fit each other is a matter of their content and the root alone, and is kept
by content. When they hold is a span of time, the intersection of every validity period
among them, and ``now`` is compared with it on every call. Outside of it nothing is
reused, and the check that fails says which period is over.
"""

from __future__ import annotations

from dataclasses import dataclass

from tightseal.evidence.intel.certs import Certificate
from tightseal.evidence.intel.chains import PckChain, SigningChain
from tightseal.evidence.intel.crl import Crl
from tightseal.evidence.intel.qe_identity import QeIdentity
from tightseal.evidence.intel.run import Run
from tightseal.evidence.intel.signatures import sha256
from tightseal.evidence.intel.tcb_info import TcbInfo
from tightseal.model.roots import TrustedRoot

__all__ = ["Ground", "recall", "remember"]


@dataclass(frozen=True, slots=True)
class Ground:
    """A chain and collateral, verified together.

    Attributes:
        valid_from, valid_until: Unix seconds, both inclusive: when all of it is valid.
    """

    root: TrustedRoot
    root_certificate: Certificate
    pck: PckChain
    root_crl: Crl
    pck_crl: Crl
    tcb_signing: SigningChain
    qe_signing: SigningChain
    tcb_info: TcbInfo
    qe_identity: QeIdentity
    valid_from: int
    valid_until: int


def recall(run: Run) -> bool:
    """Put into ``run`` what stood these very checks before, if it is valid now.

    Whether collateral goes back is not settled by this: the guard is asked every time.
    """
    run.chain_digest = sha256(run.quote.certification_data)
    if run.cache is None:
        return False
    role, content = _key(run)
    for root in run.roots:
        found = run.cache.get((role, root.trust_domain.root_key_id, content))
        if (
            isinstance(found, Ground)
            and found.valid_from <= run.now <= found.valid_until
        ):
            _put_into(run, found)
            return True
    return False


def remember(run: Run) -> None:
    """Keep what has just passed every check from the embedded chain to the PCEID."""
    if run.cache is None:
        return
    role, content = _key(run)
    key = (role, run.root.trust_domain.root_key_id, content)
    run.cache.put(key, _ground(run))


def _key(run: Run) -> tuple[str, bytes]:
    """The TEE decides which TCB info and QE identity are the right ones."""
    return f"ground:{run.tee.value}", run.chain_digest + run.collateral.content_hash


def _ground(run: Run) -> Ground:
    crls = (run.root_crl, run.pck_crl)
    documents = (run.tcb_info, run.qe_identity)
    certificates = (
        run.root_certificate,
        *(run.pck.root, run.pck.ca, run.pck.leaf),
        *(run.tcb_signing.root, run.tcb_signing.leaf),
        *(run.qe_signing.root, run.qe_signing.leaf),
    )
    return Ground(
        root=run.root,
        root_certificate=run.root_certificate,
        pck=run.pck,
        root_crl=run.root_crl,
        pck_crl=run.pck_crl,
        tcb_signing=run.tcb_signing,
        qe_signing=run.qe_signing,
        tcb_info=run.tcb_info,
        qe_identity=run.qe_identity,
        valid_from=max(
            *(c.not_before for c in certificates),
            *(c.this_update for c in crls),
            *(d.issued_at for d in documents),
        ),
        valid_until=min(
            *(c.not_after for c in certificates),
            # A CRL is current until before its next update.
            *(c.next_update - 1 for c in crls),
            *(d.next_update for d in documents),
        ),
    )


def _put_into(run: Run, ground: Ground) -> None:
    run.root = ground.root
    run.root_certificate = ground.root_certificate
    run.pck = ground.pck
    run.root_crl = ground.root_crl
    run.pck_crl = ground.pck_crl
    run.tcb_signing = ground.tcb_signing
    run.qe_signing = ground.qe_signing
    run.tcb_info = ground.tcb_info
    run.qe_identity = ground.qe_identity
