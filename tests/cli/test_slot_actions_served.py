# SPDX-License-Identifier: Apache-2.0
"""Slots by signed action on a provider that runs: the policy in force decides."""

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from slot_provider_rig import pin_of, pin_table, table_text

from cli_support import run
from tightseal.model.action import Action, ActionKind, SlotParameters
from tightseal.model.slots import SlotClass
from tightseal_sim.approvers import Approvers
from tightseal_sim.scene import Provider, Scene

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
ALLOWED = 'slot_signer = "allow"\n'


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture
def approvers() -> Approvers:
    return Approvers(2, threshold=2)


def role(approvers: Approvers) -> str:
    keys = ", ".join(f'"{key.public_key.hex()}"' for key in approvers.keys)
    return (
        f'version = 1\n[[role]]\nname = "keepers"\nthreshold = 2\nkeys = [{keys}]\n'
        'actions = ["add-slot"]\n'
    )


def bundle(approvers: Approvers, release: str) -> bytes:
    return approvers.bundle({"roles": role(approvers)}, release=release)


def started(
    scene: Scene, name: str, approvers: Approvers, first: bytes, **keyring: Any
) -> Provider:
    return scene.provider(
        name,
        release={"root": "keyring"},
        host={"keyring": {"create": True, **keyring}},
        policy_root=approvers.policy_root,
        bundle=first,
    )


def status(provider: Provider) -> dict[str, Any]:
    said = run("keyring", "status", "--json", "--config", provider.config)
    assert said.status == 0, said.stderr
    return said.document


def add(
    provider: Provider, approvers: Approvers, slot_class: SlotClass, *, signer: bool
) -> httpx.Response:
    """Ask for one more slot, signed by all."""
    now = int(time.time())
    parameters = SlotParameters(
        status(provider)["counter"], factors=(slot_class,), label="new", signer=signer
    )
    action = Action(
        kind=ActionKind.ADD_SLOT,
        policy_root=approvers.policy_root,
        keyring_id=pin_of(provider).identity.keyring_id,
        action_id=secrets.token_bytes(16),
        issued_at=now,
        expires_at=now + 600,
        parameters=parameters,
    )
    return provider.act(approvers.action(action))


def code(answer: httpx.Response) -> str:
    return str(answer.json()["code"])


def test_slot_at_the_provider_that_the_policy_in_force_pins(
    scene: Scene, approvers: Approvers
) -> None:
    other = scene.provider("other")
    own = started(
        scene, "pinned", approvers, bundle(approvers, ""), provider={"url": other.url}
    )
    assert code(add(own, approvers, SlotClass.PROVIDER, signer=False)) == (
        "slot_unavailable"
    )
    pin = f"[slot_provider]\n{table_text(pin_table(other.pin))}\n"
    assert own.publish(bundle(approvers, pin)).is_success
    assert add(own, approvers, SlotClass.PROVIDER, signer=False).is_success
    assert [slot["class"] for slot in status(own)["slots"]][-1] == "provider"
    own.stop()
    other.stop()


def test_slot_of_the_signer_needs_the_policy_in_force_and_no_older_one(
    scene: Scene, approvers: Approvers
) -> None:
    allowing = bundle(approvers, ALLOWED)
    own = started(scene, "signer", approvers, allowing)
    assert add(own, approvers, SlotClass.GRAMINE, signer=True).is_success
    slots = status(own)["slots"]
    assert [slot["signer"] for slot in slots] == [False, False, True]
    assert own.publish(bundle(approvers, "")).is_success
    # The file still holds the bundle that allowed it, and the provider starts anew.
    assert Path(own.settings.host.policy_bundle).read_bytes() == allowing
    own.stop()
    again = started(scene, "signer", approvers, allowing)
    assert code(add(again, approvers, SlotClass.SGX, signer=True)) == "slot_unavailable"
    assert add(again, approvers, SlotClass.SGX, signer=False).is_success
    again.stop()
