# SPDX-License-Identifier: Apache-2.0
"""What a workload holds after an exchange: its keys, and what proves their release."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.pairs import public_half
from tightseal.model.exchange import LogPromise, PolicyInForce
from tightseal.model.generation import Generation, GenerationName
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.logclass import LogClass, SignedCover
from tightseal.model.provider import ProviderIdentity
from tightseal.model.secret import Secret
from tightseal.model.state import AnchorClass

__all__ = ["Receipt", "ReleasedKey", "ReleasedKeys"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What proves the release.

    Attributes:
        transcript_hash: 64 bytes.
        entry_id: names the entry in the provider's log, 16 bytes.
        issued_at: Unix seconds by the provider's clock.
        signed: the bytes that the signature covers.
        signature: Ed25519 by ``public_key``, checked.
        public_key: the attested key of the challenge.
        quote: the provider's evidence over ``signed``, checked; ``None`` where it was
            not asked for.
        single_verifier: whether one verifier alone judged the workload's evidence.
        trust_domain: of the exchange, as it stands in the key path.
        policy: the signed policy that granted it; ``None`` where none is signed.
        anchor: what notices that the provider's whole state was put back; ``None``
            where the release depended on no state. See ``anchor.not_noticed``.
        logged: the key of the provider's log, and the leaf of this release in it;
            ``None`` where the provider keeps no signed log.
        log_proof: C2SP ``tlog-proof`` of that leaf, checked; empty where there is none.
            Its checkpoint has the cosignatures, where the class is ``cosigned``.
        log_cover: who else has seen the entry before the key left, under a signature of
            the attested key, checked; ``None`` where nobody had to.
    """

    transcript_hash: bytes
    entry_id: bytes
    issued_at: int
    signed: bytes
    signature: bytes
    public_key: bytes
    quote: bytes | None
    single_verifier: bool
    trust_domain: str
    policy: PolicyInForce | None
    anchor: AnchorClass | None
    logged: LogPromise | None = None
    log_proof: bytes = b""
    log_cover: SignedCover | None = None

    @property
    def log_class(self) -> LogClass | None:
        """What has seen the entry; ``None`` where there is no signed log."""
        if self.logged is None:
            return None
        cover = self.log_cover
        return LogClass.SIGNED if cover is None else cover.cover.log_class


@dataclass(frozen=True, slots=True)
class ReleasedKey:
    """One key, the public half of a pair, or the result of a use.

    Attributes:
        request: what was asked for.
        type: raw bytes, or which kind of pair; the provider's policy decides it.
        generation: version of the root that it was derived from, or is wrapped under.
        secret: ``request.length`` bytes of a raw key; of a pair the private half, 32
            bytes, or the public half where that was asked for; of a use its result.
    """

    request: KeyRequest
    type: KeyType
    generation: int
    secret: Secret

    @property
    def part(self) -> KeyPart:
        """The key itself, or the public half of a pair."""
        return self.request.part

    def public_half(self) -> bytes:
        """The public half of a pair, whichever part was released; 32 or 33 bytes.

        Raises:
            KeyReleaseError: ``key_path_invalid``, where the key is raw, or was used
                and not released.
        """
        if self.request.use is not None:
            detail = "the key was used, not released: ask for its public half"
            raise KeyReleaseError(Code.KEY_PATH_INVALID, detail)
        if self.part is KeyPart.PUBLIC:
            return self.secret.reveal()
        return public_half(self.secret, self.type)


@dataclass(frozen=True, slots=True)
class ReleasedKeys:
    """The keys, and what proves their release. A context manager that wipes them.

    Attributes:
        receipt: the receipt.
        provider: who released them.
        simulated: whether the provider is of a simulated world.
        keys: in the order of the key requests.
        request_id: names the request in the provider's log; unsigned, for people.
    """

    receipt: Receipt
    provider: ProviderIdentity
    simulated: bool
    keys: tuple[ReleasedKey, ...] = field(repr=False)
    request_id: str | None = None

    def key(
        self,
        purpose: str,
        label: str = "",
        *,
        generation: Generation = GenerationName.CURRENT,
    ) -> ReleasedKey:
        """The key of a purpose and label, with its type; never the result of a use.

        Args:
            purpose: as it was asked for.
            label: likewise.
            generation: likewise: in words, or by number.

        Raises:
            KeyReleaseError: ``key_path_invalid``, where it was not asked for.
        """
        wanted = (purpose, label, generation)
        for key in self.keys:
            asked = key.request
            if asked.use is not None:
                continue
            if (asked.purpose, asked.label, asked.generation) == wanted:
                return key
        detail = f"no key {purpose!r} {label!r} ({generation}) was asked for"
        raise KeyReleaseError(Code.KEY_PATH_INVALID, detail)

    def get(
        self,
        purpose: str,
        label: str = "",
        *,
        generation: Generation = GenerationName.CURRENT,
    ) -> Secret:
        """The bytes of a key; raises as :meth:`key`."""
        return self.key(purpose, label, generation=generation).secret

    def result(self, request: KeyRequest) -> Secret:
        """The result of a use.

        Args:
            request: as it was asked for, with its input.

        Raises:
            KeyReleaseError: ``key_path_invalid``, where it was not asked for.
        """
        for key in self.keys:
            if request.use is not None and key.request == request:
                return key.secret
        detail = f"no use of {request.purpose!r} {request.label!r} like this one"
        raise KeyReleaseError(Code.KEY_PATH_INVALID, detail)

    def wipe(self) -> None:
        """Overwrite the keys; see ``Secret`` for what Python cannot promise."""
        for key in self.keys:
            key.secret.wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()
