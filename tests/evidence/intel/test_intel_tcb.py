# SPDX-License-Identifier: Apache-2.0
"""TCB levels, merge and relaunch: their laws, and dcap-qvl's answers to the same."""

import random
from dataclasses import replace
from functools import partial
from typing import Any

import dcap_qvl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from intel_support import NOW

from tightseal.errors import Code, CollateralError, TightsealError
from tightseal.evidence.intel.qe_identity import parse_qe_identity
from tightseal.evidence.intel.signed_json import IsvLevel
from tightseal.evidence.intel.tcb import Verdict, merge, relaunch
from tightseal.evidence.intel.tcb_info import PlatformLevel, parse_tcb_info
from tightseal.evidence.intel.verifier import CHECKS, verify_quote
from tightseal.model.claims import Outcome, TcbStatus
from tightseal_sim.defects.bench import Bench, edit_identity, edit_tcb
from tightseal_sim.intel.collateral import collateral_json
from tightseal_sim.intel.quote import QuoteForm, assemble
from tightseal_sim.world import World

S = TcbStatus
PLATFORM_STATUSES = [s for s in TcbStatus if not s.value.startswith("TDRelaunch")]
COMPONENT_STATUSES = [S.UP_TO_DATE, S.OUT_OF_DATE, S.REVOKED]
advisories = st.frozensets(st.sampled_from(["SA-1", "SA-2", "SA-3"]))


def level(status: TcbStatus, ids: frozenset[str] = frozenset()) -> PlatformLevel:
    return PlatformLevel(bytes(16), 0, bytes(16), status, "", ids)


def isv(status: TcbStatus, ids: frozenset[str] = frozenset()) -> IsvLevel:
    return IsvLevel(0, status, "", ids)


platforms = st.builds(level, st.sampled_from(PLATFORM_STATUSES), advisories)
components = st.lists(
    st.one_of(
        st.none(), st.builds(isv, st.sampled_from(COMPONENT_STATUSES), advisories)
    ),
    max_size=3,
)


@given(platforms, components)
def test_merge_never_improves_and_unites(
    platform: PlatformLevel, parts: list[IsvLevel | None]
) -> None:
    got = merge(platform, *parts)
    found = [p for p in parts if p is not None]
    assert got.advisory_ids == platform.advisory_ids.union(
        *(p.advisory_ids for p in found)
    )
    statuses = {p.status for p in found}
    if S.REVOKED in statuses or platform.status is S.REVOKED:
        assert got.status is S.REVOKED
    elif S.OUT_OF_DATE in statuses:
        assert got.status in (S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED)
    else:
        assert got.status is platform.status
    assert merge(platform, *reversed(parts)) == got


verdicts = st.builds(Verdict, st.sampled_from(PLATFORM_STATUSES), advisories)


@given(verdicts, verdicts)
def test_relaunch_is_advised_only_where_the_launch_was_outdated(
    launch: Verdict, current: Verdict
) -> None:
    got = relaunch(launch, current)
    outdated = (S.OUT_OF_DATE, S.OUT_OF_DATE_CONFIGURATION_NEEDED)
    if S.REVOKED in (launch.status, current.status):
        assert got.status is S.REVOKED
    elif launch.status in outdated and current.status not in outdated:
        assert got.status.value.startswith("TDRelaunchAdvised")
    else:
        assert got.status is launch.status
    assert got.advisory_ids == launch.advisory_ids


class Draw:
    """Random collateral and SVNs of one TD 1.5, as Intel could have signed them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def advisories(self) -> list[str]:
        count = self.random.randrange(3)
        return [f"INTEL-SA-{self.random.randrange(6):05d}" for _ in range(count)]

    def level(self, tcb: dict[str, Any], statuses: list[TcbStatus]) -> dict[str, Any]:
        return {
            "tcb": tcb,
            "tcbDate": "2024-03-13T00:00:00Z",
            "tcbStatus": self.random.choice(statuses).value,
            "advisoryIDs": self.advisories(),
        }

    def isv_levels(self, low: int, high: int) -> list[dict[str, Any]]:
        count = self.random.randrange(1, 4)
        svns = sorted(self.random.sample(range(low, high), count), reverse=True)
        return [
            self.level({"isvsvn": n}, COMPONENT_STATUSES[:2] * 3 + [S.REVOKED])
            for n in svns
        ]

    def svn(self) -> bytes:
        pick = self.random.choice
        head = bytes((pick(range(3, 8)), pick((0, 1, 1, 3)), pick(range(2, 5))))
        return head.ljust(16, b"\0")

    def tcb_info(self, bench: Bench, info: dict[str, Any]) -> None:
        levels: dict[str, dict[str, Any]] = {}
        for _ in range(self.random.randrange(1, 5)):
            sgx = [
                max(0, svn - (self.random.random() < 0.15))
                for svn in bench.platform.tcb.components
            ]
            tdx = [self.random.randrange(3, 8), self.random.randrange(2)]
            tdx += [self.random.randrange(2, 5), *[0] * 13]
            tcb = {
                "sgxtcbcomponents": [{"svn": svn} for svn in sgx],
                "pcesvn": bench.platform.pcesvn - self.random.randrange(2),
                "tdxtcbcomponents": [{"svn": svn} for svn in tdx],
            }
            levels[str(tcb)] = self.level(tcb, PLATFORM_STATUSES + [S.UP_TO_DATE] * 3)
        info["tcbLevels"] = self.random.sample(list(levels.values()), len(levels))
        info["tdxModuleIdentities"] = [
            {
                "id": f"TDX_{version:02X}",
                "mrsigner": "00" * 48,
                "attributes": "00" * 8,
                "attributesMask": "FF" * 8,
                "tcbLevels": self.isv_levels(3, 8),
            }
            for version in self.random.sample((1, 3), self.random.choice((1, 2, 2)))
        ]

    def qe_identity(self, identity: dict[str, Any]) -> None:
        identity["tcbLevels"] = self.isv_levels(5, 12)


def test_status_and_advisories_are_those_of_dcap_qvl() -> None:
    bench = Bench(World.in_memory(b"tcb".ljust(32, b"\0")), NOW)
    root = bench.intel.trusted_root
    parts = bench.td_parts(QuoteForm.V5_TD15)
    accepted: set[TcbStatus] = set()
    refused_by: set[object] = set()
    for seed in range(400):
        draw = Draw(seed)
        body = bytearray(parts.body)
        body[0:16] = draw.svn()
        body[584:600] = draw.random.choice((body[0:16], draw.svn(), draw.svn()))
        edited = edit_tcb(bench.collateral(), partial(draw.tcb_info, bench))
        edited = edit_identity(edited, draw.qe_identity)
        collateral = replace(edited.assemble(), pck_certificate_chain=None)
        quote = assemble(replace(parts, body=bytes(body)))
        theirs: tuple[str, frozenset[str]] | None = None
        assert root.certificate is not None
        try:
            report = dcap_qvl.verify_with_root_ca(
                quote,
                dcap_qvl.QuoteCollateralV3.from_json(collateral_json(collateral)),
                root.certificate,
                NOW,
            )
            theirs = report.status, frozenset(report.advisory_ids)
        except ValueError:
            pass
        ours: tuple[str, frozenset[str]] | None = None
        try:
            tcb = verify_quote(quote, collateral, now=NOW, roots=(root,)).tcb
            assert tcb is not None
            ours = tcb.status.value, tcb.advisory_ids
            accepted.add(tcb.status)
        except TightsealError as e:
            refused_by.add(e.checks[-1])
        assert ours == theirs, seed
    assert accepted == set(S) - {S.REVOKED}
    names = {rule.name for rule in CHECKS if rule.record(Outcome.FAILED) in refused_by}
    assert names == {
        "qe_tcb",
        "tcb_level",
        "tcb_not_revoked",
        "td_relaunch",
        "tdx_module",
        "tdx_module_tcb",
    }


def swapped(document: dict[str, Any]) -> None:
    document["tcbLevels"].reverse()


def doubled(document: dict[str, Any]) -> None:
    document["tcbLevels"].append(document["tcbLevels"][0])


def test_levels_in_which_two_readers_could_differ_are_refused() -> None:
    bench = Bench(World.in_memory(b"tcb".ljust(32, b"\0")), NOW)

    def two(identity: dict[str, Any]) -> None:
        first = identity["tcbLevels"][0]
        identity["tcbLevels"] = [first, {**first, "tcb": {"isvsvn": 1}}]

    plain = edit_identity(bench.collateral(), two)
    parse_qe_identity(plain.assemble().qe_identity)
    for spoil in (swapped, doubled):
        text = edit_identity(plain, spoil).assemble().qe_identity
        with pytest.raises(CollateralError) as e:
            parse_qe_identity(text)
        assert e.value.code is Code.QE_IDENTITY_MALFORMED
    with pytest.raises(CollateralError) as e:
        parse_tcb_info(edit_tcb(plain, doubled).assemble().tcb_info)
    assert e.value.code is Code.TCB_INFO_MALFORMED


def set_to(*path: str | int, value: Any) -> Any:
    def change(document: Any) -> None:
        at = document
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value

    return change


TCB_INFO_DEFECTS = {
    "tcb_type": set_to("tcbType", value=1),
    "tcb_type_bool": set_to("tcbType", value=False),
    "evaluation_number_text": set_to("tcbEvaluationDataNumber", value="17"),
    "evaluation_number_float": set_to("tcbEvaluationDataNumber", value=17.0),
    "fmspc_short": set_to("fmspc", value="00"),
    "fmspc_newline": set_to("fmspc", value="B0C06F000000\n"),
    "issue_date": set_to("issueDate", value="2026-13-01T00:00:00Z"),
    "issue_date_offset": set_to("issueDate", value="2026-01-01T00:00:00+00:00"),
    "issue_date_digits": set_to("issueDate", value="\uff12026-01-01T00:00:00Z"),
    "svn_256": set_to("tcbLevels", 0, "tcb", "sgxtcbcomponents", 0, "svn", value=256),
    "svn_negative": set_to("tcbLevels", 0, "tcb", "pcesvn", value=-1),
    "no_tdx_components": set_to("tcbLevels", 0, "tcb", "tdxtcbcomponents", value=None),
    "status_of_a_relaunch": set_to(
        "tcbLevels", 0, "tcbStatus", value="TDRelaunchAdvised"
    ),
    "module_status": set_to(
        "tdxModuleIdentities", 0, "tcbLevels", 0, "tcbStatus", value="SWHardeningNeeded"
    ),
    "levels_null": set_to("tcbLevels", value=None),
}


@pytest.mark.parametrize("name", TCB_INFO_DEFECTS)
def test_tcb_info_of_another_form_is_refused(name: str) -> None:
    bench = Bench(World.in_memory(b"tcb".ljust(32, b"\0")), NOW)
    text = edit_tcb(bench.collateral(), TCB_INFO_DEFECTS[name]).assemble().tcb_info
    with pytest.raises(CollateralError) as e:
        parse_tcb_info(text)
    assert e.value.code is Code.TCB_INFO_MALFORMED


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "[" * 100_000, '{"a":NaN}', '{"a":1,"a":1}', "\ud800"],
    ids=["empty", "list", "null", "open", "deep", "nan", "twice", "surrogate"],
)
def test_what_is_no_document_is_refused(text: str) -> None:
    for parse in (parse_tcb_info, parse_qe_identity):
        with pytest.raises(CollateralError):
            parse(text)


def test_a_key_given_twice_is_refused_anywhere() -> None:
    bench = Bench(World.in_memory(b"tcb".ljust(32, b"\0")), NOW)
    text = bench.collateral().assemble().tcb_info
    parse_tcb_info(text)
    parse_tcb_info(text.replace('"id"', ' "id"', 1))
    for key in ('"tcbStatus":"UpToDate"', '"svn":0', '"fmspc":', '"isvsvn":'):
        at = text.index(key)
        value = key if key[-1] != ":" else key + '""'
        with pytest.raises(CollateralError) as e:
            parse_tcb_info(text[:at] + value + "," + text[at:])
        assert "twice" in e.value.detail


def test_a_document_that_is_too_large_is_refused() -> None:
    with pytest.raises(CollateralError) as e:
        parse_tcb_info(" " * ((1 << 18) + 1))
    assert e.value.code is Code.COLLATERAL_TOO_LARGE
