# SPDX-License-Identifier: Apache-2.0
"""Attacks on a provider under a policy root, from the host and from the network."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nacl.public import PrivateKey
from policy_rig import action, refusal, role
from release_rig import NOW
from rooted_rig import Rooted, document_of, rooted, workload_of

from tightseal.errors import Code, PolicyError, ServiceError, TightsealError
from tightseal.model.action import ActionKind, KeyParameters
from tightseal.model.keypath import KeyRequest
from tightseal.model.state import Change, Record, StateStore
from tightseal.model.wire import PublicKeyRequest
from tightseal.policy.bundle.archive import MAX_TIMESTAMP_BYTES, pack, unpack
from tightseal.policy.document import LoggedRules, SelectorRules, WorkloadRules
from tightseal.policy.start import render
from tightseal.release import LEGACY_PURPOSE
from tightseal.release.policy import PolicyKeeper
from tightseal_sim.intel.eventlog_wire import to_ccel
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

DAY = 86_400
REFUSE_EXPIRED = 'expired_policy = "refuse"\n'
TIMESTAMP = "metadata/timestamp.json"
OWNERS = ("mr_config_id", "mr_owner", "mr_owner_config")
ACCEPTED = {"without_anchor": "accept"}


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"attacks on policies".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture
def found(world: World, tmp_path: Path) -> Iterator[Rooted]:
    with rooted(world, tmp_path) as made:
        yield made


# -- counting ---------------------------------------------------------------------


def test_a_quote_replayed_over_the_legacy_protocol_counts_each_time(
    found: Rooted, world: World, td: SimTd
) -> None:
    """It has no nonce, so nothing tells a retry from a replay."""
    key = {
        "purpose": LEGACY_PURPOSE,
        "protocols": ["legacy"],
        "usage": {"total": 2, **ACCEPTED},
    }
    found.publish(
        document_of(world, td, key=[key]), release="[legacy]\nenabled = true\n"
    )
    recipient = bytes(PrivateKey.generate().public_key).ljust(64, b"\0")
    quote = td.evidence(recipient)
    for _ in range(2):
        found.provider.legacy(quote, now=NOW)
    error = refusal(lambda: found.provider.legacy(quote, now=NOW))
    assert error.code is Code.USAGE_LIMIT_REACHED


@pytest.fixture(scope="module")
def owned(world: World) -> SimTd:
    """A TD in which every register says something."""
    words = {name: name.encode().ljust(48) for name in OWNERS}
    image = replace(TdImage(), **words)  # type: ignore[arg-type]
    return world.intel.platform("one").launch_td(image)


def longest(world: World, td: SimTd, usage: dict[str, Any]) -> WorkloadRules:
    """A workload that says as much as a document may of each rule judged below."""
    labels = ["*", *(f"{m:02}".ljust(128, "l") for m in range(15))]
    windows = [
        {"from": f"2020-01-01T00:00:{s:02}Z", "until": f"2099-01-01T00:00:{s:02}Z"}
        for s in range(60)
    ]
    keys = [
        {
            "purpose": f"{n:02}".ljust(128, "~"),
            "labels": labels,
            "usage": {"windows": windows},
        }
        for n in range(63)
    ]
    rules = workload_of(world, td, key=[*keys, {"purpose": "disk", "usage": usage}])
    image = rules.image[0]
    others = tuple(f"{n:096x}" for n in range(1, 64))
    kernel = next(event for event in td.event_log if event.rtmr == 1)
    logged = LoggedRules(register="rtmr1", digest=(kernel.digest.hex(), *others))
    measurements = {
        name: SelectorRules(one_of=(value, *others))
        if isinstance(value, str) and len(value) == 96
        else value
        for name, value in image.measurements.items()
    }
    image = msgspec.structs.replace(
        image, measurements=measurements, logged=(logged,) * 16
    )
    return msgspec.structs.replace(rules, image=(image,))


def test_a_policy_of_the_longest_texts_still_releases(
    found: Rooted, world: World, owned: SimTd
) -> None:
    """Else each attempt is counted, and then fails at the journal."""
    rules = longest(world, owned, {"total": 1, **ACCEPTED})
    found.publish(render((rules,)))
    more = [KeyRequest(key.purpose, label="x" * 128) for key in rules.key[:15]]
    keys = found.ask(
        owned, KeyRequest("disk"), *more, event_log=to_ccel(owned.event_log)
    )
    assert keys.get("disk")
    body = found.journal.entries()[-1].entry.body
    assert isinstance(body, dict)
    rules_judged = [reason[0] for reason in body["reasons"]]
    assert "purpose" in rules_judged
    assert "usage of disk" in rules_judged


def test_a_denial_of_the_longest_texts_is_recorded(
    found: Rooted, world: World, owned: SimTd
) -> None:
    """Else whoever asks for much is denied without a trace."""
    rules = longest(world, owned, {"total": 1, **ACCEPTED})
    found.publish(render((rules,)))
    wrong = [KeyRequest(key.purpose, length=16) for key in rules.key[:16]]
    error = refusal(
        lambda: found.ask(owned, *wrong, event_log=to_ccel(owned.event_log))
    )
    assert error.code is Code.KEY_LENGTH_NOT_ALLOWED
    assert found.journal.entries()[-1].entry.code == error.code.value


# -- bundles from anybody ---------------------------------------------------------


def hollow(found: Rooted, size: int) -> bytes:
    """A bundle with the genuine root, which is public, and a timestamp of lists."""
    files = unpack(found.approvers.bundle({"d": "version = 1\n"}, now=NOW))
    lists = b"[]," * ((size - 16) // 3)
    return pack(files | {TIMESTAMP: b'{"signed":[' + lists + b"0]}"})


def test_metadata_that_nobody_signed_is_bounded_before_it_is_read(
    found: Rooted,
) -> None:
    with pytest.raises(TightsealError) as refused:
        hollow(found, MAX_TIMESTAMP_BYTES + 16)
    assert refused.value.code is Code.BUNDLE_MALFORMED


def test_a_refused_bundle_costs_no_memory_afterwards(found: Rooted) -> None:
    """What anybody may send must not stay, held by the error that it ended in."""
    found.publish("version = 1\n")
    bundle = hollow(found, MAX_TIMESTAMP_BYTES)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        error = refusal(lambda: found.keeper.offer(bundle, now=NOW))
        assert error.code is Code.BUNDLE_MALFORMED
        del error
        gc.collect()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held - before < 1 << 16
    assert peak - before < 32 * MAX_TIMESTAMP_BYTES
    told = found.keeper.refused
    assert told is not None
    assert told.code is Code.BUNDLE_MALFORMED


def test_a_newer_bundle_that_was_signed_earlier_is_refused(
    found: Rooted, world: World, td: SimTd
) -> None:
    """Signed time never falls: else a window shuts, and the clock may go back."""
    windows = {"windows": [{"from": "2026-09-21T13:30:00Z"}]}
    text = document_of(world, td, key=[{"purpose": "disk", "usage": windows}])
    found.publish(text)
    found.key(td)
    error = refusal(
        lambda: found.keeper.offer(
            found.approvers.bundle({"d0": text}, now=NOW - DAY), now=NOW
        )
    )
    assert error.code is Code.BUNDLE_ROLLED_BACK
    found.key(td)


class BetweenReads:
    """A store in which another provider publishes between two of our reads."""

    def __init__(self, store: StateStore, then: Callable[[], object]) -> None:
        self._store = store
        self._then: Callable[[], object] | None = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def open(self, kind: str, name: str, *, now: int) -> Record:
        record = self._store.open(kind, name, now=now)
        if self._then is not None:
            then, self._then = self._then, None
            then()
        return record


def test_a_bundle_replaced_while_it_is_read_is_no_fault(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td))
    store = BetweenReads(found.store, lambda: found.publish("version = 1\n"))
    other = PolicyKeeper(found.measured, store=store)
    other.look(now=NOW)
    assert other.current() == found.keeper.current()


class BeforeWriting(BetweenReads):
    """A store in which another provider publishes right before our own batch."""

    def open(self, kind: str, name: str, *, now: int) -> Record:
        return self._store.open(kind, name, now=now)

    def batch(self, changes: Sequence[Change], *, now: int) -> int:
        if self._then is not None:
            then, self._then = self._then, None
            then()
        return self._store.batch(changes, now=now)


@pytest.mark.parametrize("there", [False, True], ids=["first", "later"])
def test_two_providers_that_are_offered_one_bundle_at_once_both_take_it(
    found: Rooted, world: World, td: SimTd, *, there: bool
) -> None:
    if there:
        found.publish("version = 1\n")
    bundle = found.approvers.bundle({"d0": document_of(world, td)}, now=NOW)
    store = BeforeWriting(found.store, lambda: found.keeper.offer(bundle, now=NOW))
    other = PolicyKeeper(found.measured, store=store)
    assert other.offer(bundle, now=NOW) == found.keeper.current()


def test_a_bundle_that_a_newer_one_overtakes_is_rolled_back(
    found: Rooted, world: World, td: SimTd
) -> None:
    older = found.approvers.bundle({"d0": document_of(world, td)}, now=NOW)
    store = BeforeWriting(found.store, lambda: found.publish("version = 1\n"))
    other = PolicyKeeper(found.measured, store=store)
    error = refusal(lambda: other.offer(older, now=NOW))
    assert error.code is Code.BUNDLE_ROLLED_BACK
    assert other.current() == found.keeper.current()


# -- a policy whose end has passed ------------------------------------------------


def test_an_ended_policy_says_no_public_halves(
    found: Rooted, world: World, td: SimTd
) -> None:
    key = {"purpose": "mail", "type": "x25519", "published": True}
    text = document_of(world, td, key=[key])
    found.publish(text, days=1, release=REFUSE_EXPIRED)
    asked = PublicKeyRequest(
        version=1,
        tenant="acme",
        workload="database",
        purpose="mail",
        client_nonce="A" * 43,
    )
    found.provider.public_key(asked, now=NOW)
    found.now = NOW + 2 * DAY
    error = refusal(lambda: found.provider.public_key(asked, now=found.now))
    assert error.code is Code.POLICY_EXPIRED


def test_an_ended_policy_lets_nobody_act(
    found: Rooted, world: World, td: SimTd
) -> None:
    """A host that keeps a newer policy away keeps a removed operator's role alive."""
    key = {"purpose": "disk", "usage": {"total": 1, **ACCEPTED}}
    found.publish(
        document_of(world, td, key=[key]),
        role(found, "reset-usage"),
        days=1,
        release=REFUSE_EXPIRED,
    )
    found.key(td)
    found.now = NOW + 2 * DAY
    parameters = KeyParameters("acme", "database", "disk")
    reset = action(found, ActionKind.RESET_USAGE, parameters)
    signed = found.approvers.action(reset)
    error = refusal(lambda: found.provider.act(signed, now=found.now))
    assert error.code is Code.POLICY_EXPIRED


# -- a store or a journal that fails ----------------------------------------------


def gone(*_: Any, **__: Any) -> Any:
    raise ServiceError(Code.STATE_UNAVAILABLE, "gone")


def test_a_journal_that_fails_after_the_count_gives_nothing_and_costs_one(
    found: Rooted, world: World, td: SimTd, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"purpose": "disk", "usage": {"total": 2, **ACCEPTED}}
    found.publish(document_of(world, td, key=[key]))
    exchange, body = found.question(td)
    with monkeypatch.context() as broke:
        broke.setattr(found.journal, "submit", gone)
        error = refusal(lambda: found.provider.keys(body, now=NOW))
    assert error.code is Code.STATE_UNAVAILABLE
    assert found.journal.latest() == 0
    answer = found.provider.keys(body, now=NOW)
    assert exchange.open_response(answer, now=NOW).get("disk")
    found.key(td)
    assert refusal(lambda: found.key(td)).code is Code.USAGE_LIMIT_REACHED


@pytest.mark.parametrize("step", ["open", "batch"])
def test_a_store_that_fails_gives_nothing_and_records_no_release(
    found: Rooted,
    world: World,
    td: SimTd,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    key = {"purpose": "disk", "usage": {"total": 1, **ACCEPTED}}
    found.publish(document_of(world, td, key=[key]))
    _, body = found.question(td)
    with monkeypatch.context() as broke:
        broke.setattr(found.store, step, gone)
        error = refusal(lambda: found.provider.keys(body, now=NOW))
    assert error.code is Code.STATE_UNAVAILABLE
    assert found.journal.latest() == 0
    found.provider.keys(body, now=NOW)
    assert refusal(lambda: found.key(td)).code is Code.USAGE_LIMIT_REACHED


def test_a_store_that_fails_while_a_bundle_is_kept_leaves_the_last_one(
    found: Rooted, world: World, td: SimTd, monkeypatch: pytest.MonkeyPatch
) -> None:
    found.publish(document_of(world, td))
    before = found.keeper.current()
    newer = found.approvers.bundle({"d": "version = 1\n"}, now=NOW)
    with monkeypatch.context() as broke:
        broke.setattr(found.store, "batch", gone)
        error = refusal(lambda: found.keeper.offer(newer, now=NOW))
    assert error.code is Code.STATE_UNAVAILABLE
    assert found.keeper.current() is before
    found.restart()
    assert found.keeper.current() == before
    found.keeper.offer(newer, now=NOW)
    assert found.keeper.current() != before


# -- limits asked around ----------------------------------------------------------


def test_labels_parts_and_protocols_share_one_count(
    found: Rooted, world: World, td: SimTd
) -> None:
    key = {
        "purpose": LEGACY_PURPOSE,
        "protocols": ["v1", "legacy"],
        "labels": ["*"],
        "usage": {"total": 2, **ACCEPTED},
    }
    found.publish(
        document_of(world, td, key=[key]), release="[legacy]\nenabled = true\n"
    )
    found.ask(td, KeyRequest(LEGACY_PURPOSE, label="one"))
    recipient = bytes(PrivateKey.generate().public_key).ljust(64, b"\0")
    found.provider.legacy(td.evidence(recipient), now=NOW)
    for label in ("", "two"):
        request = KeyRequest(LEGACY_PURPOSE, label=label)
        error = refusal(lambda request=request: found.ask(td, request))  # type: ignore[misc]
        assert error.code is Code.USAGE_LIMIT_REACHED
    again = td.evidence(bytes(PrivateKey.generate().public_key).ljust(64, b"\0"))
    error = refusal(lambda: found.provider.legacy(again, now=NOW))
    assert error.code is Code.USAGE_LIMIT_REACHED


def test_retries_add_no_release_to_a_limit(
    found: Rooted, world: World, td: SimTd
) -> None:
    key = {"purpose": "disk", "usage": {"total": 3, **ACCEPTED}}
    found.publish(document_of(world, td, key=[key]))
    released = 0
    for _ in range(5):
        _, body = found.question(td)
        for _ in range(3):
            with suppress(PolicyError):
                found.provider.keys(body, now=NOW)
                released += 1
    granted = [e for e in found.journal.entries() if e.entry.granted]
    assert len(granted) == 3
    assert released == 9
