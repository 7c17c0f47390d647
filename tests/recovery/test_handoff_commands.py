# SPDX-License-Identifier: Apache-2.0
"""A keyring goes from provider to provider, by the commands that operators use."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli_support import Said, run
from handoff_scene import NEXT_IMAGE, Site, keyring_id
from tightseal.errors import Code, ProviderError
from tightseal.model.generation import GenerationName
from tightseal.model.keypath import KeyRequest
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.scene import Provider, Scene

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


def provider(*arguments: object) -> Said:
    return run("provider", *arguments)


def invited(
    site: Site, giver: Provider, config: Path, *options: object, signers: int = 2
) -> Path:
    """An invitation for the provider of these settings, signed."""
    folder = config.parent
    known, draft = folder / "identity.json", folder / "invitation.json"
    for old in (known, draft):
        old.unlink(missing_ok=True)
    said = provider("identity", "--config", config, "--out", known)
    assert said.status == 0, said.stderr
    said = provider(
        "invite", "--from", giver.url, "--joiner", known, "--out", draft, *options
    )
    assert said.status == 0, said.stderr
    return site.sign(draft, signers=signers)


def test_another_machine_and_version_gets_the_same_keys(scene: Scene) -> None:
    site = Site(scene)
    bundle = site.bundle()
    old = site.first(bundle, "old")
    create = KeyRequest("kept", create=True)
    before = site.key(old, "acme", KeyRequest("disk"), create)
    config = site.configure("new", bundle, machine="machine-b", image=NEXT_IMAGE)
    invitation = invited(site, old, config)
    said = provider(
        "upgrade", "--from", old.url, "--invitation", invitation, "--config", config
    )
    assert said.status == 0, said.stdout + said.stderr
    assert "rehearsed" in said.stdout
    assert "reopened" in said.stdout
    new = scene.start(config)
    assert keyring_id(new) == keyring_id(old)
    assert site.key(new, "acme").get("disk") == before.get("disk")
    # The giver has the joiner's slots too, so each copy opens at both.
    status = run("keyring", "status", "--config", old.config, "--json").document
    assert len(status["slots"]) == 4
    assert provider("retire", "--config", old.config, "--yes").status != 0
    old.stop()
    retired = provider("retire", "--config", old.config, "--yes", "--json")
    assert retired.status == 0, retired.stderr
    assert not old.settings.host.keyring_path.exists()
    assert site.key(new, "acme").get("disk") == before.get("disk")
    new.stop()


def joined(
    site: Site, giver: Provider, config: Path, *options: object, signers: int = 2
) -> Said:
    invitation = invited(site, giver, config, *options, signers=signers)
    where = ("--invitation", invitation, "--config", config, "--json")
    return provider("join", "--from", giver.url, *where)


def test_provider_of_one_tenant_gives_that_tenants_keys_alone(scene: Scene) -> None:
    site = Site(scene)
    bundle = site.bundle()
    whole = site.first(bundle, "whole")
    config = site.configure("branch", bundle, machine="machine-b", image=NEXT_IMAGE)
    said = joined(site, whole, config, "--tenant", "acme")
    assert said.status == 0, said.stderr
    assert said.document["tenant"] == "acme"
    assert said.document["confirmed"] is True
    branch = scene.start(config)
    parent = keyring_id(whole)
    assert keyring_id(branch) != parent
    disk = site.key(branch, "acme", branch_of=parent).get("disk")
    assert disk == site.key(whole, "acme").get("disk")
    with pytest.raises(ProviderError, match=Code.KEY_NOT_IN_BRANCH.value):
        site.key(branch, "umbrella")
    created = site.key(branch, "acme", KeyRequest("kept", create=True))
    assert site.key(branch, "acme", KeyRequest("kept")).get("kept") == created.get(
        "kept"
    )
    rotated = run("keyring", "rotate", "--config", config)
    assert rotated.status == 1
    branch.stop()
    whole.stop()


def test_revoked_provider_is_left_behind(scene: Scene) -> None:
    site = Site(scene)
    bundle = site.bundle()
    stays = site.first(bundle, "stays")
    before = site.key(stays, "acme").get("disk")
    config = site.configure("goes", bundle, machine="machine-b", image=NEXT_IMAGE)
    said = joined(site, stays, config)
    assert said.status == 0, said.stderr
    draft = config.parent / "revocation.json"
    named = [option for slot in said.document["slots"] for option in ("--slot", slot)]
    made = provider("revoke", "--from", stays.url, *named, "--out", draft, "--json")
    assert made.status == 0, made.stderr
    assert "renew-key" in made.stderr
    signed = site.sign(draft)
    done = run("action", "submit", signed, "--provider", stays.url)
    assert done.status == 0, done.stderr
    old = KeyRequest("disk", generation=GenerationName.PREVIOUS)
    now = site.key(stays, "acme", KeyRequest("disk"), old)
    assert now.key("disk").generation == 2
    assert now.get("disk", generation=GenerationName.PREVIOUS) == before
    status = run("keyring", "status", "--config", stays.config, "--json").document
    assert not {s["id"] for s in status["slots"]} & set(said.document["slots"])
    stays.stop()


def test_what_is_wrong_is_told_with_the_next_step(scene: Scene, tmp_path: Path) -> None:
    site = Site(scene)
    bundle = site.bundle()
    giver = site.first(bundle, "telling")
    config = site.configure("asking", bundle, machine="machine-b", image=NEXT_IMAGE)
    under = joined(site, giver, config, signers=1)
    assert under.status == 1
    assert "action_undersigned" in under.stderr
    nobody = provider("retire", "--config", giver.config, "--yes", "--json")
    assert nobody.status == 1
    assert "successor_missing" in nobody.stderr
    # A provider without a bundle cannot judge who gives.
    bare = scene.configure(
        "bare",
        machine="machine-b",
        release={"root": "keyring"},
        policy_root=site.approvers.policy_root,
    )
    blind = provider("identity", "--config", bare)
    assert blind.status != 0
    assert "host.policy_bundle" in blind.stderr
    taken = provider("identity", "--config", config, "--out", config)
    assert taken.status != 0
    silent = provider(
        "join",
        "--from",
        "http://127.0.0.1:9",
        "--config",
        config,
        "--invitation",
        invited(site, giver, config),
    )
    assert silent.status != 0
    assert "provider_unreachable" in silent.stderr
    wrong = tmp_path / "no.json"
    wrong.write_text("{}")
    assert (
        "action_malformed"
        in provider(
            "join", "--from", giver.url, "--config", config, "--invitation", wrong
        ).stderr
    )
    giver.stop()


def test_sidecar_has_nothing_to_hand_over(scene: Scene) -> None:
    site = Site(scene)
    bundle = site.bundle()
    sidecar = scene.provider(
        "sidecar", policy_root=site.approvers.policy_root, bundle=bundle
    )
    config = site.configure("hopeful", bundle, machine="machine-b", image=NEXT_IMAGE)
    known = config.parent / "identity.json"
    assert provider("identity", "--config", config, "--out", known).status == 0
    said = provider(
        "invite",
        "--from",
        sidecar.url,
        "--joiner",
        known,
        "--out",
        config.parent / "invitation.json",
    )
    assert said.status == 2
    assert "no keyring" in said.stderr
    answer = httpx.post(f"{sidecar.url}/v1/handoff", content=b"{}", trust_env=False)
    assert answer.json()["code"] == Code.NOT_FOUND.value
    sidecar.stop()


def test_provider_joins_by_itself_at_its_first_start(scene: Scene) -> None:
    """Where arguments are measured, no command runs in the enclave that serves."""
    site = Site(scene)
    bundle = site.bundle()
    giver = site.first(bundle, "gives")
    paths = {"join": {"url": giver.url, "invitation": ""}}
    invitation_file = scene.folder / "serves" / "invitation.json"
    paths["join"]["invitation"] = str(invitation_file)
    config = site.configure(
        "serves", bundle, machine="machine-b", image=NEXT_IMAGE, keyring=paths
    )
    measured = EnclaveImage(name=NEXT_IMAGE).mr_enclave.hex()
    known, elsewhere = config.parent / "known.json", config.parent / "elsewhere.json"
    for out, options in ((known, ()), (elsewhere, ("--measurement", measured))):
        said = provider("identity", "--config", config, "--out", out, *options)
        assert said.status == 0, said.stderr
    assert known.read_bytes() == elsewhere.read_bytes()
    said = provider(
        "invite", "--from", giver.url, "--joiner", known, "--out", invitation_file
    )
    assert said.status == 0, said.stderr
    site.sign(invitation_file)
    joins = scene.start(config)
    assert "keyring_joined" in joins.log.read_text()
    assert keyring_id(joins) == keyring_id(giver)
    assert site.key(joins, "acme").get("disk") == site.key(giver, "acme").get("disk")
    joins.stop()
    again = scene.start(config)
    assert site.key(again, "acme").get("disk") == site.key(giver, "acme").get("disk")
    again.stop()
    giver.stop()
