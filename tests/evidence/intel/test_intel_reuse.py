# SPDX-License-Identifier: Apache-2.0
"""Signature results are reused; time, revocation and the guard are judged anew."""

import threading
from dataclasses import replace

import pytest
from intel_support import NOW, RecordingGuard

from tightseal.collateral.guard import MemoryGuard
from tightseal.errors import Code, CollateralError, EvidenceError, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.intel import certs, crl, signatures
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.verifier import _known, verify_quote
from tightseal.model.claims import Claims, Tee
from tightseal.model.collateral import CollateralGuard, IntelCollateral
from tightseal.model.roots import TrustedRoot
from tightseal_sim.intel.platform import SimPlatform
from tightseal_sim.intel.td import TdImage
from tightseal_sim.intel.world import IntelWorld
from tightseal_sim.world import World

DAY = 86_400


@pytest.fixture
def intel() -> IntelWorld:
    return World.in_memory(b"reuse".ljust(32, b"\0")).intel


@pytest.fixture
def platform(intel: IntelWorld) -> SimPlatform:
    return intel.platform("one")


def collateral(intel: IntelWorld, platform: SimPlatform, now: int) -> IntelCollateral:
    return intel.collateral(fmspc=platform.fmspc, ca="platform", tee=Tee.TDX, now=now)


class Desk:
    """One warm verifier of one world."""

    def __init__(self, intel: IntelWorld, guard: CollateralGuard | None = None) -> None:
        self.roots: tuple[TrustedRoot, ...] = (intel.trusted_root,)
        self.cache = ResultCache(64)
        self.guard = guard

    def verify(self, quote: bytes, given: IntelCollateral, *, now: int = NOW) -> Claims:
        return verify_quote(
            quote,
            given,
            now=now,
            roots=self.roots,
            cache=self.cache,
            guard=self.guard,
        )


@pytest.fixture
def desk(intel: IntelWorld) -> Desk:
    return Desk(intel)


@pytest.fixture
def quote(platform: SimPlatform) -> bytes:
    return platform.launch_td(TdImage()).evidence(bytes(64))


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    seen: list[bytes] = []
    real = signatures.verifies

    def counted(key: object, signature: bytes, message: bytes) -> bool:
        seen.append(message)
        return real(key, signature, message)  # type: ignore[arg-type]

    for module in (signatures, crl, certs):
        monkeypatch.setattr(module, "verifies", counted)
    return seen


def test_a_warm_verification_costs_the_quote_s_own_signature(
    desk: Desk,
    intel: IntelWorld,
    platform: SimPlatform,
    quote: bytes,
    verifications: list[bytes],
) -> None:
    given = collateral(intel, platform, NOW)
    desk.verify(quote, given)
    assert len(verifications) > 2
    verifications.clear()
    other = platform.launch_td(TdImage()).evidence(bytes(range(64)))
    desk.verify(other, given)
    (signed,) = verifications
    assert signed == parse_quote(other).signed_bytes


@pytest.mark.parametrize("part", ["qe_report", "qe_report_signature"])
def test_another_qe_report_or_signature_is_verified_although_one_is_known(
    desk: Desk, intel: IntelWorld, platform: SimPlatform, quote: bytes, part: str
) -> None:
    given = collateral(intel, platform, NOW)
    desk.verify(quote, given)
    found: bytes = getattr(parse_quote(quote), part)
    spoiled = quote.replace(found, found[:-1] + bytes([found[-1] ^ 1]))
    assert spoiled != quote
    for _ in range(2):
        with pytest.raises(EvidenceError) as e:
            desk.verify(spoiled, given)
        assert e.value.code is Code.QE_REPORT_SIGNATURE_INVALID
    desk.verify(quote, given)


def test_a_qe_report_that_one_pck_signed_is_no_other_pck_s(
    desk: Desk, intel: IntelWorld, platform: SimPlatform, quote: bytes
) -> None:
    given = collateral(intel, platform, NOW)
    desk.verify(quote, given)
    neighbour = intel.platform("two").launch_td(TdImage()).evidence(bytes(64))
    desk.verify(neighbour, given)
    chains = [parse_quote(q).certification_data for q in (quote, neighbour)]
    assert len(chains[0]) == len(chains[1])
    with pytest.raises(EvidenceError) as e:
        desk.verify(quote.replace(*chains), given)
    assert e.value.code is Code.QE_REPORT_SIGNATURE_INVALID


def test_a_warm_cache_does_not_outlive_the_crl(
    desk: Desk, intel: IntelWorld, platform: SimPlatform, quote: bytes
) -> None:
    given = collateral(intel, platform, NOW)
    desk.verify(quote, given)
    codes = set()
    for days in range(1, 2000, 20):
        try:
            desk.verify(quote, given, now=NOW + days * DAY)
        except TightsealError as e:
            codes.add(e.code)
    assert Code.CRL_EXPIRED in codes
    assert codes <= {
        Code.CRL_EXPIRED,
        Code.TCB_INFO_EXPIRED,
        Code.QE_IDENTITY_EXPIRED,
    }


def test_a_warm_cache_does_not_reach_back_in_time(
    desk: Desk, intel: IntelWorld, platform: SimPlatform, quote: bytes
) -> None:
    given = collateral(intel, platform, NOW)
    desk.verify(quote, given)
    with pytest.raises(CollateralError) as e:
        desk.verify(quote, given, now=NOW - 3650 * DAY)
    assert e.value.code is Code.CRL_NOT_YET_VALID


def test_a_newly_revoked_pck_is_refused_although_its_chain_is_known(
    desk: Desk, intel: IntelWorld, platform: SimPlatform, quote: bytes
) -> None:
    before = collateral(intel, platform, NOW)
    desk.verify(quote, before)
    intel.revoke_pck(platform)
    after = collateral(intel, platform, NOW)
    with pytest.raises(EvidenceError) as e:
        desk.verify(quote, after)
    assert e.value.code is Code.CERTIFICATE_REVOKED
    neighbour = intel.platform("two").launch_td(TdImage()).evidence(bytes(64))
    desk.verify(neighbour, after)


def test_a_refusal_is_remembered_by_the_guard(
    intel: IntelWorld, platform: SimPlatform, quote: bytes
) -> None:
    desk = Desk(intel, MemoryGuard(floors=()))
    before = collateral(intel, platform, NOW)
    desk.verify(quote, before)
    intel.revoke_pck(platform)
    after = collateral(intel, platform, NOW)
    for given, code in (
        (after, Code.CERTIFICATE_REVOKED),
        (before, Code.COLLATERAL_ROLLBACK),
    ):
        with pytest.raises(TightsealError) as e:
            desk.verify(quote, given)
        assert e.value.code is code


def test_the_guard_is_asked_on_every_call_and_of_genuine_collateral_only(
    intel: IntelWorld, platform: SimPlatform, quote: bytes
) -> None:
    guard = RecordingGuard()
    desk = Desk(intel, guard)
    given = collateral(intel, platform, NOW)
    for _ in range(2):
        guard.asked.clear()
        desk.verify(quote, given)
        assert [[(f.kind, f.subject) for f in facts] for facts in guard.asked] == [
            [("root_crl", "crl:root")],
            [
                ("tcb_info", f"tdx:{platform.fmspc.hex()}"),
                ("qe_identity", "tdx"),
                ("pck_crl", "crl:platform"),
            ],
        ]
        domain = str(intel.trusted_root.trust_domain)
        assert {f.trust_domain for facts in guard.asked for f in facts} == {domain}
    guard.asked.clear()
    spoiled = replace(given, tcb_info_signature=bytes(63) + b"\1")
    with pytest.raises(CollateralError):
        desk.verify(quote, spoiled)
    assert [[f.kind for f in facts] for facts in guard.asked] == [["root_crl"]]
    guard.asked.clear()
    with pytest.raises(CollateralError):
        desk.verify(quote, replace(given, root_ca_crl=given.pck_crl))
    assert guard.asked == []


def test_results_of_one_root_do_not_serve_another(
    desk: Desk, intel: IntelWorld, platform: SimPlatform, quote: bytes
) -> None:
    given = collateral(intel, platform, NOW)
    desk.verify(quote, given)
    other = World.in_memory(b"other".ljust(32, b"\0")).intel
    desk.roots = (other.trusted_root,)
    with pytest.raises(EvidenceError) as e:
        desk.verify(quote, given)
    assert e.value.code is Code.ROOT_NOT_TRUSTED
    desk.roots = (other.trusted_root, intel.trusted_root)
    domain = desk.verify(quote, given).trust_domain
    assert domain == intel.trusted_root.trust_domain


def test_nothing_that_failed_is_kept(
    desk: Desk, intel: IntelWorld, platform: SimPlatform, quote: bytes
) -> None:
    given = collateral(intel, platform, NOW)
    last = bytes([given.pck_crl[-1] ^ 1])
    spoiled = replace(given, pck_crl=given.pck_crl[:-1] + last)
    for _ in range(2):
        with pytest.raises(CollateralError) as e:
            desk.verify(quote, spoiled)
        assert e.value.code is Code.CRL_SIGNATURE_INVALID
    desk.verify(quote, given)


def test_threads_share_one_cache(
    desk: Desk, intel: IntelWorld, platform: SimPlatform, quote: bytes
) -> None:
    given = collateral(intel, platform, NOW)
    expected = verify_quote(quote, given, now=NOW, roots=desk.roots)
    got: list[Claims] = []

    def work() -> None:
        got.extend(desk.verify(quote, given) for _ in range(40))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 160
    assert all(claims == expected for claims in got)


def test_an_identity_that_is_all_zero_is_none() -> None:
    assert _known(bytes(16)) is None
    assert _known(None) is None
    assert _known(b"\0\1") == b"\0\1"
