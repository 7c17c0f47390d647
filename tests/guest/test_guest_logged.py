# SPDX-License-Identifier: Apache-2.0
"""What a provider promised to log under its attested key, its log must have."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from scripted_provider import NOW, Provider, Workload, terms

from tightseal.audit.checkpoint import Checkpoint, sign_checkpoint
from tightseal.audit.merkle import EMPTY, inclusion_proof, leaf_hash
from tightseal.audit.note import NoteSigner, SignatureType
from tightseal.audit.proof import LogProof
from tightseal.errors import Code, ProviderError
from tightseal.guest.exchange import Exchange
from tightseal.guest.response import ReleasedKeys
from tightseal.model.exchange import LogPromise
from tightseal.model.keypath import KeyRequest
from tightseal.model.wire import ParsedKeysResponse, Proof

SIGNER = NoteSigner("tightseal/v1/log/test", SignatureType.ED25519, b"\1" * 32)
OTHER = NoteSigner("tightseal/v1/log/test", SignatureType.ED25519, b"\2" * 32)
LEAF = leaf_hash(b"the release")
PROMISE = LogPromise(str(SIGNER.key), LEAF)


def proof(
    *, leaf: bytes = LEAF, signer: NoteSigner = SIGNER, size: int = 9, index: int = 4
) -> LogProof:
    """A proof out of a log that has the leaf."""
    leaves = [leaf_hash(b"%d" % n) for n in range(size)]
    leaves[index] = leaf
    tree, nodes = EMPTY.extended(leaves)
    head = Checkpoint(signer.key.name, size, tree.root())
    path = inclusion_proof(index, size, lambda level, at: nodes[level, at])
    return LogProof(index, path, sign_checkpoint(head, signer).encode())


def released(provider: Provider) -> ReleasedKeys:
    exchange = Exchange(
        terms(provider), (KeyRequest("disk"),), proof=Proof.ATTESTED_KEY, event_log=None
    )
    challenge = provider.challenge(exchange.challenge_request())
    report_data = exchange.check_challenge(challenge, now=NOW)
    evidence = Workload(provider.evidence).evidence(report_data)
    return exchange.open_response(
        provider.release(exchange.keys_request(evidence)), now=NOW
    )


def logged(made: LogProof, promise: LogPromise = PROMISE, **more: Any) -> Provider:
    def change(response: ParsedKeysResponse) -> ParsedKeysResponse:
        return replace(response, logged=promise, log_proof=made.encode())

    return Provider(response_before=change, **more)


def test_a_receipt_has_what_proves_the_entry() -> None:
    receipt = released(logged(proof())).receipt
    assert receipt.logged == PROMISE
    assert LogProof.parse(receipt.log_proof) == proof()


def test_the_first_entry_of_a_log() -> None:
    released(logged(proof(size=1, index=0)))


def test_a_provider_without_a_signed_log() -> None:
    receipt = released(Provider()).receipt
    assert (receipt.logged, receipt.log_proof) == (None, b"")


def _log(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """What a host does to the JSON on its way."""

    def after(document: dict[str, Any]) -> None:
        change(document["receipt"]["log"])

    return {"response_after": after}


def _dropped(document: dict[str, Any]) -> None:
    document["receipt"]["log"] = None


REFUSED: dict[str, Provider] = {
    "leaf_of_another_entry": logged(proof(leaf=leaf_hash(b"another"))),
    "log_of_another_key": logged(proof(signer=OTHER)),
    "key_that_is_none": logged(proof(), LogPromise("no key", LEAF)),
    "path_too_short": logged(replace(proof(), path=proof().path[:-1])),
    "another_index": logged(replace(proof(), index=5)),
    "no_checkpoint": logged(replace(proof(), checkpoint=b"")),
    "promise_dropped_on_the_way": logged(proof(), response_after=_dropped),
    "proof_dropped_on_the_way": logged(
        proof(), **_log(lambda log: log.update(proof=""))
    ),
    "leaf_swapped_on_the_way": logged(
        proof(leaf=bytes(32)), **_log(lambda log: log.update(leaf="A" * 43))
    ),
    "key_swapped_on_the_way": logged(
        proof(signer=OTHER), **_log(lambda log: log.update(key=str(OTHER.key)))
    ),
    "proof_longer_than_any": logged(
        proof(), **_log(lambda log: log.update(proof="x" * 20_000))
    ),
}


@pytest.mark.parametrize("defect", REFUSED)
def test_refused(defect: str) -> None:
    with pytest.raises(ProviderError) as refused:
        released(REFUSED[defect])
    assert refused.value.code is Code.RESPONSE_INVALID


def test_a_promise_put_in_on_the_way_is_refused() -> None:
    def add(document: dict[str, Any]) -> None:
        leaf = hashlib.sha256(b"x").digest()
        made = proof(leaf=leaf).encode().decode()
        key = str(SIGNER.key)
        document["receipt"]["log"] = {"key": key, "leaf": "A" * 43, "proof": made}

    with pytest.raises(ProviderError) as refused:
        released(Provider(response_after=add))
    assert refused.value.code is Code.RESPONSE_INVALID
