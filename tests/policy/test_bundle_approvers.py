# SPDX-License-Identifier: Apache-2.0
"""Who approves: rotation of the root from one pin, and tenants' own approvers."""

import json
from typing import Any

import pytest
from authoring_support import (
    ALICE,
    BASE,
    BOB,
    CAROL,
    DAVE,
    DAYS,
    desk,
    let,
    published,
    rotate,
    text,
)
from policy_support import NOW

from tightseal.errors import Code, SettingsError
from tightseal.policy.bundle.approvers import MAX_DAYS, first_root, undelegate
from tightseal.policy.bundle.draft import pending
from tightseal.policy.bundle.summary import changes
from tightseal.policy.bundle.tree import role_states
from tightseal.policy.bundle.verify import (
    ExpiredMetadata,
    policy_root_of,
    verify_bundle,
)

ACME = "targets/tenants/acme/db.toml"


def refused(code: Code) -> Any:
    return pytest.raises(SettingsError, match=code.value)


# -- the root -----------------------------------------------------------------------


def test_rotation_is_followed_from_the_same_pin() -> None:
    made = published(ALICE, BOB)
    old, pin = made.bundle(), made.root
    rotate(made, add=[CAROL], remove=[BOB])
    assert made.sign(ALICE) == ("root", "timestamp")
    assert made.sign(BOB) == ("root",)
    assert made.sign(CAROL) == ("root", "targets", "snapshot", "timestamp")
    assert made.publish().marks.root == 2
    assert made.root == pin
    assert made.versions() == {"root": 2, "targets": 1, "snapshot": 1, "timestamp": 2}
    for data, version in ((old, 1), (made.bundle(), 2)):
        found = verify_bundle(
            data,
            policy_root=pin,
            marks=None,
            now=NOW,
            expired=ExpiredMetadata.REFUSE,
        )
        assert found.marks.root == version


def test_the_new_alone_cannot_take_over() -> None:
    made = published(ALICE, BOB)
    rotate(made, add=[CAROL, DAVE], remove=[ALICE, BOB])
    made.sign(CAROL, DAVE)
    missing = {s.by: s.missing for s in role_states(made.tree) if s.role == "root"}
    assert missing == {"approvers": 0, "approvers of root 1": 2}
    with refused(Code.BUNDLE_UNDERSIGNED):
        made.publish()


def test_one_who_left_signs_nothing_but_the_farewell() -> None:
    made = published(ALICE, BOB)
    rotate(made, add=[CAROL], remove=[BOB])
    made.sign(ALICE, BOB, CAROL)
    made.publish()
    made.files[BASE] = text("database", seed=5)
    assert made.sign(BOB) == ()


def test_a_root_that_is_half_signed_is_made_anew() -> None:
    made = published(ALICE, BOB)
    rotate(made, add=[CAROL])
    made.sign(ALICE)
    rotate(made, add=[DAVE])
    assert len(made.tree.roots) == 2
    assert made.tree.roots[-1].metadata.signatures == {}
    assert len(made.tree.roots[-1].signed.roles["root"].keyids) == 4


def test_a_lower_threshold_needs_the_old_one_once_more() -> None:
    made = published(ALICE, BOB)
    rotate(made, threshold=1)
    made.sign(ALICE)
    with refused(Code.BUNDLE_UNDERSIGNED):
        made.publish()
    made.sign(BOB)
    made.publish()
    made.files[BASE] = text("database", seed=5)
    made.sign(ALICE)
    made.publish()


def test_root_1_is_not_changed_before_it_is_signed() -> None:
    with refused(Code.BUNDLE_UNDERSIGNED):
        rotate(desk(ALICE, BOB), add=[CAROL])


def test_a_root_that_gives_one_role_away_is_told() -> None:
    """The root role alone looks as before."""
    made = published(ALICE, BOB)
    before = made.tree
    rotate(made, threshold=2)
    value = json.loads(made.files["metadata/2.root.json"])
    signed, key = value["signed"], DAVE.public_key
    signed["keys"][key.keyid] = key.to_dict()
    signed["roles"]["targets"] = {"keyids": [key.keyid], "threshold": 1}
    made.files["metadata/2.root.json"] = json.dumps(value).encode()
    found = {(d.workload, d.field) for d in changes(before, made.tree)}
    assert found == {
        ("approvers of targets", "keys"),
        ("approvers of targets", "threshold"),
    }


def test_a_root_that_holds_for_ever_is_not_signed() -> None:
    made = published(ALICE, BOB)
    rotate(made, threshold=1)
    value = json.loads(made.files["metadata/2.root.json"])
    value["signed"]["expires"] = "9999-01-01T00:00:00Z"
    made.files["metadata/2.root.json"] = json.dumps(value).encode()
    with refused(Code.BUNDLE_MALFORMED):
        made.sign(ALICE)


@pytest.mark.parametrize("threshold", [0, 3, -1])
def test_a_threshold_out_of_reach(threshold: int) -> None:
    with refused(Code.SETTINGS_INVALID):
        desk(ALICE, BOB, threshold=threshold)


def test_an_approver_counts_once() -> None:
    with refused(Code.SETTINGS_INVALID):
        desk(ALICE, ALICE)
    with refused(Code.SETTINGS_INVALID):
        rotate(published(ALICE, BOB), add=[ALICE])
    with refused(Code.SETTINGS_INVALID):
        rotate(published(ALICE, BOB), remove=[CAROL])


@pytest.mark.parametrize("days", [0, -1, MAX_DAYS + 1])
def test_an_end_out_of_bounds(days: int) -> None:
    with refused(Code.SETTINGS_INVALID):
        first_root([ALICE.public_key], threshold=1, now=NOW, days=days)
    with refused(Code.SETTINGS_INVALID):
        desk(ALICE).plan(ALICE, days=days)


def test_signatures_do_not_change_the_policy_root() -> None:
    made = desk(ALICE, BOB)
    before = made.root
    made.sign(ALICE)
    assert made.root == before
    other = desk(ALICE, CAROL)
    assert policy_root_of(other.files["metadata/1.root.json"]) != before


# -- tenants ------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(ALICE, BOB, DAVE), (DAVE, BOB, ALICE)])
def test_a_tenant_signs_its_own_documents(order: tuple[Any, ...]) -> None:
    made = published(ALICE, BOB)
    let(made, "acme", DAVE)
    made.files[ACME] = text("db", tenant="acme", seed=3)
    made.sign(*order)
    assert made.versions()["tenant-acme"] == 1
    assert len(made.publish().documents) == 2
    made.files[ACME] = text("db", tenant="acme", seed=4)
    assert made.sign(DAVE) == ("tenant-acme",)
    with refused(Code.BUNDLE_UNDERSIGNED):
        made.publish()
    assert made.sign(ALICE, BOB) == ("snapshot", "timestamp")
    assert made.publish().version == 3
    assert made.versions()["targets"] == 2


def test_a_tenant_does_not_sign_for_all() -> None:
    made = published(ALICE)
    let(made, "acme", DAVE)
    made.sign(ALICE, DAVE)
    made.publish()
    made.files[BASE] = text("database", seed=5)
    before = dict(made.files)
    assert made.sign(DAVE) == ()
    assert made.files == before
    assert pending(made.files) == ("policy/base.toml",)


def test_documents_of_a_tenant_that_nobody_signs_for() -> None:
    made = published(ALICE)
    made.files[ACME] = text("db", tenant="acme", seed=3)
    assert pending(made.files) == ("tenants/acme/db.toml",)
    with refused(Code.BUNDLE_INCOMPLETE):
        made.sign(ALICE)


def test_a_tenant_goes_and_comes_back_above_its_versions() -> None:
    made = published(ALICE)
    let(made, "acme", DAVE)
    made.files[ACME] = text("db", tenant="acme", seed=3)
    made.sign(ALICE, DAVE)
    made.publish()
    document = made.files.pop(ACME)
    floor = made.versions()["targets"]
    made.files["metadata/targets.json"] = undelegate(
        made.tree, "acme", floor=floor, now=made.now, days=DAYS
    )
    made.sign(ALICE)
    assert len(made.publish().documents) == 1
    let(made, "acme", CAROL)
    made.files[ACME] = document
    made.sign(ALICE, CAROL)
    assert len(made.publish().documents) == 2


@pytest.mark.parametrize(
    ("name", "paths"),
    [("tenant-acme", ["policy/*.toml"]), ("targets", ["tenants/acme/*.toml"])],
)
def test_a_draft_that_delegates_more_than_a_tenants_folder_is_not_signed(
    name: str, paths: list[str]
) -> None:
    made = published(ALICE, BOB)
    let(made, "acme", DAVE)
    value = json.loads(made.files["metadata/targets.json"])
    value["signed"]["delegations"]["roles"][0] |= {"name": name, "paths": paths}
    made.files["metadata/targets.json"] = json.dumps(value).encode()
    with refused(Code.BUNDLE_MALFORMED):
        made.sign(ALICE)


def test_another_approver_of_a_tenant_signs_the_same_version() -> None:
    made = published(ALICE)
    let(made, "acme", DAVE)
    made.sign(ALICE, DAVE)
    made.publish()
    let(made, "acme", CAROL)
    assert made.sign(ALICE) == ("targets", "snapshot", "timestamp")
    with refused(Code.BUNDLE_UNDERSIGNED):
        made.publish()
    assert made.sign(CAROL) == ("tenant-acme",)
    made.publish()


def test_a_tenant_that_is_not_there_cannot_go() -> None:
    with refused(Code.SETTINGS_INVALID):
        undelegate(published(ALICE).tree, "acme", floor=1, now=NOW, days=DAYS)
