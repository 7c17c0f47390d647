# SPDX-License-Identifier: Apache-2.0
"""Records that no switched-on root signed for: absent, wherever they stand."""

import base64
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tightseal.collateral.cache import RecordCache
from tightseal.collateral.kds import chain_name, crl_name, signer_name
from tightseal.collateral.parts import Part, PartKind, PartName, make_part, split
from tightseal.collateral.source import CachedSource
from tightseal.collateral.wire import certificate_chain
from tightseal.errors import Code, CollateralError
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.model.claims import Tee
from tightseal_sim.amd import AmdWorld
from tightseal_sim.intel.world import IntelWorld
from tightseal_sim.world import World

NOW = 1_790_000_000
SEED = b"origin".ljust(32, b"\0")
STRANGE = b"strange".ljust(32, b"\0")
ONE, OTHER = (World.in_memory(seed).intel for seed in (SEED, STRANGE))
ROOTS = with_simulated(VENDOR_ROOTS, ONE.root_certificate)
FMSPC = ONE.platform("host").fmspc
QUERY = {"fmspc": FMSPC, "ca": "platform", "tee": Tee.TDX, "now": NOW}
MESSAGE = "collateral_record_of_no_root"


def parts(world: IntelWorld, *, now: int = NOW) -> tuple[Part, ...]:
    fmspc = world.platform("host").fmspc
    return split(world.collateral(fmspc=fmspc, ca="platform", tee=Tee.TDX, now=now))


def keep(folder: Path, kept: tuple[Part, ...]) -> None:
    cache = RecordCache(folder)
    for part in kept:
        cache.put(part, now=NOW)


def test_records_of_a_known_root_are_read_again(tmp_path: Path) -> None:
    keep(tmp_path, parts(ONE))
    with capture_logs() as lines:
        source = CachedSource(cache=RecordCache(tmp_path, roots=ROOTS))
        found = source.intel(**QUERY)
    assert found == ONE.collateral(**QUERY)
    assert lines == []


def test_records_of_another_root_are_absent_and_named_once(tmp_path: Path) -> None:
    keep(tmp_path, parts(ONE))
    cache = RecordCache(tmp_path, roots=VENDOR_ROOTS)
    with capture_logs() as lines:
        for _ in range(3):
            with pytest.raises(CollateralError) as caught:
                CachedSource(cache=cache).intel(**QUERY)
            assert cache.records() == ()
    assert caught.value.code is Code.COLLATERAL_UNAVAILABLE
    named = [line["record"] for line in lines if line["event"] == MESSAGE]
    assert sorted(named) == sorted(str(part.name) for part in parts(ONE))


def test_a_strangers_newer_record_does_not_keep_a_genuine_part_out(
    tmp_path: Path,
) -> None:
    later = {p.name: p for p in parts(OTHER, now=NOW + 86_400)}
    name = PartName(PartKind.QE_IDENTITY, "tdx")
    keep(tmp_path, (later[name],))
    source = CachedSource(cache=RecordCache(tmp_path, roots=ROOTS))
    for part in parts(ONE):
        source.add(part, now=NOW)
    assert source.intel(**QUERY) == ONE.collateral(**QUERY)
    again = RecordCache(tmp_path, roots=ROOTS)
    with capture_logs() as lines:
        assert {r.part.name for r in again.records()} == {p.name for p in parts(ONE)}
    assert lines == []


@pytest.fixture(scope="module")
def amd() -> AmdWorld:
    return AmdWorld(None, SEED, rsa_bits=2048)


@pytest.fixture(scope="module")
def stranger() -> AmdWorld:
    return AmdWorld(None, STRANGE, rsa_bits=2048)


def snp_parts(world: AmdWorld) -> tuple[Part, ...]:
    chip = world.chip("host", "Milan")
    found = chip.certificates()
    root = world.root_certificate("Milan")
    signer = signer_name(product="Milan", chip_id=b"\1" * 64, tcb=chip.tcb)
    pem = "".join(as_pem(der) for der in (found.intermediate, root)).encode()
    assert certificate_chain(pem.decode()) == (found.intermediate, root)
    return (
        make_part(chain_name("Milan", vlek=False), pem),
        make_part(signer, found.signer),
        make_part(crl_name("Milan", vlek=False), world.crl("Milan", now=NOW)),
    )


def as_pem(der: bytes) -> str:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"


def test_snp_records_of_a_known_root_are_read_again(
    amd: AmdWorld, tmp_path: Path
) -> None:
    kept = snp_parts(amd)
    keep(tmp_path, kept)
    roots = with_simulated(VENDOR_ROOTS, amd.root_certificate("Milan"))
    with capture_logs() as lines:
        found = RecordCache(tmp_path, roots=roots).records()
    assert {r.part for r in found} == set(kept)
    assert lines == []


def test_snp_records_of_strangers_are_absent(
    amd: AmdWorld, stranger: AmdWorld, tmp_path: Path
) -> None:
    chain, signer, crl = snp_parts(amd)
    _, strange_signer, strange_crl = snp_parts(stranger)
    roots = with_simulated(VENDOR_ROOTS, amd.root_certificate("Milan"))
    keep(tmp_path, (chain, strange_signer, strange_crl))
    cache = RecordCache(tmp_path, roots=roots)
    assert [r.part for r in cache.records()] == [chain]
    source = CachedSource(cache=cache)
    for part in (strange_signer, strange_crl):
        with pytest.raises(CollateralError) as caught:
            source.add(part, now=NOW)
        assert caught.value.code is Code.ROOT_NOT_TRUSTED
    for part in (signer, crl):
        source.add(part, now=NOW)
    assert {r.part for r in cache.records()} == {chain, signer, crl}


def test_a_signer_waits_for_the_chain_above_it(amd: AmdWorld, tmp_path: Path) -> None:
    chain, signer, _ = snp_parts(amd)
    roots = with_simulated(VENDOR_ROOTS, amd.root_certificate("Milan"))
    keep(tmp_path, (signer,))
    cache = RecordCache(tmp_path, roots=roots)
    assert cache.get(signer.name) is None
    CachedSource(cache=cache).add(chain, now=NOW)
    found = cache.get(signer.name)
    assert found is not None
    assert found.part == signer
