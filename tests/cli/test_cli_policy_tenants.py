# SPDX-License-Identifier: Apache-2.0
"""Publishing for several tenants: no tenant's image makes another's ambiguous."""

from pathlib import Path

import pytest
from desk_support import AT, NOW, Desk, document

from tightseal.policy.lint import LintId, lint, tenants_overlap
from tightseal.policy.read import Parsed, parse

ACCEPT = ("--accept-danger", "workloads-overlap")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """The approvers of all, and acme with an image that is also the base's."""
    desk = Desk(tmp_path)
    assert desk.init("alice", "bob").status == 0
    add = ("tenant", desk.folder, "add", "acme", "--approver", desk.pub("dave"), *AT)
    assert desk.run(*add).status == 0
    return desk


def tenant_says(desk: Desk, mrtd: str) -> None:
    place = desk.folder / "targets" / "tenants" / "acme" / "db.toml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(document("db", tenant="acme", mrtd=mrtd))


def all_sign(desk: Desk) -> None:
    for name in ("dave", "alice", "bob"):
        desk.sign(name, *ACCEPT)


def test_an_image_of_two_tenants_is_not_published(desk: Desk) -> None:
    tenant_says(desk, mrtd="11")
    all_sign(desk)
    said = desk.publish()
    assert said.status == 1
    shown = said.document
    assert (shown["digest"], shown["places"]) == (None, [])
    (danger,) = shown["dangers"]
    assert danger["id"] == LintId.WORKLOADS_OVERLAP.value
    assert "of different tenants" in danger["message"]
    assert not (desk.folder / "published.tsb").exists()
    people = desk.run("publish", desk.folder, *AT)
    assert people.status == 1
    assert "not published" in people.stdout
    assert "--accept-danger workloads-overlap" in people.stdout


def test_it_is_published_where_that_is_accepted(desk: Desk) -> None:
    tenant_says(desk, mrtd="11")
    all_sign(desk)
    shown = desk.publish(*ACCEPT).document
    assert shown["documents"] == 2
    assert shown["dangers"] == []
    assert (desk.folder / "published.tsb").exists()


def test_another_accepted_danger_does_not_stand_for_it(desk: Desk) -> None:
    tenant_says(desk, mrtd="11")
    all_sign(desk)
    assert desk.publish("--accept-danger", "no-keys").status == 1


def test_tenants_that_differ_in_one_measurement_are_published(desk: Desk) -> None:
    tenant_says(desk, mrtd="77")
    all_sign(desk)
    assert desk.publish().status == 0


def parsed(*texts: str) -> list[Parsed]:
    return [parse(text, name=f"d{i}") for i, text in enumerate(texts)]


def test_workloads_of_one_tenant_are_lints_alone() -> None:
    one_tenant = parsed(document("one"), document("two"))
    assert tenants_overlap(one_tenant) == ()
    found = [f for f in lint(one_tenant, now=NOW) if f.id is LintId.WORKLOADS_OVERLAP]
    assert len(found) == 1
    assert "tenants" not in found[0].message


def test_pairs_within_a_tenant_do_not_hide_those_across() -> None:
    many = [document(f"w{n}", mrtd=f"1{n}") for n in range(8)]
    twins = [document(f"v{n}", mrtd=f"1{n}") for n in range(8)]
    other = document("db", tenant="acme", mrtd="13")
    found = tenants_overlap(parsed(*many, *twins, other))
    assert len(found) == 2
    assert all("acme/db" in finding.message for finding in found)
