# SPDX-License-Identifier: Apache-2.0
"""Signed policies in a provider: what comes into force, what stays, what is kept."""

from dataclasses import replace
from pathlib import Path

import pytest
from policy_rig import refusal
from release_rig import NOW
from rooted_rig import Rooted, document_of, rooted

from tightseal.errors import Code, PolicyError, ServiceError
from tightseal.model.settings import ExpiredPolicy, ReleaseSettings
from tightseal.model.state import AnchorClass
from tightseal.release.policy import PolicyKeeper
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

DAY = 86_400


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"policies in force".ljust(32, b"\0"))


def launch(world: World, machine: str = "one", **image: object) -> SimTd:
    return world.intel.platform(machine).launch_td(replace(TdImage(), **image))  # type: ignore[arg-type]


def test_a_new_kernel_under_the_same_name_gets_the_same_key(
    world: World, tmp_path: Path
) -> None:
    old, new = launch(world), launch(world, kernel=b"the next kernel")
    with rooted(world, tmp_path) as found:
        found.publish(document_of(world, old))
        before = found.key(old)
        assert refusal(lambda: found.key(new)).code is Code.MEASUREMENTS_NOT_ACCEPTED
        found.publish(document_of(world, old, new))
        assert found.key(new) == before
        assert found.key(old) == before
        found.publish(document_of(world, new))
        assert found.key(new) == before
        assert refusal(lambda: found.key(old)).code is Code.MEASUREMENTS_NOT_ACCEPTED


def test_another_policy_root_gives_another_key(world: World, tmp_path: Path) -> None:
    td = launch(world)
    keys = set()
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        with rooted(world, tmp_path / name, approvers=Approvers(now=NOW)) as found:
            found.publish(document_of(world, td))
            keys.add(found.key(td))
    assert len(keys) == 2


def test_nothing_is_released_before_the_first_bundle(
    world: World, tmp_path: Path
) -> None:
    with rooted(world, tmp_path) as found:
        assert refusal(found.keeper.current).code is Code.POLICY_MISSING
        assert refusal(lambda: found.key(launch(world))).code is Code.POLICY_MISSING


def _under_signed(found: Rooted, text: str) -> bytes:
    return found.approvers.bundle({"d0": text}, now=found.now, signers=1)


def _expired(found: Rooted, text: str) -> bytes:
    return found.approvers.bundle({"d0": text}, now=found.now - 3 * DAY, days=2)


def _truncated(found: Rooted, text: str) -> bytes:
    return found.approvers.bundle({"d0": text}, now=found.now)[:-7]


def _not_toml(found: Rooted, text: str) -> bytes:
    del text
    return found.approvers.bundle({"d0": "version = "}, now=found.now)


def _of_others(found: Rooted, text: str) -> bytes:
    return Approvers(now=NOW).bundle({"d0": text}, now=found.now)


BAD = {
    "under-signed": (_under_signed, Code.BUNDLE_UNDERSIGNED),
    "expired": (_expired, Code.BUNDLE_EXPIRED),
    "truncated": (_truncated, Code.BUNDLE_MALFORMED),
    "malformed document": (_not_toml, Code.POLICY_INVALID),
    "of another root": (_of_others, Code.BUNDLE_ROOT_MISMATCH),
}


@pytest.mark.parametrize("defect", BAD)
def test_a_bad_bundle_changes_nothing_and_is_told(
    world: World, tmp_path: Path, defect: str
) -> None:
    make, code = BAD[defect]
    good, other = launch(world), launch(world, kernel=b"another kernel")
    with rooted(world, tmp_path) as found:
        found.publish(document_of(world, good))
        before, key = found.keeper.current(), found.key(good)
        bad = make(found, document_of(world, good, other))
        error = refusal(lambda: found.keeper.offer(bad, now=found.now))
        assert error.code is code
        told = found.keeper.refused
        assert told is not None
        assert (told.code, told.detail) == (error.code, error.detail)
        assert found.keeper.current() is before
        assert found.key(good) == key
        assert refusal(lambda: found.key(other)).code is Code.MEASUREMENTS_NOT_ACCEPTED
        found.restart()
        assert found.keeper.current() == before
        found.publish(document_of(world, good, other))
        assert found.keeper.refused is None
        assert found.key(other) == key


def test_an_older_bundle_is_refused_for_ever(world: World, tmp_path: Path) -> None:
    old, new = launch(world), launch(world, kernel=b"the next kernel")
    with rooted(world, tmp_path) as found:
        first = found.approvers.bundle({"d0": document_of(world, old)}, now=NOW)
        found.keeper.offer(first, now=NOW)
        found.publish(document_of(world, new))
        for _ in range(2):
            error = refusal(lambda: found.keeper.offer(first, now=NOW))
            assert error.code is Code.BUNDLE_ROLLED_BACK
            found.key(new)
            assert refusal(lambda: found.key(old)).code is (
                Code.MEASUREMENTS_NOT_ACCEPTED
            )
            found.restart()


def test_the_bundle_in_force_may_come_again(world: World, tmp_path: Path) -> None:
    with rooted(world, tmp_path) as found:
        bundle = found.approvers.bundle(
            {"d0": document_of(world, launch(world))}, now=NOW
        )
        before = found.keeper.offer(bundle, now=NOW)
        head = found.store.freshness().head
        assert found.keeper.offer(bundle, now=NOW) is before
        assert found.store.freshness().head == head


def test_another_worker_takes_over_what_was_accepted(
    world: World, tmp_path: Path
) -> None:
    old, new = launch(world), launch(world, kernel=b"the next kernel")
    with rooted(world, tmp_path) as found:
        other = PolicyKeeper(found.measured, store=found.store)
        other.look(now=NOW)
        assert refusal(other.current).code is Code.POLICY_MISSING
        for td in (old, new):
            found.publish(document_of(world, td))
            other.look(now=NOW)
            assert other.current() == found.keeper.current()


def test_two_providers_that_publish_at_once_end_with_the_newer(
    world: World, tmp_path: Path
) -> None:
    old, new = launch(world), launch(world, kernel=b"the next kernel")
    with rooted(world, tmp_path) as found:
        found.publish(document_of(world, old))
        other = PolicyKeeper(found.measured, store=found.store)
        other.look(now=NOW)
        newest = found.publish(document_of(world, new))
        stale = found.approvers.bundle({"d0": document_of(world, old)}, now=NOW)
        assert other.offer(stale, now=NOW).version == (newest.version or 0) + 1
        found.keeper.look(now=NOW)
        assert found.keeper.current() == other.current()


def test_an_expired_policy_goes_on_and_survives_a_restart(
    world: World, tmp_path: Path
) -> None:
    td = launch(world)
    with rooted(world, tmp_path) as found:
        found.publish(document_of(world, td), days=1)
        key = found.key(td)
        found.now = NOW + 2 * DAY
        found.restart()
        assert found.key(td) == key
        error = refusal(lambda: found.keeper.current().require_fresh(now=found.now))
        assert error.code is Code.POLICY_EXPIRED


def test_an_expired_policy_ends_where_settings_say_so(
    world: World, tmp_path: Path
) -> None:
    td = launch(world)
    with rooted(world, tmp_path) as found:
        found.publish(
            document_of(world, td), days=1, release='expired_policy = "refuse"\n'
        )
        found.key(td)
        found.now = NOW + 2 * DAY
        error = refusal(lambda: found.key(td))
        assert isinstance(error, ServiceError)
        assert error.code is Code.POLICY_EXPIRED
        found.publish(document_of(world, td))
        assert found.keeper.current().settings.expired_policy is ExpiredPolicy.KEEP
        found.key(td)


def test_signed_settings_take_the_place_of_all_but_what_is_measured_alone(
    world: World, tmp_path: Path
) -> None:
    with rooted(world, tmp_path) as found:
        found.publish(document_of(world, launch(world)), release="nonce_life = 60\n")
        settings = found.keeper.current().settings
        assert settings == ReleaseSettings(
            nonce_life=60,
            simulated_roots=found.measured.simulated_roots,
            policy_root=found.measured.policy_root,
        )


def test_a_signed_change_of_settings_keeps_the_keys(
    world: World, tmp_path: Path
) -> None:
    td = launch(world)
    with rooted(world, tmp_path) as found:
        found.publish(document_of(world, td))
        key = found.key(td)
        found.publish(document_of(world, td), release="nonce_life = 60\n")
        assert found.key(td) == key


def test_receipts_and_journal_say_which_policy_decided(
    world: World, tmp_path: Path
) -> None:
    td = launch(world)
    with rooted(world, tmp_path) as found:
        in_force = found.publish(document_of(world, td))
        receipt = found.ask(td).receipt
        assert receipt.policy == in_force.said()
        assert receipt.anchor is AnchorClass.NONE
        body = found.journal.entries()[-1].entry.body
        assert isinstance(body, dict)
        assert body["policy"] == [in_force.version, in_force.digest]
        assert (body["workload"], body["image"]) == ("acme/database", "image-0")


def test_a_denial_is_explained_to_the_operator_and_not_to_the_workload(
    world: World, tmp_path: Path
) -> None:
    good, other = launch(world), launch(world, kernel=b"another kernel")
    with rooted(world, tmp_path) as found:
        found.publish(document_of(world, good))
        error = refusal(lambda: found.key(other))
        assert isinstance(error, PolicyError)
        assert "rtmr1 differs; all else matches image image-0" in error.detail
        assert "rtmr1" not in error.public
        body = found.journal.entries()[-1].entry.body
        assert isinstance(body, dict)
        rules = {row[0]: row[3] for row in body["reasons"]}  # type: ignore[index, union-attr]
        assert rules["rtmr1"] is False
        assert rules["rtmr2"] is True
        assert "length of disk" in rules  # judged, though the decision was over


def test_a_host_that_drops_the_policy_is_noticed(world: World, tmp_path: Path) -> None:
    with rooted(world, tmp_path) as found:
        found.publish(document_of(world, launch(world)))
        record = found.store.open("policy", "in-force", now=NOW)
        found.store.delete("policy", "in-force", expected=record.version, now=NOW)
        assert refusal(lambda: found.keeper.look(now=NOW)).code is Code.STATE_TAMPERED


def test_first_start_pins_the_first_root_and_keeps_it(
    world: World, tmp_path: Path
) -> None:
    first, second = Approvers(now=NOW), Approvers(now=NOW)
    text = document_of(world, launch(world))
    with rooted(world, tmp_path, approvers=first) as found:
        found.measured = ReleaseSettings(
            simulated_roots=found.measured.simulated_roots, policy_root="first-start"
        )
        found.restart()
        assert found.publish(text).policy_root == first.policy_root
        found.restart()
        other = second.bundle({"d0": text}, now=NOW)
        error = refusal(lambda: found.keeper.offer(other, now=NOW))
        assert error.code is Code.BUNDLE_ROOT_MISMATCH
