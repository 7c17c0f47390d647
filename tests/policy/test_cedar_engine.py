# SPDX-License-Identifier: Apache-2.0
"""The Cedar rule in a decision: judged last, and nothing but narrower."""

from typing import Any

import policy_support as support
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, PolicyError, SettingsError
from tightseal.model.claims import TcbStatus, Tee
from tightseal.model.grant import Grant
from tightseal.model.keypath import KeyRequest, ProtocolClass
from tightseal.policy.compile import load_policy

ALL = "permit(principal, action, resource);"
OVERFLOW = "context.now + 9223372036854775807 > 0"
ERRS = f"{ALL} forbid(principal, action, resource) when {{ {OVERFLOW} }};"
TEXTS = (
    ALL,
    "forbid(principal, action, resource);",
    'permit(principal == Workload::"default/database", action, resource);',
    'permit(principal, action, resource == Key::"backup");',
    'permit(principal, action, resource) when { context.label == "" };',
    ERRS,
)
KEYS = st.builds(
    KeyRequest,
    purpose=st.sampled_from(["disk", "backup"]),
    label=st.sampled_from(["", "a"]),
    length=st.sampled_from([16, 32]),
)
CLAIMS = st.sampled_from(
    [
        support.td(),
        support.td(debug=True),
        support.td(trust_domain=support.SIM),
        support.td(tcb=support.tcb(TcbStatus.OUT_OF_DATE)),
        support.td(single_verifier=True),
        support.td(platform=support.CHIP),
        support.registers(rtmr2=b"x" * 48),
        support.enclave(),
    ]
)
PROTOCOLS = st.sampled_from(ProtocolClass)


def document(cedar: str | None) -> str:
    rules = "" if cedar is None else f"cedar = '''{cedar}'''"
    return support.document(rules=rules, key='labels = ["", "a"]')


def outcome(cedar: str | None, **question: Any) -> Grant | Code:
    try:
        return ask(cedar, **question)
    except PolicyError as e:
        return e.code


def ask(cedar: str | None, **question: Any) -> Grant:
    claims = question.pop("claims", support.td())
    protocol = question.pop("protocol", ProtocolClass.V1)
    where = support.circumstances(protocol_class=protocol)
    return support.ask(claims, document(cedar), where=where, **question)


@given(st.sampled_from(TEXTS), CLAIMS, KEYS, PROTOCOLS)
def test_no_cedar_grants_what_the_document_refuses(
    text: str, claims: Any, key: KeyRequest, protocol: ProtocolClass
) -> None:
    question = {"claims": claims, "keys": (key,), "protocol": protocol}
    without, judged = outcome(None, **question), outcome(text, **question)
    if isinstance(without, Code):
        assert judged is without
    elif isinstance(judged, Grant):
        assert judged.paths == without.paths
    else:
        assert judged is Code.CEDAR_NOT_ALLOWED


def test_a_permit_grants_and_a_forbid_denies() -> None:
    assert ask(ALL).paths == ask(None).paths
    assert outcome(TEXTS[1]) is Code.CEDAR_NOT_ALLOWED


def test_every_key_of_a_request_is_asked_about() -> None:
    keys = (KeyRequest("disk"), KeyRequest("disk", "a"))
    assert isinstance(outcome(ALL, keys=keys), Grant)
    assert outcome(TEXTS[4], keys=keys) is Code.CEDAR_NOT_ALLOWED


def test_an_erring_forbid_denies() -> None:
    assert outcome(ERRS) is Code.CEDAR_NOT_ALLOWED


def test_the_trace_says_that_cedar_said_no() -> None:
    with pytest.raises(PolicyError) as no:
        ask(TEXTS[1])
    last = no.value.reasons[-1]
    assert "cedar" in str(last)


@pytest.mark.parametrize(
    "text", ["permit(", "permit(principal, action, resource) when { context.nope };"]
)
def test_a_document_with_a_wrong_rule_does_not_load(text: str) -> None:
    with pytest.raises(SettingsError) as no:
        load_policy(document(text))
    assert no.value.code is Code.POLICY_INVALID
    assert "cedar" in no.value.detail
    load_policy(document(ALL))


def test_the_rule_of_another_workload_does_not_matter() -> None:
    other = support.document(
        Tee.SGX, name="other", rules=f"cedar = '''{TEXTS[1]}'''", head=""
    )
    texts = [document(None), "version = 1\n" + other]
    granted = support.ask(support.td(), texts, where=support.circumstances())
    assert granted.paths == ask(None).paths
