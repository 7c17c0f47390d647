# SPDX-License-Identifier: Apache-2.0
"""Wrapped keys through a whole release: created once, opened ever after."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from release_rig import NOW
from rooted_rig import Rooted, document_of, rooted

from tightseal.errors import Code, KeyReleaseError, TightsealError
from tightseal.model.generation import Generation, GenerationName, Generations
from tightseal.model.keypath import KeyPart, KeyRequest
from tightseal.model.ports import JournalEntry, NonceRedemption
from tightseal.model.provider import sidecar_keyring_id
from tightseal.model.secret import Secret
from tightseal.model.wire import PublicKeyRequest
from tightseal.release.rewrap import Rewrapped, Rewrapper
from tightseal.release.wrapped import KINDS
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

MAKE = KeyRequest("disk", create=True)
OPEN = KeyRequest("disk")


@dataclass
class Roots:
    """A keyring that rotates and destroys at a word."""

    current: int = 3
    open: frozenset[int] = frozenset({2, 3})
    keyring_id: bytes = sidecar_keyring_id()
    simulated: bool = True

    def generations(self) -> Generations:
        older = [number for number in self.open if number < self.current]
        return Generations(self.current, max(older, default=None), self.open)

    def root(self, generation: int) -> Secret:
        if generation not in self.open:
            raise KeyReleaseError(Code.GENERATION_UNKNOWN, str(generation))
        return Secret(bytes([generation]) * 32)

    def rotate(self) -> None:
        self.current += 1
        self.open |= {self.current}

    def destroy(self, generation: int) -> None:
        self.open -= {generation}


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"wrapped keys".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture
def roots() -> Roots:
    return Roots()


@pytest.fixture
def found(world: World, td: SimTd, roots: Roots, tmp_path: Path) -> Iterator[Rooted]:
    with rooted(world, tmp_path) as made:
        made.roots = roots
        made.publish(document_of(world, td, key=[wrapped("disk")]))
        yield made


def wrapped(purpose: str, **rules: Any) -> dict[str, Any]:
    return {"purpose": purpose, "source": "wrapped", **rules}


def refusal(attempt: Callable[[], object]) -> TightsealError:
    with pytest.raises(TightsealError) as refused:
        attempt()
    return refused.value


def records(found: Rooted) -> int:
    return sum(len(found.store.scan(kind, now=NOW)) for kind in KINDS)


def said(found: Rooted) -> Any:
    """The body of the newest entry."""
    return found.journal.entries()[-1].entry.body


# -- create and open --------------------------------------------------------------


def test_a_key_is_missing_until_it_is_created_and_then_opens(
    found: Rooted, td: SimTd
) -> None:
    assert refusal(lambda: found.key(td)).code is Code.KEY_MISSING
    assert records(found) == 0
    key = found.ask(td, MAKE).get("disk").reveal()
    assert len(key) == 32
    assert found.key(td) == key
    found.restart()
    assert found.key(td) == key


def test_a_key_is_created_once(found: Rooted, td: SimTd) -> None:
    key = found.ask(td, MAKE).get("disk").reveal()
    error = refusal(lambda: found.ask(td, MAKE))
    assert error.code is Code.KEY_EXISTS
    assert key.hex() not in str(error) + repr(error)
    assert found.key(td) == key


def test_refusals_are_in_the_journal_and_repeated(found: Rooted, td: SimTd) -> None:
    _, body = found.question(td, (OPEN,))
    assert refusal(lambda: found.provider.keys(body, now=NOW)).code is Code.KEY_MISSING
    entry = found.journal.entries()[-1].entry
    assert (entry.code, entry.granted) == ("key_missing", False)
    found.ask(td, MAKE)
    again = refusal(lambda: found.provider.keys(body, now=NOW))
    assert again.code is Code.KEY_MISSING
    refusal(lambda: found.ask(td, MAKE))
    assert found.journal.entries()[-1].entry.code == "key_exists"


def test_the_journal_says_what_was_created_and_what_was_opened(
    found: Rooted, world: World, td: SimTd
) -> None:
    keys = [wrapped("disk"), {"purpose": "derived"}]
    found.publish(document_of(world, td, key=keys))
    found.ask(td, MAKE, KeyRequest("derived"))
    assert said(found)["wrapped"] == ["created", None]
    found.ask(td, KeyRequest("derived"), OPEN)
    assert said(found)["wrapped"] == [None, "opened"]
    found.ask(td, KeyRequest("derived"))
    assert "wrapped" not in said(found)


def test_each_label_and_purpose_has_a_key_of_its_own(
    found: Rooted, world: World, td: SimTd
) -> None:
    keys = [wrapped("disk", labels=["", "*"]), wrapped("other", labels=["", "*"])]
    found.publish(document_of(world, td, key=keys))
    asked = [(p, lb) for p in ("disk", "other") for lb in ("", "a", "b")]
    made = found.ask(td, *(KeyRequest(p, lb, create=True) for p, lb in asked))
    values = {made.get(p, lb).reveal() for p, lb in asked}
    assert len(values) == len(asked) == records(found)
    again = found.ask(td, *(KeyRequest(p, lb) for p, lb in asked))
    for p, lb in asked:
        assert again.get(p, lb) == made.get(p, lb)


def test_of_several_keys_all_are_created_or_none(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, key=[wrapped("disk", labels=["", "a"])]))
    other = KeyRequest("disk", "a", create=True)
    found.ask(td, MAKE)
    assert refusal(lambda: found.ask(td, other, MAKE)).code is Code.KEY_EXISTS
    missing = KeyRequest("disk", "a")
    assert refusal(lambda: found.ask(td, missing)).code is Code.KEY_MISSING
    assert records(found) == 1


def test_another_image_of_the_name_opens_the_key(
    found: Rooted, world: World, td: SimTd
) -> None:
    key = found.ask(td, MAKE).get("disk").reveal()
    changed = TdImage(kernel=b"the next kernel")
    upgraded = world.intel.platform("one").launch_td(changed)
    found.publish(document_of(world, td, upgraded, key=[wrapped("disk")]))
    assert found.key(upgraded) == key


def test_what_is_wrapped_is_not_what_would_be_derived(
    found: Rooted, world: World, td: SimTd
) -> None:
    key = found.ask(td, MAKE).get("disk").reveal()
    found.publish(document_of(world, td, key=[{"purpose": "disk"}]))
    assert found.key(td) != key
    found.publish(document_of(world, td, key=[wrapped("disk")]))
    assert found.key(td) == key


@pytest.mark.parametrize("length", [16, 64])
def test_raw_keys_have_any_length(
    found: Rooted, world: World, td: SimTd, length: int
) -> None:
    found.publish(document_of(world, td, key=[wrapped("disk", length=length)]))
    key = found.ask(td, KeyRequest("disk", length=length, create=True)).get("disk")
    assert len(key) == length
    assert found.ask(td, KeyRequest("disk", length=length)).get("disk") == key


@pytest.mark.parametrize(
    ("rules", "length"),
    [({"length": 64}, 64), ({"type": "ed25519"}, 32)],
    ids=["length", "type"],
)
def test_a_key_keeps_the_terms_it_was_created_on(
    found: Rooted, world: World, td: SimTd, rules: dict[str, Any], length: int
) -> None:
    key = found.ask(td, MAKE).get("disk").reveal()
    found.publish(document_of(world, td, key=[wrapped("disk", **rules)]))
    for create in (False, True):
        asked = KeyRequest("disk", length=length, create=create)
        error = refusal(partial(found.ask, td, asked))
        expected = Code.KEY_EXISTS if create else Code.KEY_TERMS_CHANGED
        assert error.code is expected
        assert found.journal.entries()[-1].entry.code == expected.value
    found.publish(document_of(world, td, key=[wrapped("disk")]))
    assert found.key(td) == key


def test_another_kdf_wraps_the_same_key_anew(
    found: Rooted, world: World, td: SimTd
) -> None:
    key = found.ask(td, MAKE).get("disk").reveal()
    for kdf in ("sp800-108-ctr-hmac-sha256", "hkdf-sha512", "hkdf-sha256"):
        found.publish(document_of(world, td, key=[wrapped("disk", kdf=kdf)]))
        assert found.key(td) == key
        assert said(found)["keys"][0]["kdf"] == kdf


# -- pairs ------------------------------------------------------------------------


def pair(**rules: Any) -> list[dict[str, Any]]:
    return [wrapped("signing", type="ed25519", published=True, **rules)]


def test_both_halves_of_a_wrapped_pair_fit(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, key=pair()))
    made = found.ask(td, KeyRequest("signing", create=True)).get("signing").reveal()
    public = Ed25519PrivateKey.from_private_bytes(made).public_key().public_bytes_raw()
    asked = found.ask(td, KeyRequest("signing", part=KeyPart.PUBLIC)).get("signing")
    assert asked.reveal() == public


@pytest.mark.parametrize("kind", ["x25519", "p256", "secp256k1"])
def test_every_kind_of_pair_is_kept(
    found: Rooted, world: World, td: SimTd, kind: str
) -> None:
    found.publish(document_of(world, td, key=[wrapped("id", type=kind)]))
    made = found.ask(td, KeyRequest("id", create=True)).key("id")
    half = found.ask(td, KeyRequest("id", part=KeyPart.PUBLIC)).key("id")
    assert half.public_half() == made.public_half()


def published() -> PublicKeyRequest:
    return PublicKeyRequest(
        version=1,
        client_nonce="A" * 43,
        tenant="acme",
        workload="database",
        purpose="signing",
    )


def test_a_published_half_is_never_created_and_never_moved_by_strangers(
    found: Rooted, world: World, td: SimTd, roots: Roots
) -> None:
    found.publish(document_of(world, td, key=pair()))
    asked = published()
    error = refusal(lambda: found.provider.public_key(asked, now=NOW))
    assert error.code is Code.KEY_MISSING
    assert records(found) == 0
    made = found.ask(td, KeyRequest("signing", create=True)).key("signing")
    roots.rotate()
    before = found.store.freshness().head
    told = found.provider.public_key(asked, now=NOW).parsed().body
    assert (told.public_key, told.generation) == (made.public_half(), 3)
    assert found.store.freshness().head == before
    found.ask(td, KeyRequest("signing"))
    told = found.provider.public_key(asked, now=NOW).parsed().body
    assert (told.public_key, told.generation) == (made.public_half(), 4)


# -- rotation ---------------------------------------------------------------------


def test_rotation_wraps_anew_and_the_workload_does_not_notice(
    found: Rooted, td: SimTd, roots: Roots
) -> None:
    made = found.ask(td, MAKE).key("disk")
    assert made.generation == 3
    key = made.secret.reveal()
    for generation in (4, 5, 6):
        roots.rotate()
        opened = found.ask(td, OPEN).key("disk")
        assert (opened.secret.reveal(), opened.generation) == (key, generation)
        assert said(found)["keys"][0]["generation"] == generation
        roots.destroy(generation - 1)
        assert found.key(td) == key


def test_under_the_same_generation_nothing_is_written(found: Rooted, td: SimTd) -> None:
    found.ask(td, MAKE)
    before = found.store.freshness().head
    found.ask(td, OPEN)
    assert found.store.freshness().head == before


def test_a_key_under_a_destroyed_generation_is_refused_by_its_number(
    found: Rooted, td: SimTd, roots: Roots
) -> None:
    found.ask(td, MAKE)
    roots.rotate()
    roots.destroy(3)
    error = refusal(lambda: found.ask(td, OPEN))
    assert error.code is Code.GENERATION_UNKNOWN
    assert "generation 3: destroyed, or newer than this keyring" in error.detail
    assert refusal(lambda: found.ask(td, MAKE)).code is Code.KEY_EXISTS


def test_a_provider_that_is_behind_leaves_a_key_where_it_is(
    found: Rooted, td: SimTd, roots: Roots
) -> None:
    key = found.ask(td, MAKE).get("disk").reveal()
    roots.rotate()
    found.ask(td, OPEN)
    found.roots = Roots(current=3, open=frozenset({3, 4}))
    opened = found.ask(td, OPEN).key("disk")
    assert (opened.secret.reveal(), opened.generation) == (key, 4)


@pytest.mark.parametrize("asked", [GenerationName.PREVIOUS, 2, 3])
def test_only_current_is_asked_for(found: Rooted, td: SimTd, asked: Generation) -> None:
    found.ask(td, MAKE)
    error = refusal(lambda: found.ask(td, KeyRequest("disk", generation=asked)))
    assert error.code is Code.GENERATION_NOT_ALLOWED


def test_a_generation_is_given_up_when_no_key_depends_on_it(
    found: Rooted, world: World, td: SimTd, roots: Roots
) -> None:
    found.publish(document_of(world, td, key=[wrapped("disk", labels=["*"])]))
    labels = [str(n) for n in range(12)]
    made = found.ask(td, *(KeyRequest("disk", lb, create=True) for lb in labels))
    rewrapper = Rewrapper(found.store, roots)
    error = refusal(lambda: rewrapper.close(3, now=NOW))
    assert error.code is Code.GENERATION_NOT_ALLOWED
    roots.rotate()
    found.ask(td, KeyRequest("disk", "7"))
    assert rewrapper.by_generation(now=NOW) == {3: 11, 4: 1}
    assert rewrapper.give_up(3, now=NOW) == Rewrapped(moved=11, settled=1)
    assert rewrapper.still_under(3, now=NOW) == 0
    roots.destroy(3)
    again = found.ask(td, *(KeyRequest("disk", lb) for lb in labels))
    for lb in labels:
        assert again.get("disk", lb) == made.get("disk", lb)


def test_nobody_wraps_under_a_closed_generation_any_more(
    found: Rooted, world: World, td: SimTd, roots: Roots
) -> None:
    found.publish(document_of(world, td, key=[wrapped("disk", labels=["", "a"])]))
    behind = Roots(current=3, open=frozenset({2, 3}))
    found.roots = Roots(current=2, open=frozenset({2}))
    key = found.ask(td, MAKE).get("disk").reveal()
    roots.rotate()
    Rewrapper(found.store, roots).close(3, now=NOW)
    found.roots = behind
    error = refusal(lambda: found.ask(td, KeyRequest("disk", "a", create=True)))
    assert error.code is Code.PROVIDER_NOT_READY
    opened = found.ask(td, OPEN).key("disk")
    assert (opened.secret.reveal(), opened.generation) == (key, 2)
    found.roots = roots
    assert found.ask(td, OPEN).key("disk").generation == 4


# -- usage, retries, crashes ------------------------------------------------------


def counted(**usage: Any) -> list[dict[str, Any]]:
    return [wrapped("disk", usage={"without_anchor": "accept", **usage})]


def test_what_was_refused_counts_for_nothing_and_a_create_counts_once(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, key=counted(total=2)))
    for _ in range(3):
        assert refusal(lambda: found.ask(td, OPEN)).code is Code.KEY_MISSING
    found.ask(td, MAKE)
    for _ in range(3):
        assert refusal(lambda: found.ask(td, MAKE)).code is Code.KEY_EXISTS
    found.ask(td, OPEN)
    error = refusal(lambda: found.ask(td, OPEN))
    assert error.code is Code.USAGE_LIMIT_REACHED


def test_what_may_not_leave_is_not_created(
    found: Rooted, world: World, td: SimTd
) -> None:
    keys = [*counted(first_platform=True), {"purpose": "other"}]
    elsewhere = world.intel.platform("two").launch_td(TdImage())
    found.publish(document_of(world, td, platform="any", key=keys))
    refusal(lambda: found.ask(td, MAKE, KeyRequest("unknown")))
    assert records(found) == 0
    found.ask(td, MAKE)
    error = refusal(lambda: found.ask(elsewhere, OPEN))
    assert error.code is Code.USAGE_PLATFORM_BOUND


def test_a_retry_of_the_same_bytes_gets_the_same_answer(
    found: Rooted, td: SimTd
) -> None:
    exchange, body = found.question(td, (MAKE,))
    provider = found.provider
    with ThreadPoolExecutor(4) as pool:
        answers = set(pool.map(lambda _: provider.keys(body, now=NOW), range(8)))
    assert len(answers) == 1
    released = exchange.open_response(answers.pop(), now=NOW)
    assert found.key(td) == released.get("disk").reveal()


def test_of_two_creates_at_once_one_wins(found: Rooted, td: SimTd) -> None:
    questions = [found.question(td, (MAKE,)) for _ in range(6)]
    provider = found.provider

    def ask(at: int) -> bytes | Code:
        exchange, body = questions[at]
        try:
            answer = provider.keys(body, now=NOW)
        except TightsealError as e:
            return e.code
        return exchange.open_response(answer, now=NOW).get("disk").reveal()

    with ThreadPoolExecutor(len(questions)) as pool:
        outcomes = list(pool.map(ask, range(len(questions))))
    won = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
    assert won == [found.key(td)]
    assert outcomes.count(Code.KEY_EXISTS) == len(questions) - 1


class CrashError(Exception):
    """The process is gone."""


class CrashingJournal:
    """Forgets everything about the one entry that it is to take."""

    def nonce_era(self) -> int:
        return 0

    def kept_response(self, redemption: NonceRedemption) -> bytes | None:
        del redemption
        return None

    def promise(self, entry: JournalEntry) -> None:
        del entry

    def record(self, entry: JournalEntry, **_: Any) -> bytes:
        raise CrashError(entry.code)

    submit = record


def test_after_a_crash_before_the_answer_the_key_is_there(
    found: Rooted, td: SimTd
) -> None:
    exchange, body = found.question(td, (MAKE,))
    whole, found.journal = found.journal, CrashingJournal()  # type: ignore[assignment]
    with pytest.raises(CrashError):
        found.provider.keys(body, now=NOW)
    found.journal = whole
    assert records(found) == 1
    assert refusal(lambda: found.ask(td, MAKE)).code is Code.KEY_EXISTS
    opened = found.key(td)
    # The client that got no answer sends the same bytes: it is its own key.
    answer = found.provider.keys(body, now=NOW)
    assert exchange.open_response(answer, now=NOW).get("disk").reveal() == opened
