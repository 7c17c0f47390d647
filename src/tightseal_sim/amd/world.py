# SPDX-License-Identifier: Apache-2.0
"""AMD itself: ARK, ASK and ASVK of each product line, certificates and CRLs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tightseal.evidence.roots import simulated_root
from tightseal.model.claims import SnpTcb
from tightseal.model.collateral import SnpCertificates
from tightseal.model.roots import TrustedRoot
from tightseal_sim.amd import pki
from tightseal_sim.amd.chip import SimChip
from tightseal_sim.amd.generations import (
    GENERATIONS,
    Generation,
    encode_tcb,
    generation,
)
from tightseal_sim.amd.keys import (
    AMD_RSA_BITS,
    OnceStore,
    RsaKeys,
    p384,
    public_spki,
)
from tightseal_sim.derive import Seed

__all__ = ["CSP_ID", "AmdWorld"]

CSP_ID: Final = "CN=cloud.invalid"
"""The provider that simulated VLEKs are made for."""

_ARK_SERIAL: Final = 0x10000
_ASK_SERIAL: Final = 0x10001
_ASVK_SERIAL: Final = 0x10101
_CRL_SECONDS: Final = 180 * 86400


class AmdWorld:
    """AMD in a simulated world: three product lines, each under its own ARK.

    Chips, their keys and what their guests derive grow from the seed. RSA keys and CA
    certificates are made when first asked for and kept in the folder, so that a second
    process that opens it sees the same roots.

    Args:
        folder: where keys and certificates are kept; ``None`` keeps them in memory.
        seed: 32 bytes.
        rsa_bits: size of the CA keys; AMD's 4096 unless a test is in a hurry.
    """

    def __init__(
        self, folder: Path | None, seed: bytes, *, rsa_bits: int = AMD_RSA_BITS
    ) -> None:
        self._store = OnceStore(None if folder is None else Path(folder) / "amd")
        self._keys = RsaKeys(self._store, rsa_bits)
        self._seed = Seed(seed)

    def root_certificate(self, product: str) -> bytes:
        """The ARK certificate of a product line, DER."""
        key = self.root_key(product)
        subject = pki.name(f"ARK-{generation(product).product}")
        fields = pki.CertificateFields(
            subject=subject,
            issuer=subject,
            spki=public_spki(key),
            serial=_ARK_SERIAL,
            extensions=pki.authority_extensions(None),
        )
        return self._once(f"{product}-ark.der", fields, key)

    def trusted_root(self, product: str) -> TrustedRoot:
        """The ARK of a product line as a root to trust."""
        return simulated_root(self.root_certificate(product)).amd[0]

    @property
    def trusted_roots(self) -> tuple[TrustedRoot, ...]:
        """The ARKs of all product lines."""
        return tuple(self.trusted_root(g.product) for g in GENERATIONS)

    def intermediate_certificate(self, product: str, *, vlek: bool = False) -> bytes:
        """The ASK certificate of a product line, or the ASVK, DER."""
        fields = self.intermediate_fields(product, vlek=vlek)
        role = "asvk" if vlek else "ask"
        return self._once(f"{product}-{role}.der", fields, self.root_key(product))

    def intermediate_fields(self, product: str, *, vlek: bool) -> pki.CertificateFields:
        """What stands in the ASK or ASVK certificate."""
        return pki.CertificateFields(
            subject=pki.name(f"SEV-VLEK-{product}" if vlek else f"SEV-{product}"),
            issuer=pki.name(f"ARK-{product}"),
            spki=public_spki(self.intermediate_key(product, vlek=vlek)),
            serial=_ASVK_SERIAL if vlek else _ASK_SERIAL,
            extensions=pki.authority_extensions(0),
        )

    def crl(
        self, product: str, *, now: int, vlek: bool = False, revoked: bool = False
    ) -> bytes:
        """AMD's CRL as of ``now``, DER, with or without the ASK or ASVK on it."""
        serial = _ASVK_SERIAL if vlek else _ASK_SERIAL
        fields = pki.CrlFields(
            issuer=pki.name(f"ARK-{product}"),
            this_update=now - 86400,
            next_update=now + _CRL_SECONDS,
            revoked=(serial,) if revoked else (),
            number=now // 86400,
        )
        return pki.issue_crl(fields, self.root_key(product))

    def chip(self, name: str, product: str = "Milan") -> SimChip:
        """The chip of this name; the same one whenever it is asked for."""
        return SimChip(self, name, generation(product))

    def root_key(self, product: str) -> rsa.RSAPrivateKey:
        """The private key of the ARK."""
        return self._keys.get(f"{product}-ark")

    def intermediate_key(self, product: str, *, vlek: bool) -> rsa.RSAPrivateKey:
        """The private key of the ASK or ASVK."""
        return self._keys.get(f"{product}-asvk" if vlek else f"{product}-ask")

    def chip_seed(self, chip: str, product: str) -> Seed:
        """Where all secrets of a chip grow from: its fuses."""
        return self._seed.child("chip", product, chip)

    def signer_key(
        self, chip: str, line: Generation, tcb: SnpTcb, *, vlek: bool
    ) -> ec.EllipticCurvePrivateKey:
        """VCEK of a chip at a TCB, or the provider's VLEK for a product at a TCB."""
        level = encode_tcb(tcb).hex()
        if vlek:
            return p384(self._seed, "vlek", CSP_ID, line.product, level)
        return p384(self.chip_seed(chip, line.product), "vcek", level)

    def signer_fields(
        self, chip: str, line: Generation, tcb: SnpTcb, *, vlek: bool
    ) -> tuple[pki.CertificateFields, pki.EndorsementFields]:
        """What stands in a VCEK or VLEK certificate, and in AMD's extensions of it."""
        hardware_id = self.chip_id(chip, line)
        endorsement = pki.EndorsementFields(
            structure=line.structure,
            product_name=line.product if vlek else line.stepping_name,
            tcb=tcb,
            hardware_id=None if vlek else hardware_id,
            csp_id=CSP_ID if vlek else None,
        )
        issuer = f"SEV-VLEK-{line.product}" if vlek else f"SEV-{line.product}"
        key = self.signer_key(chip, line, tcb, vlek=vlek)
        fields = pki.CertificateFields(
            subject=pki.name("SEV-VLEK" if vlek else "SEV-VCEK"),
            issuer=pki.name(issuer),
            spki=public_spki(key),
            serial=0,
            extensions=pki.endorsement_extensions(endorsement),
        )
        return fields, endorsement

    def chip_id(self, chip: str, line: Generation) -> bytes:
        """The hardware id: 64 bytes, 8 on Turin."""
        seed = self.chip_seed(chip, line.product)
        return seed.octets("hardware-id", length=line.chip_id_bytes)

    def certificates(
        self, chip: str, line: Generation, tcb: SnpTcb, *, vlek: bool
    ) -> SnpCertificates:
        """The whole chain for a chip at a TCB, as AMD's key distribution gives it."""
        product = line.product
        fields, _ = self.signer_fields(chip, line, tcb, vlek=vlek)
        return SnpCertificates(
            signer=pki.issue(fields, self.intermediate_key(product, vlek=vlek)),
            intermediate=self.intermediate_certificate(product, vlek=vlek),
            root=self.root_certificate(product),
        )

    def _once(
        self, file: str, fields: pki.CertificateFields, key: rsa.RSAPrivateKey
    ) -> bytes:
        kept = self._store.get(file)
        return self._store.keep(file, pki.issue(fields, key)) if kept is None else kept
