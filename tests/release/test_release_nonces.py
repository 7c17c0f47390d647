# SPDX-License-Identifier: Apache-2.0
"""Nonces, retries and epochs of the attested key, under threads and odd clocks."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from release_rig import (
    NOW,
    Rig,
    Wrapped,
    provider_enclave,
    refusal,
    rig,
)

from tightseal.errors import (
    Code,
    EvidenceError,
    PlatformError,
    PolicyError,
    ServiceError,
    TightsealError,
)
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"release attacks".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture
def plain(world: World, tmp_path: Path) -> Iterator[Rig]:
    with rig(world, tmp_path) as found:
        yield found


def test_one_nonce_on_many_threads_is_redeemed_once(plain: Rig, td: SimTd) -> None:
    exchanges = [plain.exchange() for _ in range(6)]
    for exchange in exchanges:
        exchange._client_nonce = exchanges[0]._client_nonce  # type: ignore[misc]
    challenge = plain.challenge(exchanges[0])
    bodies = [
        e.keys_request(td.evidence(e.check_challenge(challenge, now=NOW)))
        for e in exchanges
    ]

    def ask(body: bytes) -> bytes | Code:
        try:
            return plain.provider.keys(body, now=NOW)
        except TightsealError as e:
            return e.code

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(ask, bodies * 2))
    refused = [a for a in answers if a is Code.NONCE_REPLAYED]
    granted = {a for a in answers if isinstance(a, bytes)}
    assert (len(refused), len(granted)) == (10, 1)
    assert len(plain.journal.entries()) == 1


KEPT = {
    "empty": b"",
    "denial_of_no_text": b"D\xff\xfe",
    "denial_of_no_code": b"Dsomething",
    "of_no_kind": b"\x00\x01",
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_kept_answer_rewritten_by_the_host_is_an_error_of_ours(
    world: World, td: SimTd, tmp_path: Path, kept: bytes
) -> None:
    with rig(world, tmp_path) as ours:
        _, body = ours.question(td)
        ours.provider.keys(body, now=NOW)
        journal = sqlite3.connect(tmp_path / "journal.sqlite")
        with journal:
            journal.execute("UPDATE redeemed SET response = ?", (kept,))
        journal.close()
        error = refusal(ServiceError, lambda: ours.provider.keys(body, now=NOW))
        assert error.code is Code.JOURNAL_FAILED


def test_denial_is_kept_for_its_retry_and_counted_once(
    plain: Rig, world: World
) -> None:
    elsewhere = world.intel.platform("two").launch_td(TdImage())
    _, body = plain.question(elsewhere)
    for _ in range(2):
        error = refusal(PolicyError, lambda: plain.provider.keys(body, now=NOW))
        assert error.code is Code.PLATFORM_MISMATCH
    assert [e.entry.code for e in plain.journal.entries()] == ["platform_mismatch"]


def test_evidence_for_another_challenge_burns_no_nonce(plain: Rig, td: SimTd) -> None:
    exchange = plain.exchange()
    data = exchange.check_challenge(plain.challenge(exchange), now=NOW)
    stray = exchange.keys_request(td.evidence(data[::-1]))
    assert (
        refusal(EvidenceError, lambda: plain.provider.keys(stray, now=NOW)).code
        is Code.REPORT_DATA_MISMATCH
    )
    answer = plain.provider.keys(exchange.keys_request(td.evidence(data)), now=NOW)
    assert len(exchange.open_response(answer, now=NOW).get("disk")) == 32


@pytest.mark.parametrize("late", [0, 61, 120, 300, 599])
def test_challenge_is_answered_for_as_long_as_its_nonce_lives(
    world: World, td: SimTd, tmp_path: Path, late: int
) -> None:
    """An attested key may live shorter than a nonce: many epochs are in grace."""
    with rig(world, tmp_path, nonce_life=600, attested_key_life=60) as ours:
        exchange, body = ours.question(td)
        for later in range(0, late, 60):
            ours.attested.current(now=NOW + later)
        answer = ours.provider.keys(body, now=NOW + late)
        assert exchange.open_response(answer, now=NOW + late).get("disk")


def test_attested_key_answers_no_longer_than_its_grace(plain: Rig) -> None:
    key = plain.attested.current(now=NOW)
    end = key.binding.not_after
    key_hash = key.binding.key_hash()
    assert plain.attested.answering(key_hash, now=end) is key
    assert plain.attested.answering(key_hash, now=end + 1) is None
    assert plain.attested.answering(bytes(32), now=NOW) is None


def test_clock_that_jumps_about_keeps_few_keys(plain: Rig) -> None:
    life = plain.settings.attested_key_life
    first = plain.attested.current(now=NOW)
    for step in range(40, 0, -1):
        plain.attested.current(now=NOW - step * 5 * life)
    assert len(plain.attested._keys) <= 6
    assert plain.attested.current(now=NOW).binding == first.binding


def test_key_of_an_epoch_is_quoted_once_for_all_threads(
    world: World, tmp_path: Path
) -> None:
    enclave = provider_enclave(world)
    made = []

    def counted(data: bytes) -> bytes:
        made.append(data)
        return enclave.evidence(data)

    ours = Wrapped(enclave, evidence=counted)
    with rig(world, tmp_path, platform=ours) as found, ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda _: found.attested.current(now=NOW), range(16)))
    assert len({id(key) for key in keys}) == 1
    assert len(made) == 1


def test_proof_that_fails_is_tried_once_for_all_who_wait(
    world: World, tmp_path: Path
) -> None:
    """Anybody may ask for challenges while the host gives no quote."""
    made, asked, gate = [], [], threading.Event()

    def late(data: bytes) -> bytes:
        made.append(data)
        assert gate.wait(20)
        raise PlatformError(Code.PLATFORM_FAILED, "no quote")

    def ask(found: Rig) -> Code | None:
        asked.append(1)
        try:
            found.attested.current(now=NOW)
        except TightsealError as e:
            return e.code
        return None

    ours = Wrapped(provider_enclave(world), evidence=late)
    with rig(world, tmp_path, platform=ours) as found, ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(ask, found) for _ in range(8)]
        while len(asked) < len(waiting) or not made:
            time.sleep(0.01)
        time.sleep(0.3)
        gate.set()
        assert {w.result() for w in waiting} == {Code.PLATFORM_FAILED}
        assert len(made) == 1
        # Whoever comes later tries anew.
        assert ask(found) is Code.PLATFORM_FAILED
        assert len(made) == 2
