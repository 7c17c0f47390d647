# SPDX-License-Identifier: Apache-2.0
"""``tightseal policy`` from a key to a published bundle, as approvers do it."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from desk_support import ALL, AT, NOW, Desk, document

from cli_support import run
from tightseal.policy.bundle import keyfile
from tightseal.policy.bundle.verify import ExpiredMetadata, verify_bundle


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "BCRYPT_ROUNDS", 1)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def signed(desk: Desk) -> Desk:
    """A folder of alice and bob, both of whom must sign, and have signed."""
    assert desk.init("alice", "bob").status == 0
    desk.sign("alice")
    assert desk.sign("bob")["complete"]
    return desk


def verified(data: bytes, pin: str) -> Any:
    return verify_bundle(
        data,
        policy_root=bytes.fromhex(pin),
        marks=None,
        now=NOW,
        expired=ExpiredMetadata.REFUSE,
    )


# -- the whole way -------------------------------------------------------------------


def test_two_approvers_from_keys_to_a_bundle(desk: Desk) -> None:
    pin = desk.init("alice", "bob").document["policy_root"]
    one = desk.sign("alice")
    assert (one["signed"], one["complete"], one["policy_root"]) == (ALL, False, pin)
    assert {role["missing"] for role in one["roles"]} == {1}
    two = desk.sign("bob")
    assert (two["signed"], two["complete"], two["waiting_for"]) == (ALL, True, [])
    out = desk.place / "bundle.tsb"
    said = desk.publish("--out", out)
    assert said.status == 0
    told = said.document
    assert (told["policy_root"], told["policy_version"]) == (pin, 1)
    assert told["digest"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert out.read_bytes() == (desk.folder / "published.tsb").read_bytes()
    (parsed,) = verified(out.read_bytes(), pin).documents
    assert parsed.document.workload[0].name == "database"


def test_what_people_read(desk: Desk) -> None:
    desk.init("alice", "bob")
    said = desk.run("sign", desk.folder, "--key", desk.key("alice"), *AT)
    lines = said.stdout.splitlines()
    assert lines[0] == "signed  root 1, targets 1, snapshot 1, timestamp 1"
    assert any("targets 1: 1 more of the approvers: bob (" in x for x in lines)
    assert "  document policy/base.toml - -> present" in lines
    assert "default/database" in lines
    assert f"    rtmr3            {'55' * 48}" in lines
    desk.sign("bob")
    again = desk.run("sign", desk.folder, "--key", desk.key("bob"), *AT)
    assert again.stdout.startswith("nothing to sign\n")
    published = run("policy", "publish", desk.folder, *AT)
    assert published.stdout.startswith("published  version 1\n")


def test_what_people_read_of_keys_and_roots(desk: Desk) -> None:
    said = run("policy", "keygen", desk.place / "open.key", "--no-passphrase")
    assert said.stdout.startswith(f"made  {desk.place / 'open.key'}\n")
    assert "for development only" in said.stderr
    approvers = ("--approver", desk.pub("alice"), "--expires-days", 60)
    made = run("policy", "init", desk.folder, *approvers, *AT)
    assert made.stdout.startswith(f"made  {desk.folder}\n")
    assert "  approvers          1 of 1" in made.stdout
    accept = ("--accept-danger", "empty-set")
    signed = desk.run("sign", desk.folder, "--key", desk.key("alice"), *accept, *AT)
    assert "root 1 ends at 2026-11-20T" in signed.stderr
    changed = desk.run("root", desk.folder, "--add-approver", desk.pub("bob"), *AT)
    assert changed.stdout.startswith("changed  root 2\n")
    tenant = ("tenant", desk.folder, "add", "acme", "--approver", desk.pub("dave"))
    assert desk.run(*tenant, *AT).stdout.startswith("added  acme\n")


def test_signing_again_without_a_change(signed: Desk) -> None:
    signed.publish()
    before = {p: p.read_bytes() for p in signed.folder.rglob("*") if p.is_file()}
    told = signed.sign("alice", at=NOW + 86_400)
    assert (told["signed"], told["written"]) == ([], [])
    assert {
        p: p.read_bytes() for p in signed.folder.rglob("*") if p.is_file()
    } == before


def test_a_change_raises_what_is_needed(signed: Desk) -> None:
    signed.publish()
    signed.change()
    told = signed.sign("alice")
    assert told["signed"] == ["targets", "snapshot", "timestamp"]
    fields = {d["field"] for d in told["changes"]}
    assert fields == {"", "image[first].measurements.mrtd"}
    assert {r["role"]: r["version"] for r in told["roles"]} == {
        "root": 1,
        "targets": 2,
        "snapshot": 2,
        "timestamp": 2,
    }
    signed.sign("bob")
    assert signed.publish().document["policy_version"] == 2


def test_under_signed_is_refused_with_what_is_missing(desk: Desk) -> None:
    desk.init("alice", "bob")
    desk.sign("alice")
    said = desk.publish()
    assert (said.status, said.stdout) == (1, "")
    assert "bundle_undersigned" in said.stderr
    assert "timestamp 1: 1 more of the approvers: bob (" in said.stderr
    assert not (desk.folder / "published.tsb").exists()


def test_a_document_changed_after_it_was_signed_is_not_published(signed: Desk) -> None:
    signed.change()
    said = signed.publish()
    assert said.status == 1
    assert "bundle_incomplete\n  policy/base.toml: sign it" in said.stderr


def test_an_expired_folder_is_not_published(signed: Desk) -> None:
    said = signed.publish(at=NOW + 91 * 86_400)
    assert said.status == 1
    assert "bundle_expired" in said.stderr


def test_an_older_checkout_is_not_published(signed: Desk) -> None:
    signed.publish()
    old = {p: p.read_bytes() for p in signed.folder.rglob("*.*") if p.is_file()}
    signed.change()
    signed.sign("alice")
    signed.sign("bob")
    signed.publish()
    last = signed.folder / "published.tsb"
    for path, data in old.items():
        if path != last:
            path.write_bytes(data)
    said = signed.publish()
    assert said.status == 1
    assert "bundle_rolled_back" in said.stderr


# -- who approves --------------------------------------------------------------------


def test_rotation_from_one_pin(signed: Desk) -> None:
    pin = signed.publish().document["policy_root"]
    old = (signed.folder / "published.tsb").read_bytes()
    nobody = signed.run("root", signed.folder, "--remove-approver", "zoe")
    assert nobody.status == 2
    assert "key zoe: is no approver" in nobody.stderr
    changed = signed.run(
        *("root", signed.folder, "--add-approver", signed.pub("carol")),
        *("--remove-approver", signed.pub("bob"), *AT),
        as_json=True,
    ).document
    assert (changed["root_version"], changed["policy_root"]) == (2, pin)
    first = signed.sign("alice")
    assert "approvers" in {d["workload"] for d in first["changes"]}
    assert signed.sign("bob")["signed"] == ["root"]
    assert signed.sign("carol")["complete"]
    assert signed.publish().document["policy_version"] == 2
    new = (signed.folder / "published.tsb").read_bytes()
    assert verified(old, pin).marks.root == 1
    assert verified(new, pin).marks.root == 2


def test_the_root_is_told_without_a_change(signed: Desk) -> None:
    before = (signed.folder / "metadata" / "1.root.json").read_bytes()
    said = signed.run("root", signed.folder)
    assert said.stdout.startswith("unchanged  root 1\n  policy root        ")
    assert (signed.folder / "metadata" / "1.root.json").read_bytes() == before
    assert not (signed.folder / "metadata" / "2.root.json").exists()


def test_a_tenant_of_its_own(signed: Desk) -> None:
    add = ("tenant", signed.folder, "add", "acme", "--approver", signed.pub("dave"))
    assert signed.run(*add, *AT).status == 0
    place = signed.folder / "targets" / "tenants" / "acme" / "db.toml"
    place.parent.mkdir(parents=True)
    place.write_text(document("db", tenant="acme", mrtd="77"))
    assert signed.sign("dave")["signed"] == ["tenant-acme"]
    signed.sign("alice")
    assert signed.sign("bob")["complete"]
    assert signed.publish().document["documents"] == 2
    place.write_text(document("db", tenant="other", mrtd="77"))
    said = signed.run("sign", signed.folder, "--key", signed.key("dave"))
    assert said.status == 2
    assert "expected acme, whose role signed it, got other" in said.stderr
    place.unlink()
    assert signed.run("tenant", signed.folder, "remove", "acme").status == 0
    signed.sign("alice")
    signed.sign("bob")
    assert signed.publish().document["documents"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "acme"),
        ("add", "Acme!", "--approver", "x.pub"),
        ("remove", "acme", "--approver", "x.pub"),
        ("drop", "acme"),
    ],
)
def test_wrong_ways_to_name_a_tenant(signed: Desk, arguments: tuple[str, ...]) -> None:
    said = signed.run("tenant", signed.folder, *arguments)
    assert (said.status, said.stdout) == (2, "")


# -- a crash -------------------------------------------------------------------------


@pytest.mark.parametrize("after", range(3))
def test_a_crash_between_files_leaves_a_usable_folder(
    signed: Desk, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    signed.publish()
    signed.change()
    moved = os.replace
    count = iter(range(100))

    def fails(source: Any, place: Any) -> None:
        if next(count) == after:
            raise OSError(5, "Input/output error")
        moved(source, place)

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", fails)
        said = signed.run("sign", signed.folder, "--key", signed.key("alice"), *AT)
    assert (said.status, said.stdout) == (2, "")
    assert run("policy", "show", signed.folder).status == 1
    signed.sign("bob")
    signed.sign("alice")
    assert signed.publish().document["policy_version"] == 2


# -- show ----------------------------------------------------------------------------


def test_show_of_a_folder_and_of_a_bundle(signed: Desk) -> None:
    folder = run("policy", "show", signed.folder, "--json")
    assert folder.document["published"] is None
    pin = folder.document["policy_root"]
    signed.publish()
    bundle = run("policy", "show", signed.folder / "published.tsb", "--json").document
    assert (bundle["policy_root"], bundle["documents"]) == (pin, ["policy/base.toml"])
    assert [role["role"] for role in bundle["roles"]] == ALL
    signed.change()
    said = run("policy", "show", signed.folder, "--json")
    assert said.document["changes"][0]["workload"] == "document policy/base.toml"
    assert said.document["published"] == 1
    people = run("policy", "show", signed.folder).stdout
    assert "  not signed         policy/base.toml" in people
    signed.sign("alice")
    people = run("policy", "show", signed.folder).stdout
    assert "  waits              policy/base.toml" in people
    signed.sign("bob")
    people = run("policy", "show", signed.folder).stdout
    assert "  signed             policy/base.toml" in people


def test_show_of_a_bundle_that_is_cut_off(signed: Desk) -> None:
    signed.publish()
    file = signed.folder / "published.tsb"
    file.write_bytes(file.read_bytes()[:-1])
    said = run("policy", "show", file)
    assert (said.status, said.stdout) == (1, "")
    assert "bundle_malformed" in said.stderr
    noted = run("policy", "show", signed.folder)
    assert "is not compared: bundle_malformed" in noted.stderr
