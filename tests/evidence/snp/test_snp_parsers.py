# SPDX-License-Identifier: Apache-2.0
"""Laws of the parsers: nothing but their own errors, and one form for one meaning."""

import hashlib
import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import CollateralError, EvidenceError
from tightseal.evidence.snp.certificate import parse_certificate, parse_crl, signed_by
from tightseal.evidence.snp.certs import parse_endorsement
from tightseal.evidence.snp.extended import parse_table
from tightseal.evidence.snp.form import split_evidence
from tightseal.evidence.snp.hcl import parse_hcl
from tightseal.evidence.snp.products import (
    Product,
    product_of_cpuid,
    product_of_name,
    split_tcb,
)
from tightseal.evidence.snp.query import certificate_query, embedded_certificates
from tightseal.evidence.snp.report import parse_report
from tightseal.model.claims import SnpTcb
from tightseal_sim.amd import AmdWorld
from tightseal_sim.amd import table as sim_table
from tightseal_sim.amd.bench import Bench
from tightseal_sim.amd.generations import encode_tcb

LEVEL = st.integers(0, 255)


@pytest.fixture(scope="module")
def bench(world: AmdWorld) -> Bench:
    return Bench(world, "Turin", 1_780_000_000)


@given(st.binary(max_size=1300))
def test_arbitrary_bytes_raise_only_evidence_errors(data: bytes) -> None:
    for parse in (
        parse_report,
        parse_hcl,
        parse_table,
        split_evidence,
        embedded_certificates,
        parse_endorsement,
        lambda d: parse_certificate(d, what="any"),
    ):
        with pytest.raises(EvidenceError):
            parse(data)
    with pytest.raises(CollateralError):
        parse_crl(data)
    assert not signed_by(data, signature=data, signed_bytes=data)


@given(data=st.data())
def test_mutated_inputs_raise_only_their_own_errors(
    bench: Bench, data: st.DataObject
) -> None:
    crl = bench.world.crl("Turin", now=bench.now)
    inputs = (
        (bench.report, parse_report),
        (bench.certificates.signer, parse_endorsement),
        (crl, parse_crl),
        (bench.guest.hcl_evidence(b"{}"), split_evidence),
        (bench.guest.evidence(bytes(64)), split_evidence),
    )
    good, parse = data.draw(st.sampled_from(inputs))
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(LEVEL)
    cut = data.draw(st.integers(0, len(changed)))
    for mutated in (bytes(changed), bytes(changed[:cut])):
        try:
            parse(mutated)
        except (EvidenceError, CollateralError):
            continue


def test_every_field_of_a_report_is_read_back(bench: Bench) -> None:
    fields = bench.fields()
    report = parse_report(bench.report)
    for name in (
        "version",
        "guest_svn",
        "policy",
        "family_id",
        "image_id",
        "vmpl",
        "current_tcb",
        "platform_info",
        "report_data",
        "measurement",
        "host_data",
        "id_key_digest",
        "author_key_digest",
        "report_id",
        "report_id_ma",
        "reported_tcb",
        "cpuid",
        "committed_tcb",
        "launch_tcb",
    ):
        assert getattr(report, name) == getattr(fields, name), name
    assert report.chip_id == fields.chip_id + bytes(56)
    assert report.launch_mitigations == fields.mitigations
    version = report.current_version
    assert (version.major, version.minor, version.build) == fields.firmware
    assert report.signed_bytes == bench.report[:0x2A0]
    older = parse_report(bench.resigned(version=2))
    assert older.cpuid is None
    assert older.current_mitigations is None


def test_an_author_key_is_named(bench: Bench) -> None:
    digest = bytes([7]) * 48
    report = parse_report(bench.resigned(key_info=1, author_key_digest=digest))
    assert report.author_key_enabled
    assert report.author_key_digest == digest
    assert not report.mask_chip_key


@given(LEVEL, LEVEL, LEVEL, LEVEL, st.one_of(st.none(), LEVEL))
def test_tcb_layouts_agree_with_the_simulated_firmware(
    bootloader: int, tee: int, snp: int, microcode: int, fmc: int | None
) -> None:
    tcb = SnpTcb(bootloader, tee, snp, microcode, fmc)
    product = Product.GENOA if fmc is None else Product.TURIN
    assert split_tcb(encode_tcb(tcb), product) == tcb


def test_processor_models_name_product_lines() -> None:
    known = {
        (0x19, 0x00): Product.MILAN,
        (0x19, 0x0F): Product.MILAN,
        (0x19, 0x10): Product.GENOA,
        (0x19, 0x1F): Product.GENOA,
        (0x19, 0xA0): Product.GENOA,
        (0x19, 0xAF): Product.GENOA,
        (0x1A, 0x00): Product.TURIN,
        (0x1A, 0x11): Product.TURIN,
        (0x19, 0x20): None,
        (0x19, 0xB0): None,
        (0x1A, 0x12): None,
        (0x1A, 0x50): None,
        (0x17, 0x31): None,
    }
    for (family, model), product in known.items():
        assert product_of_cpuid(family, model) is product, (family, model)


def test_product_names() -> None:
    assert product_of_name("Milan-B0") is Product.MILAN
    assert product_of_name("Genoa") is Product.GENOA
    for name in ("", "-", "Milan-", "milan", "Milan B0", "MilanX", "-Milan"):
        assert product_of_name(name) is None, name


def test_a_query_knows_turin_by_its_chip_id(bench: Bench) -> None:
    query = certificate_query(parse_report(bench.resigned(version=2)))
    assert query.product == "Turin"
    assert query.chip_id == bench.chip.chip_id
    assert query.tcb == bench.chip.tcb
    masked = certificate_query(
        parse_report(bench.resigned(version=2, chip_id=bytes(64)))
    )
    assert masked.product is None


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=8))
def test_tables_are_read_back(blobs: list[bytes]) -> None:
    guids = [
        sim_table.VCEK,
        sim_table.VLEK,
        sim_table.ASK,
        sim_table.ARK,
        *(UUID(int=i + 1) for i in range(4)),
    ]
    entries = list(zip(guids, blobs, strict=False))
    found = parse_table(sim_table.encode_table(entries))
    by_guid = dict(entries)
    assert found.vcek == by_guid.get(sim_table.VCEK)
    assert found.vlek == by_guid.get(sim_table.VLEK)
    assert found.intermediate == by_guid.get(sim_table.ASK)
    assert found.root == by_guid.get(sim_table.ARK)


def test_swapped_guids_are_known_and_count_as_the_same() -> None:
    swapped = UUID(bytes=sim_table.VCEK.bytes_le)
    found = parse_table(sim_table.encode_table([(swapped, b"certificate")]))
    assert found.vcek == b"certificate"
    twice = sim_table.encode_table([(swapped, b"one"), (sim_table.VCEK, b"two")])
    with pytest.raises(EvidenceError):
        parse_table(twice)


def test_a_crl_in_the_table_is_not_handed_on(bench: Bench) -> None:
    crl = UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea")
    entries = [
        (sim_table.VCEK, bench.certificates.signer),
        (sim_table.ASK, bench.certificates.intermediate),
        (crl, bench.world.crl("Turin", now=bench.now)),
    ]
    evidence = bench.report + sim_table.encode_table(entries)
    found = embedded_certificates(evidence)
    assert found is not None
    assert found.crl is None


@given(st.binary(max_size=300))
def test_azure_blobs_are_read_back(claims: bytes) -> None:
    report = bytes(1184)
    blob = parse_hcl(sim_table.hcl_blob(report, claims))
    assert blob.report == report
    assert blob.runtime_claims == claims
    digest = hashlib.sha256(claims).digest()
    assert blob.binds(digest + bytes(32))
    assert not blob.binds(digest + bytes(31) + b"\x01")
    assert not blob.binds(bytes(64))


def test_the_table_header_is_little_endian() -> None:
    data = sim_table.VCEK.bytes + struct.pack("<II", 48, 1) + bytes(24) + b"\x05"
    assert parse_table(data).vcek == b"\x05"
