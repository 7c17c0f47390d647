# SPDX-License-Identifier: Apache-2.0
"""Who besides the provider must have seen the log, as the workload asks for it."""

from __future__ import annotations

from dataclasses import dataclass

from tightseal.audit.checkpoint import Trust, VerifiedCheckpoint, verify_checkpoint
from tightseal.audit.note import NoteKey
from tightseal.audit.proof import LogProof, verify_log_proof
from tightseal.errors import Code, ProviderError, ServiceError, SettingsError
from tightseal.guest.provider import check_signature
from tightseal.model.exchange import LogPromise
from tightseal.model.logclass import LogClass, SignedCover

__all__ = ["LogTerms", "check_cover", "check_log_terms", "check_logged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTerms:
    """What a workload asks of the log before it uses a key.

    Attributes:
        least: least class. ``signed``: the provider keeps a signed log at all;
            ``anchored``: the provider's word that its state has the entry, or better;
            ``cosigned``: this workload's own witnesses have it.
        witnesses: keys of witnesses, from the workload's own measured configuration.
        threshold: how many of them must have cosigned.

    Raises:
        SettingsError: ``settings_invalid``, for terms that mean less than they say.
    """

    least: LogClass = LogClass.SIGNED
    witnesses: tuple[NoteKey, ...] = ()
    threshold: int = 0

    def __post_init__(self) -> None:
        """Refuse cosigned by nobody, and witnesses that nobody asks for."""
        if (self.least is LogClass.COSIGNED) != bool(self.witnesses):
            raise _invalid("log: witnesses go with least = cosigned, and only with it")
        if bool(self.witnesses) != bool(self.threshold):
            raise _invalid("log: threshold: expected 1 to as many witnesses as named")
        names = [key.public_key for key in self.witnesses]
        if self.threshold > len(names) or len(set(names)) != len(names):
            raise _invalid("log: threshold beyond the witnesses, or one named twice")

    @classmethod
    def parse(
        cls, least: LogClass, *, witnesses: tuple[str, ...] = (), threshold: int = 0
    ) -> LogTerms:
        """The terms with verifier keys as text.

        Raises:
            SettingsError: ``settings_invalid``.
        """
        try:
            keys = tuple(map(NoteKey.parse, witnesses))
        except ServiceError as e:
            raise _invalid(f"log: {e.detail}") from e
        return cls(least=least, witnesses=keys, threshold=threshold)


def check_logged(promise: LogPromise, proof: bytes) -> LogProof:
    """What was promised under the attested key, the log must have; the proof, parsed.

    Raises:
        ProviderError: ``response_invalid``.
    """
    try:
        parsed = LogProof.parse(proof)
        verify_log_proof(
            parsed, leaf=promise.leaf, trust=Trust(NoteKey.parse(promise.key))
        )
    except ServiceError as e:
        raise _refused(f"{e.code.value}: {e.detail}") from e
    return parsed


def check_cover(
    signed: SignedCover,
    *,
    promise: LogPromise,
    proof: LogProof,
    transcript_hash: bytes,
    public_key: bytes,
) -> None:
    """Check what a receipt says of others who have seen its entry.

    1. It names a class above ``signed``.
    2. The attested key signed it, for this very release.
    3. The entry is below the size that it states.
    4. ``cosigned``: the proof leads to the very head that it states, and every witness
       that it names has cosigned that. ``anchored``: where both are of one size, they
       have one root.

    That the state has the head is the provider's word; that the named witnesses mean
    anything is for the policy, or for terms of one's own.

    Raises:
        ProviderError: ``response_invalid``.
    """
    cover = signed.cover
    if cover.log_class is LogClass.SIGNED:
        raise _refused("cover: of class signed, which needs none")
    check_signature(
        public_key,
        signature=signed.signature,
        signed=cover.to_sign(transcript_hash, promise),
        code=Code.RESPONSE_INVALID,
    )
    if proof.index >= cover.size:
        raise _refused(f"cover: entry {proof.index + 1} of a head of {cover.size}")
    try:
        keys: tuple[NoteKey, ...] = ()
        if cover.log_class is LogClass.COSIGNED:
            keys = tuple(map(NoteKey.parse, cover.witnesses))
            if not keys:
                raise _refused("cover: cosigned by nobody")
        head = _cosigned(proof, promise, keys, len(keys)).checkpoint
    except ServiceError as e:
        raise _refused(f"cover: {e.code.value}: {e.detail}") from e
    same = (head.size, head.root) == (cover.size, cover.root)
    if not same and (keys or head.size == cover.size):
        raise _refused(f"cover: of another head than the proof's, of {head.size}")


def check_log_terms(
    terms: LogTerms,
    *,
    promise: LogPromise | None,
    proof: bytes,
    cover: SignedCover | None,
) -> None:
    """Check a receipt's log class against a workload's own terms.

    Called once the receipt itself was checked.

    Raises:
        ProviderError: ``log_class_too_low``.
    """
    if promise is None:
        raise _too_low(terms, "the provider keeps no signed log")
    if terms.least is LogClass.COSIGNED:
        try:
            parsed = LogProof.parse(proof)
            _cosigned(parsed, promise, terms.witnesses, terms.threshold)
        except ServiceError as e:
            raise _too_low(terms, f"{e.code.value}: {e.detail}") from e
        return
    got = LogClass.SIGNED if cover is None else cover.cover.log_class
    if got.rank < terms.least.rank:
        raise _too_low(terms, got.value)


def _cosigned(
    proof: LogProof, promise: LogPromise, keys: tuple[NoteKey, ...], threshold: int
) -> VerifiedCheckpoint:
    trust = Trust(NoteKey.parse(promise.key), keys, threshold)
    return verify_checkpoint(proof.checkpoint, trust)


def _too_low(terms: LogTerms, got: str) -> ProviderError:
    detail = f"log class: at least {terms.least.value} is asked for, got {got}"
    return ProviderError(Code.LOG_CLASS_TOO_LOW, detail)


def _refused(detail: str) -> ProviderError:
    return ProviderError(Code.RESPONSE_INVALID, f"log: {detail}")


def _invalid(detail: str) -> SettingsError:
    return SettingsError(Code.SETTINGS_INVALID, detail)
