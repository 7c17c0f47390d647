# SPDX-License-Identifier: Apache-2.0
"""An answer that waits for others is nobody's before: not the host's, not a retry's."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from release_rig import NOW, Rig, refusal, rig
from rooted_rig import Rooted, document_of, rooted

from tightseal.audit.merkle import leaf_hash
from tightseal.audit.note import NoteSigner, SignatureType, parse_note
from tightseal.audit.proof import LogProof
from tightseal.audit.witness import merge_cosignatures
from tightseal.errors import (
    Code,
    PolicyError,
    ProviderError,
    ServiceError,
    SettingsError,
)
from tightseal.guest.exchange import Exchange
from tightseal.guest.response import ReleasedKeys
from tightseal.model.keypath import KeyRequest
from tightseal.model.logclass import (
    AuditLogSettings,
    LogClass,
    LogCover,
    WithoutAnchor,
)
from tightseal.model.settings import LegacySettings
from tightseal.model.state import AnchorClass
from tightseal.release.begun import Finished
from tightseal.release.hold import Held
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

WITNESS = NoteSigner("witness.example/1", SignatureType.COSIGNATURE, b"\7" * 32)
RULES = AuditLogSettings(witnesses=(str(WITNESS.key),), threshold=1)
COSIGNED = AuditLogSettings(
    least=LogClass.COSIGNED, witnesses=RULES.witnesses, threshold=1
)


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"answers that wait".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture
def strict(world: World, tmp_path: Path) -> Iterator[Rig]:
    with rig(world, tmp_path, audit_log=COSIGNED) as found:
        yield found


def finished(found: Rig | Rooted, body: bytes) -> Finished:
    return found.provider.begin(body, now=NOW).answer(NOW)


def held_of(done: Finished) -> Held:
    assert done.body == b""
    assert done.held is not None
    return done.held


def cosigned(found: Rig | Rooted, held: Held) -> bytes:
    """The answer, as a witness lets it out; only right for the newest entry."""
    head = found.journal.head()
    note = parse_note(head.checkpoint)
    line = f"{WITNESS.sign(note.text, now=NOW)}\n".encode()
    whole = merge_cosignatures(note, line, [WITNESS.key])
    root = head.frontier.root()
    proof = LogProof(held.index, _path(found, held), whole.encode()).encode()
    keys = (str(WITNESS.key),)
    cover = LogCover(LogClass.COSIGNED, head.frontier.size, root, witnesses=keys)
    return held.complete(cover, proof)


def _path(found: Rig | Rooted, held: Held) -> tuple[bytes, ...]:
    assert found.journal.head().frontier.size == held.index + 1 <= 2
    leaves = found.journal.leaves(0, held.index)
    return tuple(leaf_hash(leaf) for leaf in leaves)


def opened(exchange: Exchange, answer: bytes) -> ReleasedKeys:
    return exchange.open_response(answer, now=NOW)


def test_nothing_leaves_before_it_is_covered_and_the_receipt_says_so(
    strict: Rig, td: SimTd
) -> None:
    exchange, body = strict.question(td)
    held = held_of(finished(strict, body))
    assert held.need.log_class is LogClass.COSIGNED
    receipt = opened(exchange, cosigned(strict, held)).receipt
    assert receipt.log_class is LogClass.COSIGNED
    assert receipt.log_cover is not None
    assert receipt.log_cover.cover.witnesses == (str(WITNESS.key),)
    assert receipt.logged is not None
    assert held.promise == receipt.logged


def test_a_retry_before_it_is_covered_gets_nothing_and_the_same_key_after(
    strict: Rig, td: SimTd
) -> None:
    exchange, body = strict.question(td)
    first = held_of(finished(strict, body))
    for _ in range(2):
        begun = strict.provider.begin(body, now=NOW)
        assert begun.answered
        again = held_of(begun.answer(0))
        assert (again.need, again.promise, again.index) == (
            first.need,
            first.promise,
            first.index,
        )
    assert strict.journal.head().frontier.size == 1
    answer = cosigned(strict, held_of(finished(strict, body)))
    assert (
        json.loads(answer)["envelopes"]
        == json.loads(cosigned(strict, first))["envelopes"]
    )
    assert opened(exchange, answer).get("disk")


def test_whoever_takes_no_account_of_waiting_gets_a_refusal(
    strict: Rig, td: SimTd
) -> None:
    _, body = strict.question(td)
    for _ in range(2):
        error = refusal(ServiceError, lambda: strict.provider.keys(body, now=NOW))
        assert error.code is Code.LOG_NOT_WITNESSED


def test_the_journal_does_not_show_the_host_an_answer_that_waits(
    strict: Rig, td: SimTd, tmp_path: Path
) -> None:
    """The host has the file: whoever finds an envelope there needs no witness."""
    _, body = strict.question(td)
    answer = json.loads(cosigned(strict, held_of(finished(strict, body))))
    signs = [*answer["envelopes"], answer["receipt"]["signature"]]
    with sqlite3.connect(tmp_path / "journal.sqlite") as host:
        (kept,) = host.execute("SELECT response FROM redeemed").fetchone()
    host.close()
    assert kept[:1] == b"H"
    for sign in signs:
        for path in tmp_path.glob("journal.sqlite*"):
            assert sign.encode() not in path.read_bytes()


def test_an_answer_that_needs_nobody_is_kept_as_before(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    with rig(world, tmp_path) as plain:
        _, body = plain.question(td)
        answer = plain.provider.keys(body, now=NOW)
        assert plain.provider.keys(body, now=NOW) == answer
        assert "cover" not in json.loads(answer)["receipt"]["log"]


DAMAGES = {
    "named_a_denial": lambda kept: b"D" + kept[1:],
    "cut": lambda kept: kept[:-1],
    "cut_short": lambda _kept: b"H",
    "a_bit_of_the_nonce": lambda kept: kept[:1] + bytes([kept[1] ^ 1]) + kept[2:],
    "a_bit_of_the_seal": lambda kept: kept[:-9] + bytes([kept[-9] ^ 1]) + kept[-8:],
}


def damage(folder: Path, change: Callable[[bytes], bytes]) -> None:
    with sqlite3.connect(folder / "journal.sqlite") as host:
        (kept,) = host.execute("SELECT response FROM redeemed").fetchone()
        host.execute("UPDATE redeemed SET response = ?", (change(kept),))
    host.close()


@pytest.mark.parametrize("change", DAMAGES)
def test_a_host_that_edits_what_is_kept_is_refused(
    change: str, strict: Rig, td: SimTd, tmp_path: Path
) -> None:
    _, body = strict.question(td)
    finished(strict, body)
    damage(tmp_path, DAMAGES[change])
    error = refusal(ServiceError, lambda: finished(strict, body))
    assert error.code is Code.JOURNAL_FAILED


def test_what_is_sealed_is_no_response_under_another_name(
    strict: Rig, td: SimTd, tmp_path: Path
) -> None:
    exchange, body = strict.question(td)
    finished(strict, body)
    damage(tmp_path, lambda kept: b"R" + kept[1:])
    answer = strict.provider.keys(body, now=NOW)
    error = refusal(ProviderError, lambda: opened(exchange, answer))
    assert error.code is Code.RESPONSE_INVALID


def test_what_was_kept_for_another_request_is_not_given_out(
    strict: Rig, td: SimTd, tmp_path: Path
) -> None:
    _, mine = strict.question(td)
    finished(strict, mine)
    with sqlite3.connect(tmp_path / "journal.sqlite") as host:
        (kept,) = host.execute("SELECT response FROM redeemed").fetchone()
        _, other = strict.question(td)
        host.commit()
        finished(strict, other)
        host.execute("UPDATE redeemed SET response = ?", (kept,))
    host.close()
    held_of(finished(strict, mine))
    error = refusal(ServiceError, lambda: finished(strict, other))
    assert error.code is Code.JOURNAL_FAILED


def test_the_entry_says_what_the_keys_wait_for(strict: Rig, td: SimTd) -> None:
    _, body = strict.question(td)
    finished(strict, body)
    (recorded,) = strict.journal.entries()
    assert isinstance(recorded.entry.body, dict)
    assert recorded.entry.body["log"] == COSIGNED.need(LogClass.SIGNED).as_value()


def test_a_denial_waits_for_nobody(strict: Rig, world: World) -> None:
    stranger = world.intel.platform("two").launch_td(TdImage())
    error = refusal(PolicyError, lambda: strict.key(stranger))
    assert error.code is Code.PLATFORM_MISMATCH


def test_the_legacy_protocol_waits_too(world: World, td: SimTd, tmp_path: Path) -> None:
    with rig(
        world, tmp_path, audit_log=COSIGNED, legacy=LegacySettings(enabled=True)
    ) as found:
        answer = found.provider.legacy(td.evidence(b"\x09" * 32 + bytes(32)), now=NOW)
        assert answer.held is not None
        assert answer.held.need.log_class is LogClass.COSIGNED
        (leaf,) = found.journal.leaves(0, 1)
        assert answer.held.promise.leaf == leaf_hash(leaf)


# -- by purpose ------------------------------------------------------------------


@pytest.fixture
def place(world: World, tmp_path: Path) -> Iterator[Rooted]:
    with rooted(world, tmp_path) as made:
        yield made


def keys(**classes: str) -> list[dict[str, str]]:
    return [{"purpose": p, "log": c} for p, c in classes.items()]


def release(settings: AuditLogSettings) -> str:
    named = ", ".join(json.dumps(text) for text in settings.witnesses)
    return (
        f'[audit_log]\nleast = "{settings.least.value}"\nwitnesses = [{named}]\n'
        f"threshold = {settings.threshold}\n"
        f'without_anchor = "{settings.without_anchor.value}"\n'
    )


def test_the_purpose_says_which_releases_wait(
    place: Rooted, world: World, td: SimTd
) -> None:
    document = document_of(world, td, key=keys(disk="signed", vault="cosigned"))
    place.publish(document, release=release(RULES))
    assert place.key(td, "disk")
    _, body = place.question(td, (KeyRequest("vault"),))
    assert held_of(finished(place, body)).need.witnesses == RULES.witnesses
    _, body = place.question(td, (KeyRequest("disk"), KeyRequest("vault")))
    assert held_of(finished(place, body)).need.log_class is LogClass.COSIGNED


def test_the_settings_least_holds_for_every_purpose(
    place: Rooted, world: World, td: SimTd
) -> None:
    place.publish(document_of(world, td), release=release(COSIGNED))
    _, body = place.question(td)
    assert held_of(finished(place, body)).need.log_class is LogClass.COSIGNED


def test_cosigned_by_nobody_is_refused_before_it_is_in_force(
    place: Rooted, world: World, td: SimTd
) -> None:
    document = document_of(world, td, key=keys(vault="cosigned"))
    error = refusal(SettingsError, lambda: place.publish(document))
    assert error.code is Code.POLICY_INVALID
    assert "audit_log.witnesses" in error.detail


def test_anchored_without_an_anchor_is_denied_unless_the_settings_accept_it(
    place: Rooted, world: World, td: SimTd
) -> None:
    document = document_of(world, td, key=keys(disk="anchored"))
    place.publish(document)
    error = refusal(PolicyError, lambda: place.key(td))
    assert error.code is Code.ANCHOR_REQUIRED
    (recorded,) = place.journal.entries()
    assert recorded.entry.code == Code.ANCHOR_REQUIRED.value
    accepting = release(AuditLogSettings(without_anchor=WithoutAnchor.ACCEPT))
    place.publish(document, release=accepting)
    exchange, body = place.question(td)
    held = held_of(finished(place, body))
    head = place.journal.head().frontier
    cover = LogCover(LogClass.ANCHORED, head.size, head.root(), AnchorClass.NONE)
    receipt = opened(exchange, held.complete(cover, b"")).receipt
    assert receipt.log_class is LogClass.ANCHORED
    assert receipt.log_cover is not None
    assert receipt.log_cover.cover.anchor is AnchorClass.NONE


def test_the_trace_names_the_class_of_a_purpose(
    place: Rooted, world: World, td: SimTd
) -> None:
    document = document_of(world, td, key=keys(disk="signed", vault="cosigned"))
    place.publish(document, release=release(RULES))
    _, body = place.question(td, (KeyRequest("disk"), KeyRequest("vault")))
    finished(place, body)
    (recorded,) = place.journal.entries()
    assert isinstance(recorded.entry.body, dict)
    reasons = recorded.entry.body["reasons"]
    assert isinstance(reasons, list)
    named = [reason[:2] for reason in reasons if reason[0].startswith("log of")]
    assert named == [["log of vault", "cosigned, before it leaves"]]
