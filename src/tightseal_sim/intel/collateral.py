# SPDX-License-Identifier: Apache-2.0
"""Collateral from its parts: signed over exact text, whole or spoiled on purpose."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tightseal.model.collateral import IntelCollateral
from tightseal_sim.intel.crl import Crl
from tightseal_sim.intel.signing import raw_signature

__all__ = ["CollateralParts", "SignedJson", "collateral_json", "compact"]


def compact(value: dict[str, Any]) -> str:
    """JSON without a superfluous byte, in the order given."""
    return json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class SignedJson:
    """A JSON text, who signs it, and the chain that is said to vouch for the signer.

    Attributes:
        text: what is signed, byte for byte.
        signer: the key.
        chain: PEM, leaf first.
    """

    text: str
    signer: ec.EllipticCurvePrivateKey
    chain: str

    def signature(self) -> bytes:
        """Raw r and s, 64 bytes."""
        return raw_signature(self.signer, self.text.encode())


@dataclass(frozen=True, slots=True)
class CollateralParts:
    """Everything that collateral is made of, before any signature."""

    tcb_info: SignedJson
    qe_identity: SignedJson
    root_crl: Crl
    pck_crl: Crl
    pck_crl_chain: str
    pck_certificate_chain: str | None = None

    def assemble(self) -> IntelCollateral:
        """Sign and join the parts."""
        return IntelCollateral(
            pck_crl_issuer_chain=self.pck_crl_chain,
            root_ca_crl=self.root_crl.encode(),
            pck_crl=self.pck_crl.encode(),
            tcb_info_issuer_chain=self.tcb_info.chain,
            tcb_info=self.tcb_info.text,
            tcb_info_signature=self.tcb_info.signature(),
            qe_identity_issuer_chain=self.qe_identity.chain,
            qe_identity=self.qe_identity.text,
            qe_identity_signature=self.qe_identity.signature(),
            pck_certificate_chain=self.pck_certificate_chain,
        )


def collateral_json(collateral: IntelCollateral) -> str:
    """The JSON of ``QuoteCollateralV3``: texts as they are, bytes as hex."""
    value: dict[str, Any] = {
        "pck_crl_issuer_chain": collateral.pck_crl_issuer_chain,
        "root_ca_crl": collateral.root_ca_crl.hex(),
        "pck_crl": collateral.pck_crl.hex(),
        "tcb_info_issuer_chain": collateral.tcb_info_issuer_chain,
        "tcb_info": collateral.tcb_info,
        "tcb_info_signature": collateral.tcb_info_signature.hex(),
        "qe_identity_issuer_chain": collateral.qe_identity_issuer_chain,
        "qe_identity": collateral.qe_identity,
        "qe_identity_signature": collateral.qe_identity_signature.hex(),
    }
    if collateral.pck_certificate_chain is not None:
        value["pck_certificate_chain"] = collateral.pck_certificate_chain
    return json.dumps(value)
