# SPDX-License-Identifier: Apache-2.0
"""The side that gives: a provider that hands its keyring to another one.

    request -> invitation -> verify -> peer -> policy -> unused
    -> seal -> sign -> record -> response

The joiner answers a challenge of ours, like a workload. Nothing crosses before the
invitation is bound to its platform and the journal took the entry.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tightseal.envelope.hpke import check_recipient_key, seal
from tightseal.errors import (
    Code,
    EvidenceError,
    PolicyError,
    RequestError,
)
from tightseal.keys.keyring import Keyring, Slot, adopt_slots, hand_over, new_slots
from tightseal.model.action import Action, ActionKind, InviteParameters
from tightseal.model.action_file import parse_action
from tightseal.model.canonical import Value
from tightseal.model.claims import Claims
from tightseal.model.exchange import PolicyInForce
from tightseal.model.grant import Reason
from tightseal.model.handoff import (
    HandoffBody,
    HandoffTranscript,
    confirmation,
    invitation_hash,
)
from tightseal.model.logclass import LogClass, LogNeed
from tightseal.model.ports import JournalEntry, NonceRedemption, Recorder, Verifier
from tightseal.model.provider import ProviderIdentity
from tightseal.model.wire import decode_json, encode_json
from tightseal.model.wire_fields import nonce_bytes
from tightseal.model.wire_handoff import (
    MAX_CONFIRM_BYTES,
    MAX_HANDOFF_REQUEST_BYTES,
    ConfirmRequest,
    HandoffConfirmed,
    HandoffRequest,
    HandoffResponse,
    ParsedConfirm,
    ParsedHandoff,
)
from tightseal.platform.attested import AttestedKey, AttestedKeys, own_measurement_of
from tightseal.policy.actions import AuthorisedAction, authorise
from tightseal.policy.providers import judge_provider
from tightseal.recovery.joiner import require_counter
from tightseal.release.answers import Answers
from tightseal.release.begun import Finished
from tightseal.release.handoffs import Handoff, Handoffs, HandoffState, platform_value
from tightseal.release.hold import Holder
from tightseal.release.journal import (
    ENTRY_ID_BYTES,
    Decision,
    keep_denial,
)
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.policy import InForce
from tightseal.state.nonces import NonceMint, era_of

__all__ = ["HANDOFF_CLASS", "HandoffDesk"]

HANDOFF_CLASS: Final = "handoff"
"""What journal entries of handoffs have in place of a protocol class."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request whose invitation is good; its evidence is not judged yet."""

    request: ParsedHandoff
    authorised: AuthorisedAction
    invite: InviteParameters
    transcript: HandoffTranscript
    key: AttestedKey
    redemption: NonceRedemption

    @property
    def action(self) -> Action:
        return self.authorised.action


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffDesk:
    """Hands one keyring over, by one policy. Safe for threads and processes.

    Attributes:
        in_force: the policy.
        verifier: evidence to claims.
        attested: our attested key.
        mint: checks nonces of our challenges.
        recorder: the journal.
        keeper: of the keyring.
        handoffs: what is remembered of invitations.
        entropy: random bytes; replaced in tests.
        answers: keeps and gives them; by default for this desk alone.
    """

    in_force: InForce
    verifier: Verifier
    attested: AttestedKeys
    mint: NonceMint
    recorder: Recorder
    keeper: KeyringKeeper
    handoffs: Handoffs
    entropy: Callable[[int], bytes] = secrets.token_bytes
    answers: Answers = field(default_factory=lambda: Answers(Holder.alone()))

    def hand_over(self, body: bytes, *, now: int) -> bytes:
        """The answer, where nothing is held; as :meth:`answer`."""
        return self.answer(body, now=now).ready()

    def answer(self, body: bytes, *, now: int) -> Finished:
        """Answer the evidence of an invited provider with the keyring.

        1. ``form``: one JSON document, a nonce of ours, our attested key
        2. ``invitation``: signed by a role of the policy, for this keyring, names us
        3. ``evidence``: verifies, and commits to this exchange
        4. ``peer``: its measurement and what it says are what was invited
        5. ``policy``: lets this measurement on this platform have the keyring
        6. ``world``: its trust domain is the keyring's
        7. ``unused``: the invitation was not used up, revoked, or begun elsewhere

        A rehearsal ends here: the answer is signed and empty, and the invitation stays.

        Args:
            body: JSON of ``POST /v1/handoff``; hashed to recognise a retry.
            now: Unix seconds.

        Returns:
            JSON of the response; for a byte-identical retry, the same bytes again. Held
            where the release settings let no key leave before others have seen the log.

        Raises:
            RequestError: 1 and 2: ``request_malformed``, ``request_too_large``, a
                code of nonces or actions.
            EvidenceError: 1 and 3: ``nonce_expired``, ``report_data_mismatch``, or what
                the verifier raises.
            CollateralError: the evidence cannot be judged.
            PolicyError: 4 to 7: ``peer_identity_mismatch``, ``provider_not_allowed``
                and other codes of policy, ``trust_domain_mismatch``,
                ``invitation_used``, ``provider_revoked``. The journal has the denial.
            KeyReleaseError: ``recipient_key_invalid``; ``key_not_in_branch``;
                ``keyring_rolled_back``, where ours is older than the invitation.
            ServiceError: journal, state or platform failed; nothing left.
        """
        self.in_force.require_deciding(now=now)
        asked = self._admit(body, now=now)
        if (kept := self.recorder.kept_response(asked.redemption)) is not None:
            return self.answers.give_as_it_is(kept, asked.redemption)
        request = asked.request
        check_recipient_key(request.kem, request.recipient_key)
        claims = self.verifier(request.evidence, now=now)
        _require_answer(claims, asked.transcript)
        # Another worker may have rotated, or taken slots away, just now.
        self.keeper.look()
        require_counter(self.keeper.keyring.header.counter, asked.invite)
        try:
            self._judge(asked, claims, now=now)
            envelope, payload = b"", b""
            if not request.rehearsal:
                self._bind(asked, claims, now=now)
                envelope, payload = self._sealed(asked, now=now)
        except PolicyError as denial:
            self._deny(asked, claims, denial, now=now)
            raise
        return self._answer(asked, claims, envelope, payload, now=now)

    def _admit(self, body: bytes, *, now: int) -> _Asked:
        """Checks 1 and 2: cheap, and before any evidence is looked at."""
        text = decode_json(body, HandoffRequest, max_bytes=MAX_HANDOFF_REQUEST_BYTES)
        expires_at = self.mint.check(nonce_bytes(text.nonce), now)
        request = text.parsed()
        key = self.attested.answering(request.binding_key_hash, now=now)
        if key is None:
            detail = "the request names an attested key that is not ours any more"
            raise EvidenceError(Code.NONCE_EXPIRED, detail)
        signed = parse_action(request.invitation)
        authorised = authorise(
            signed,
            roles=self.in_force.policy.roles,
            policy_root=self.in_force.policy_root,
            keyring_id=self.attested.identity.keyring_id,
            now=now,
        )
        invite = _invite(authorised.action)
        _require_identity(
            "we are", expected=authorised.action.giver(invite), got=key.binding.identity
        )
        return _Asked(
            request=request,
            authorised=authorised,
            invite=invite,
            transcript=request.transcript(
                key.binding, invitation=invitation_hash(signed)
            ),
            key=key,
            redemption=NonceRedemption(
                nonce=request.nonce,
                expires_at=expires_at,
                request_hash=hashlib.sha256(body).digest(),
                era=era_of(request.nonce),
            ),
        )

    def _judge(self, asked: _Asked, claims: Claims, *, now: int) -> None:
        """Checks 4 to 7."""
        invited = asked.action.joiner(asked.invite)
        # Its own words count only as the words of the code that was invited.
        _require_identity("it says", expected=invited, got=asked.request.joiner)
        _require_part("tee", expected=invited.tee, got=claims.tee.value)
        _require_part(
            "measurement",
            expected=invited.measurement.hex(),
            got=own_measurement_of(claims).hex(),
        )
        judge_provider(self.in_force.policy, claims, now=now)
        ours = self.keeper.keyring.header.trust_domain
        if str(claims.trust_domain) != ours:
            detail = f"the keyring is of {ours}, the evidence of {claims.trust_domain}"
            raise PolicyError(Code.TRUST_DOMAIN_MISMATCH, detail)
        self.handoffs.check(
            asked.action.action_id, platform_value(claims.platform), now=now
        )

    def _bind(self, asked: _Asked, claims: Claims, *, now: int) -> None:
        """From here on the invitation is this platform's."""
        handoff = Handoff(
            state=HandoffState.SENT,
            platform=platform_value(claims.platform),
            transcript_hash=asked.transcript.hash_with(asked.request.evidence),
            confirm_key=asked.request.confirm_key,
            joiner=asked.request.joiner.as_value(),
            tenant=asked.invite.tenant,
            slots=(),
            changed_at=now,
        )
        self.handoffs.send(asked.action.action_id, handoff, now=now)

    def _sealed(self, asked: _Asked, *, now: int) -> tuple[bytes, bytes]:
        """The keyring key in its envelope, and what it opens.

        A revocation marks the invitation before it rotates. So roots that were made to
        be kept from the joiner are seen with their mark, also by one that came late.

        Raises:
            PolicyError: ``provider_revoked``.
        """
        request = asked.request
        handed, key = hand_over(self.keeper.keyring, tenant=asked.invite.tenant)
        try:
            self.handoffs.sent(asked.action.action_id, now=now)
            envelope = seal(
                key,
                kem=request.kem,
                recipient_key=request.recipient_key,
                info=asked.transcript.hpke_info(request.evidence),
            )
            return envelope, handed.encode()
        finally:
            key.wipe()

    def _answer(
        self,
        asked: _Asked,
        claims: Claims,
        envelope: bytes,
        payload: bytes,
        *,
        now: int,
    ) -> Finished:
        """Sign and record; only then anything leaves."""
        request = asked.request
        body = HandoffBody(
            transcript_hash=asked.transcript.hash_with(request.evidence),
            envelope=envelope,
            payload=payload,
            policy=self._said(),
            entry_id=self.entropy(ENTRY_ID_BYTES),
            issued_at=now,
        )
        response = HandoffResponse.of(body, signature=asked.key.sign(body.to_sign()))
        entry = self._entry(asked, claims, body.entry_id, code="granted", now=now)
        kept = self.recorder.record(
            entry,
            redemption=asked.redemption,
            response=self.answers.keep_as_it_is(
                encode_json(response),
                LogNeed(LogClass.SIGNED) if request.rehearsal else self._need(),
                self.recorder.promise(entry),
                asked.redemption,
            ),
        )
        return self.answers.give_as_it_is(kept, asked.redemption)

    def _need(self) -> LogNeed:
        """No purpose asks for more: what settings ask of every release."""
        return self.in_force.settings.audit_log.need(LogClass.SIGNED)

    def _deny(
        self, asked: _Asked, claims: Claims, denial: PolicyError, *, now: int
    ) -> None:
        entry_id = self.entropy(ENTRY_ID_BYTES)
        reasons = tuple(r for r in denial.reasons if isinstance(r, Reason))
        entry = self._entry(
            asked, claims, entry_id, code=denial.code.value, now=now, reasons=reasons
        )
        self.recorder.record(
            entry, redemption=asked.redemption, response=keep_denial(denial)
        )

    def _entry(
        self,
        asked: _Asked,
        claims: Claims,
        entry_id: bytes,
        *,
        code: str,
        now: int,
        reasons: tuple[Reason, ...] = (),
    ) -> JournalEntry:
        body: dict[str, Value] = {
            "invitation": asked.action.as_value(),
            "role": str(asked.authorised.role),
            "signers": list(asked.authorised.signers),
            "joiner": asked.request.joiner.as_value(),
            "rehearsal": asked.request.rehearsal,
        }
        said = Decision(claims, self.in_force, HANDOFF_CLASS)
        return said.entry(code, body, reasons, entry_id=entry_id, now=now)

    def _said(self) -> PolicyInForce:
        said = self.in_force.said()
        if said is None:
            detail = "policy_root is not set: there are no roles, so no invitations"
            raise RequestError(Code.NOT_FOUND, detail)
        return said

    # -- how it went --------------------------------------------------------------

    def confirm(self, body: bytes, *, now: int) -> bytes:
        """Take the word of a joiner that its own slot opens what it wrote.

        Its slots become part of our keyring too, so that every copy can be opened by
        every provider, and a revocation can take them away.

        1. ``form``
        2. ``handoff``: it took place, and no later one by the same invitation
        3. ``signature``: by the confirm key that the evidence committed to
        4. ``copy``: written by a holder of the keyring key, of every generation; the
           slots that the joiner made are taken, and nothing else

        Once it was taken, the same again changes nothing: its slots may have been
        removed since, and whoever saw it on the way can send it again.

        Args:
            body: JSON of ``POST /v1/handoff/confirm``.
            now: Unix seconds.

        Raises:
            RequestError: ``request_malformed``, ``handoff_unknown``.
            EvidenceError: ``report_data_mismatch``, for the signature.
            KeyReleaseError: ``keyring_malformed``, ``keyring_tampered``,
                ``keyring_mismatch``, ``slot_not_allowed``.
            PolicyError: ``provider_revoked``.
            ServiceError: journal, state or file system failed; it can be sent again.
        """
        request = decode_json(
            body, ConfirmRequest, max_bytes=MAX_CONFIRM_BYTES
        ).parsed()
        handoff = self.handoffs.sent(request.invitation, now=now)
        _require_confirmed(request, handoff)
        if handoff.state is HandoffState.SENT:
            self._take_confirmation(request, handoff, now=now)
        counter = self.keeper.keyring.header.counter
        return encode_json(HandoffConfirmed(counter=counter))

    def _take_confirmation(
        self, request: ParsedConfirm, handoff: Handoff, *, now: int
    ) -> None:
        self.keeper.look()
        keyring = self.keeper.keyring
        whole = handoff.tenant is None
        slots = self._new_slots(keyring, request) if whole else ()
        self._record_confirmation(request, handoff, now=now)
        if slots:
            self.keeper.change(lambda newest: self._adopted(newest, request, now=now))
        self.handoffs.confirm(
            request.invitation,
            transcript_hash=request.transcript_hash,
            slots=request.slots,
            generations=len(keyring.generations),
            now=now,
        )

    def _adopted(
        self, keyring: Keyring, request: ParsedConfirm, *, now: int
    ) -> Keyring:
        """With the joiner's slots, unless they were taken, or revoked, meanwhile."""
        handoff = self.handoffs.sent(request.invitation, now=now)
        _require_confirmed(request, handoff)
        if handoff.state is not HandoffState.SENT:
            return keyring
        slots = self._new_slots(keyring, request)
        return adopt_slots(keyring, slots, now=now) if slots else keyring

    @staticmethod
    def _new_slots(keyring: Keyring, request: ParsedConfirm) -> tuple[Slot, ...]:
        return new_slots(keyring, request.keyring, made=request.slots)

    def _record_confirmation(
        self, request: ParsedConfirm, handoff: Handoff, *, now: int
    ) -> None:
        entry = JournalEntry(
            entry_id=self.entropy(ENTRY_ID_BYTES),
            time=now,
            granted=True,
            protocol_class=HANDOFF_CLASS,
            code="confirmed",
            body={
                "invitation_id": request.invitation,
                "transcript_hash": request.transcript_hash,
                "joiner": handoff.joiner,
                "keyring_hash": hashlib.sha256(request.keyring).digest(),
            },
        )
        self.recorder.record(entry, redemption=None, response=b"")


def _invite(action: Action) -> InviteParameters:
    parameters = action.parameters
    if action.kind is not ActionKind.INVITE_PROVIDER or not isinstance(
        parameters, InviteParameters
    ):
        detail = f"expected an invitation, got {action.kind.value}"
        raise RequestError(Code.ACTION_NOT_ALLOWED, detail)
    return parameters


def _require_answer(claims: Claims, transcript: HandoffTranscript) -> None:
    """The evidence must commit to this very exchange."""
    if not claims.report_data_bound:
        detail = "a paravisor chose the report data, so it binds no recipient key"
        raise EvidenceError(Code.REPORT_DATA_UNBOUND, detail)
    expected = transcript.report_data()
    if claims.report_data != expected:
        detail = (
            f"report data: expected {expected.hex()[:32]}…, "
            f"got {claims.report_data.hex()[:32]}…"
        )
        raise EvidenceError(Code.REPORT_DATA_MISMATCH, detail)


def _require_identity(
    who: str, *, expected: ProviderIdentity, got: ProviderIdentity
) -> None:
    for part in ("tee", "measurement", "keyring_id", "policy_root", "settings_digest"):
        wanted, came = getattr(expected, part), getattr(got, part)
        _require_part(f"{who}: {part}", expected=_shown(wanted), got=_shown(came))


def _require_part(name: str, *, expected: str, got: str) -> None:
    if expected != got:
        detail = f"{name}: the invitation has {expected}, got {got}"
        raise PolicyError(Code.PEER_IDENTITY_MISMATCH, detail)


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _require_confirmed(request: ParsedConfirm, handoff: Handoff) -> None:
    if handoff.transcript_hash != request.transcript_hash:
        detail = f"invitation {request.invitation.hex()}: a later exchange counts"
        raise RequestError(Code.HANDOFF_UNKNOWN, detail)
    signed = confirmation(request.transcript_hash, request.keyring, request.slots)
    try:
        key = Ed25519PublicKey.from_public_bytes(handoff.confirm_key)
        key.verify(request.signature, signed)
    except (InvalidSignature, ValueError) as e:
        detail = "the confirmation is not signed by the provider that joined"
        raise EvidenceError(Code.REPORT_DATA_MISMATCH, detail) from e
