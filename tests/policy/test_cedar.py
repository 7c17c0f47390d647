# SPDX-License-Identifier: Apache-2.0
"""The Cedar rule: a last word that can only be no."""

import subprocess
import sys
import threading
from dataclasses import replace
from importlib import import_module
from types import MappingProxyType
from typing import Any

import cedarpy
import policy_support as support
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.model.claims import Claims, Tee
from tightseal.model.keypath import KeyPart, KeyRequest, ProtocolClass
from tightseal.model.keyuse import KeyUse, Operation
from tightseal.policy import cedar
from tightseal.policy.cedar import (
    MAX_CEDAR_CHARS,
    MAX_MARKS,
    MAX_NESTING,
    CedarRule,
    compile_cedar,
)
from tightseal.policy.eventlog.facts import EventFacts, LogFormat

ALL = "permit(principal, action, resource);"
OVERFLOW = "context.now + 9223372036854775807 > 0"
SMALL_STACK = 256 * 1024

HOLDS = {
    "tenant": 'principal == Workload::"acme/db"',
    "purpose": 'resource == Key::"disk"',
    "action": 'action == Action::"release"',
    "tee": 'context.tee == "tdx"',
    "trust domain": 'context.trust_domain == "intel"',
    "verifiers": "context.single_verifier == false",
    "measurement": 'context.measurements has mrtd && context.measurements.mrtd != ""',
    "tcb": 'context has tcb && context.tcb.status == "UpToDate"',
    "advisories": 'context has tcb && !context.tcb.advisories.contains("INTEL-SA-1")',
    "evaluation": "context has tcb && context.tcb.evaluation >= 17",
    "platform": f'context.platform has ppid && context.platform.ppid == "{"70" * 16}"',
    "image": 'context.image like "2026-*"',
    "label": 'context.label == ""',
    "length": "context.length == 32",
    "part": 'context.part == "private"',
    "create": "context.create == false",
    "use": 'context.use == "none"',
    "protocol": 'context.protocol == "v1"',
    "event": 'context.events has "compose-hash" && '
    'context.events["compose-hash"] == "c0ffee"',
    "time": f"context.now == {support.NOW}",
}
OTHERS = {
    "tenant": {"tenant": "other"},
    "purpose": {"key": KeyRequest("backup")},
    "tee": {"claims": support.snp()},
    "trust domain": {"claims": support.td(trust_domain=support.SIM)},
    "verifiers": {"claims": support.td(single_verifier=True)},
    "measurement": {"claims": support.enclave()},
    "tcb": {"claims": support.snp()},
    "advisories": {
        "claims": support.td(tcb=support.tcb(advisory_ids=frozenset({"INTEL-SA-1"})))
    },
    "evaluation": {"claims": support.td(tcb=support.tcb(evaluation_number=16))},
    "platform": {"claims": support.td(platform=support.CHIP)},
    "image": {"image": "2027-01"},
    "label": {"key": KeyRequest("disk", "b")},
    "length": {"key": KeyRequest("disk", "", 16)},
    "part": {"key": KeyRequest("disk", part=KeyPart.PUBLIC)},
    "create": {"key": KeyRequest("disk", create=True)},
    "use": {"key": KeyRequest("disk", use=KeyUse(Operation.SIGN))},
    "protocol": {"protocol": ProtocolClass.LEGACY},
    "event": {"events": None},
    "time": {"now": support.NOW + 1},
}


def facts(**identity: bytes) -> EventFacts:
    named = {name.replace("_", "-"): data for name, data in identity.items()}
    return EventFacts(LogFormat.DSTACK, {}, (), True, MappingProxyType(named))


def asked(**changes: Any) -> dict[str, Any]:
    question: dict[str, Any] = {
        "claims": support.td(),
        "events": facts(compose_hash=b"\xc0\xff\xee"),
        "tenant": "acme",
        "workload": "db",
        "image": "2026-10",
        "key": KeyRequest("disk"),
        "protocol": ProtocolClass.V1,
        "now": support.NOW,
    }
    return question | changes


def permit(condition: str) -> str:
    return f"permit(principal, action, resource) when {{ {condition} }};"


def allows(text: str, **changes: Any) -> bool:
    return compile_cedar(text).allows(**asked(**changes))


# -- what the policies can read, and that they decide -----------------------------


@pytest.mark.parametrize("name", HOLDS)
def test_a_permit_whose_condition_holds_allows(name: str) -> None:
    assert allows(permit(HOLDS[name]))


@pytest.mark.parametrize("name", OTHERS)
def test_a_permit_whose_condition_does_not_hold_denies(name: str) -> None:
    assert not allows(permit(HOLDS[name]), **OTHERS[name])


@pytest.mark.parametrize("name", OTHERS)
def test_a_forbid_overrides_a_permit(name: str) -> None:
    text = f"{ALL} forbid(principal, action, resource) unless {{ {HOLDS[name]} }};"
    assert allows(text)
    assert not allows(text, **OTHERS[name])


def test_versions_are_numbers() -> None:
    text = permit("context.numbers has isv_svn && context.numbers.isv_svn >= 7")
    claims = support.enclave()
    older = dict(claims.measurements) | {"isv_svn": (6).to_bytes(2, "little")}
    assert allows(text, claims=claims)
    assert not allows(text, claims=replace(claims, measurements=older))


def test_amd_components_are_numbers() -> None:
    text = permit(
        "context has snp_tcb && context.snp_tcb has microcode &&"
        "context.snp_tcb.microcode >= 115"
    )
    assert allows(text, claims=support.snp())
    assert not allows(text)


def test_an_absent_id_is_absent() -> None:
    assert not allows(permit("context.platform has chip_id"))
    assert allows(permit("context.platform has chip_id"), claims=support.snp())


@pytest.mark.parametrize(
    "claims", [support.td(), support.enclave(), support.snp()], ids=list(Tee)
)
def test_every_question_is_of_the_schema_that_policies_are_held_against(
    claims: Claims,
) -> None:
    context = cedar._context(claims, facts(app_id=b"a"), KeyRequest("disk"))
    context |= {"image": "a", "protocol": "v1", "now": support.NOW}
    request = {
        "principal": {"type": "Workload", "id": "a/b"},
        "action": {"type": "Action", "id": "release"},
        "resource": {"type": "Key", "id": "disk"},
        "context": context,
    }
    answer = cedarpy.is_authorized(request, ALL, [], schema=cedar._schema())
    assert (answer.allowed, answer.diagnostics.errors) == (True, [])


@given(
    purpose=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1),
    label=st.text(st.characters(min_codepoint=32, max_codepoint=126)),
)
def test_no_name_changes_what_is_asked(purpose: str, label: str) -> None:
    rule = compile_cedar(permit('resource != Key::"x" || context.label != "y"'))
    forged = purpose == "x" and label == "y"
    allowed = rule.allows(**asked(key=KeyRequest(purpose, label)))
    assert allowed is not forged


# -- errors are a no --------------------------------------------------------------


def test_no_permit_denies() -> None:
    text = 'forbid(principal, action, resource) when { context.tee == "sgx" };'
    assert not allows(text)


def test_an_erring_permit_denies() -> None:
    assert not allows(permit(OVERFLOW))


def test_an_erring_permit_beside_one_that_holds_denies() -> None:
    assert allows(ALL)
    assert not allows(ALL + permit(OVERFLOW))


def test_an_erring_forbid_does_not_turn_into_an_allow() -> None:
    text = ALL + f"forbid(principal, action, resource) when {{ {OVERFLOW} }};"
    # What Cedar itself says: the forbid is skipped.
    policies = cedarpy.PolicySet.from_str(text)
    request = {
        "principal": {"type": "Workload", "id": "acme/db"},
        "action": {"type": "Action", "id": "release"},
        "resource": {"type": "Key", "id": "disk"},
        "context": {"now": support.NOW},
    }
    assert cedarpy.is_authorized(request, policies, []).allowed
    assert not allows(text)


def test_a_question_that_cedar_cannot_read_is_denied() -> None:
    assert not allows(ALL, now=1 << 70)


class PanicException(BaseException):
    """As the library's own, which is no ``Exception``."""


def test_a_panic_of_the_library_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_args: object) -> None:
        raise PanicException

    rule = compile_cedar(ALL)
    monkeypatch.setattr(cedarpy, "is_authorized", panic)
    assert not rule.allows(**asked())


def test_an_interrupt_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    rule = compile_cedar(ALL)
    monkeypatch.setattr(cedarpy, "is_authorized", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rule.allows(**asked())


# -- what does not compile --------------------------------------------------------

REFUSED = {
    "unknown attribute": (permit('context.nope == "a"'), "nope"),
    "optional without has": (permit('context.measurements.mrtd == "a"'), "optional"),
    "another type": (permit("context.length == true"), "policy0"),
    "unknown action": ('permit(principal, action == Action::"x", resource);', "action"),
    "unknown entity": ('permit(principal in Group::"x", action, resource);', "Group"),
    "template": (f"{ALL} forbid(principal == ?principal, action, resource);", "slot|?"),
    "nothing": ("// nothing\n", "no policy"),
    "not cedar": ("permit(principal", "not Cedar"),
    "too long": (ALL + " " * MAX_CEDAR_CHARS, "characters"),
    "brackets": (permit("(" * MAX_NESTING + "true" + ")" * MAX_NESTING), "nested"),
    "if": (permit("if true then " * 16 + "true" + " else false" * 16), "nested"),
    "marks": (permit("+".join("1" * MAX_MARKS) + " == 1"), "marks"),
}


@pytest.mark.parametrize("defect", REFUSED)
def test_a_text_is_refused(defect: str) -> None:
    text, said = REFUSED[defect]
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        compile_cedar(text)


def test_brackets_and_marks_in_strings_and_comments_do_not_count() -> None:
    quiet = "([{" * MAX_MARKS
    condition = f'context.label != "{quiet}' + '\\"("'
    assert allows(f"// {quiet}\r\n{permit(condition)}")


def test_brackets_that_close_do_not_add_up() -> None:
    assert allows(permit(" && ".join(["(true)"] * (2 * MAX_NESTING))))
    assert allows(permit("if true then true else false") * (2 * MAX_NESTING))


DEEPEST = {
    "brackets": ("(", ")"),
    "not": ("!!!!(", ")"),
    "records": ("{a: ", "}.a"),
    "sets": ("[", "].contains(true)"),
    "if": ("if ", " then true else false"),
    "arguments": ("[true].contains(", ")"),
}


@pytest.mark.parametrize("kind", DEEPEST)
def test_the_deepest_text_let_through_fits_a_small_stack(kind: str) -> None:
    opened, closed = DEEPEST[kind]
    levels = MAX_NESTING - 1
    if kind == "sets":
        levels //= 2
    text = permit(opened * levels + "true" + closed * levels)
    _on_a_small_stack(text)


def test_the_longest_chain_let_through_fits_a_small_stack() -> None:
    _on_a_small_stack(permit("+".join("1" * (MAX_MARKS - 20)) + " == 1"))


def _on_a_small_stack(text: str) -> None:
    said: list[object] = []

    def judge() -> None:
        try:
            said.append(compile_cedar(text).allows(**asked()))
        except ValueError as e:
            said.append(str(e))

    before = threading.stack_size(SMALL_STACK)
    try:
        thread = threading.Thread(target=judge)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert len(said) == 1
    assert "nested" not in str(said[0])


def test_without_bounds_a_deep_text_would_end_the_process() -> None:
    text = permit("(" * 20_000 + "true" + ")" * 20_000)
    code = "import sys, cedarpy; cedarpy.PolicySet.from_str(sys.stdin.read())"
    done = subprocess.run(
        [sys.executable, "-c", code], input=text.encode(), check=False, timeout=60
    )
    assert done.returncode < 0
    with pytest.raises(ValueError, match="nested"):
        compile_cedar(text)


def test_without_the_library_a_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        if name == "cedarpy":
            raise ImportError(name)
        return import_module(name)

    monkeypatch.setattr(cedar, "import_module", missing)
    with pytest.raises(ValueError, match=r"pip install tightseal\[cedar\]"):
        compile_cedar(ALL)


def test_the_library_is_loaded_by_the_first_rule_only() -> None:
    code = "import sys, tightseal.policy.cedar; sys.exit('cedarpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_equal_texts_are_equal_rules() -> None:
    one, two = compile_cedar(ALL), compile_cedar(ALL)
    assert (one, hash(one)) == (two, hash(two))
    assert one != compile_cedar(permit("true"))
    assert isinstance(one, CedarRule)
