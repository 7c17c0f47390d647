# SPDX-License-Identifier: Apache-2.0
"""Approvers sign in turn: versions rise with content, and with nothing else."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from authoring_support import (
    ALICE,
    BASE,
    BOB,
    CAROL,
    DAVE,
    DAY,
    DAYS,
    desk,
    let,
    published,
    rotate,
    text,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from policy_support import NOW
from securesystemslib.signer import CryptoSigner

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.approvers import (
    MAX_DAYS,
)
from tightseal.policy.bundle.author import plan_signing, signed_files
from tightseal.policy.bundle.draft import pending
from tightseal.policy.bundle.summary import changes
from tightseal.policy.bundle.tree import read_tree, role_states
from tightseal.policy.bundle.verify import (
    MAX_RISE,
    MAX_SKEW,
)

ACME = "targets/tenants/acme/db.toml"
ALL = ("root", "targets", "snapshot", "timestamp")
ONE = {"root": 1, "targets": 1, "snapshot": 1, "timestamp": 1}


def refused(code: Code) -> Any:
    return pytest.raises(SettingsError, match=code.value)


# -- two approvers ------------------------------------------------------------------


def test_two_approvers_sign_the_same_bytes() -> None:
    made = desk(ALICE, BOB)
    assert made.sign(ALICE) == ALL
    before = {
        p: json.loads(d)["signed"] for p, d in made.files.items() if "metadata" in p
    }
    made.now += DAY
    assert made.sign(BOB) == ALL
    after = {
        p: json.loads(d)["signed"] for p, d in made.files.items() if "metadata" in p
    }
    assert after == before
    assert made.publish().version == 1
    assert made.versions() == ONE


def test_a_key_of_an_hsm_signs_as_well() -> None:
    token = CryptoSigner.generate_ecdsa()
    made = desk(ALICE, token)
    made.sign(token, ALICE)
    assert made.publish().version == 1


def test_the_order_of_approvers_does_not_matter() -> None:
    one, other = desk(ALICE, BOB), desk(ALICE, BOB)
    one.sign(ALICE, BOB)
    other.sign(BOB, ALICE)
    assert one.bundle() == other.bundle()


def test_one_of_two_is_not_enough() -> None:
    made = desk(ALICE, BOB)
    made.sign(ALICE, ALICE)
    assert {(s.role, s.missing) for s in role_states(made.tree)} == {
        (r, 1) for r in ALL
    }
    with refused(Code.BUNDLE_UNDERSIGNED):
        made.publish()


def test_signing_again_changes_nothing() -> None:
    made = published(ALICE, BOB)
    before = dict(made.files)
    made.now += DAY
    assert made.sign(ALICE, BOB, ALICE) == ()
    assert made.files == before


def test_a_third_signature_is_not_added_to_what_is_out() -> None:
    made = published(ALICE, BOB, CAROL, threshold=2)
    before = made.bundle()
    assert made.sign(CAROL) == ()
    assert made.bundle() == before


def test_a_stranger_is_told() -> None:
    with refused(Code.SETTINGS_INVALID):
        desk(ALICE, BOB).sign(CAROL)


# -- what rises ---------------------------------------------------------------------


def test_a_changed_document_raises_what_covers_it() -> None:
    made = published(ALICE, BOB)
    made.files[BASE] = text("database", seed=5)
    assert pending(made.files) == ("policy/base.toml",)
    assert made.sign(ALICE, BOB) == ("targets", "snapshot", "timestamp")
    assert made.versions() == {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 2}
    assert made.publish().version == 2


def test_a_removed_document_goes() -> None:
    made = published(ALICE)
    made.files["targets/policy/more.toml"] = text("more", seed=9)
    made.sign(ALICE)
    assert len(made.publish().documents) == 2
    del made.files[BASE]
    made.sign(ALICE)
    assert [p.source.name for p in made.publish().documents] == ["policy/more.toml"]


def test_a_change_after_one_signature_is_another_version() -> None:
    """Nobody may find two contents under one version, each with a signature."""
    made = desk(ALICE, BOB)
    made.sign(ALICE)
    made.files[BASE] = text("database", seed=5)
    made.sign(BOB)
    assert made.versions()["targets"] == 2
    made.sign(ALICE)
    made.publish()


def test_an_old_checkout_rises_above_what_was_published() -> None:
    made = published(ALICE)
    old = dict(made.files)
    for seed in (5, 6, 7):
        made.files[BASE] = text("database", seed=seed)
        made.sign(ALICE)
        made.publish()
    made.files = old
    made.sign(ALICE)
    assert made.versions() == {"root": 1, "targets": 5, "snapshot": 5, "timestamp": 5}
    made.publish()


def test_what_nears_its_end_is_renewed() -> None:
    made = published(ALICE, BOB)
    made.now += 59 * DAY
    assert made.sign(ALICE) == ()
    made.now += 2 * DAY
    assert made.sign(ALICE, BOB) == ("targets", "snapshot", "timestamp")
    assert made.publish().expires_at == made.now + DAYS * DAY


def test_renewal_by_one_is_signed_and_not_repeated_by_the_other() -> None:
    made = published(ALICE, BOB)
    assert made.sign(ALICE, renew=True) == ("targets", "snapshot", "timestamp")
    made.sign(BOB, renew=True)
    assert made.versions() == {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 2}


def test_an_expired_draft_is_made_anew() -> None:
    made = desk(ALICE, BOB)
    made.sign(ALICE)
    made.now += (DAYS + 1) * DAY
    made.sign(BOB, ALICE)
    assert made.versions() == {"root": 1, "targets": 2, "snapshot": 2, "timestamp": 2}
    made.publish()


# -- drafts that somebody else wrote ------------------------------------------------


def told(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("role", "changed"),
    [
        ("targets", {"targets": {}}),
        ("targets", {"expires": told(NOW + (MAX_DAYS + 1) * DAY)}),
        ("snapshot", {"meta": {"targets.json": {"version": 7}}}),
        ("timestamp", {"meta": {"snapshot.json": {"version": 7}}}),
        ("timestamp", {"x-tightseal-issued": told(NOW + MAX_SKEW + 1)}),
    ],
)
def test_a_draft_that_says_anything_else_is_not_signed(
    role: str, changed: dict[str, Any]
) -> None:
    made = desk(ALICE, BOB)
    made.sign(ALICE)
    made.edit(role, **changed)
    made.sign(BOB)
    signed = json.loads(made.files[f"metadata/{role}.json"])["signed"]
    assert signed["version"] == 2
    assert all(signed[field] != value for field, value in changed.items())
    made.sign(ALICE)
    made.publish()


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_a_draft_that_uses_up_the_versions_is_not_signed(role: str) -> None:
    made = desk(ALICE, BOB)
    made.sign(ALICE)
    made.edit(role, version=MAX_RISE + 1)
    with refused(Code.BUNDLE_MALFORMED):
        made.sign(BOB)


def test_a_signature_that_is_no_good_is_replaced() -> None:
    made = desk(ALICE, BOB)
    made.sign(ALICE)
    path = "metadata/targets.json"
    value = json.loads(made.files[path])
    value["signatures"][0]["sig"] = "00" * 64
    made.files[path] = json.dumps(value).encode()
    assert made.sign(ALICE) == ("targets",)
    made.sign(BOB)
    made.publish()


def test_a_signer_of_another_key_is_noticed() -> None:
    class Twisted:
        public_key = ALICE.public_key

        def sign(self, payload: bytes) -> Any:
            return BOB.sign(payload)

    made = desk(ALICE)
    plan = made.plan(ALICE)
    with refused(Code.SETTINGS_INVALID):
        signed_files(plan, Twisted())  # type: ignore[arg-type]


# -- summaries ----------------------------------------------------------------------


def test_a_summary_says_who_and_what() -> None:
    made = published(ALICE, BOB)
    before = read_tree(made.published or {})
    rotate(made, add=[CAROL])
    let(made, "acme", DAVE)
    made.files[BASE] = text("database", seed=5)
    made.files["targets/release.toml"] = b"nonce_life = 60\n"
    found = {(d.workload, d.field): d for d in changes(before, made.tree)}
    assert set(found) == {
        ("approvers", "keys"),
        ("tenant acme", "keys"),
        ("tenant acme", "threshold"),
        ("release settings", "nonce_life"),
        ("document policy/base.toml", ""),
        ("default/database", "image[2026-10].measurements.mrtd"),
    }
    assert CAROL.public_key.keyid[:16] in found["approvers", "keys"].after
    assert changes(made.tree, made.tree) == ()


def test_the_first_summary_is_of_everything() -> None:
    subjects = {d.workload for d in changes(None, desk(ALICE).tree)}
    assert subjects == {"approvers", "document policy/base.toml", "default/database"}


# -- files that are not what they should be -----------------------------------------


def test_files_without_a_root() -> None:
    with refused(Code.BUNDLE_INCOMPLETE):
        read_tree({BASE: text("database")})


def test_a_gap_between_roots() -> None:
    made = published(ALICE)
    made.files["metadata/3.root.json"] = made.files["metadata/1.root.json"]
    with refused(Code.BUNDLE_INCOMPLETE):
        read_tree(made.files)


def test_a_root_under_another_number() -> None:
    made = published(ALICE)
    made.files["metadata/2.root.json"] = made.files["metadata/1.root.json"]
    with refused(Code.BUNDLE_MALFORMED):
        read_tree(made.files)


def test_marks_of_a_merge_are_malformed() -> None:
    made = published(ALICE)
    made.files["metadata/targets.json"] = b"<<<<<<< ours\n{}\n"
    with refused(Code.BUNDLE_MALFORMED):
        made.sign(ALICE)


def test_a_key_is_asked_for_before_anything_is_made() -> None:
    made = published(ALICE)
    with refused(Code.SETTINGS_INVALID):
        plan_signing(made.files, DAVE.public_key, published=None, now=NOW, days=DAYS)


# -- a law --------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abp"), st.integers(0, 3), st.integers(0, 40)),
        max_size=12,
    )
)
@example([("a", 1, 0), ("b", 0, 0), ("b", 0, 20), ("b", 0, 40)])
def test_every_history_publishes_and_never_falls(
    steps: list[tuple[str, int, int]],
) -> None:
    made = published(ALICE, BOB)
    people = {"a": ALICE, "b": BOB}
    before = made.versions()
    for who, seed, days in steps:
        made.now += days * DAY
        if who in people:
            made.files[BASE] = text("database", seed=seed)
            made.sign(people[who])
        else:
            made.sign(ALICE, BOB)
            made.publish()
        after = made.versions()
        assert all(after[role] >= before[role] for role in before)
        before = after
    made.sign(ALICE, BOB)
    made.publish()
