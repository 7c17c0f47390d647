# SPDX-License-Identifier: Apache-2.0
"""What a provider under a policy root counts, binds, adopts, publishes and reads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from policy_rig import action, refusal, role
from release_rig import NOW, rig, verifier_of
from rooted_rig import Rooted, document_of, rooted

from tightseal.errors import Code, EvidenceError
from tightseal.model.action import (
    ActionKind,
    AdoptParameters,
    KeyParameters,
    KeySource,
)
from tightseal.model.claims import Tee
from tightseal.model.keypath import Authority, Kdf, KeyPart, KeyRequest, KeyType
from tightseal.model.wire import PublicKeyRequest, encode_json
from tightseal_sim.intel.eventlog_wire import to_ccel, to_dstack_json
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

DISK_KEY = {"purpose": "disk", "usage": {"without_anchor": "accept"}}
ATTRIBUTES = ("td_attributes", "xfam")
SIGNING = KeyRequest("signing", part=KeyPart.PUBLIC)


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"policies that remember".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture
def found(world: World, tmp_path: Path) -> Iterator[Rooted]:
    with rooted(world, tmp_path) as made:
        yield made


def counted(**usage: Any) -> dict[str, Any]:
    rules = {"without_anchor": "accept", **usage}
    return {"key": [{"purpose": "disk", "usage": rules}]}


DISK_OF_DATABASE = KeyParameters("acme", "database", "disk")


# -- usage ------------------------------------------------------------------------


def test_a_limit_of_releases_in_total_is_kept(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, **counted(total=3)))
    keys = {found.key(td) for _ in range(3)}
    assert len(keys) == 1
    assert refusal(lambda: found.key(td)).code is Code.USAGE_LIMIT_REACHED
    found.restart()
    assert refusal(lambda: found.key(td)).code is Code.USAGE_LIMIT_REACHED


def test_a_retry_of_the_same_bytes_counts_once(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, **counted(total=2)))
    _, body = found.question(td)
    answers = {found.provider.keys(body, now=NOW) for _ in range(4)}
    assert len(answers) == 1
    found.key(td)
    assert refusal(lambda: found.key(td)).code is Code.USAGE_LIMIT_REACHED


def test_identical_requests_at_once_count_once(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, **counted(total=2)))
    _, body = found.question(td)
    provider = found.provider
    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(lambda _: provider.keys(body, now=NOW), range(16)))
    assert len(answers) == 1
    found.key(td)
    assert refusal(lambda: found.key(td)).code is Code.USAGE_LIMIT_REACHED


def test_a_limit_per_hour_is_free_again_after_an_hour(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, **counted(per_hour=1)))
    found.key(td)
    assert refusal(lambda: found.key(td)).code is Code.USAGE_LIMIT_REACHED
    found.now = NOW + 3601
    found.key(td)


def test_counting_without_an_anchor_has_to_be_accepted(
    found: Rooted, world: World, td: SimTd
) -> None:
    usage = {"key": [{"purpose": "disk", "usage": {"total": 3}}]}
    found.publish(document_of(world, td, **usage))
    assert refusal(lambda: found.key(td)).code is Code.ANCHOR_REQUIRED


def test_a_denied_request_counts_for_nothing(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, **counted(total=1)))
    wrong = KeyRequest("disk", length=16)
    for _ in range(3):
        error = refusal(lambda: found.ask(td, wrong))
        assert error.code is Code.KEY_LENGTH_NOT_ALLOWED
    found.key(td)


def test_the_first_platform_is_the_only_one_until_it_is_released(
    found: Rooted, world: World, td: SimTd
) -> None:
    elsewhere = world.intel.platform("two").launch_td(TdImage())
    rules = {**counted(first_platform=True), "platform": "any"}
    keepers = role(found, "release-platform")
    found.publish(document_of(world, td, **rules), keepers)
    key = found.key(td)
    assert refusal(lambda: found.key(elsewhere)).code is Code.USAGE_PLATFORM_BOUND
    release = action(found, ActionKind.RELEASE_PLATFORM, DISK_OF_DATABASE)
    found.provider.act(found.approvers.action(release), now=NOW)
    assert found.key(elsewhere) == key
    assert refusal(lambda: found.key(td)).code is Code.USAGE_PLATFORM_BOUND


def test_a_window_opens_by_signed_time_alone(
    found: Rooted, world: World, td: SimTd
) -> None:
    later = "2026-09-22T00:00:00Z"  # ten hours after NOW
    windows = {"windows": [{"from": later}]}
    text = document_of(world, td, key=[{"purpose": "disk", "usage": windows}])
    found.publish(text)
    found.now = NOW + 86_400
    assert refusal(lambda: found.key(td)).code is Code.USAGE_WINDOW_CLOSED
    found.publish(text)
    found.key(td)


# -- operator actions -------------------------------------------------------------


def test_an_action_needs_its_role_its_signatures_and_is_done_once(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(
        document_of(world, td, **counted(total=1)), role(found, "reset-usage")
    )
    found.key(td)
    asked = action(found, ActionKind.RESET_USAGE, DISK_OF_DATABASE)
    alone = found.approvers.action(asked, signers=1)
    error = refusal(lambda: found.provider.act(alone, now=NOW))
    assert error.code is Code.ACTION_UNDERSIGNED
    assert refusal(lambda: found.key(td)).code is Code.USAGE_LIMIT_REACHED
    signed = found.approvers.action(asked)
    done = found.provider.act(signed, now=NOW)
    entry = found.journal.entries()[-1].entry
    assert entry.protocol_class == "action"
    assert done.entry_id
    found.key(td)
    error = refusal(lambda: found.provider.act(signed, now=NOW))
    assert error.code is Code.ACTION_REPLAYED
    other = action(found, ActionKind.RELEASE_PLATFORM, DISK_OF_DATABASE, 2)
    signed = found.approvers.action(other)
    error = refusal(lambda: found.provider.act(signed, now=NOW))
    assert error.code is Code.ACTION_NOT_ALLOWED


def test_a_measured_key_goes_on_under_a_name(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, identity="measured"))
    key = found.key(td)
    path = found.journal.entries()[-1].entry.body["keys"][0]  # type: ignore[call-overload, index]
    changed = world.intel.platform("one").launch_td(
        replace(TdImage(), kernel=b"the next kernel")
    )
    rules = {"key": [{"purpose": "disk", "adopted": True}]}
    found.publish(document_of(world, td, changed, **rules), role(found, "adopt"))
    assert refusal(lambda: found.key(td)).code is Code.ADOPTION_MISSING
    source = KeySource(
        kdf=Kdf(path["kdf"]),
        tenant=path["tenant"],
        purpose=path["purpose"],
        tee=Tee(path["workload"]["tee"]),
        attributes=tuple(path["workload"]["attributes"].items()),
        measurements=tuple(path["workload"]["measurements"].items()),
        authority=Authority(*path["workload"]["authority"]),
    )
    adopt = action(
        found, ActionKind.ADOPT, AdoptParameters("acme", "database", "disk", source)
    )
    found.provider.act(found.approvers.action(adopt), now=NOW)
    assert found.key(td) == key
    assert found.key(changed) == key


def test_keys_of_another_authority_are_not_adopted(
    found: Rooted, world: World, td: SimTd, tmp_path: Path
) -> None:
    """Whoever runs our image under a root of its own would get anybody's keys."""
    (tmp_path / "before").mkdir()
    with rig(world, tmp_path / "before") as before:
        before.key(td)
        authority = before.settings.authority()
    claims = verifier_of(world)(td.evidence(bytes(64)), now=NOW)
    selected = before.settings.identity_selections()[Tee.TDX]
    source = KeySource(
        kdf=before.settings.kdf,
        tenant=before.settings.tenant,
        purpose="disk",
        tee=Tee.TDX,
        attributes=tuple(
            (n, claims.measurements[n]) for n in ("td_attributes", "xfam")
        ),
        measurements=tuple((n, claims.measurements[n]) for n in sorted(selected)),
        authority=authority,
    )
    found.publish(document_of(world, td), role(found, "adopt"))
    adopt = action(
        found, ActionKind.ADOPT, AdoptParameters("acme", "database", "disk", source)
    )
    signed = found.approvers.action(adopt)
    error = refusal(lambda: found.provider.act(signed, now=NOW))
    assert error.code is Code.ACTION_NOT_ALLOWED


# -- key pairs --------------------------------------------------------------------


def pair(**rules: Any) -> dict[str, Any]:
    return {"key": [{"purpose": "signing", "type": "ed25519", **rules}]}


def test_the_public_half_fits_the_private_one(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, **pair()))
    private = found.ask(td, KeyRequest("signing")).get("signing").reveal()
    public = found.ask(td, SIGNING).get("signing").reveal()
    signature = Ed25519PrivateKey.from_private_bytes(private).sign(b"message")
    Ed25519PublicKey.from_public_bytes(public).verify(signature, b"message")


def test_a_public_half_alone_may_be_all_that_a_policy_gives(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, **pair(parts=["public"])))
    found.ask(td, SIGNING)
    error = refusal(lambda: found.ask(td, KeyRequest("signing")))
    assert error.code is Code.KEY_PART_NOT_ALLOWED


def _published(found: Rooted, **changes: str) -> bytes:
    fields = {"tenant": "acme", "workload": "database", "purpose": "signing"} | changes
    request = PublicKeyRequest(version=1, client_nonce="A" * 43, **fields)
    return encode_json(found.provider.public_key(request, now=NOW))


def test_a_published_half_is_the_workloads_own(
    found: Rooted, world: World, td: SimTd
) -> None:
    found.publish(document_of(world, td, **pair(published=True)))
    request = PublicKeyRequest(
        version=1,
        client_nonce="A" * 43,
        tenant="acme",
        workload="database",
        purpose="signing",
    )
    told = found.provider.public_key(request, now=NOW).parsed().body
    assert told.public_key == found.ask(td, SIGNING).get("signing").reveal()
    assert told.key_type is KeyType.ED25519
    assert told.policy == found.keeper.current().said()


@pytest.mark.parametrize(
    "changes",
    [{"tenant": "other"}, {"workload": "other"}, {"purpose": "other"}],
    ids=["tenant", "workload", "purpose"],
)
def test_what_is_not_published_cannot_be_told_from_what_is_not_there(
    found: Rooted, world: World, td: SimTd, changes: dict[str, str]
) -> None:
    found.publish(document_of(world, td, **pair(published=True)))
    _published(found)
    missing = refusal(lambda: _published(found, **changes))
    found.publish(document_of(world, td, **pair()))
    hidden = refusal(lambda: _published(found))
    assert (missing.code, missing.public) == (hidden.code, hidden.public)


# -- event logs -------------------------------------------------------------------

BOOTED = (
    ("app-id", b"\xaa" * 20),
    ("compose-hash", b"\xbb" * 32),
    ("boot-mr-done", b""),
)


def _by_compose_hash(world: World, td: SimTd, payload: bytes) -> str:
    text = document_of(world, td)
    kept = [line for line in text.splitlines() if not line.startswith("rtmr3")]
    at = next(i for i, line in enumerate(kept) if line == "[[workload.key]]")
    events = ["[workload.image.events]", f'compose-hash = "{payload.hex()}"', ""]
    return "\n".join([*kept[:at], *events, *kept[at:]]) + "\n"


def test_a_policy_can_name_a_compose_hash(found: Rooted, world: World) -> None:
    machine = world.intel.platform("one")
    image = replace(TdImage(), boot_events=BOOTED)
    td = machine.launch_td(image)
    found.publish(_by_compose_hash(world, td, b"\xbb" * 32))
    log = to_dstack_json(td.event_log)
    key = found.ask(td, event_log=log).get("disk").reveal()
    assert refusal(lambda: found.key(td)).code is Code.MEASUREMENTS_NOT_ACCEPTED
    other_app = (("app-id", b"\xcc" * 20), *BOOTED[1:])
    same = machine.launch_td(replace(TdImage(), boot_events=other_app))
    log = to_dstack_json(same.event_log)
    assert found.ask(same, event_log=log).get("disk").reveal() == key
    other = machine.launch_td(
        replace(
            TdImage(),
            boot_events=(BOOTED[0], ("compose-hash", b"\xdd" * 32), BOOTED[2]),
        )
    )
    log = to_dstack_json(other.event_log)
    error = refusal(lambda: found.ask(other, event_log=log))
    assert error.code is Code.MEASUREMENTS_NOT_ACCEPTED


def test_a_log_of_another_workload_is_refused(found: Rooted, world: World) -> None:
    machine = world.intel.platform("one")
    td = machine.launch_td(replace(TdImage(), boot_events=BOOTED))
    found.publish(_by_compose_hash(world, td, b"\xbb" * 32))
    evil = machine.launch_td(
        replace(TdImage(), boot_events=(("compose-hash", b"\xee" * 32),))
    )
    log = to_dstack_json(td.event_log)
    error = refusal(lambda: found.ask(evil, event_log=log))
    assert isinstance(error, EvidenceError)
    assert error.code is Code.EVENT_LOG_MISMATCH


def test_a_policy_can_name_a_kernel(found: Rooted, world: World) -> None:
    machine = world.intel.platform("one")
    td = machine.launch_td(TdImage())
    kernel = next(event for event in td.event_log if event.rtmr == 1)
    text = document_of(world, td)
    at = text.index("[[workload.key]]")
    logged = f'register = "rtmr1"\ndigest = "{kernel.digest.hex()}"\nabout = "kernel"\n'
    found.publish(f"{text[:at]}[[workload.image.logged]]\n{logged}\n{text[at:]}")
    found.ask(td, event_log=to_ccel(td.event_log))
    assert refusal(lambda: found.key(td)).code is Code.MEASUREMENTS_NOT_ACCEPTED
