# SPDX-License-Identifier: Apache-2.0
"""The simulated services over the simulated world, and revocations that arrive."""

from collections.abc import Callable

import pytest
from cryptography import x509
from starlette.applications import Starlette

from tightseal.collateral.cache import RecordCache
from tightseal.collateral.guard import MemoryGuard
from tightseal.collateral.http import Asker
from tightseal.collateral.kds import KdsClient
from tightseal.collateral.pccs import PccsClient
from tightseal.collateral.refresh import Refresher
from tightseal.collateral.source import CachedSource
from tightseal.errors import Code, CollateralError
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.model.claims import Tee
from tightseal_sim.amd.world import AmdWorld
from tightseal_sim.intel.catalogue import FMSPCS
from tightseal_sim.kds import WorldDistribution, kds_app
from tightseal_sim.pccs import pccs_app
from tightseal_sim.world import World

NOW = 1_795_000_000
SEED = bytes(range(32))


@pytest.mark.parametrize("ca", ["platform", "processor"])
@pytest.mark.parametrize("tee", [Tee.TDX, Tee.SGX])
def test_collateral_of_the_simulated_world_arrives(
    serve: Callable[[Starlette], str],
    make_asker: Callable[..., Asker],
    ca: str,
    tee: Tee,
) -> None:
    intel = World.in_memory(SEED).intel
    url = serve(pccs_app(intel, now=lambda: NOW))
    source = CachedSource(
        cache=RecordCache(
            None, roots=with_simulated(VENDOR_ROOTS, intel.root_certificate)
        ),
        pccs=PccsClient([url], asker=make_asker()),
        guard=MemoryGuard(),
    )
    query = {"fmspc": FMSPCS[ca], "ca": ca, "tee": tee, "now": NOW}
    found = source.intel(**query)
    expected = intel.collateral(**query)
    assert found.tcb_info == expected.tcb_info
    assert found.qe_identity == expected.qe_identity
    with pytest.raises(CollateralError) as caught:
        source.intel(fmspc=b"nobody", ca=ca, tee=tee, now=NOW)
    assert caught.value.code is Code.COLLATERAL_NOT_FOUND


def test_a_revocation_arrives_with_the_next_refresh(
    serve: Callable[[Starlette], str], make_asker: Callable[..., Asker]
) -> None:
    intel = World.in_memory(SEED).intel
    platform = intel.platform("host")
    clock = [NOW]
    url = serve(pccs_app(intel, now=lambda: clock[0]))
    source = CachedSource(
        cache=RecordCache(None), pccs=PccsClient([url], asker=make_asker())
    )
    query = {"fmspc": platform.fmspc, "ca": "platform", "tee": Tee.TDX}
    before = source.intel(**query, now=NOW)
    intel.revoke_pck(platform)
    assert source.intel(**query, now=NOW) is before
    clock[0] += 86_400
    assert len(Refresher(source, clock=lambda: clock[0]).step()) == 4
    after = source.intel(**query, now=clock[0])
    revoked = [len(x509.load_der_x509_crl(c.pck_crl)) for c in (before, after)]
    assert revoked == [0, 1]


@pytest.mark.parametrize("product", ["Milan", "Turin"])
def test_certificates_of_the_simulated_amd_world_arrive(
    serve: Callable[[Starlette], str], make_asker: Callable[..., Asker], product: str
) -> None:
    world = AmdWorld(None, SEED, rsa_bits=2048)
    chip = world.chip("host", product)
    shelf = WorldDistribution(world, chips=[("host", product)], now=lambda: NOW)
    client = KdsClient([serve(kds_app(shelf))], asker=make_asker())
    source = CachedSource(cache=RecordCache(None), kds=client)
    query = {"product": product, "chip_id": chip.chip_id, "tcb": chip.tcb}
    found = source.snp(**query, vlek=False, now=NOW)
    assert found.intermediate == chip.certificates().intermediate
    assert found.root == world.root_certificate(product)
    assert found.crl is not None
    assert source.snp(**query, vlek=False, now=NOW + 1) is found
