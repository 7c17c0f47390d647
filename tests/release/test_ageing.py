# SPDX-License-Identifier: Apache-2.0
"""Rotation by age: by signed time, once, journalled, and never by the host's clock."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from release_rig import NOW

from tightseal.errors import Code, ServiceError, TightsealError
from tightseal.keys.keyring import (
    KeyringFile,
    Terms,
    keep_new,
    new_keyring,
    rewrap_slot,
    rotate,
)
from tightseal.model.ports import JournalEntry
from tightseal.model.secret import Secret
from tightseal.model.settings import ReleaseSettings
from tightseal.model.slots import SlotClass
from tightseal.model.state import StateStore
from tightseal.platform.slots.passphrase import PassphraseSlot
from tightseal.release.ageing import DAY_SECONDS, due, rotate_by_age
from tightseal.release.handoffs import Handoff, Handoffs, HandoffState
from tightseal.release.keyring import KeyringKeeper, Ways
from tightseal.service.ageing import BLOCKED_SECONDS, RETRY_SECONDS, Ageing
from tightseal.service.metrics import Metrics
from tightseal.state.memory import MemoryEngine
from tightseal.state.seal import Sealer
from tightseal.state.store import SealedStore

DOMAIN = "simulated:" + "ab" * 48
SLOT = PassphraseSlot(lambda: Secret(b"correct horse battery staple"))
DAYS = 30


@dataclass
class Place:
    """A keyring file, workers on it, and what their journal got."""

    path: Path
    entries: list[JournalEntry] = field(default_factory=list)

    def worker(self) -> KeyringKeeper:
        terms = Terms(trust_domain=DOMAIN, policy_root=None, policy_version=0)
        file = KeyringFile(self.path)
        return KeyringKeeper(Ways(file=file, slot_keys=(SLOT,), terms=terms))

    def rotate(self, keeper: KeyringKeeper, at: int, days: int = DAYS) -> int | None:
        done = rotate_by_age(keeper, days=days, signed_time=at, log=self.entries.append)
        return None if done is None else done.current.number


@pytest.fixture
def place(tmp_path: Path) -> Place:
    path = tmp_path / "keyring.tsk"
    keyring = new_keyring(
        [SLOT],
        trust_domain=DOMAIN,
        policy_root=None,
        minimum_policy_version=0,
        slot_classes=frozenset(SlotClass),
        now=NOW,
    )
    keep_new(KeyringFile(path), keyring, anchor=None)
    return Place(path)


END = NOW + DAYS * DAY_SECONDS


def test_a_generation_is_old_once_signed_time_reached_its_end(place: Place) -> None:
    keeper = place.worker()
    assert place.rotate(keeper, END - 1) is None
    assert place.entries == []
    assert place.rotate(keeper, END) == 2
    assert place.rotate(keeper, END) is None
    assert place.worker().generations().current == 2


def test_never_is_the_default(place: Place) -> None:
    assert ReleaseSettings().rotate_after_days == 0
    assert place.rotate(place.worker(), END * 2, days=0) is None


def test_the_next_generation_begins_at_signed_time(place: Place) -> None:
    """The host's clock has no part in it: the same span must be signed again."""
    keeper = place.worker()
    place.rotate(keeper, END)
    assert keeper.keyring.current.activated_at == END
    assert place.rotate(keeper, END + DAYS * DAY_SECONDS - 1) is None
    assert place.rotate(keeper, END + DAYS * DAY_SECONDS) == 3


def test_it_is_in_the_journal_first_and_says_that_nobody_asked(place: Place) -> None:
    keeper = place.worker()
    seen: list[int] = []

    def log(entry: JournalEntry) -> None:
        seen.append(keeper.generations().current)
        place.entries.append(entry)

    rotate_by_age(keeper, days=DAYS, signed_time=END, log=log)
    assert seen == [1]
    [entry] = place.entries
    body: Any = entry.body
    assert (entry.protocol_class, entry.granted, entry.time) == ("age", True, END)
    assert (body["role"], body["signers"]) == (None, [])
    assert body["action"]["kind"] == "rotate-keyring"
    told = {"counter": 1, "days": DAYS, "signed_time": END}
    assert body["action"]["parameters"] == told


def test_nothing_is_rotated_where_the_journal_takes_no_entry(place: Place) -> None:
    def full(_: JournalEntry) -> None:
        raise ServiceError(Code.JOURNAL_FAILED, "full")

    keeper = place.worker()
    with pytest.raises(ServiceError):
        rotate_by_age(keeper, days=DAYS, signed_time=END, log=full)
    assert place.worker().generations().current == 1


def test_of_several_workers_at_once_one_rotates(place: Place) -> None:
    workers = [place.worker() for _ in range(4)]

    def turn(worker: KeyringKeeper) -> int | None:
        try:
            return place.rotate(worker, END)
        except ServiceError as e:
            if e.code is not Code.STATE_CONFLICT:
                raise
            return None

    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(turn, workers))
    for worker in workers:
        worker.look()
        assert place.rotate(worker, END) is None
    assert place.worker().generations().open == {1, 2}
    refused = [e for e in place.entries if not e.granted]
    assert {e.code for e in refused} <= {"state_conflict"}
    assert len(place.entries) - 2 * len(refused) == 1


@given(
    st.integers(1, 400),
    st.lists(st.integers(-3, 40), max_size=30),
    st.lists(st.integers(0, 1 << 34), max_size=30),
)
def test_law_signed_time_alone_counts_and_bounds_the_rotations(
    days: int, steps: list[int], clocks: list[int]
) -> None:
    """Whatever the host's clock says: no more rotations than spans that were signed."""
    plain = _Plain()
    keyring = new_keyring(
        [plain],
        trust_domain=DOMAIN,
        policy_root=None,
        minimum_policy_version=0,
        slot_classes=frozenset(SlotClass),
        now=NOW,
    )
    slot_id = keyring.slots[0].slot_id
    signed, rotated = NOW, 0
    for number, step in enumerate(steps):
        if number < len(clocks):
            # Another change, dated by a host that says what it likes.
            keyring = rewrap_slot(keyring, slot_id, plain, now=clocks[number])
        signed = max(signed, signed + step * DAY_SECONDS)
        while due(keyring, days=days, signed_time=signed):
            keyring = rotate(keyring, now=signed)
            rotated += 1
    assert rotated <= (signed - NOW) // (days * DAY_SECONDS)


class _Plain:
    """A slot without the work of a passphrase."""

    slot_class = SlotClass.GRAMINE

    def create(self, *, keyring_id: bytes, slot_id: bytes) -> tuple[Any, Secret]:
        return {}, self.open({}, keyring_id=keyring_id, slot_id=slot_id)

    def open(self, _: Any, *, keyring_id: bytes, slot_id: bytes) -> Secret:
        del keyring_id, slot_id
        return Secret(b"k" * 32)


# -- in a worker -------------------------------------------------------------------


@dataclass
class Worker:
    """What a worker's background thread looks at, with clocks of the test's own."""

    place: Place
    keeper: KeyringKeeper
    store: StateStore | None = None
    days: int = DAYS
    signed: int = END
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.ageing = Ageing(
            keyring=self.keeper,
            settings=lambda: ReleaseSettings(rotate_after_days=self.days),
            signed_time=lambda: self.signed,
            store=self.store,
            record=self.place.entries.append,
            metrics=self.metrics,
            monotonic=lambda: self.seconds,
        )

    @property
    def current(self) -> int:
        return self.keeper.generations().current


def test_a_worker_rotates_by_the_settings_in_force(place: Place) -> None:
    worker = Worker(place, place.worker(), days=0)
    worker.ageing.look()
    assert worker.current == 1
    worker.days = DAYS
    worker.ageing.look()
    assert worker.current == 2


def test_the_age_is_in_the_metrics(place: Place) -> None:
    worker = Worker(place, place.worker(), signed=END - 1)
    worker.ageing.look()
    text = worker.metrics.render().decode()
    assert "tightseal_keyring_generation 1.0" in text
    [line] = [
        line
        for line in text.splitlines()
        if line.startswith("tightseal_keyring_generation_activated_seconds ")
    ]
    assert float(line.split()[1]) == NOW


def test_a_failure_is_told_and_tried_again_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(place, place.worker())
    inner = KeyringKeeper.change

    def failing(*_: object, **__: object) -> None:
        raise ServiceError(Code.STATE_UNAVAILABLE, "disk")

    monkeypatch.setattr(KeyringKeeper, "change", failing)
    with pytest.raises(TightsealError):
        worker.ageing.look()
    assert [e.code for e in place.entries] == ["granted", "state_unavailable"]
    monkeypatch.setattr(KeyringKeeper, "change", inner)
    worker.ageing.look()
    assert worker.current == 1
    worker.seconds += RETRY_SECONDS
    worker.ageing.look()
    assert worker.current == 2


def test_that_another_worker_came_first_is_no_failure(place: Place) -> None:
    late = Worker(place, place.worker())
    Worker(place, place.worker()).ageing.look()
    late.ageing.look()
    late.keeper.look()
    assert late.current == 2


@pytest.fixture
def store() -> SealedStore:
    sealer = Sealer(Secret(b"s" * 32), trust_domain=DOMAIN)
    return SealedStore.new(MemoryEngine(), sealer)


def handed(
    store: SealedStore, *slots: bytes, tenant: str | None = None, at: int = NOW
) -> None:
    confirmed = Handoff(
        state=HandoffState.CONFIRMED,
        platform=None,
        transcript_hash=b"t" * 64,
        confirm_key=b"k" * 32,
        joiner={},
        tenant=tenant,
        slots=slots,
        changed_at=at,
    )
    Handoffs(store).send(slots[0], confirmed, now=NOW)


def test_after_a_handoff_the_giver_does_not_rotate_its_copy(
    place: Place, store: SealedStore
) -> None:
    """Else both would have a generation 2, each another one."""
    handed(store, b"o" * 16)
    worker = Worker(place, place.worker(), store)
    worker.ageing.look()
    worker.seconds += BLOCKED_SECONDS
    worker.ageing.look()
    assert (worker.current, place.entries) == (1, [])


@pytest.mark.parametrize(
    ("slot", "tenant"),
    [(None, None), (b"o" * 16, "acme")],
    ids=["the_one_that_joined", "the_giver_of_a_branch"],
)
def test_who_may_go_on_rotates(
    place: Place, store: SealedStore, slot: bytes | None, tenant: str | None
) -> None:
    keeper = place.worker()
    assert keeper.opened.slot is not None
    handed(store, slot or keeper.opened.slot.slot_id, tenant=tenant)
    worker = Worker(place, keeper, store)
    worker.ageing.look()
    assert worker.current == 2


@pytest.mark.parametrize("later", [True, False])
def test_of_several_that_joined_the_last_one_rotates(
    place: Place, store: SealedStore, *, later: bool
) -> None:
    keeper = place.worker()
    assert keeper.opened.slot is not None
    handed(store, keeper.opened.slot.slot_id)
    handed(store, b"o" * 16, at=NOW - 1 if later else NOW + 1)
    worker = Worker(place, keeper, store)
    worker.ageing.look()
    assert worker.current == (2 if later else 1)
