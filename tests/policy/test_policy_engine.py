# SPDX-License-Identifier: Apache-2.0
"""Decisions as a whole: which workload, which key, and what the operator is told."""

from dataclasses import replace

import pytest
from policy_support import (
    DISK,
    NOW,
    ask,
    circumstances,
    document,
    registers,
    tcb,
    td,
    value,
)

from tightseal.errors import Code, PolicyError
from tightseal.keys.chain import derive
from tightseal.model.claims import (
    Claims,
    PlatformIdentity,
    TcbStatus,
)
from tightseal.model.keypath import IdentityKind, KeyRequest
from tightseal.model.secret import Secret
from tightseal.policy.compile import load_policy
from tightseal.policy.engine import decide, explain
from tightseal.policy.presented import present

OTHER = "ab" * 48
NOT_ACCEPTED = Code.MEASUREMENTS_NOT_ACCEPTED
PPID = (b"p" * 16).hex()


def changed(name: str) -> Claims:
    """A TD with another value of one measurement."""
    return registers(**{name: value(name, 1)})


def test_named_keys_outlive_measurements_and_attributes() -> None:
    updated = registers(rtmr2=bytes.fromhex(OTHER), xfam=b"\xe7" + bytes(7))
    image = f"""
[[workload.image]]
label = "2026-11"
[workload.image.measurements]
rtmr2 = "{OTHER}"
mrtd = "{value("mrtd").hex()}"
"""
    text = document(more=image)
    before, after = ask(td(), text).paths, ask(updated, text).paths
    assert before == after
    assert before[0].workload.identity is IdentityKind.NAMED
    assert before[0].workload.measurements == before[0].workload.attributes == ()


def test_measured_keys_change_with_measurements_and_attributes() -> None:
    text = document(identity="measured", leave_out=("rtmr2",))
    paths = {
        ask(claims, text).paths
        for claims in (
            td(),
            changed("rtmr2"),
            changed("xfam"),
            changed("td_attributes"),
        )
    }
    assert len(paths) == 4
    assert paths.isdisjoint({ask(td(), document()).paths})


def test_a_name_belongs_to_its_tenant() -> None:
    ours, theirs = (
        ask(td(), document(rules=f'tenant = "{tenant}"')).paths[0]
        for tenant in ("acme", "umbrella")
    )
    assert ours.workload == theirs.workload
    assert ours != theirs
    root = Secret(b"k" * 32)
    assert derive(root, ours) != derive(root, theirs)


def test_the_kdf_of_a_purpose_enters_its_path() -> None:
    path = ask(td(), document(key='kdf = "hkdf-sha512"')).paths[0]
    assert path.kdf.value == "hkdf-sha512"


def test_two_workloads_that_match_are_refused() -> None:
    both = [document(name="one"), document(name="two", leave_out=("rtmr0",))]
    with pytest.raises(PolicyError) as caught:
        ask(td(), both)
    assert caught.value.code is Code.WORKLOAD_AMBIGUOUS
    assert "default/one, default/two" in caught.value.detail


def test_platforms_tell_workloads_apart() -> None:
    texts = [
        document(name=name, rules=f'platform = [{{ ppid = "{ppid}" }}]')
        for name, ppid in (("one", PPID), ("two", "51" * 16))
    ]
    assert ask(td(), texts).paths[0].workload.name == "one"


def test_an_image_that_is_over_does_not_hide_a_current_one() -> None:
    old = document(name="old", image="until = 2026-01-01T00:00:00Z")
    assert ask(td(), [old, document(name="new")]).paths[0].workload.name == "new"


def test_an_image_without_measurements_fits_nothing() -> None:
    text = 'version=1\n[[workload]]\nname="w"\nidentity="named"\ntee="tdx"\n'
    text += 'platform="any"\n[[workload.image]]\nlabel="x"\nmeasurements={}\n'
    text += '[[workload.key]]\npurpose="disk"\n'
    with pytest.raises(PolicyError) as caught:
        ask(td(), text)
    assert caught.value.code is NOT_ACCEPTED


def test_a_denial_names_the_nearest_image() -> None:
    with pytest.raises(PolicyError) as caught:
        ask(changed("rtmr2"), document())
    words = "rtmr2 differs; all else matches image 2026-10 of default/database"
    assert caught.value.detail.startswith(words)


def test_a_denial_names_the_nearest_image_among_very_many() -> None:
    texts = [
        document(name=f"w{i}", measurements=f'rtmr3 = "{value("rtmr3", i).hex()}"')
        for i in range(100)
    ]
    claims = registers(rtmr3=value("rtmr3", 70), mrtd=bytes.fromhex(OTHER))
    with pytest.raises(PolicyError) as caught:
        ask(claims, texts)
    assert "mrtd differs" in caught.value.detail
    assert "default/w70" in caught.value.detail


def test_a_stranger_is_told_that_nothing_is_alike() -> None:
    claims = td(
        measurements={n: b"\xee" * len(v) for n, v in td().measurements.items()}
    )
    with pytest.raises(PolicyError) as caught:
        ask(claims, document())
    assert caught.value.code is NOT_ACCEPTED
    assert "none has any measurement" in caught.value.detail


def test_an_explanation_judges_every_rule() -> None:
    claims = changed("rtmr2")
    claims = replace(claims, debug=True, tcb=tcb(TcbStatus.OUT_OF_DATE))
    told = explain(
        claims,
        keys=(KeyRequest("tls"),),
        policy=load_policy(document()),
        circumstances=circumstances(),
        now=NOW,
    )
    failed = [reason.rule for reason in told.reasons if not reason.satisfied]
    assert failed == ["debug", "rtmr2", "tcb status", "purpose"]
    assert told.code is Code.DEBUG_ENABLED
    assert (told.workload, told.image) == ("default/database", "2026-10")
    assert told.nearest.startswith("rtmr2 differs")


def test_an_explanation_of_a_grant_has_the_reasons_of_the_grant() -> None:
    policy = load_policy(document())
    given = {"keys": DISK, "policy": policy, "circumstances": circumstances()}
    told = explain(td(), **given, now=NOW)  # type: ignore[arg-type]
    grant = decide(td(), **given, now=NOW)  # type: ignore[arg-type]
    assert told.granted
    assert told.reasons == grant.reasons


def test_a_policy_without_workloads_denies() -> None:
    with pytest.raises(PolicyError) as caught:
        ask(td(), "version = 1")
    assert caught.value.code is NOT_ACCEPTED


def fleet(count: int) -> list[str]:
    return [
        document(name=f"n{i}", rules=f'platform = [{{ ppid = "{i + 1:032x}" }}]')
        for i in range(count)
    ]


def test_one_image_on_many_machines_is_found_by_the_machine() -> None:
    policy = load_policy(fleet(100))
    here = td(platform=PlatformIdentity(ppid=(71).to_bytes(16, "big")))
    assert len(policy.index.candidates(present(here, None))) == 1
    assert ask(here, fleet(100)).paths[0].workload.name == "n70"


def test_an_unlisted_machine_is_a_platform_mismatch_and_no_other_measurement() -> None:
    with pytest.raises(PolicyError) as caught:
        ask(td(), fleet(100))
    assert caught.value.code is Code.PLATFORM_MISMATCH
    assert caught.value.detail.startswith("platform: expected one of 1 listed")


def test_claims_without_a_status_are_refused() -> None:
    claims = replace(registers(), tcb=None)
    with pytest.raises(PolicyError) as caught:
        ask(claims, document())
    assert caught.value.code is Code.TCB_STATUS_NOT_ACCEPTED
