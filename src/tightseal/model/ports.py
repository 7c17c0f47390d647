# SPDX-License-Identifier: Apache-2.0
"""What the layers need of each other and of the world, as interfaces.

``release`` and ``service`` hand implementations in; the layers themselves import only
the model.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from tightseal.model.canonical import Value
from tightseal.model.claims import Claims
from tightseal.model.exchange import LogPromise
from tightseal.model.generation import Generations
from tightseal.model.secret import Secret

__all__ = [
    "Clock",
    "Completion",
    "EvidenceSource",
    "JournalEntry",
    "KeyRoots",
    "NonceRedemption",
    "Recorder",
    "RootPlatform",
    "Verifier",
]

Clock: TypeAlias = Callable[[], int]
"""Unix seconds. The host's clock, handed in from above; never called by the core."""


Completion: TypeAlias = Callable[[bytes], bytes]
"""Makes the response to keep from the proof that its entry is in the log."""


class EvidenceSource(Protocol):
    """A platform that can make evidence about the code that runs on it."""

    def evidence(self, report_data: bytes) -> bytes:
        """Hardware evidence over exactly 64 bytes of report data.

        Raises:
            PlatformError: ``platform_failed`` or ``platform_unsupported``.
        """
        ...


class RootPlatform(EvidenceSource, Protocol):
    """A platform that also holds a sealing key: the root of the sidecar shape."""

    @property
    def name(self) -> str:
        """The kind of platform, such as ``gramine`` or ``sim``."""
        ...

    def own_measurement(self) -> tuple[str, bytes]:
        """TEE kind and measurement that this process sees of itself, by local report.

        Raises:
            PlatformError: ``platform_failed``; ``provider_debug`` where the report
                says that the host may read this process.
        """
        ...

    def sealing_key(self) -> Secret:
        """The platform's own sealing key, bound to this measurement; 16 or 32 bytes.

        Raises:
            PlatformError: ``platform_failed``, or ``sealing_key_unavailable`` where the
                platform has none (TDX).
        """
        ...


class KeyRoots(Protocol):
    """What keys are derived from: a platform's sealing key, or an opened keyring."""

    @property
    def keyring_id(self) -> bytes:
        """32 bytes; a constant where there is no keyring."""
        ...

    @property
    def simulated(self) -> bool:
        """Whether the roots are of a simulated world."""
        ...

    def generations(self) -> Generations:
        """The versions that keys can be derived from, as of now."""
        ...

    def root(self, generation: int) -> Secret:
        """The root of a generation, 16 bytes or more; not to be wiped by the caller.

        Raises:
            KeyReleaseError: ``generation_unknown``.
        """
        ...


class Verifier(Protocol):
    """Evidence to claims, with roots, collateral and verifier mode already chosen."""

    def __call__(self, evidence: bytes, *, now: int) -> Claims:
        """Verify evidence as of ``now``.

        Raises:
            EvidenceError: the evidence is not authentic.
            CollateralError: it cannot be judged.
        """
        ...


@dataclass(frozen=True, slots=True)
class NonceRedemption:
    """A nonce about to be burned, with what makes a retry recognisable.

    Attributes:
        nonce: the nonce itself.
        expires_at: Unix seconds after which the row may be dropped.
        request_hash: SHA-256 of the whole request, byte for byte.
        era: the recorder's era in which the nonce was minted.
    """

    nonce: bytes
    expires_at: int
    request_hash: bytes
    era: int = 0


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One decision, granted or refused.

    Attributes:
        entry_id: 16 random bytes; the receipt names it.
        time: Unix seconds.
        granted: whether keys left.
        protocol_class: ``v1`` or ``legacy``.
        code: ``granted``, or the stable code of the refusal.
        body: key paths, evidence hash, claims digest, settings digest and reasons, as
            a canonical value; never a key.
    """

    entry_id: bytes
    time: int
    granted: bool
    protocol_class: str
    code: str
    body: Value


class Recorder(Protocol):
    """The journal: takes the entry before the response leaves."""

    def promise(self, entry: JournalEntry) -> LogPromise | None:
        """Where this entry will be logged; ``None`` where the log has no key.

        Raises:
            ServiceError: ``journal_failed``.
        """
        ...

    def record(
        self,
        entry: JournalEntry,
        *,
        redemption: NonceRedemption | None,
        response: bytes | Completion,
    ) -> bytes:
        """Burn the nonce, append the entry and keep the response, in one commit.

        Args:
            entry: the decision.
            redemption: the nonce to burn; ``None`` where there is none.
            response: what to keep; or what makes it from the C2SP ``tlog-proof`` of
                this entry, where ``promise`` named a log.

        Returns:
            the response to send: ``response``, or, where this very request was
            answered before (same nonce, same request hash), the response kept then.

        Raises:
            EvidenceError: ``nonce_replayed``, where the nonce was redeemed by another
                request.
            ServiceError: ``journal_failed``; then nothing may leave.
        """
        ...

    def submit(
        self,
        entry: JournalEntry,
        *,
        redemption: NonceRedemption | None,
        response: bytes | Completion,
    ) -> Future[bytes]:
        """``record`` without waiting; the future gets its result or its error.

        Raises:
            ServiceError: ``overloaded``, ``journal_failed``; then nothing was entered.
        """
        ...

    def nonce_era(self) -> int:
        """What new nonces are to be minted in.

        A redeemed nonce is forgotten some time after it expired, and nonces from before
        that time are refused from then on. A clock that was set back since would mint
        just such nonces, and nothing could be released until it gets there again. So
        that begins another era, whose nonces are none of those that were forgotten,
        and nonces of the eras before are refused.

        Raises:
            ServiceError: ``journal_failed``.
        """
        ...

    def kept_response(self, redemption: NonceRedemption) -> bytes | None:
        """The response kept for this very request, or ``None`` where the nonce is new.

        Raises:
            EvidenceError: ``nonce_replayed``, where the nonce was redeemed by another
                request.
            ServiceError: ``journal_failed``.
        """
        ...
