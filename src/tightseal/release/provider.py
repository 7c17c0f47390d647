# SPDX-License-Identifier: Apache-2.0
"""The pipeline: one request from bytes to response, in seven steps.

    request -> verify -> decide -> derive -> seal -> attest -> record -> response

:meth:`Provider.keys` and :meth:`Provider.legacy` read like that list. Everything they
need from the world is handed in; time is a parameter. Both are safe to call from
several threads.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from tightseal.envelope.hpke import check_recipient_key, seal
from tightseal.envelope.sealed_box import seal_legacy
from tightseal.errors import (
    Code,
    CollateralError,
    EvidenceError,
    PolicyError,
    RequestError,
    ServiceError,
)
from tightseal.keys.chain import derive
from tightseal.keys.legacy import legacy_key
from tightseal.model import wire
from tightseal.model.base64url import encode_base64url
from tightseal.model.canonical import Value, digest
from tightseal.model.claims import Claims, Tee
from tightseal.model.exchange import (
    ChallengeBody,
    Kem,
    Transcript,
    quote_proof_report_data,
    response_body,
)
from tightseal.model.grant import Grant, Reason
from tightseal.model.keypath import Authority, KeyPath, KeyRequest, ProtocolClass
from tightseal.model.labels import Label
from tightseal.model.ports import (
    JournalEntry,
    NonceRedemption,
    Recorder,
    RootPlatform,
    Verifier,
)
from tightseal.model.secret import Secret
from tightseal.model.settings import LegacyDerivation, ReleaseSettings
from tightseal.model.wire_fields import nonce_bytes
from tightseal.platform.attested import AttestedKey, AttestedKeys
from tightseal.policy.builtin import Circumstances, decide
from tightseal.state.nonces import NonceMint

__all__ = ["LEGACY_PURPOSE", "LegacyAnswer", "Provider", "Stage"]

LEGACY_PURPOSE: Final = "legacy-disk"
"""Purpose of the one key that the legacy protocol can ask for."""

LEGACY_KEY_BYTES: Final = 32
LEGACY_RECIPIENT_BYTES: Final = 32
ENTRY_ID_BYTES: Final = 16
SIMULATED_PLATFORM: Final = "sim"
"""Name of the one kind of platform whose sealing key is simulated too."""

_KEPT_RESPONSE: Final = b"R"
_KEPT_DENIAL: Final = b"D"
"""First byte of what the journal keeps for a retry: a response, or a denial's code."""

Stage: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""Wraps one named step, to measure it."""


class Staple(Protocol):
    """The collateral of the provider's own evidence, for guests that have none."""

    def __call__(
        self, *, now: int
    ) -> wire.IntelCollateralJson | wire.SnpCertificatesJson | None:
        """Collateral on the wire, or ``None`` where the provider has none."""
        ...


@dataclass(frozen=True, slots=True)
class LegacyAnswer:
    """What the legacy protocol answers.

    Attributes:
        encrypted_key: libsodium sealed box over the 32-byte key, 80 bytes.
        provider_quote: quote with report data ``SHA256(encrypted_key)`` and zeros.
    """

    encrypted_key: bytes
    provider_quote: bytes


class Provider:
    """Composes the steps of a release.

    Args:
        settings: the release settings.
        authority: the pinned policy root, or the settings digest.
        verifier: evidence to claims.
        platform: what the provider stands on; holds the root of the sidecar shape.
        attested: the attested key.
        mint: makes and checks nonces.
        recorder: the journal.
        staple: finds the provider's own collateral.
        stage: wraps each step, to measure it.
        entropy: random bytes; replaced in tests.
    """

    def __init__(
        self,
        *,
        settings: ReleaseSettings,
        authority: Authority,
        verifier: Verifier,
        platform: RootPlatform,
        attested: AttestedKeys,
        mint: NonceMint,
        recorder: Recorder,
        staple: Staple | None = None,
        stage: Stage = lambda _name: nullcontext(),
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._settings = settings
        self._settings_digest = settings.digest()
        self._authority = authority
        self._verify = verifier
        self._platform = platform
        self._root = platform.sealing_key()
        self._attested = attested
        self._mint = mint
        self._recorder = recorder
        self._staple = staple
        self._stage = stage
        self._entropy = entropy

    # -- the exchange, version 1 --------------------------------------------------

    def challenge(
        self, request: wire.ChallengeRequest, *, now: int
    ) -> wire.ChallengeResponse:
        """Sign a challenge: nonce, provider identity, and the quote that binds both.

        Raises:
            RequestError: the client nonce has another form.
            TightsealError: the provider could not prove its own key.
        """
        client_nonce = request.parsed()
        key = self._own_key(now=now)
        nonce, expires_at = self._mint.mint(now)
        body = ChallengeBody(
            binding=key.binding,
            nonce=nonce,
            client_nonce=client_nonce,
            expires_at=expires_at,
            provider_evidence_hash=hashlib.sha256(key.evidence).digest(),
        )
        stapled = None
        if request.collateral and self._staple is not None:
            stapled = self._staple(now=now)
        return wire.ChallengeResponse(
            version=1,
            nonce=encode_base64url(nonce),
            expires_at=expires_at,
            client_nonce=request.client_nonce,
            binding=wire.AttestedKeyBindingJson.of(key.binding),
            provider_evidence=encode_base64url(key.evidence),
            signature=encode_base64url(key.sign(body.to_sign())),
            collateral=stapled,
            simulated=key.trust_domain.simulated,
        )

    def keys(self, body: bytes, *, now: int) -> bytes:
        """Answer evidence with the keys that belong to it.

        Args:
            body: JSON of ``POST /v1/keys``; hashed as it stands to recognise a retry.
            now: Unix seconds.

        Returns:
            JSON of the response; for a byte-identical retry, the same bytes again.

        Raises:
            RequestError: the form is wrong.
            EvidenceError: the evidence is not authentic, or answers another challenge.
            CollateralError: the evidence cannot be judged.
            PolicyError: denied; the denial is in the journal.
            KeyReleaseError: the recipient key cannot be used.
            ServiceError: the journal or the platform failed; nothing left.
        """
        request, redemption, key = self._admit(body, now=now)
        if (kept := self._recorder.kept_response(redemption)) is not None:
            return _again(kept)
        check_recipient_key(request.kem, request.recipient_key)
        transcript = request.transcript(key.binding)

        with self._stage("verify"):
            claims = self._verify(request.evidence, now=now)
            _require_answer(claims, expected=transcript.report_data())
        with self._stage("decide"):
            grant = self._decide(
                claims,
                keys=request.keys,
                key=key,
                protocol_class=ProtocolClass.V1,
                redemption=redemption,
                now=now,
            )
        with self._stage("derive"):
            released = [derive(self._root, path) for path in grant.paths]
        with self._stage("seal"):
            envelopes = _seal_all(released, request, transcript=transcript)
        with self._stage("attest"):
            entry_id = self._entropy(ENTRY_ID_BYTES)
            transcript_hash = transcript.hash_with(request.evidence)
            signed = response_body(
                transcript_hash=transcript_hash,
                envelopes=envelopes,
                entry_id=entry_id,
                issued_at=now,
                single_verifier=claims.single_verifier,
                trust_domain=grant.paths[0].trust_domain,
            )
            response = wire.KeysResponse(
                version=1,
                envelopes=[encode_base64url(e) for e in envelopes],
                receipt=wire.ReceiptJson(
                    transcript_hash=encode_base64url(transcript_hash),
                    entry_id=encode_base64url(entry_id),
                    issued_at=now,
                    signature=encode_base64url(key.sign(signed)),
                    public_key=encode_base64url(key.binding.public_key),
                    single_verifier=claims.single_verifier,
                    trust_domain=grant.paths[0].trust_domain,
                    quote=self._quote_proof(request.proof, signed),
                ),
            )
        with self._stage("record"):
            entry = JournalEntry(
                entry_id=entry_id,
                time=now,
                granted=True,
                protocol_class=ProtocolClass.V1.value,
                code="granted",
                body=self._entry_body(claims, grant.paths, grant.reasons),
            )
            kept = self._recorder.record(
                entry,
                redemption=redemption,
                response=_KEPT_RESPONSE + wire.encode_json(response),
            )
        return _again(kept)

    def _admit(
        self, body: bytes, *, now: int
    ) -> tuple[wire.ParsedKeysRequest, NonceRedemption, AttestedKey]:
        """The cheap checks first: form, nonce, limits, and the key it was signed by."""
        text = wire.decode_json(body, wire.KeysRequest)
        # Before the evidence is decoded: whoever has no nonce of ours costs little.
        expires_at = self._mint.check(nonce_bytes(text.nonce), now)
        request = text.parsed()
        limits = self._settings.limits
        _require_at_most("keys", len(request.keys), limits.max_keys)
        _require_at_most("evidence", len(request.evidence), limits.max_evidence_bytes)
        log_bytes = len(request.event_log or b"")
        _require_at_most("event log", log_bytes, limits.max_event_log_bytes)
        key = self._attested.answering(request.binding_key_hash, now=now)
        if key is None:
            detail = "the request names an attested key that is not ours any more"
            raise EvidenceError(Code.NONCE_EXPIRED, detail)
        redemption = NonceRedemption(
            nonce=request.nonce,
            expires_at=expires_at,
            request_hash=hashlib.sha256(body).digest(),
        )
        return request, redemption, key

    def _quote_proof(self, proof: wire.Proof, signed: bytes) -> str | None:
        if proof is wire.Proof.ATTESTED_KEY:
            return None
        quote = self._platform.evidence(quote_proof_report_data(signed))
        return encode_base64url(quote)

    # -- the legacy protocol ------------------------------------------------------

    def legacy(self, quote: bytes, *, now: int) -> LegacyAnswer:
        """Answer a request of the framed TCP protocol.

        The recipient is the X25519 key in the first half of the report data. There is
        no nonce: a replayed quote gets the same key, sealed to the same recipient.

        Args:
            quote: a TDX quote.
            now: Unix seconds.

        Raises:
            RequestError: ``not_found``, where release settings switch it off.
            EvidenceError: ``report_data_mismatch`` where bytes 32 to 64 of the report
                data are not zero, ``evidence_kind_unsupported`` where it is no TD.
            TightsealError: as :meth:`keys`.
        """
        if not self._settings.legacy.enabled:
            raise RequestError(Code.NOT_FOUND, "the legacy protocol is switched off")
        limit = self._settings.limits.max_evidence_bytes
        _require_at_most("evidence", len(quote), limit)
        key = self._own_key(now=now)

        with self._stage("verify"):
            claims = self._verify(quote, now=now)
            recipient = _legacy_recipient(claims)
        with self._stage("decide"):
            grant = self._decide(
                claims,
                keys=(KeyRequest(LEGACY_PURPOSE, "", LEGACY_KEY_BYTES),),
                key=key,
                protocol_class=ProtocolClass.LEGACY,
                redemption=None,
                now=now,
            )
        with self._stage("derive"):
            secret = self._derive_legacy(claims, grant.paths[0])
        with self._stage("seal"):
            try:
                encrypted = seal_legacy(secret, recipient)
            finally:
                secret.wipe()
        with self._stage("attest"):
            bound = hashlib.sha256(encrypted).digest().ljust(64, b"\0")
            provider_quote = self._platform.evidence(bound)
        with self._stage("record"):
            entry = JournalEntry(
                entry_id=self._entropy(ENTRY_ID_BYTES),
                time=now,
                granted=True,
                protocol_class=ProtocolClass.LEGACY.value,
                code="granted",
                body=self._entry_body(claims, grant.paths, grant.reasons),
            )
            self._recorder.record(entry, redemption=None, response=b"")
        return LegacyAnswer(encrypted_key=encrypted, provider_quote=provider_quote)

    def _derive_legacy(self, claims: Claims, path: KeyPath) -> Secret:
        if self._settings.legacy.derivation is LegacyDerivation.CHAIN:
            return derive(self._root, path)
        registers = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
        return legacy_key(
            self._root, **{name: claims.measurements[name] for name in registers}
        )

    # -- what both share ----------------------------------------------------------

    def _own_key(self, *, now: int) -> AttestedKey:
        """The attested key; that we cannot prove it is no fault of the caller's."""
        try:
            return self._attested.current(now=now)
        except (EvidenceError, CollateralError) as e:
            raise ServiceError(Code.PROVIDER_NOT_READY, f"our own evidence: {e}") from e

    def info(self, *, now: int) -> wire.InfoResponse:
        """Who this provider says it is; unsigned, for people and for writing a pin.

        Raises:
            TightsealError: the provider could not prove its own key.
        """
        key = self._own_key(now=now)
        return wire.InfoResponse(
            versions=[1],
            identity=wire.ProviderIdentityJson.of(key.binding.identity),
            trust_domain=str(key.trust_domain),
            simulated=key.trust_domain.simulated,
            kems=[kem.value for kem in Kem],
            legacy=self._settings.legacy.enabled,
        )

    def _decide(
        self,
        claims: Claims,
        *,
        keys: tuple[KeyRequest, ...],
        key: AttestedKey,
        protocol_class: ProtocolClass,
        redemption: NonceRedemption | None,
        now: int,
    ) -> Grant:
        """Ask the policy; a denial is recorded like a grant before it is raised."""
        circumstances = Circumstances(
            settings=self._settings,
            authority=self._authority,
            provider_platform=key.platform,
            provider_domain=key.trust_domain,
            protocol_class=protocol_class,
            root_simulated=self._platform.name == SIMULATED_PLATFORM,
        )
        try:
            return decide(claims, keys=keys, circumstances=circumstances)
        except PolicyError as denial:
            entry = JournalEntry(
                entry_id=self._entropy(ENTRY_ID_BYTES),
                time=now,
                granted=False,
                protocol_class=protocol_class.value,
                code=denial.code.value,
                body=self._entry_body(claims, (), _reasons(denial)),
            )
            kept = _KEPT_DENIAL + denial.code.value.encode()
            self._recorder.record(entry, redemption=redemption, response=kept)
            raise

    def _entry_body(
        self, claims: Claims, paths: Sequence[KeyPath], reasons: Sequence[Reason]
    ) -> Value:
        """What the journal keeps of a decision: everything but the keys."""
        return {
            "keys": [path.as_value() for path in paths],
            "evidence_hash": claims.evidence_hash,
            "claims_digest": digest(Label.CLAIMS, claims.as_value()),
            "settings_digest": self._settings_digest,
            "single_verifier": claims.single_verifier,
            "reasons": [[r.rule, r.expected, r.got, r.satisfied] for r in reasons],
        }


def _reasons(denial: PolicyError) -> tuple[Reason, ...]:
    return tuple(r for r in denial.reasons if isinstance(r, Reason))


def _again(kept: bytes) -> bytes:
    """Give what the journal keeps: the response, or the denial once more."""
    if kept[:1] == _KEPT_RESPONSE:
        return kept[1:]
    try:
        code = Code(kept.removeprefix(_KEPT_DENIAL).decode())
    except ValueError as e:
        # The journal lies outside the TEE.
        detail = "what is kept for this nonce is no answer of ours"
        raise ServiceError(Code.JOURNAL_FAILED, detail) from e
    raise PolicyError(code, "denied before, in answer to this very request")


def _seal_all(
    released: Sequence[Secret],
    request: wire.ParsedKeysRequest,
    *,
    transcript: Transcript,
) -> tuple[bytes, ...]:
    """Seal each key to the recipient; wipe them all, whatever happens."""
    try:
        return tuple(
            seal(
                secret,
                kem=request.kem,
                recipient_key=request.recipient_key,
                info=transcript.hpke_info(request.evidence, index=index),
            )
            for index, secret in enumerate(released)
        )
    finally:
        for secret in released:
            secret.wipe()


def _require_answer(claims: Claims, *, expected: bytes) -> None:
    """The evidence must commit to this very exchange."""
    if not claims.report_data_bound:
        detail = "a paravisor chose the report data, so it binds no recipient key"
        raise EvidenceError(Code.REPORT_DATA_UNBOUND, detail)
    if claims.report_data != expected:
        detail = (
            f"report data: expected {expected.hex()[:32]}…, "
            f"got {claims.report_data.hex()[:32]}…"
        )
        raise EvidenceError(Code.REPORT_DATA_MISMATCH, detail)


def _legacy_recipient(claims: Claims) -> bytes:
    if claims.tee is not Tee.TDX:
        detail = f"the legacy protocol serves TDs, not {claims.tee.value}"
        raise EvidenceError(Code.EVIDENCE_KIND_UNSUPPORTED, detail)
    recipient = claims.report_data[:LEGACY_RECIPIENT_BYTES]
    if any(claims.report_data[LEGACY_RECIPIENT_BYTES:]):
        # Report data of another protocol must not be taken for a recipient key.
        detail = "report data bytes 32 to 64: expected zeros"
        raise EvidenceError(Code.REPORT_DATA_MISMATCH, detail)
    return recipient


def _require_at_most(what: str, got: int, limit: int) -> None:
    if got > limit:
        detail = f"{what}: {got}, at most {limit}"
        raise RequestError(Code.REQUEST_TOO_LARGE, detail)
