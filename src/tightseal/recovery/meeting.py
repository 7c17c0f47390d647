# SPDX-License-Identifier: Apache-2.0
"""One exchange between two providers, from the side of the one that joins.

challenge -> giver proves itself -> our evidence over the exchange -> signed answer
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tightseal.envelope.hpke import RecipientKey
from tightseal.errors import Code, KeyReleaseError, ProviderError, RequestError
from tightseal.guest.challenge import CheckedChallenge, check_challenge
from tightseal.guest.pins import ProviderPin
from tightseal.guest.provider import check_signature
from tightseal.model.base64url import encode_base64url
from tightseal.model.claims import TcbStatus
from tightseal.model.exchange import CLIENT_NONCE_BYTES
from tightseal.model.handoff import HandoffBody, HandoffTranscript, confirmation
from tightseal.model.secret import Secret
from tightseal.model.wire import ChallengeRequest, decode_json, encode_json
from tightseal.model.wire_handoff import (
    MAX_HANDOFF_RESPONSE_BYTES,
    ConfirmRequest,
    HandoffConfirmed,
    HandoffRequest,
    HandoffResponse,
    ParsedConfirm,
    ParsedHandoff,
)
from tightseal.policy.providers import judge_provider
from tightseal.recovery.joiner import Invited, Joiner

__all__ = ["Giver", "Meeting", "Step"]

Step: TypeAlias = Callable[[str, str], None]
"""Is told of each step that is done, with what came of it in words."""

_ANY_STATUS: Final = frozenset(TcbStatus) - {TcbStatus.REVOKED}


class Giver(Protocol):
    """The other provider, over one connection."""

    def challenge(self, body: bytes) -> tuple[bytes, bytes | None]:
        """Ask for a challenge; the answer, and the hash of the connection's TLS key.

        Raises:
            ProviderError: unreachable, or refused.
        """
        ...

    def hand_over(self, body: bytes) -> bytes:
        """Send evidence; the answer. Raises as the other."""
        ...

    def confirm(self, body: bytes) -> bytes:
        """Say how it went; the answer. Raises as the other."""
        ...


class Meeting:
    """One exchange with the giver; keys of its own, used once.

    Args:
        joiner: what we are.
        giver: the other provider.
        invited: by which invitation.
        rehearsal: whether everything is checked and nothing crosses.
    """

    def __init__(
        self, joiner: Joiner, giver: Giver, invited: Invited, *, rehearsal: bool
    ) -> None:
        self._joiner = joiner
        self._giver = giver
        self._invited = invited
        self._rehearsal = rehearsal
        self._recipient = RecipientKey.generate(joiner.kem)
        self._confirm_key = Ed25519PrivateKey.generate()
        self._challenge: CheckedChallenge
        self._transcript: HandoffTranscript
        self._evidence = b""

    @property
    def transcript_hash(self) -> bytes:
        """Of this exchange, 64 bytes."""
        return self._transcript.hash_with(self._evidence)

    def meet(self, done: Step) -> None:
        """Have the giver prove itself, before it learns anything of us.

        Raises:
            ProviderError: it is not the one that the invitation names.
            PolicyError: the policy does not let it have the keyring either.
        """
        joiner, invited = self._joiner, self._invited
        nonce = secrets.token_bytes(CLIENT_NONCE_BYTES)
        asked = ChallengeRequest(
            version=1,
            client_nonce=encode_base64url(nonce),
            collateral=joiner.collateral.wants_stapled,
        )
        answer, tls_key_hash = self._giver.challenge(encode_json(asked))
        now = joiner.clock()
        domain = joiner.terms.trust_domain
        checked = check_challenge(
            answer,
            client_nonce=nonce,
            pin=ProviderPin(
                identity=invited.giver,
                trust_domains=frozenset({domain}),
                allow_simulated=domain.startswith("simulated:"),
                # The policy judges the state of its platform, below.
                accepted_tcb=_ANY_STATUS,
            ),
            verifier_for=joiner.collateral.verifier_for,
            tls_key_hash=tls_key_hash,
            tolerance=joiner.tolerance,
            now=now,
        )
        rule = judge_provider(joiner.policy, checked.claims, now=now)
        self._challenge = checked
        done("giver", f"is provider {rule.name} of the policy, on {domain}")

    def ask(self, done: Step) -> HandoffBody:
        """Send our evidence, and check what comes back.

        1. ``form``
        2. ``exchange``: it answers this very one
        3. ``signature``: by the attested key that the giver proved
        4. ``rehearsal``: nothing crosses in one, and something does otherwise
        5. ``policy``: ours is not older than the giver's

        Raises:
            ProviderError: ``handoff_invalid``; what the giver refuses.
            PlatformError: we can make no evidence.
        """
        invited, binding = self._invited, self._challenge.binding
        confirm_key = self._confirm_key.public_key().public_bytes_raw()
        parsed = ParsedHandoff(
            nonce=self._challenge.body.nonce,
            binding_key_hash=binding.key_hash(),
            joiner=invited.joiner,
            invitation=invited.data,
            evidence=b"",
            kem=self._joiner.kem,
            recipient_key=self._recipient.public_bytes(),
            confirm_key=confirm_key,
            rehearsal=self._rehearsal,
        )
        self._transcript = parsed.transcript(binding, invitation=invited.hash)
        self._evidence = self._joiner.platform.evidence(self._transcript.report_data())
        done("evidence", f"{len(self._evidence)} bytes over this exchange")
        request = HandoffRequest.of(replace(parsed, evidence=self._evidence))
        body = self._checked(self._giver.hand_over(encode_json(request)))
        what = "rehearsed" if self._rehearsal else f"{len(body.payload)} bytes"
        done("handoff", f"{what}, under policy {body.policy.version}")
        return body

    def _checked(self, answer: bytes) -> HandoffBody:
        """What the giver signed over this very exchange."""
        try:
            response = decode_json(
                answer, HandoffResponse, max_bytes=MAX_HANDOFF_RESPONSE_BYTES
            ).parsed()
        except RequestError as e:
            raise _invalid(e.detail) from e
        body = response.body
        if body.transcript_hash != self.transcript_hash:
            raise _invalid("the answer is to another exchange")
        check_signature(
            self._challenge.binding.public_key,
            signature=response.signature,
            signed=body.to_sign(),
            code=Code.HANDOFF_INVALID,
        )
        if bool(body.envelope) == self._rehearsal:
            raise _invalid("a rehearsal hands nothing over, a handoff does")
        theirs, ours = body.policy.version, self._joiner.policy_version
        if theirs > ours:
            detail = f"the giver decides by policy {theirs}, here lies {ours}"
            raise _invalid(f"{detail}: put the newer bundle here")
        return body

    def open(self, body: HandoffBody) -> Secret:
        """The keyring key."""
        info = self._transcript.hpke_info(self._evidence)
        try:
            return self._recipient.open(body.envelope, info=info)
        except KeyReleaseError as e:
            raise _invalid(e.detail) from e
        finally:
            self._recipient.wipe()

    def confirm(self, keyring: bytes, slots: tuple[bytes, ...]) -> HandoffConfirmed:
        """Tell the giver; raises ``ProviderError``."""
        signed = confirmation(self.transcript_hash, keyring, slots)
        request = ParsedConfirm(
            invitation=self._invited.action.action_id,
            transcript_hash=self.transcript_hash,
            keyring=keyring,
            slots=slots,
            signature=self._confirm_key.sign(signed),
        )
        answer = self._giver.confirm(encode_json(ConfirmRequest.of(request)))
        try:
            return decode_json(answer, HandoffConfirmed)
        except RequestError as e:
            raise _invalid(e.detail) from e


def _invalid(detail: str) -> ProviderError:
    return ProviderError(Code.HANDOFF_INVALID, detail)
