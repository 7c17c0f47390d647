# SPDX-License-Identifier: Apache-2.0
"""What policies say of slots: the other provider's, and signed settings of our own."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slot_provider_rig import ADD, Place, pin_table, table_text

from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.keypath import IdentityKind
from tightseal.model.slots import SlotClass
from tightseal.policy.start import from_claims
from tightseal_sim.approvers import Approvers
from tightseal_sim.door import PROVIDER_ENCLAVE
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.scene import Provider, Scene
from tightseal_sim.sources import WorldSource

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
MACHINE = "machine-a"
OURS = EnclaveImage(name=PROVIDER_ENCLAVE)
SIGNER = ("slot", "add", "--class", "gramine", "--signer", "--label", "signer")
REFUSED = 'it belongs to the signer, and release.slot_signer is not "allow"'


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        scene.world.intel.platform(MACHINE)
        yield scene


@pytest.fixture(scope="module")
def approvers() -> Approvers:
    return Approvers(2, threshold=2)


@pytest.fixture(scope="module")
def other(scene: Scene, approvers: Approvers) -> Provider:
    """Under a policy root; what it gives to whom is for each test to publish."""
    return scene.provider(
        "other", policy_root=approvers.policy_root, bundle=approvers.bundle({})
    )


@pytest.fixture
def place(scene: Scene, tmp_path: Path) -> Place:
    return Place(scene, tmp_path / "own", machine=MACHINE)


def document(
    scene: Scene,
    *,
    image: EnclaveImage = OURS,
    purpose: str = "keyring-slot",
    key: str = 'labels = ["*"]',
) -> str:
    """A policy that gives an enclave on our machine a key by name."""
    verify = EvidenceVerifier(
        roots=with_simulated(VENDOR_ROOTS, scene.world.intel.root_certificate),
        source=WorldSource(scene.world),
        cache=ResultCache(64),
    )
    enclave = scene.world.intel.platform(MACHINE).load_enclave(image)
    text = from_claims(
        verify(enclave.evidence(bytes(64)), now=int(time.time())),
        tenant="acme",
        name="provider",
        identity=IdentityKind.NAMED,
        label="2026-11",
        purpose=purpose,
    )
    return f"{text.rstrip()}\n{key}\n"


def publish(other: Provider, approvers: Approvers, text: str) -> None:
    answer = other.publish(approvers.bundle({"slots": text}))
    assert answer.is_success, answer.text


def pinned(place: Place, other: Provider) -> None:
    place.configure(url=other.url, pin=pin_table(other.pin))


# -- the other provider's policy --------------------------------------------------


def test_policy_that_names_our_image_and_our_keyring(
    scene: Scene, place: Place, other: Provider, approvers: Approvers
) -> None:
    pinned(place, other)
    keyring_id = place.done("init")["keyring_id"]
    publish(other, approvers, document(scene, key=f'labels = ["{"ab" * 32}.*"]'))
    assert "key_label_not_allowed" in place.refused(*ADD)
    publish(other, approvers, document(scene, key=f'labels = ["{keyring_id}.*"]'))
    place.done(*ADD)
    assert place.slots()["other"]["opens"] is True


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"purpose": "disk"}, "purpose_not_allowed"),
        ({"image": EnclaveImage(name="another")}, "measurements_not_accepted"),
        ({"key": 'labels = ["*"]\ntype = "ed25519"'}, "expected raw bytes"),
    ],
    ids=["no such purpose", "another image", "a key pair"],
)
def test_policy_that_gives_us_none(
    scene: Scene,
    place: Place,
    other: Provider,
    approvers: Approvers,
    rules: dict[str, Any],
    code: str,
) -> None:
    pinned(place, other)
    place.done("init")
    publish(other, approvers, document(scene, **rules))
    refusal = place.refused(*ADD)
    assert "slot_unavailable" in refusal
    assert code in refusal


def test_right_that_is_taken_back_closes_the_slot_and_no_other(
    scene: Scene, place: Place, other: Provider, approvers: Approvers
) -> None:
    pinned(place, other)
    place.done("init")
    publish(other, approvers, document(scene))
    place.done(*ADD)
    publish(other, approvers, document(scene, image=EnclaveImage(name="another")))
    slots = place.slots(status=1)
    assert [slot["opens"] for slot in slots.values()] == [True, False]
    assert "it refuses us, and its log says why" in slots["other"]["reason"]
    publish(other, approvers, document(scene))
    assert place.slots()["other"]["opens"] is True


# -- our own signed settings ------------------------------------------------------


def signed(approvers: Approvers, text: str) -> bytes:
    return approvers.bundle({}, release=text)


def test_pin_from_our_own_signed_settings(
    scene: Scene, place: Place, other: Provider, approvers: Approvers
) -> None:
    publish(other, approvers, document(scene))
    ours = Approvers(2, threshold=2)
    text = f"[slot_provider]\n{table_text(pin_table(other.pin))}\n"
    rooted = {"url": other.url, "policy_root": ours.policy_root}
    place.configure(bundle=signed(ours, text), **rooted)
    place.done("init")
    place.add(SlotClass.PROVIDER, label="other")
    assert place.slots()["other"]["opens"] is True

    def closed(**settings: Any) -> str:
        place.configure(**(rooted | settings))
        slots = place.slots(status=1)
        assert slots["first"]["opens"] is True
        reason = slots["other"]["reason"]
        assert isinstance(reason, str)
        return reason

    assert "stands in host.policy_bundle: it is not set" in closed()
    assert "bundle_malformed" in closed(bundle=b"no bundle")
    strangers = Approvers(2, threshold=2)
    assert "bundle_root_mismatch" in closed(bundle=signed(strangers, text))
    undersigned = ours.bundle({}, release=text + " \n", signers=1)
    assert "bundle_undersigned" in closed(bundle=undersigned)
    assert "pins nobody" in closed(bundle=signed(ours, ""))


def test_measured_settings_under_a_policy_root_say_nothing_of_slots(
    place: Place, other: Provider, approvers: Approvers
) -> None:
    for release in ({"slot_signer": "allow"}, {"slot_provider": pin_table(other.pin)}):
        place.configure(policy_root=approvers.policy_root, **release)
        said = place.run("status")
        assert said.status == 2
        assert "under a policy root it comes in the signed bundle" in said.stderr


def test_signed_opt_in_for_the_signer(place: Place) -> None:
    ours = Approvers(2, threshold=2)
    rooted = {"policy_root": ours.policy_root}
    place.configure(bundle=signed(ours, 'slot_signer = "allow"\n'), **rooted)
    place.done("init")
    place.add(SlotClass.GRAMINE, signer=True, label="signer")
    slot = place.slots()["signer"]
    assert (slot["signer"], slot["opens"]) == (True, True)
    place.configure(bundle=signed(ours, ""), **rooted)
    assert REFUSED in place.slots(status=1)["signer"]["reason"]


# -- slots of the signer ----------------------------------------------------------


def test_slot_of_the_signer_is_made_only_when_asked_for_and_allowed(
    place: Place,
) -> None:
    place.configure(slot_signer="allow")
    made = place.done("init")
    assert made["slots"][0]["signer"] is False
    place.done("slot", "add", "--class", "sgx", "--label", "own")
    said = place.run(*SIGNER)
    assert said.status == 0
    assert "can build an enclave that opens this slot" in said.stderr
    place.done(*SIGNER[:3], "sgx", *SIGNER[4:-1], "sgx signer")
    slots = place.slots()
    assert {label: slot["signer"] for label, slot in slots.items()} == {
        "first": False,
        "own": False,
        "signer": True,
        "sgx signer": True,
    }
    for command in ("status", "verify"):
        assert "gramine of the signer" in place.run(command).stdout
        assert "sgx of the signer" in place.run(command).stdout
    # Made anew it stays what it was.
    place.update_microcode()
    place.done("slot", "rewrap", slots["sgx signer"]["id"])
    assert place.slots(status=1)["sgx signer"]["signer"] is True


def test_without_the_opt_in_none_is_made(place: Place) -> None:
    place.configure()
    place.done("init")
    told = place.run(*SIGNER)
    assert told.status == 2
    assert REFUSED in told.stderr
    assert len(place.slots()) == 1


def test_once_the_opt_in_is_gone_it_neither_opens_nor_is_made_anew(
    place: Place,
) -> None:
    place.configure(slot_signer="allow")
    place.done("init")
    place.done(*SIGNER)
    place.done(*SIGNER[:3], "sgx", *SIGNER[4:-1], "sgx signer")
    place.configure()
    slots = place.slots(status=1)
    assert slots["first"]["opens"] is True
    for label in ("signer", "sgx signer"):
        assert REFUSED in slots[label]["reason"]
        assert REFUSED in place.refused("slot", "rewrap", slots[label]["id"])
        place.done("slot", "remove", slots[label]["id"])
    assert place.done("slot", "test")["in_order"] is True


def test_signer_beside_a_second_factor(place: Place) -> None:
    place.configure(slot_signer="allow")
    files = ("--passphrase-file", place.secret)
    place.done("init")
    made = place.done(*SIGNER, "--with", "passphrase", *files)["slot"]
    assert (made["factors"], made["signer"]) == (["gramine", "passphrase"], True)
    assert "gramine+passphrase of the signer" in place.run("status", *files).stdout


@pytest.mark.parametrize("name", ["provider", "passphrase"])
def test_class_that_knows_no_signer(place: Place, other: Provider, name: str) -> None:
    place.configure(url=other.url, pin=pin_table(other.pin), slot_signer="allow")
    place.done("init")
    files = ("--passphrase-file", place.secret)
    told = place.run("slot", "add", "--class", name, "--signer", *files)
    assert told.status == 2
    assert "only gramine and sgx have keys of the signer" in told.stderr
