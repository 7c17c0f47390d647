# SPDX-License-Identifier: Apache-2.0
"""Prebuilt requests, so that a load costs its generator next to nothing."""

from __future__ import annotations

import base64
import dataclasses
import json

from fault_sockets import Lane, Load, http_post

from tightseal.envelope.hpke import RecipientKey
from tightseal.model.base64url import encode_base64url
from tightseal.model.exchange import Kem
from tightseal.model.keypath import KeyRequest
from tightseal.model.wire import (
    CHALLENGE_PATH,
    KEYS_PATH,
    ChallengeRequest,
    ChallengeResponse,
    KeysRequest,
    ParsedKeysRequest,
    Proof,
    decode_json,
    encode_json,
)
from tightseal_sim.intel.td import SimTd

__all__ = ["challenge_request", "forged", "keys_requests"]

SIGNATURE_AT = 48 + 584 + 4
"""Of a TDX quote, version 4: header, body, length; then the quote's own signature."""


def challenge_request() -> bytes:
    """A challenge asked for; the same bytes get another nonce each time."""
    asked = ChallengeRequest(version=1, client_nonce=encode_base64url(bytes(32)))
    return http_post(CHALLENGE_PATH, encode_json(asked))


def keys_requests(port: int, td: SimTd, count: int, *, source: str) -> list[bytes]:
    """Requests that each answer a fresh challenge, and get a key once."""
    lanes = [Lane(source, [challenge_request()] * (count // 4 + 1)) for _ in range(4)]
    asked = Load(port, lanes, keep=True).run(120.0)
    assert asked.granted >= count, (asked.statuses, asked.codes, asked.errors)
    recipient = RecipientKey.generate(Kem.MLKEM768_X25519).public_bytes()
    return [
        http_post(KEYS_PATH, _answer(body, td, recipient))
        for body in asked.bodies[:count]
    ]


def _answer(challenge: bytes, td: SimTd, recipient: bytes) -> bytes:
    body = decode_json(challenge, ChallengeResponse).parsed().body
    draft = ParsedKeysRequest(
        nonce=body.nonce,
        binding_key_hash=body.binding.key_hash(),
        kem=Kem.MLKEM768_X25519,
        recipient_key=recipient,
        keys=(KeyRequest("disk"),),
        event_log=None,
        evidence=b"",
        proof=Proof.ATTESTED_KEY,
    )
    evidence = td.evidence(draft.transcript(body.binding).report_data())
    whole = dataclasses.replace(draft, evidence=evidence)
    return encode_json(KeysRequest.of(whole))


def forged(request: bytes) -> bytes:
    """The same with one bit of the quote's signature wrong.

    It passes every cheap check, and claims the platform of the TD that it comes from.
    """
    asked = json.loads(request.partition(b"\r\n\r\n")[2])
    evidence = bytearray(base64.urlsafe_b64decode(asked["evidence"] + "==="))
    evidence[SIGNATURE_AT + 10] ^= 1
    text = base64.urlsafe_b64encode(evidence).rstrip(b"=").decode()
    return http_post(KEYS_PATH, json.dumps(asked | {"evidence": text}).encode())
