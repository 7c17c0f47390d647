# SPDX-License-Identifier: Apache-2.0
"""The three ways in which a guest gets collateral."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from scripted_provider import NOW, Provider, terms

from tightseal.collateral.cache import RecordCache
from tightseal.collateral.parts import split
from tightseal.errors import Code, CollateralError, ProviderError, RequestError
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.guest.collateral import (
    Judge,
    StapledSource,
    judge_with,
    offline,
    online,
    stapled,
)
from tightseal.guest.exchange import Exchange
from tightseal.model.claims import Claims, SnpTcb, Tee
from tightseal.model.collateral import (
    CollateralSource,
    IntelCollateral,
    SnpCertificates,
)
from tightseal.model.keypath import KeyRequest
from tightseal.model.ports import Verifier
from tightseal.model.roots import TrustedRoots
from tightseal.model.wire import (
    ChallengeRequest,
    IntelCollateralJson,
    SnpCertificatesJson,
    decode_json,
)
from tightseal_sim.world import World

INTEL = IntelCollateral(
    pck_crl_issuer_chain="chain",
    root_ca_crl=b"\x01",
    pck_crl=b"\x02",
    tcb_info_issuer_chain="chain",
    tcb_info="{}",
    tcb_info_signature=bytes(64),
    qe_identity_issuer_chain="chain",
    qe_identity="{}",
    qe_identity_signature=bytes(64),
)
SNP = SnpCertificates(signer=b"s", intermediate=b"i", root=b"r", crl=b"c")
DISK = (KeyRequest("disk"),)


def intel_of(source: CollateralSource) -> IntelCollateral:
    return source.intel(fmspc=bytes(6), ca="platform", tee=Tee.SGX, now=NOW)


def snp_of(source: CollateralSource) -> SnpCertificates:
    tcb = SnpTcb(0, 0, 0, 0)
    return source.snp(product="Milan", chip_id=bytes(64), tcb=tcb, vlek=False, now=NOW)


def test_what_was_stapled_comes_out() -> None:
    assert intel_of(StapledSource(IntelCollateralJson.of(INTEL))) == INTEL
    assert snp_of(StapledSource(SnpCertificatesJson.of(SNP))) == SNP


@pytest.mark.parametrize("staple", [None, SnpCertificatesJson.of(SNP)])
def test_no_intel_staple(staple: Any) -> None:
    with pytest.raises(CollateralError) as caught:
        intel_of(StapledSource(staple))
    assert caught.value.code is Code.COLLATERAL_UNAVAILABLE


@pytest.mark.parametrize("staple", [None, IntelCollateralJson.of(INTEL)])
def test_no_snp_staple(staple: Any) -> None:
    with pytest.raises(CollateralError):
        snp_of(StapledSource(staple))


def test_a_staple_in_upper_case_hex_is_refused() -> None:
    staple = IntelCollateralJson.of(INTEL)
    changed = IntelCollateralJson(
        **{f: getattr(staple, f) for f in staple.__struct_fields__}
        | {"root_ca_crl": "AB"}
    )
    with pytest.raises(RequestError):
        intel_of(StapledSource(changed))


class Judging:
    """A judge that records the collateral which its verifier was given."""

    def __init__(self, provider: Provider, roots: TrustedRoots | None = None) -> None:
        self.provider = provider
        self.seen: list[IntelCollateral] = []
        self.roots = roots or TrustedRoots()

    def __call__(self, source: CollateralSource) -> Verifier:
        def verify(evidence: bytes, *, now: int) -> Claims:
            self.seen.append(intel_of(source))
            return self.provider.evidence(evidence, now=now)

        return verify


@dataclass(frozen=True)
class Recording:
    """A judge that keeps the source which it was given."""

    judge: Judge
    sources: list[CollateralSource]

    @property
    def roots(self) -> TrustedRoots:
        return self.judge.roots

    def __call__(self, source: CollateralSource) -> Verifier:
        self.sources.append(source)
        return self.judge(source)


def _stapling(provider: Provider) -> Provider:
    staple = IntelCollateralJson.of(INTEL)
    provider.parsed_after = lambda p: replace(p, stapled=staple)
    return provider


def test_the_provider_is_asked_to_staple_and_its_staple_is_judged() -> None:
    provider = _stapling(Provider())
    judge = Judging(provider)
    exchange = Exchange(terms(provider, collateral=stapled(judge=judge)), DISK)
    request = exchange.challenge_request()
    assert decode_json(request, ChallengeRequest).collateral
    exchange.check_challenge(provider.challenge(request), now=NOW)
    assert judge.seen == [INTEL]


def test_without_a_staple_the_provider_is_unverified() -> None:
    provider = Provider()
    judge = Judging(provider)
    exchange = Exchange(terms(provider, collateral=stapled(judge=judge)), DISK)
    body = provider.challenge(exchange.challenge_request())
    with pytest.raises(ProviderError, match="collateral_unavailable") as caught:
        exchange.check_challenge(body, now=NOW)
    assert caught.value.code is Code.PROVIDER_UNVERIFIED


def test_own_collateral_asks_for_no_staple_and_ignores_one(tmp_path: Path) -> None:
    provider = _stapling(Provider())
    judge = Judging(provider)
    path = tmp_path / "collateral.json"
    path.write_text("{}")
    exchange = Exchange(terms(provider, collateral=offline(path, judge=judge)), DISK)
    request = exchange.challenge_request()
    assert not decode_json(request, ChallengeRequest).collateral
    with pytest.raises(ProviderError, match="collateral_unreadable"):
        exchange.check_challenge(provider.challenge(request), now=NOW)
    assert judge.seen == []


def test_nobody_to_ask() -> None:
    provider = Provider()
    found = online(judge=Judging(provider))
    assert not found.wants_stapled
    with pytest.raises(CollateralError):
        found.verifier_for(None)(b"evidence", now=NOW)


def test_a_cache_takes_in_nothing_of_roots_that_the_judge_does_not_trust(
    tmp_path: Path,
) -> None:
    intel = World.in_memory(b"guest cache".ljust(32, b"\0")).intel
    fmspc = intel.platform("host").fmspc
    collateral = intel.collateral(fmspc=fmspc, ca="platform", tee=Tee.SGX, now=NOW)
    cache = RecordCache(tmp_path)
    for part in split(collateral):
        cache.put(part, now=NOW)
    simulated = with_simulated(VENDOR_ROOTS, intel.root_certificate)
    for roots, found in ((simulated, collateral), (VENDOR_ROOTS, None)):
        sources: list[CollateralSource] = []
        judge = judge_with(roots=roots)
        assert judge.roots == roots
        recording = Recording(judge, sources)
        online(cache=tmp_path, judge=recording)
        query = {"fmspc": fmspc, "ca": "platform", "tee": Tee.SGX, "now": NOW}
        if found is not None:
            assert sources[0].intel(**query) == found
            continue
        with pytest.raises(CollateralError) as caught:
            sources[0].intel(**query)
        assert caught.value.code is Code.COLLATERAL_UNAVAILABLE


@pytest.mark.parametrize("way", ["offline", "online", "stapled"])
def test_the_real_verifier_refuses_what_is_no_evidence(
    way: str, tmp_path: Path
) -> None:
    made = {
        "offline": lambda: offline(tmp_path / "none.json"),
        "online": online,
        "stapled": stapled,
    }[way]()
    provider = Provider()
    exchange = Exchange(terms(provider, collateral=made), DISK)
    body = provider.challenge(exchange.challenge_request())
    with pytest.raises(ProviderError) as caught:
        exchange.check_challenge(body, now=NOW)
    assert caught.value.code is Code.PROVIDER_UNVERIFIED
