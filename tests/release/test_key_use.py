# SPDX-License-Identifier: Apache-2.0
"""Use without export through the whole pipeline: a policy, a workload, its journal."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from nacl.signing import VerifyKey
from release_rig import NOW, rig
from rooted_rig import Rooted, document_of, rooted
from use_support import (
    AGREE,
    KEYS,
    MESSAGE,
    SIGN,
    UNWRAP,
    Roots,
    changed,
    half,
    kept,
    once,
    refusal,
    said,
    signing,
    used,
)

from tightseal.envelope.hpke import seal
from tightseal.errors import Code, ProviderError
from tightseal.guest.using import seal_for, signature_of
from tightseal.keys.using import verify_signature
from tightseal.model.canonical import labelled
from tightseal.model.exchange import Kem
from tightseal.model.generation import GenerationName
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.labels import Label
from tightseal.model.secret import Secret
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

SIGNERS = [KeyType.ED25519, KeyType.P256, KeyType.SECP256K1]
CURVES = {KeyType.P256: ec.SECP256R1(), KeyType.SECP256K1: ec.SECP256K1()}


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"uses of keys".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture
def found(world: World, td: SimTd, tmp_path: Path) -> Iterator[Rooted]:
    with rooted(world, tmp_path) as made:
        made.roots = Roots()
        made.publish(document_of(world, td, key=KEYS))
        yield made


# -- what a use gives -------------------------------------------------------------


@pytest.mark.parametrize("kind", SIGNERS)
def test_a_key_that_never_leaves_signs(found: Rooted, td: SimTd, kind: KeyType) -> None:
    asked = signing(kind.value)
    with found.ask(td, asked) as keys:
        public = half(found, td, kind.value)
        signature = signature_of(keys, asked, public=public)
        (answer,) = keys.keys
        assert (answer.type, answer.part) == (kind, KeyPart.PRIVATE)
    verify_signature(public, kind, MESSAGE, signature)
    if kind is KeyType.ED25519:
        VerifyKey(public).verify(MESSAGE, signature)
    refused = refusal(lambda: found.ask(td, KeyRequest(kind.value)))
    assert refused.code is Code.KEY_PART_NOT_ALLOWED


def test_an_x25519_key_agrees_with_a_peer(found: Rooted, td: SimTd) -> None:
    peer = X25519PrivateKey.generate()
    asked = used("meet", AGREE, peer.public_key().public_bytes_raw())
    shared = found.ask(td, asked).result(asked).reveal()
    public = X25519PublicKey.from_public_bytes(half(found, td, "meet"))
    assert peer.exchange(public) == shared


@pytest.mark.parametrize("kind", CURVES)
def test_a_curve_key_agrees_with_a_peer(
    found: Rooted, td: SimTd, kind: KeyType
) -> None:
    scalar = ec.generate_private_key(CURVES[kind])
    numbers = scalar.public_key().public_numbers()
    written = b"\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    purpose = f"meet-{kind.value}"
    asked = used(purpose, AGREE, written)
    shared = found.ask(td, asked).result(asked).reveal()
    public = half(found, td, purpose)
    theirs = ec.EllipticCurvePublicKey.from_encoded_point(CURVES[kind], public)
    assert scalar.exchange(ec.ECDH(), theirs) == shared


@pytest.mark.parametrize("size", [16, 32, 64])
def test_what_is_sealed_to_the_public_half_is_unwrapped(
    found: Rooted, td: SimTd, size: int
) -> None:
    public = half(found, td, "inbox")
    sealed = seal_for(public, Secret(b"s" * size), context=b"from the bank")
    asked = used("inbox", UNWRAP, sealed, context=b"from the bank")
    assert found.ask(td, asked).result(asked).reveal() == b"s" * size


def test_uses_and_keys_in_one_exchange(found: Rooted, td: SimTd) -> None:
    first, second = signing(), signing(message=b"another")
    disk, public = KeyRequest("disk"), KeyRequest("ed25519", part=KeyPart.PUBLIC)
    keys = found.ask(td, first, disk, public, second)
    verifier = VerifyKey(keys.get("ed25519").reveal())
    verifier.verify(MESSAGE, keys.result(first).reveal())
    verifier.verify(b"another", keys.result(second).reveal())
    assert keys.get("disk").reveal() == found.key(td)
    assert said(found) != {}


def test_an_older_generation_signs_as_it_did(found: Rooted, td: SimTd) -> None:
    before = found.ask(td, signing()).result(signing())
    found.roots = Roots(current=4)
    older = replace(signing(), generation=GenerationName.PREVIOUS)
    keys = found.ask(td, older, signing())
    assert keys.result(older) == before
    assert keys.result(signing()) != before
    assert [key.generation for key in keys.keys] == [3, 4]


def test_a_wrapped_key_is_created_by_its_first_use_and_outlives_rotation(
    found: Rooted, world: World, td: SimTd
) -> None:
    rules = kept(KeyType.ED25519, SIGN, source="wrapped")
    found.publish(document_of(world, td, key=[rules]))
    assert refusal(lambda: found.ask(td, signing())).code is Code.KEY_MISSING
    make = replace(signing(), create=True)
    made = found.ask(td, make).result(make)
    assert said(found)["wrapped"] == ["created"]
    public = half(found, td, "ed25519")
    VerifyKey(public).verify(MESSAGE, made.reveal())
    assert refusal(lambda: found.ask(td, make)).code is Code.KEY_EXISTS
    found.roots = Roots(current=4)
    keys = found.ask(td, signing())
    assert (keys.result(signing()), keys.keys[0].generation) == (made, 4)
    assert half(found, td, "ed25519") == public


# -- what is refused --------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (used("p256", AGREE, b"\2" * 33), Code.USE_NOT_ALLOWED),
        (used("inbox", AGREE, b"\x09".ljust(32, b"\0")), Code.USE_NOT_ALLOWED),
        (used("meet", UNWRAP, b"e" * 80), Code.USE_NOT_ALLOWED),
        (signing("meet"), Code.USE_NOT_ALLOWED),
        (signing("disk"), Code.USE_NOT_ALLOWED),
        (signing("none"), Code.PURPOSE_NOT_ALLOWED),
        (replace(signing(), label="a"), Code.KEY_LABEL_NOT_ALLOWED),
        (replace(signing(), generation=9), Code.GENERATION_UNKNOWN),
        (replace(signing(), create=True), Code.CREATE_NOT_ALLOWED),
    ],
    ids=[
        "operation",
        "agree_with_an_unwrapping_key",
        "unwrap_with_an_agreeing_key",
        "sign_with_x25519",
        "sign_with_a_raw_key",
        "purpose",
        "label",
        "generation",
        "create_of_a_derived_key",
    ],
)
def test_a_use_that_is_not_allowed_is_a_denial(
    found: Rooted, td: SimTd, asked: KeyRequest, code: Code
) -> None:
    assert refusal(lambda: found.ask(td, asked)).code is code
    entry = found.journal.entries()[-1].entry
    assert (entry.code, entry.granted) == (code.value, False)
    assert asked.use is not None
    assert entry.body["uses"][0][0] == asked.use.operation.value


def test_without_a_document_nothing_is_used(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    with rig(world, tmp_path) as bare:
        exchange, body = bare.question(td, (signing("disk"),))
        error = refusal(lambda: bare.provider.keys(body, now=NOW))
        assert error.code is Code.USE_NOT_ALLOWED
        exchange.wipe()


@pytest.mark.parametrize("peer", [bytes(32), b"\xff" * 32], ids=["low", "canonical"])
def test_a_peer_that_nobody_should_agree_with_is_refused_and_not_counted(
    found: Rooted, world: World, td: SimTd, peer: bytes
) -> None:
    rules = kept(KeyType.X25519, AGREE, purpose="meet", usage=once())
    found.publish(document_of(world, td, key=[rules]))
    for _ in range(2):
        error = refusal(lambda: found.ask(td, used("meet", AGREE, peer)))
        assert error.code is Code.USE_INPUT_INVALID
        assert found.journal.entries()[-1].entry.code == "use_input_invalid"
    honest = X25519PrivateKey.generate().public_key().public_bytes_raw()
    found.ask(td, used("meet", AGREE, honest))


def test_a_peer_off_the_curve_is_refused(found: Rooted, td: SimTd) -> None:
    asked = used("meet-p256", AGREE, b"\4" + b"\1" * 64)
    assert refusal(lambda: found.ask(td, asked)).code is Code.USE_INPUT_INVALID


def sealed_to(public: bytes, context: bytes = b"") -> bytes:
    return seal_for(public, Secret(b"s" * 32), context=context)


def test_an_envelope_that_is_not_for_this_key_opens_nowhere(
    found: Rooted, td: SimTd
) -> None:
    public = half(found, td, "inbox")
    good = sealed_to(public, b"one")
    stranger = X25519PrivateKey.generate().public_key().public_bytes_raw()
    for asked in (
        used("inbox", UNWRAP, good, context=b"two"),
        used("inbox", UNWRAP, good),
        used("inbox", UNWRAP, good[:-1] + bytes([good[-1] ^ 1]), context=b"one"),
        used("inbox", UNWRAP, bytes([good[0] ^ 1]) + good[1:], context=b"one"),
        used("inbox", UNWRAP, bytes(32) + good[32:], context=b"one"),
        used("inbox", UNWRAP, sealed_to(stranger, b"one"), context=b"one"),
    ):
        before = found.journal.latest()
        refused = refusal(lambda asked=asked: found.ask(td, asked))
        assert refused.code is Code.ENVELOPE_INVALID
        assert found.journal.latest() == before


def test_an_envelope_of_an_exchange_is_not_unwrapped(found: Rooted, td: SimTd) -> None:
    """Its label is another one: what was sealed to a recipient is nothing to a use."""
    public = half(found, td, "inbox")
    info = labelled(Label.HPKE_INFO, [b"h" * 64, 0])
    sealed = seal(Secret(b"k" * 32), kem=Kem.X25519, recipient_key=public, info=info)
    for context in (b"", info):
        asked = used("inbox", UNWRAP, sealed, context=context)
        assert refusal(lambda a=asked: found.ask(td, a)).code is Code.ENVELOPE_INVALID


# -- the journal and the response -------------------------------------------------


def test_the_journal_has_operation_and_hash_and_nothing_of_the_rest(
    found: Rooted, td: SimTd, tmp_path: Path
) -> None:
    secret, context = b"plain text of 32 bytes exactly!!", b"context of the sender"
    public = half(found, td, "inbox")
    assert "uses" not in said(found)
    sealed = seal_for(public, Secret(secret), context=context)
    unwrap = used("inbox", UNWRAP, sealed, context=context)
    keys = found.ask(td, signing(), KeyRequest("disk"), unwrap)
    empty = hashlib.sha256(b"").digest()
    assert said(found)["uses"] == [
        ["sign", hashlib.sha256(MESSAGE).digest(), empty],
        None,
        [
            "unwrap",
            hashlib.sha256(sealed).digest(),
            hashlib.sha256(context).digest(),
        ],
    ]
    results = [keys.result(signing()).reveal(), keys.result(unwrap).reveal()]
    assert results[1] == secret
    raw = b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())
    assert hashlib.sha256(MESSAGE).digest() in raw
    for hidden in (MESSAGE, sealed, context, *results):
        assert hidden not in raw


def test_a_response_that_says_a_key_where_a_use_was_asked_for_is_refused(
    found: Rooted, td: SimTd
) -> None:
    exchange, body = found.question(td, (signing(),))
    answer = found.provider.keys(body, now=NOW)
    assert json.loads(answer)["keys"][0]["use"] == "sign"
    for lie in (
        lambda value: value["keys"][0].pop("use"),
        lambda value: value["keys"][0].update(use="agree"),
        lambda value: value["keys"][0].update(type="x25519"),
        lambda value: value["keys"][0].update(type="p256"),
    ):
        with pytest.raises(ProviderError) as caught:
            exchange.open_response(changed(answer, lie), now=NOW)
        assert caught.value.code is Code.RESPONSE_INVALID
    exchange.open_response(answer, now=NOW)


def test_without_a_use_the_messages_are_those_of_before(
    found: Rooted, td: SimTd
) -> None:
    """Other versions refuse fields that they do not know."""
    exchange, body = found.question(td, (KeyRequest("disk"),))
    asked = json.loads(body)
    assert "imports" not in asked
    (key,) = asked["keys"]
    assert set(key) == {"purpose", "label", "length", "part", "generation", "create"}
    answer = found.provider.keys(body, now=NOW)
    (facts,) = json.loads(answer)["keys"]
    assert set(facts) == {"type", "part", "generation"}
    exchange.open_response(answer, now=NOW)


def test_a_signature_by_another_key_is_noticed(found: Rooted, td: SimTd) -> None:
    keys = found.ask(td, signing())
    stranger = half(found, td, "meet")
    with pytest.raises(ProviderError) as caught:
        signature_of(keys, signing(), public=stranger)
    assert caught.value.code is Code.RESPONSE_INVALID
