# SPDX-License-Identifier: Apache-2.0
"""Nobody is asked for the collateral of a platform that no trusted root certified."""

import pytest

from tightseal.errors import EvidenceError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.claimed import claimed, platform_claim
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.claims import SnpTcb, Tee
from tightseal.model.collateral import IntelCollateral, SnpCertificates
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.sources import WorldSource
from tightseal_sim.world import World

NOW = 1_790_000_000


class Fetching:
    """A source that would fetch, unless it has fetched before; counts."""

    def __init__(self, world: World) -> None:
        self._source = WorldSource(world)
        self._had: set[tuple[bytes, str, Tee]] = set()
        self.fetched = 0

    def at_hand(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> bool:
        assert now == NOW
        return (fmspc, ca, tee) in self._had

    def intel(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> IntelCollateral:
        if (fmspc, ca, tee) not in self._had:
            self.fetched += 1
        collateral = self._source.intel(fmspc=fmspc, ca=ca, tee=tee, now=now)
        self._had.add((fmspc, ca, tee))
        return collateral

    def snp(
        self, *, product: str, chip_id: bytes, tcb: SnpTcb, vlek: bool, now: int
    ) -> SnpCertificates:
        raise AssertionError((product, chip_id, tcb, vlek, now))


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"trusted".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture(scope="module")
def invented() -> bytes:
    """A genuine quote of another world, whose root nobody here trusts."""
    world = World.in_memory(b"another".ljust(32, b"\0"))
    return world.intel.platform("one").launch_td(TdImage()).evidence(bytes(64))


def verifier(world: World, source: Fetching) -> EvidenceVerifier:
    roots = with_simulated(VENDOR_ROOTS, world.intel.root_certificate)
    return EvidenceVerifier(roots=roots, source=source, cache=ResultCache(64))


def test_a_chain_under_no_trusted_root_fetches_nothing(
    world: World, invented: bytes
) -> None:
    source = Fetching(world)
    with pytest.raises(EvidenceError, match="root_not_trusted") as no:
        verifier(world, source)(invented, now=NOW)
    assert source.fetched == 0
    assert [check.name for check in no.value.checks] == ["pck_chain"]  # type: ignore[attr-defined]


def test_a_chain_with_a_wrong_signature_fetches_nothing(
    world: World, td: SimTd
) -> None:
    source = Fetching(world)
    quote = td.evidence(bytes(64))
    body = bytearray(quote)
    # Inside the last base64 line before the end of the leaf: part of its signature.
    at = quote.index(b"-----END CERTIFICATE-----") - 20
    body[at] = ord("A") if body[at] != ord("A") else ord("B")
    with pytest.raises(EvidenceError):
        verifier(world, source)(bytes(body), now=NOW)
    assert source.fetched == 0


def test_a_genuine_platform_is_fetched_for_once(world: World, td: SimTd) -> None:
    source = Fetching(world)
    verify = verifier(world, source)
    first = verify(td.evidence(bytes(64)), now=NOW)
    assert verify(td.evidence(b"\1" * 64), now=NOW).platform == first.platform
    assert source.fetched == 1


def test_a_claim_is_the_same_for_one_platform_and_differs_for_another(
    world: World, td: SimTd
) -> None:
    other = world.intel.platform("two").launch_td(TdImage())
    one, again = (td.evidence(data) for data in (bytes(64), b"\1" * 64))
    assert platform_claim(one) == platform_claim(again)
    assert platform_claim(one) != platform_claim(other.evidence(bytes(64)))
    assert claimed(again).report_data == b"\1" * 64


def test_what_is_no_evidence_claims_nothing() -> None:
    assert platform_claim(b"") == b""
    assert platform_claim(b"\x04\x00" + bytes(600)) == b""
