# SPDX-License-Identifier: Apache-2.0
"""A provider made of cryptography alone, that can be told to misbehave."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tightseal.envelope.hpke import RecipientKey, seal
from tightseal.errors import Code, EvidenceError
from tightseal.guest.challenge import ProviderCollateral
from tightseal.guest.exchange import Terms
from tightseal.guest.pins import ProviderPin
from tightseal.model.claims import (
    Claims,
    PlatformIdentity,
    Tcb,
    TcbStatus,
    Tee,
    TrustDomain,
    Vendor,
)
from tightseal.model.exchange import (
    ChallengeBody,
    Kem,
    KeyFacts,
    PolicyInForce,
    Transcript,
    quote_proof_report_data,
)
from tightseal.model.importing import (
    IMPORT_KEM,
    IMPORT_SALT_BYTES,
    MAX_IMPORT_BYTES,
    import_commitment,
)
from tightseal.model.keypath import KeyType
from tightseal.model.provider import (
    AttestedKeyBinding,
    ProviderIdentity,
    sidecar_keyring_id,
)
from tightseal.model.public_key import PublicKeyBody
from tightseal.model.secret import Secret
from tightseal.model.state import AnchorClass
from tightseal.model.wire import (
    CHALLENGE_PATH,
    PROBLEM_CONTENT_TYPE,
    PUBLIC_KEY_PATH,
    ChallengeRequest,
    ChallengeResponse,
    KeysRequest,
    KeysResponse,
    ParsedChallenge,
    ParsedKeysRequest,
    ParsedKeysResponse,
    ParsedPublicKey,
    Problem,
    Proof,
    PublicKeyRequest,
    PublicKeyResponse,
    decode_json,
    encode_json,
)

NOW = 1_800_000_000
URL = "http://provider.test:3442"
INTEL = TrustDomain(Vendor.INTEL, "11" * 48)
AMD = TrustDomain(Vendor.AMD, "33" * 48)
SIMULATED = TrustDomain(Vendor.SIMULATED, "22" * 48)
IDENTITY = ProviderIdentity(
    tee="sgx",
    measurement=bytes([1]) * 32,
    keyring_id=sidecar_keyring_id(),
    policy_root=None,
    settings_digest=bytes([4]) * 64,
)
PIN = ProviderPin(identity=IDENTITY, trust_domains=frozenset({"intel"}))
MACHINE = PlatformIdentity(ppid=bytes([9]) * 16)
POLICY = PolicyInForce(version=7, digest=bytes([5]) * 32)

PUBLIC_HALF = bytes.fromhex(
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
)
"""RFC 8032 section 7.1, test 1."""

Change = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def sgx_claims(**changes: Any) -> Claims:
    base = Claims(
        tee=Tee.SGX,
        trust_domain=INTEL,
        measurements={"mrenclave": IDENTITY.measurement},
        report_data=bytes(64),
        debug=False,
        platform=MACHINE,
        tcb=Tcb(TcbStatus.UP_TO_DATE, frozenset(), 18, "2026-01-01T00:00:00Z"),
    )
    return replace(base, **changes)


class Evidence:
    """Stands for hardware and verifiers: evidence is a ticket to claims."""

    def __init__(self) -> None:
        self.tickets: dict[bytes, Claims] = {}
        self.seen: list[bytes] = []

    def make(self, claims: Claims) -> bytes:
        ticket = b"evidence " + secrets.token_bytes(600)
        self.tickets[ticket] = claims
        return ticket

    def __call__(self, evidence: bytes, *, now: int) -> Claims:
        assert now == NOW
        self.seen.append(evidence)
        if evidence not in self.tickets:
            raise EvidenceError(Code.QUOTE_SIGNATURE_INVALID, "no such ticket")
        return self.tickets[evidence]


class Workload:
    """An evidence source that remembers what it was asked for."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self.asked: list[bytes] = []

    def evidence(self, report_data: bytes) -> bytes:
        self.asked.append(report_data)
        return self._evidence.make(sgx_claims(report_data=report_data))


@dataclass
class Provider:
    """Answers as a good provider does, except for the changes it is given.

    ``*_before`` change what is signed; ``*_after`` change the JSON on its way.
    """

    evidence: Evidence = field(default_factory=Evidence)
    identity: ProviderIdentity = IDENTITY
    claims: Claims = field(default_factory=sgx_claims)
    binding_before: Change = _same
    challenge_before: Change = _same
    parsed_after: Change = _same
    challenge_after: Change = _same
    envelopes_before: Change = _same
    response_before: Change = _same
    response_after: Change = _same
    info_change: Change = _same
    quote_claims: Change = _same
    give_quote: bool = True
    keys: dict[tuple[str, str], bytes] = field(default_factory=dict)
    types: dict[tuple[str, str], KeyType] = field(default_factory=dict)
    public_before: Change = _same
    public_after: Change = _same
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    signer: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    response_signer: Ed25519PrivateKey | None = None
    sealed_to: bytes | None = None
    bindings: dict[bytes, AttestedKeyBinding] = field(default_factory=dict)
    imports_to: RecipientKey = field(
        default_factory=lambda: RecipientKey.generate(IMPORT_KEM)
    )

    def binding(self) -> AttestedKeyBinding:
        made = AttestedKeyBinding(
            identity=self.identity,
            public_key=self.signer.public_key().public_bytes_raw(),
            not_before=NOW - 600,
            not_after=NOW + 3000,
        )
        changed: AttestedKeyBinding = self.binding_before(made)
        return changed

    def challenge(self, body: bytes) -> bytes:
        client_nonce = decode_json(body, ChallengeRequest).parsed()
        binding = self.binding()
        # A report data that was chosen stays; zeros stand for "the right one".
        claims = self.claims
        if claims.report_data == bytes(64):
            claims = replace(claims, report_data=binding.report_data())
        evidence = self.evidence.make(claims)
        signed: ChallengeBody = self.challenge_before(
            ChallengeBody(
                binding=binding,
                nonce=secrets.token_bytes(56),
                client_nonce=client_nonce,
                expires_at=NOW + 120,
                provider_evidence_hash=hashlib.sha256(evidence).digest(),
                import_key=self.imports_to.public_bytes()
                if b"import_key" in body
                else None,
            )
        )
        self.bindings[signed.nonce] = signed.binding
        parsed: ParsedChallenge = self.parsed_after(
            ParsedChallenge(
                body=signed,
                signature=self.signer.sign(signed.to_sign()),
                provider_evidence=evidence,
                stapled=None,
                simulated=self.claims.trust_domain.simulated,
            )
        )
        return _changed(encode_json(ChallengeResponse.of(parsed)), self.challenge_after)

    def release(self, body: bytes) -> bytes:
        request = decode_json(body, KeysRequest).parsed()
        transcript = request.transcript(self.bindings[request.nonce])
        claims = self.evidence.tickets[request.evidence]
        assert claims.report_data == transcript.report_data()
        self._keep(request, transcript)
        envelopes = self.envelopes_before(self._seal(request, transcript))
        made = ParsedKeysResponse(
            envelopes=envelopes,
            keys=tuple(
                KeyFacts(
                    self.types.get((key.purpose, key.label), KeyType.RAW),
                    key.part,
                    0,
                    None if key.use is None else key.use.operation,
                )
                for key in request.keys
            ),
            transcript_hash=transcript.hash_with(request.evidence),
            entry_id=secrets.token_bytes(16),
            issued_at=NOW,
            signature=b"",
            public_key=self.signer.public_key().public_bytes_raw(),
            single_verifier=False,
            trust_domain="intel",
            policy=POLICY,
            anchor=AnchorClass.NONE,
            quote=None,
        )
        response: ParsedKeysResponse = self.response_before(made)
        signed = response.signed_body()
        signer = self.response_signer or self.signer
        response = replace(response, signature=signer.sign(signed))
        if request.proof is Proof.QUOTE and self.give_quote:
            data = quote_proof_report_data(signed)
            claims = self.quote_claims(replace(self.claims, report_data=data))
            response = replace(response, quote=self.evidence.make(claims))
        return _changed(encode_json(KeysResponse.of(response)), self.response_after)

    def _keep(self, request: ParsedKeysRequest, transcript: Transcript) -> None:
        """Open what is imported, unless the test has put another key in its place."""
        for index, sealed in enumerate(request.imports):
            if sealed is None:
                continue
            asked = request.keys[index]
            info = transcript.import_info(request.evidence, index=index)
            raw = self.imports_to.open(
                sealed, info=info, max_bytes=MAX_IMPORT_BYTES
            ).reveal()
            salt, key = raw[:IMPORT_SALT_BYTES], raw[IMPORT_SALT_BYTES:]
            assert asked.imported == import_commitment(salt, Secret(key))
            self.keys.setdefault((asked.purpose, asked.label), key)

    def public_key(self, body: bytes) -> bytes:
        question = decode_json(body, PublicKeyRequest).parsed()
        binding = self.binding()
        claims = self.claims
        if claims.report_data == bytes(64):
            claims = replace(claims, report_data=binding.report_data())
        evidence = self.evidence.make(claims)
        said: PublicKeyBody = self.public_before(
            PublicKeyBody(
                binding=binding,
                question=question,
                key_type=KeyType.ED25519,
                generation=0,
                public_key=PUBLIC_HALF,
                trust_domain="intel",
                issued_at=NOW,
                policy=POLICY,
                provider_evidence_hash=hashlib.sha256(evidence).digest(),
            )
        )
        signer = self.response_signer or self.signer
        parsed = ParsedPublicKey(
            body=said,
            signature=signer.sign(said.to_sign()),
            provider_evidence=evidence,
            stapled=None,
            simulated=self.claims.trust_domain.simulated,
        )
        return _changed(encode_json(PublicKeyResponse.of(parsed)), self.public_after)

    def _seal(
        self, request: ParsedKeysRequest, transcript: Transcript
    ) -> tuple[bytes, ...]:
        envelopes = []
        for index, key in enumerate(request.keys):
            default = hashlib.shake_256(repr(key).encode()).digest(key.length)
            value = self.keys.get((key.purpose, key.label), default)
            info = transcript.hpke_info(request.evidence, index=index)
            envelopes.append(
                seal(
                    Secret(value),
                    kem=request.kem,
                    recipient_key=self.sealed_to or request.recipient_key,
                    info=self.info_change(info),
                )
            )
        return tuple(envelopes)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        self.requests.append((request.url.path, body))
        if request.url.path == PUBLIC_KEY_PATH:
            return json_answer(self.public_key(body))
        answer = self.challenge if request.url.path == CHALLENGE_PATH else self.release
        return json_answer(answer(body))


def _changed(body: bytes, change: Change) -> bytes:
    if change is _same:
        return body
    document = msgspec.json.decode(body)
    changed = change(document)
    if isinstance(changed, bytes):
        return changed
    return msgspec.json.encode(document if changed is None else changed)


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that arrives in pieces, for either client."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def answer_of(body: bytes, content_type: str, status: int = 200) -> httpx.Response:
    headers = {"content-type": content_type}
    return httpx.Response(status, stream=Pieces(body), headers=headers)


def json_answer(body: bytes, status: int = 200) -> httpx.Response:
    return answer_of(body, "application/json", status)


def problem_answer(problem: Problem) -> httpx.Response:
    return answer_of(encode_json(problem), PROBLEM_CONTENT_TYPE, problem.status)


def terms(provider: Provider, **changes: Any) -> Terms:
    values: dict[str, Any] = {
        "pin": PIN,
        "collateral": ProviderCollateral.behind(provider.evidence),
        "kem": Kem.X25519,
    }
    return Terms(**(values | changes))


def stranger_key(kem: Kem = Kem.X25519) -> bytes:
    return RecipientKey.generate(kem).public_bytes()
