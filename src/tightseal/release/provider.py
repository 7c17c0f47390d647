# SPDX-License-Identifier: Apache-2.0
"""The pipeline: one request from bytes to response, in seven steps.

    request -> verify -> decide -> derive -> seal -> attest -> record -> response

:meth:`Provider.keys` and :meth:`Provider.legacy` read like that list. Everything they
need from the world is handed in; time is a parameter. Both are safe to call from
several threads. A provider decides by one policy for ever: another policy is another
provider.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Protocol, TypeAlias

from tightseal.envelope.hpke import check_recipient_key
from tightseal.envelope.sealed_box import seal_legacy
from tightseal.errors import (
    Code,
    CollateralError,
    EvidenceError,
    RequestError,
    ServiceError,
)
from tightseal.model import wire
from tightseal.model.action_file import parse_action
from tightseal.model.base64url import encode_base64url
from tightseal.model.exchange import (
    ChallengeBody,
    quote_proof_report_data,
)
from tightseal.model.keypath import ProtocolClass
from tightseal.model.ports import (
    EvidenceSource,
    JournalEntry,
    KeyRoots,
    NonceRedemption,
    Recorder,
    Verifier,
)
from tightseal.model.wire_fields import nonce_bytes
from tightseal.model.wire_operator import ActionDone
from tightseal.platform.attested import AttestedKey, AttestedKeys
from tightseal.policy.actions import authorise
from tightseal.release.answers import Answers, as_it_is, held_apart
from tightseal.release.begun import (
    Admitted,
    Begun,
    Entering,
    claim_of,
    replayed,
    require_answer,
    require_at_most,
)
from tightseal.release.decision import Asked, Decider
from tightseal.release.derive import facts_of, release_all, seal_all
from tightseal.release.hold import Holder
from tightseal.release.imports import Imports, import_key_of
from tightseal.release.info import describe
from tightseal.release.journal import (
    ENTRY_ID_BYTES,
    Decision,
    uses_of,
)
from tightseal.release.leases import Leases
from tightseal.release.legacy import (
    LEGACY_KEY,
    LegacyAnswer,
    derive_legacy,
    legacy_recipient,
)
from tightseal.release.memory import Memory
from tightseal.release.policy import InForce
from tightseal.release.public import answer_public_key
from tightseal.state.nonces import NonceMint, era_of

__all__ = ["Provider", "Stage"]

Stage: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""Wraps one named step, to measure it."""


class Staple(Protocol):
    """The collateral of the provider's own evidence, for guests that have none."""

    def __call__(
        self, *, now: int
    ) -> wire.IntelCollateralJson | wire.SnpCertificatesJson | None:
        """Collateral on the wire, or ``None`` where the provider has none."""
        ...


class Provider:
    """Composes the steps of a release.

    Args:
        in_force: the policy with its release settings.
        verifier: evidence to claims.
        platform: what the provider stands on.
        roots: what keys are derived from.
        attested: the attested key.
        mint: makes and checks nonces.
        recorder: the journal.
        memory: what is counted and adopted; ``None`` for the built-in policy.
        signed_time: the newest time that others have signed, Unix seconds.
        staple: finds the provider's own collateral.
        stage: wraps each step, to measure it.
        entropy: random bytes; replaced in tests.
        leases: limits by the minute; by default over this process alone.
        answers: keeps and gives them; by default for this provider alone.
    """

    def __init__(
        self,
        *,
        in_force: InForce,
        verifier: Verifier,
        platform: EvidenceSource,
        roots: KeyRoots,
        attested: AttestedKeys,
        mint: NonceMint,
        recorder: Recorder,
        memory: Memory | None = None,
        signed_time: Callable[[], int] = lambda: 0,
        staple: Staple | None = None,
        stage: Stage = lambda _name: nullcontext(),
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        leases: Leases | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._in_force = in_force
        self._settings = in_force.settings
        self._verify = verifier
        self._platform = platform
        self._roots = roots
        self._attested = attested
        self._mint = mint
        self._recorder = recorder
        self._memory = memory
        self._staple = staple
        self._stage = stage
        self._entropy = entropy
        self._answers = answers or Answers(Holder.alone())
        self._decider = Decider(
            in_force=in_force,
            memory=memory,
            recorder=recorder,
            signed_time=signed_time,
            roots=roots,
            entropy=entropy,
            leases=leases or Leases(None),
        )

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
        nonce, expires_at = self._mint.mint(now, era=self._recorder.nonce_era())
        body = ChallengeBody(
            binding=key.binding,
            nonce=nonce,
            client_nonce=client_nonce,
            expires_at=expires_at,
            provider_evidence_hash=hashlib.sha256(key.evidence).digest(),
            import_key=import_key_of(key).public_bytes()
            if request.import_key is True
            else None,
        )
        return wire.ChallengeResponse.of(
            wire.ParsedChallenge(
                body=body,
                signature=key.sign(body.to_sign()),
                provider_evidence=key.evidence,
                stapled=self._stapled(request.collateral, now=now),
                simulated=key.trust_domain.simulated,
            )
        )

    def keys(self, body: bytes, *, now: int) -> bytes:
        """Answer evidence with the keys that belong to it, where nothing is held.

        Args:
            body: JSON of ``POST /v1/keys``; hashed as it stands to recognise a retry.
            now: Unix seconds.

        Returns:
            JSON of the response; for a byte-identical retry, the same bytes again.

        Raises:
            TightsealError: as :meth:`begin` and the call that it returns.
        """
        return self.begin(body, now=now).answer(now).ready()

    def begin(self, body: bytes, *, now: int) -> Begun:
        """Make every check that costs little, and leave the rest for later.

        Form, sizes, nonce, recipient key, and what the evidence says of itself: whoever
        is refused here has cost no signature. A retry is answered.

        Raises:
            RequestError: the form is wrong.
            EvidenceError: the nonce is not ours, or the evidence answers another
                challenge by its own word.
            KeyReleaseError: the recipient key cannot be used.
            ServiceError: the journal failed.
        """
        request, redemption, key = self._admit(body, now=now)
        if (kept := self._recorder.kept_response(redemption)) is not None:
            return Begun.done(self._answers.give(kept, redemption, key))
        recipient = check_recipient_key(request.kem, request.recipient_key)
        transcript = request.transcript(key.binding)
        expected = transcript.report_data()
        claim = claim_of(request.evidence, expected=expected)
        admitted = Admitted(request, redemption, key, recipient, transcript, expected)

        def finish(now: int) -> Entering:
            return self._finish(admitted, now=now)

        return Begun(claim, finish)

    def _finish(self, admitted: Admitted, *, now: int) -> Entering:
        """The seven steps; the last one is begun, and whoever answers waits for it.

        Raises:
            EvidenceError: the evidence is not authentic, or answers another challenge;
                the event log does not lead to its registers.
            CollateralError: the evidence cannot be judged.
            PolicyError: denied; the denial is in the journal.
            ServiceError: journal, state or platform failed; nothing left.
        """
        request, redemption, key = admitted.request, admitted.redemption, admitted.key
        transcript = admitted.transcript
        with self._stage("verify"):
            claims = self._verify(request.evidence, now=now)
            require_answer(claims, expected=admitted.report_data)
            events = replayed(request.event_log, claims)
        with self._stage("decide"):
            asked = Asked(
                keys=request.keys,
                protocol_class=ProtocolClass.V1,
                tag=redemption.request_hash,
                redemption=redemption,
                event_log_hash=transcript.event_log_hash,
                imports=Imports(request, transcript=transcript, key=key)
                if request.imports
                else None,
            )
            grant = self._decider.decide(claims, events, asked=asked, key=key, now=now)
        with self._stage("derive"):
            grant, released = release_all(
                grant,
                request.keys,
                roots=self._roots,
                memory=self._memory,
                now=now,
            )
        with self._stage("seal"):
            transcript_hash = transcript.hash_with(request.evidence)
            envelopes = seal_all(
                released, admitted.recipient, transcript_hash=transcript_hash
            )
        with self._stage("attest"):
            entry_id = self._entropy(ENTRY_ID_BYTES)
            said = Decision(
                claims,
                self._in_force,
                ProtocolClass.V1.value,
                asked.event_log_hash,
                uses_of(request.keys),
            )
            need = self._settings.audit_log.need(grant.log_class)
            entry = said.granted(grant, entry_id=entry_id, now=now, need=need)
            unsigned = wire.ParsedKeysResponse(
                envelopes=envelopes,
                keys=facts_of(grant, request.keys),
                transcript_hash=transcript_hash,
                entry_id=entry_id,
                issued_at=now,
                signature=b"",
                public_key=key.binding.public_key,
                single_verifier=claims.single_verifier,
                trust_domain=grant.paths[0].trust_domain,
                policy=self._in_force.said(),
                anchor=self._memory.anchor if self._memory else None,
                quote=None,
                logged=self._recorder.promise(entry),
            )
            response = self._attest(unsigned, key, proof=request.proof)
        with ExitStack() as step:
            step.enter_context(self._stage("record"))
            done = self._recorder.submit(
                entry,
                redemption=redemption,
                response=self._answers.keep(response, need, redemption),
            )
            # Measured until the commit, which this thread does not wait for.
            entered = step.pop_all()
            done.add_done_callback(lambda _: entered.close())
        tenant = grant.paths[0].tenant
        give = partial(
            self._answers.give, redemption=redemption, key=key, tenant=tenant
        )
        return Entering(done, give)

    def _admit(
        self, body: bytes, *, now: int
    ) -> tuple[wire.ParsedKeysRequest, NonceRedemption, AttestedKey]:
        """The cheap checks first: form, nonce, limits, and the key it was signed by."""
        text = wire.decode_json(body, wire.KeysRequest)
        # Before the evidence is decoded: whoever has no nonce of ours costs little.
        expires_at = self._mint.check(nonce_bytes(text.nonce), now)
        request = text.parsed()
        limits = self._settings.limits
        require_at_most("keys", len(request.keys), limits.max_keys)
        require_at_most("evidence", len(request.evidence), limits.max_evidence_bytes)
        log_bytes = len(request.event_log or b"")
        require_at_most("event log", log_bytes, limits.max_event_log_bytes)
        key = self._attested.answering(request.binding_key_hash, now=now)
        if key is None:
            detail = "the request names an attested key that is not ours any more"
            raise EvidenceError(Code.NONCE_EXPIRED, detail)
        redemption = NonceRedemption(
            nonce=request.nonce,
            expires_at=expires_at,
            request_hash=hashlib.sha256(body).digest(),
            era=era_of(request.nonce),
        )
        return request, redemption, key

    def _attest(
        self, unsigned: wire.ParsedKeysResponse, key: AttestedKey, *, proof: wire.Proof
    ) -> wire.ParsedKeysResponse:
        """The signed response; with a quote over it, where that is wanted."""
        body = unsigned.signed_body()
        quote = None
        if proof is wire.Proof.QUOTE:
            quote = self._platform.evidence(quote_proof_report_data(body))
        return dataclasses.replace(unsigned, signature=key.sign(body), quote=quote)

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
        settings = self._settings
        if not settings.legacy.enabled:
            raise RequestError(Code.NOT_FOUND, "the legacy protocol is switched off")
        require_at_most("evidence", len(quote), settings.limits.max_evidence_bytes)
        key = self._own_key(now=now)

        with self._stage("verify"):
            claims = self._verify(quote, now=now)
            recipient = legacy_recipient(claims)
        with self._stage("decide"):
            asked = Asked(
                keys=(LEGACY_KEY,),
                protocol_class=ProtocolClass.LEGACY,
                tag=hashlib.sha256(quote).digest(),
            )
            grant = self._decider.decide(claims, None, asked=asked, key=key, now=now)
        with self._stage("derive"):
            derivation = settings.legacy.derivation
            path = grant.paths[0]
            # No name for the root: an error further on would show it in this frame.
            secret = derive_legacy(
                self._roots.root(path.generation), path, claims, derivation=derivation
            )
        with self._stage("seal"):
            try:
                encrypted = seal_legacy(secret, recipient)
            finally:
                secret.wipe()
        with self._stage("attest"):
            bound = hashlib.sha256(encrypted).digest().ljust(64, b"\0")
            provider_quote = self._platform.evidence(bound)
        with self._stage("record"):
            said = Decision(claims, self._in_force, ProtocolClass.LEGACY.value)
            entry_id = self._entropy(ENTRY_ID_BYTES)
            need = settings.audit_log.need(grant.log_class)
            entry = said.granted(grant, entry_id=entry_id, now=now, need=need)
            proof = self._recorder.record(
                entry, redemption=None, response=as_it_is if need.waits else b""
            )
        held = None
        if need.waits:
            held = held_apart(b"", need, self._recorder.promise(entry), proof)
        return LegacyAnswer(encrypted, provider_quote, path.tenant, held)

    # -- what needs no evidence ---------------------------------------------------

    def public_key(
        self, request: wire.PublicKeyRequest, *, now: int
    ) -> wire.PublicKeyResponse:
        """Sign the public half of a published key, for anybody who asks.

        Raises:
            RequestError: the form is wrong.
            PolicyError: no such key is published.
            TightsealError: state or platform failed.
        """
        key = self._own_key(now=now)
        answered = answer_public_key(
            request.parsed(),
            roots=self._roots,
            key=key,
            in_force=self._in_force,
            memory=self._memory,
            now=now,
        )
        stapled = self._stapled(request.collateral, now=now)
        return wire.PublicKeyResponse.of(dataclasses.replace(answered, stapled=stapled))

    def act(self, action: bytes, *, now: int) -> ActionDone:
        """Do what a signed action asks for, once.

        Raises:
            RequestError: the action is malformed, not for us, expired, not allowed,
                under-signed, or was done before; ``not_found`` without a policy root.
            ServiceError: journal or state failed; see ``ActionDesk.perform``.
        """
        if self._memory is None:
            detail = "policy_root is not set: there are no roles, so no actions"
            raise RequestError(Code.NOT_FOUND, detail)
        self._in_force.require_deciding(now=now)
        authorised = authorise(
            parse_action(action),
            roles=self._in_force.policy.roles,
            policy_root=self._in_force.policy_root,
            keyring_id=self._attested.identity.keyring_id,
            now=now,
        )

        def log(entry: JournalEntry) -> None:
            self._recorder.record(entry, redemption=None, response=b"")

        entry_id = self._memory.actions.perform(authorised, now=now, log=log)
        return ActionDone(entry_id=encode_base64url(entry_id))

    def info(self, *, now: int) -> wire.InfoResponse:
        """Who this provider says it is; unsigned, for people and for writing a pin.

        Raises:
            TightsealError: the provider could not prove its own key.
        """
        return describe(
            self._own_key(now=now),
            in_force=self._in_force,
            roots=self._roots,
            memory=self._memory,
        )

    # -- what several share -------------------------------------------------------

    def _own_key(self, *, now: int) -> AttestedKey:
        """The attested key; that we cannot prove it is no fault of the caller's."""
        try:
            return self._attested.current(now=now)
        except (EvidenceError, CollateralError) as e:
            raise ServiceError(Code.PROVIDER_NOT_READY, f"our own evidence: {e}") from e

    def _stapled(
        self,
        wanted: bool,  # noqa: FBT001 (the request's own field)
        *,
        now: int,
    ) -> wire.IntelCollateralJson | wire.SnpCertificatesJson | None:
        if not wanted or self._staple is None:
            return None
        return self._staple(now=now)
