# SPDX-License-Identifier: Apache-2.0
"""Import of an existing key: from a legacy provider, into a record, and back."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from release_rig import NOW, rig, verifier_of
from rooted_rig import Rooted, document_of, rooted
from use_support import Roots, changed, once, refusal, said, text
from wrapped_support import name_of, path_of

from tightseal.envelope.hpke import RecipientKey, recipient_key_bytes, seal
from tightseal.errors import Code, ProviderError, ServiceError
from tightseal.guest.challenge import ProviderCollateral
from tightseal.guest.exchange import Exchange, Terms
from tightseal.guest.importing import Import, same_key
from tightseal.guest.released import ReleasedKeys
from tightseal.keys.pairs import public_half
from tightseal.model.exchange import Kem
from tightseal.model.grant import Grant, WrappedUse
from tightseal.model.importing import IMPORT_KEM, MAX_IMPORT_BYTES, import_commitment
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.keyuse import KeyUse, Operation
from tightseal.model.secret import Secret
from tightseal.model.settings import LegacySettings
from tightseal.model.wire import ChallengeRequest, decode_json, encode_json
from tightseal.release.wrapped import KINDS, wrapped_of
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

OLD = Secret(b"o" * 32)
MAKE = KeyRequest("disk", create=True)
OPEN = KeyRequest("disk")


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"imports".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


def kept(purpose: str = "disk", **rules: Any) -> dict[str, Any]:
    return {"purpose": purpose, "source": "wrapped", "imports": True, **rules}


@pytest.fixture
def found(world: World, td: SimTd, tmp_path: Path) -> Iterator[Rooted]:
    with rooted(world, tmp_path) as made:
        made.roots = Roots()
        made.publish(document_of(world, td, key=[kept()]))
        yield made


def begun(
    found: Rooted, *imports: Secret | None, keys: tuple[KeyRequest, ...] = (MAKE,)
) -> tuple[Exchange, bytes]:
    """An exchange and the report data that it wants."""
    terms = Terms(
        pin=found.pin(),
        collateral=ProviderCollateral.behind(verifier_of(found.world)),
        kem=Kem.X25519,
    )
    exchange = Exchange(terms, keys, imports=imports)
    asked = decode_json(exchange.challenge_request(), ChallengeRequest)
    challenge = encode_json(found.provider.challenge(asked, now=found.now))
    return exchange, exchange.check_challenge(challenge, now=found.now)


def question(
    found: Rooted, td: SimTd, *imports: Secret | None, **how: Any
) -> tuple[Exchange, bytes]:
    exchange, data = begun(found, *imports, **how)
    return exchange, exchange.keys_request(td.evidence(data))


def handed(
    found: Rooted, td: SimTd, *imports: Secret | None, **how: Any
) -> ReleasedKeys:
    """The whole exchange."""
    exchange, body = question(found, td, *imports, **how)
    answer = found.provider.keys(body, now=found.now)
    return exchange.open_response(answer, now=found.now)


def denied(found: Rooted, body: bytes) -> Code:
    """The code of a refusal that the journal has, and that left no record."""
    code = refusal(lambda: found.provider.keys(body, now=found.now)).code
    entry = found.journal.entries()[-1].entry
    assert (entry.code, entry.granted) == (code.value, False)
    assert records(found) == 0
    return code


def records(found: Rooted) -> int:
    return sum(len(found.store.scan(kind, now=NOW)) for kind in KINDS)


# -- leaving a legacy provider ----------------------------------------------------


def test_a_workload_takes_its_key_along_from_a_legacy_provider(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    """The old provider speaks the framed protocol's pipeline; the new one has a root.

    What comes back is that very key: now, after a restart, and after each rotation.
    """
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    with rig(world, old, legacy=LegacySettings(enabled=True)) as legacy:
        key = legacy.legacy_key(td)
        other = world.intel.platform("one").launch_td(TdImage(kernel=b"another"))
        assert legacy.legacy_key(other) != key
    with rooted(world, new) as found:
        found.roots = Roots()
        approvers = found.approvers
        found.publish(document_of(world, td, key=[kept()]))
        with handed(found, td, Secret(key)) as released:
            assert released.get("disk").reveal() == key
        assert said(found)["wrapped"] == ["imported"]
        assert found.key(td) == key
    with rooted(world, new, approvers=approvers) as found:
        for current in (3, 4, 5):
            found.roots = Roots(current=current)
            found.restart()
            opened = found.ask(td, OPEN).key("disk")
            assert (opened.secret.reveal(), opened.generation) == (key, current)
        assert said(found)["wrapped"] == ["opened"]


# -- what an import is ------------------------------------------------------------


@pytest.mark.parametrize("length", [16, 33, 64])
def test_raw_keys_of_any_length(
    found: Rooted, world: World, td: SimTd, length: int
) -> None:
    found.publish(document_of(world, td, key=[kept(length=length)]))
    asked = KeyRequest("disk", length=length, create=True)
    handed(found, td, Secret(b"k" * length), keys=(asked,))
    again = found.ask(td, replace(asked, create=False)).get("disk")
    assert again.reveal() == b"k" * length


@pytest.mark.parametrize("kind", [k for k in KeyType if k is not KeyType.RAW])
def test_pairs(found: Rooted, world: World, td: SimTd, kind: KeyType) -> None:
    found.publish(document_of(world, td, key=[kept(type=kind.value)]))
    handed(found, td, OLD)
    public = found.ask(td, KeyRequest("disk", part=KeyPart.PUBLIC)).get("disk")
    assert public.reveal() == public_half(OLD, kind)


def test_imports_beside_other_requests(found: Rooted, world: World, td: SimTd) -> None:
    keys = [kept(labels=["", "a", "b"]), {"purpose": "derived"}]
    found.publish(document_of(world, td, key=keys))
    asked = (KeyRequest("derived"), MAKE, replace(MAKE, label="a"))
    released = handed(found, td, None, None, OLD, keys=asked)
    assert released.get("disk", "a") == OLD
    assert released.get("disk") != OLD
    assert said(found)["wrapped"] == [None, "created", "imported"]


def test_a_key_may_be_imported_by_its_first_use(
    found: Rooted, world: World, td: SimTd
) -> None:
    rules = kept(type="ed25519", parts=["public"], uses=["sign"])
    found.publish(document_of(world, td, key=[rules]))
    use = KeyUse(Operation.SIGN, b"message")
    released = handed(found, td, OLD, keys=(replace(MAKE, use=use),))
    assert len(released.keys[0].secret) == 64
    public = found.ask(td, KeyRequest("disk", part=KeyPart.PUBLIC)).get("disk")
    assert public.reveal() == public_half(OLD, KeyType.ED25519)


def test_a_challenge_without_imports_is_signed_as_before(found: Rooted) -> None:
    bare = ChallengeRequest(version=1, client_nonce="A" * 43)
    assert "import_key" not in json.loads(encode_json(bare))
    answer = found.provider.challenge(bare, now=NOW)
    assert "import_key" not in json.loads(encode_json(answer))
    assert answer.parsed().body.import_key is None
    asked = found.provider.challenge(
        ChallengeRequest(version=1, client_nonce="A" * 43, import_key=True), now=NOW
    )
    key = asked.parsed().body.import_key
    assert key is not None
    assert len(key) == recipient_key_bytes(IMPORT_KEM)


def test_every_worker_has_the_same_import_key_and_every_epoch_another(
    found: Rooted,
) -> None:
    asked = ChallengeRequest(version=1, client_nonce="A" * 43, import_key=True)

    def key(now: int) -> bytes | None:
        return found.provider.challenge(asked, now=now).parsed().body.import_key

    life = found.keeper.current().settings.attested_key_life
    # The property makes a provider anew each time, as a worker would.
    assert key(NOW) == key(NOW)
    assert key(NOW) != key(NOW + life)


# -- what is refused --------------------------------------------------------------


def test_a_purpose_that_imports_nothing(found: Rooted, world: World, td: SimTd) -> None:
    found.publish(document_of(world, td, key=[kept(imports=False)]))
    _, body = question(found, td, OLD)
    assert denied(found, body) is Code.IMPORT_NOT_ALLOWED
    found.publish(document_of(world, td, key=[{"purpose": "disk"}]))
    _, body = question(found, td, OLD)
    assert denied(found, body) is Code.CREATE_NOT_ALLOWED


def test_an_existing_key_is_never_replaced(found: Rooted, td: SimTd) -> None:
    first = found.ask(td, MAKE).get("disk").reveal()
    assert refusal(lambda: handed(found, td, OLD)).code is Code.KEY_EXISTS
    assert refusal(lambda: handed(found, td, Secret(first))).code is Code.KEY_EXISTS
    assert found.key(td) == first


@pytest.mark.parametrize(
    ("kind", "length", "key"),
    [
        ("raw", 32, b"k" * 31),
        ("raw", 32, b"k" * 33),
        ("raw", 32, bytes(32)),
        ("ed25519", 32, bytes(32)),
        ("p256", 32, bytes(32)),
        ("p256", 32, b"\xff" * 32),
        ("secp256k1", 32, b"\xff" * 32),
        ("x25519", 32, b"k" * 64),
    ],
)
def test_a_key_of_another_form_is_not_kept(
    found: Rooted, world: World, td: SimTd, kind: str, length: int, key: bytes
) -> None:
    rules = kept(type=kind, length=length, usage=once())
    found.publish(document_of(world, td, key=[rules]))
    asked = KeyRequest("disk", length=length, create=True)
    for _ in range(2):
        _, body = question(found, td, Secret(key), keys=(asked,))
        assert denied(found, body) is Code.IMPORT_INVALID
    handed(found, td, OLD, keys=(asked,))


Sealer = Callable[[Rooted, SimTd, Exchange, dict[str, Any]], bytes]


def _sealed(
    exchange: Exchange, value: dict[str, Any], *, key: Secret = OLD, **how: Any
) -> bytes:
    """The import sealed anew, with some part of it another one."""
    asked = exchange._asked()
    made = how.get("made") or exchange._imports[0]
    assert made is not None
    to = how.get("to") or asked.challenge.body.import_key
    evidence = how.get("evidence") or asked.evidence
    transcript = how.get("transcript") or asked.transcript
    info = transcript.import_info(evidence, index=how.get("index", 0))
    del value, key
    return seal(
        made.salted,
        kem=IMPORT_KEM,
        recipient_key=to,
        info=how.get("info") or info,
        max_bytes=MAX_IMPORT_BYTES,
    )


def _another_epoch(
    found: Rooted, td: SimTd, exchange: Exchange, value: dict[str, Any]
) -> bytes:
    del td
    life = found.keeper.current().settings.attested_key_life
    asked = ChallengeRequest(version=1, client_nonce="A" * 43, import_key=True)
    other = found.provider.challenge(asked, now=NOW + life).parsed().body.import_key
    return _sealed(exchange, value, to=other)


def _another_exchange(
    found: Rooted, td: SimTd, exchange: Exchange, value: dict[str, Any]
) -> bytes:
    other, body = question(found, td, OLD)
    del exchange, value, other
    return base64.urlsafe_b64decode(json.loads(body)["imports"][0] + "==")


def _another_workload(
    found: Rooted, td: SimTd, exchange: Exchange, value: dict[str, Any]
) -> bytes:
    """Everything but the evidence is that of this exchange."""
    del td
    other = found.world.intel.platform("one").launch_td(TdImage(kernel=b"theirs"))
    data = exchange._asked().transcript.report_data()
    return _sealed(exchange, value, evidence=other.evidence(data))


BADLY_SEALED: dict[str, Sealer] = {
    "another_epoch": _another_epoch,
    "another_exchange": _another_exchange,
    "another_workload": _another_workload,
    "another_place": lambda _f, _t, e, v: _sealed(e, v, index=1),
    "as_a_released_key": lambda _f, _t, e, v: _sealed(
        e, v, info=e._asked().transcript.hpke_info(e._asked().evidence, index=0)
    ),
    "another_recipient": lambda _f, _t, e, v: _sealed(
        e, v, to=RecipientKey.generate(IMPORT_KEM).public_bytes()
    ),
    "another_key_than_committed": lambda _f, _t, e, v: _sealed(
        e, v, made=Import.of(Secret(b"host" * 8), lambda n: b"s" * n)
    ),
    "another_salt_than_committed": lambda _f, _t, e, v: _sealed(
        e, v, made=Import.of(OLD, lambda n: b"s" * n)
    ),
    "truncated": lambda _f, _t, e, v: _sealed(e, v)[:-1],
    "short": lambda _f, _t, _e, _v: b"e" * 40,
    "salt_alone": lambda _f, _t, e, v: _sealed(
        e, v, made=Import(b"", Secret(b"s" * 32))
    ),
    "flipped": lambda _f, _t, e, v: _sealed(e, v)[:-1] + b"\0",
}


@pytest.mark.parametrize("case", BADLY_SEALED)
def test_an_envelope_of_another_exchange_is_not_kept(
    found: Rooted, td: SimTd, case: str
) -> None:
    exchange, body = question(found, td, OLD)
    value = json.loads(body)
    sealed = BADLY_SEALED[case](found, td, exchange, value)
    value["imports"] = [text(sealed)]
    assert denied(found, json.dumps(value).encode()) is Code.IMPORT_INVALID


def test_one_key_is_not_created_twice_in_one_request(
    found: Rooted, world: World, td: SimTd
) -> None:
    """Else one of the two would be told another key than the one that is kept."""
    rules = kept(type="ed25519", uses=["sign"])
    found.publish(document_of(world, td, key=[rules]))
    signed = replace(MAKE, use=KeyUse(Operation.SIGN, b"message"))
    for imports in ((OLD, None), (None, OLD), (OLD, OLD)):
        _, body = question(found, td, *imports, keys=(MAKE, signed))
        assert denied(found, body) is Code.IMPORT_INVALID


def test_an_import_without_its_key_is_never_a_random_one() -> None:
    use = WrappedUse(name_of(path_of()), create=True, imported=True)
    grant = Grant(paths=(path_of(),), wrapped=(use,))
    for imported in ((), (None,)):
        with pytest.raises(ServiceError) as caught:
            wrapped_of(grant, imported)
        assert caught.value.code is Code.INTERNAL
    with pytest.raises(ServiceError):
        wrapped_of(replace(grant, wrapped=(replace(use, imported=False),)), (OLD,))


def test_sealing_anew_is_what_the_defects_change(found: Rooted, td: SimTd) -> None:
    exchange, body = question(found, td, OLD)
    value = json.loads(body)
    value["imports"] = [text(_sealed(exchange, value))]
    found.provider.keys(json.dumps(value).encode(), now=NOW)
    assert found.key(td) == OLD.reveal()


def test_another_workload_cannot_have_the_key_kept_under_its_name(
    found: Rooted, world: World, td: SimTd
) -> None:
    """A copy of the whole exchange, answered by evidence of its own."""
    thief = world.intel.platform("one").launch_td(TdImage(kernel=b"a thief"))
    owner = document_of(world, td, key=[kept()])
    theirs = document_of(world, thief, name="thief", key=[kept()])
    found.publish(owner, theirs)
    exchange, body = question(found, td, OLD)
    data = exchange._asked().transcript.report_data()
    stolen = changed(
        body, lambda value: value.update(evidence=text(thief.evidence(data)))
    )
    assert denied(found, stolen) is Code.IMPORT_INVALID


IN_FLIGHT: dict[str, Callable[[dict[str, Any]], object]] = {
    "commitment": lambda v: v["keys"][0].update(
        imported=text(import_commitment(b"s" * 32, Secret(b"host" * 8)))
    ),
    "purpose": lambda v: v["keys"][0].update(purpose="other"),
    "label": lambda v: v["keys"][0].update(label="other"),
    "made_a_create": lambda v: (v["keys"][0].pop("imported"), v.pop("imports")),
}


@pytest.mark.parametrize("case", IN_FLIGHT)
def test_an_import_that_was_changed_in_flight(
    found: Rooted, td: SimTd, case: str
) -> None:
    _, body = question(found, td, OLD)
    hostile = changed(body, IN_FLIGHT[case])
    error = refusal(lambda: found.provider.keys(hostile, now=NOW))
    assert error.code is Code.REPORT_DATA_MISMATCH
    assert records(found) == 0


FORMS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no_envelope": lambda v: v.pop("imports"),
    "no_commitment": lambda v: v["keys"][0].pop("imported"),
    "null": lambda v: v.update(imports=[None]),
    "two": lambda v: v.update(imports=v["imports"] * 2),
    "none_at_all": lambda v: v.update(imports=[]),
    "short_commitment": lambda v: v["keys"][0].update(imported=text(b"c" * 32)),
    "opened": lambda v: v["keys"][0].update(create=False),
    "endless": lambda v: v.update(imports=[text(b"e" * 2049)]),
}


@pytest.mark.parametrize("case", FORMS)
def test_an_import_of_no_form(found: Rooted, td: SimTd, case: str) -> None:
    _, body = question(found, td, OLD)
    hostile = changed(body, FORMS[case])
    before = found.journal.latest()
    error = refusal(lambda: found.provider.keys(hostile, now=NOW))
    assert error.code is Code.REQUEST_MALFORMED
    assert found.journal.latest() == before


def test_a_retry_gets_the_same_answer_and_a_replay_none(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, key=[kept(usage=once())]))
    exchange, body = question(found, td, OLD)
    answers = {found.provider.keys(body, now=NOW) for _ in range(3)}
    assert len(answers) == 1
    released = exchange.open_response(answers.pop(), now=NOW)
    assert released.get("disk") == OLD
    replayed = changed(body, lambda value: value.update(proof="quote"))
    error = refusal(lambda: found.provider.keys(replayed, now=NOW))
    assert error.code in {Code.KEY_EXISTS, Code.NONCE_REPLAYED}
    assert records(found) == 1


def test_a_key_that_comes_back_changed_is_noticed(found: Rooted, td: SimTd) -> None:
    released = handed(found, td, OLD)
    assert same_key(released, OLD) is released
    with pytest.raises(ProviderError) as caught:
        same_key(released, Secret(b"p" * 32))
    assert caught.value.code is Code.RESPONSE_INVALID
    assert not any(released.get("disk").reveal())


def test_the_key_is_in_no_file_and_no_text(
    found: Rooted, td: SimTd, tmp_path: Path
) -> None:
    secret = b"known bytes that must not appear"
    exchange, body = question(found, td, Secret(secret))
    assert secret not in body
    found.provider.keys(body, now=NOW)
    exchange.wipe()
    raw = b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())
    for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
        assert form not in raw
    shown = repr(exchange.__dict__) + repr(found.provider.__dict__)
    assert secret.decode() not in shown
