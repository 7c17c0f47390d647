# SPDX-License-Identifier: Apache-2.0
"""The attested key: the provider's signing key, bound by the provider's own quote.

Quotes are slow on real hardware and come one at a time; signatures are not. So the
provider makes a key inside the TEE, has its platform quote the key once an epoch, and
signs every exchange with it.

Every worker of one provider derives the same key for the same epoch from a seed that
the workers share and that never leaves the TEE; a restart draws a new seed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tightseal.errors import Code, PlatformError, TightsealError
from tightseal.model.canonical import Value, labelled
from tightseal.model.claims import Claims, PlatformIdentity, Tee, TrustDomain
from tightseal.model.labels import Label
from tightseal.model.ports import RootPlatform, Verifier
from tightseal.model.provider import AttestedKeyBinding, ProviderIdentity
from tightseal.model.secret import Secret

__all__ = ["AttestedKey", "AttestedKeys", "own_measurement_of"]

IMPORT_SEED_BYTES: Final = 96
"""64 for ML-KEM-768 (FIPS 203 section 7.1, d and z), then 32 for X25519."""

_IDENTITY_MEASUREMENT = {
    Tee.SGX: "mrenclave",
    Tee.TDX: "mrtd",
    Tee.SNP: "snp_measurement",
}


def own_measurement_of(claims: Claims) -> bytes:
    """The measurement that names a provider: MRENCLAVE, MRTD or SNP measurement."""
    return claims.measurements[_IDENTITY_MEASUREMENT[claims.tee]]


@dataclass(frozen=True, slots=True)
class AttestedKey:
    """The attested key of one epoch, with the proof of what it belongs to.

    Attributes:
        binding: identity, public key and lifetime; the quote commits to it.
        evidence: the provider's own quote.
        claims: what that quote says, after verification.
        import_seed: what the key that imports are sealed to is made from, 96 bytes;
            as secret as the attested key, and as old.
    """

    binding: AttestedKeyBinding
    evidence: bytes
    claims: Claims
    import_seed: Secret = field(repr=False)
    _private_key: Ed25519PrivateKey = field(repr=False)

    @property
    def platform(self) -> PlatformIdentity:
        """The provider's own platform, from its verified quote."""
        return self.claims.platform

    @property
    def trust_domain(self) -> TrustDomain:
        """The trust domain of the provider's own quote."""
        return self.claims.trust_domain

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature over ``message``, 64 bytes."""
        return self._private_key.sign(message)


class AttestedKeys:
    """Makes, proves and renews the attested key.

    Args:
        platform: what the provider stands on.
        verifier: judges the provider's own quote as strictly as any other.
        identity: makes the four parts that the quote commits to, from the TEE kind and
            measurement that the platform reports of this process.
        seed: 32 bytes shared by the workers of this provider.
        life: seconds of an epoch.
        grace: seconds after its epoch in which a key still answers the challenges that
            it signed; at least the life of a nonce.
        tls_key_hash: SHA-256 of the SPKI of the TLS key, where TLS ends in this
            provider; the same in every worker.
    """

    def __init__(
        self,
        *,
        platform: RootPlatform,
        verifier: Verifier,
        identity: Callable[[str, bytes], ProviderIdentity],
        seed: Secret,
        life: int,
        grace: int,
        tls_key_hash: bytes | None = None,
    ) -> None:
        self._tls_key_hash = tls_key_hash
        self._platform = platform
        self._verifier = verifier
        self._own_identity = identity(*platform.own_measurement())
        self._seed = seed
        self._life = life
        self._grace = grace
        self._lock = threading.Lock()
        self._keys: dict[int, AttestedKey] = {}
        self._failed: tuple[int, TightsealError] | None = None

    @property
    def identity(self) -> ProviderIdentity:
        """The provider's identity; the same for every epoch."""
        return self._own_identity

    def current(self, *, now: int) -> AttestedKey:
        """The key that signs at ``now``; made and proven where it is missing.

        Raises:
            PlatformError: the platform gave no quote, or a quote that is not ours.
            EvidenceError: our own quote did not verify.
            CollateralError: our own quote cannot be judged.
        """
        return self._of_epoch(now // self._life, now=now)

    def prepare_next(self, *, now: int) -> None:
        """Make the next epoch's key early, so that no request waits for a quote.

        Raises:
            TightsealError: as :meth:`current`.
        """
        self._of_epoch(now // self._life + 1, now=now)

    def answering(self, key_hash: bytes, *, now: int) -> AttestedKey | None:
        """The key with this hash, if it may still answer at ``now``; else ``None``."""
        epoch = now // self._life
        # Every epoch whose grace is not over, and the next: another worker's clock may
        # be ahead.
        oldest = (now - self._grace - 1) // self._life
        for candidate in (*range(epoch, oldest - 1, -1), epoch + 1):
            key = self._keys.get(candidate)
            if key is None:
                if self._derive(candidate)[1].key_hash() != key_hash:
                    continue
                key = self._of_epoch(candidate, now=now)
            if key.binding.key_hash() == key_hash:
                return key if now <= key.binding.not_after else None
        return None

    def _of_epoch(self, epoch: int, *, now: int) -> AttestedKey:
        key = self._keys.get(epoch)
        if key is not None:
            return key
        before = self._failed
        with self._lock:
            key = self._keys.get(epoch)
            if key is not None:
                return key
            # Whoever waited shares the outcome. Trying again for each in turn would
            # hold every thread, and keep the host's one quoting enclave busy.
            failed = self._failed
            if failed is not None and failed is not before and failed[0] == epoch:
                raise copy(failed[1])
            try:
                key = self._prove(epoch, now=now)
            except TightsealError as e:
                # A copy, since the error's own frames hold the private key.
                self._failed = epoch, copy(e)
                raise
            # Bounded on both sides: the host's clock chooses the epochs.
            near, span = now // self._life, self._grace // self._life + 2
            kept = {e: k for e, k in self._keys.items() if abs(e - near) <= span}
            self._keys = {**kept, epoch: key}
        return key

    def _expand(self, label: Label, epoch: int, length: int) -> bytes:
        return HKDF(
            algorithm=hashes.SHA256(),
            length=length,
            salt=None,
            # Another identity has another key: an answer to a challenge that was signed
            # under other settings is told as such.
            info=labelled(label, self._belongs_to(epoch)),
        ).derive(self._seed.reveal())

    def _belongs_to(self, epoch: int) -> Value:
        identity = self._own_identity.as_value()
        # One key never has two bindings, whatever TLS key a restarted worker found.
        tls = () if self._tls_key_hash is None else (self._tls_key_hash,)
        return [epoch, identity, *tls]

    def _derive(self, epoch: int) -> tuple[Ed25519PrivateKey, AttestedKeyBinding]:
        raw = self._expand(Label.KDF_ATTESTED_KEY, epoch, 32)
        private_key = Ed25519PrivateKey.from_private_bytes(raw)
        binding = AttestedKeyBinding(
            identity=self._own_identity,
            public_key=private_key.public_key().public_bytes_raw(),
            not_before=epoch * self._life,
            not_after=(epoch + 1) * self._life + self._grace,
            tls_key_hash=self._tls_key_hash,
        )
        return private_key, binding

    def _prove(self, epoch: int, *, now: int) -> AttestedKey:
        """Quote the key, and accept the quote only where it speaks for this process.

        The host carries quotes and could hand us one of a twin on another machine,
        whose platform identity would then pass for ours.
        """
        private_key, binding = self._derive(epoch)
        evidence = self._platform.evidence(binding.report_data())
        claims = self._verifier(evidence, now=now)
        _require(
            "report data",
            expected=binding.report_data(),
            got=claims.report_data,
        )
        _require(
            "TEE kind",
            expected=binding.identity.tee.encode(),
            got=claims.tee.value.encode(),
        )
        _require(
            "measurement",
            expected=binding.identity.measurement,
            got=own_measurement_of(claims),
        )
        if claims.debug:
            raise PlatformError(Code.PROVIDER_DEBUG, "our own quote says debug")
        return AttestedKey(
            binding=binding,
            evidence=evidence,
            claims=claims,
            import_seed=Secret(
                self._expand(Label.KDF_IMPORT_KEY, epoch, IMPORT_SEED_BYTES)
            ),
            _private_key=private_key,
        )


def _require(what: str, *, expected: bytes, got: bytes) -> None:
    if expected != got:
        wanted = hashlib.sha256(expected).hexdigest()[:16]
        came = hashlib.sha256(got).hexdigest()[:16]
        message = f"our own quote has another {what}: expected {wanted}…, got {came}…"
        raise PlatformError(Code.PLATFORM_FAILED, message)
