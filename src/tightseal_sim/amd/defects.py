# SPDX-License-Identifier: Apache-2.0
"""Every defect of SEV-SNP evidence by name: the negative cases of the verifier.

Each case breaks one thing and signs the rest again where a real attacker could, so that
the check under test is the one that must fire.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from tightseal.errors import Code
from tightseal.model.claims import SnpTcb
from tightseal_sim.amd import table
from tightseal_sim.amd.bench import REPORT_DATA, RUNTIME_CLAIMS, Bench, SnpCase
from tightseal_sim.amd.chain_defects import certificate_cases
from tightseal_sim.amd.generations import GENERATIONS, encode_tcb
from tightseal_sim.amd.guest import GuestImage
from tightseal_sim.amd.world import AmdWorld

__all__ = ["SnpCase", "good_cases", "snp_cases"]

_BODY_BYTES: Final = 0x2A0
_REPORT_BYTES: Final = 0x4A0


def snp_cases(
    now: int, *, world: AmdWorld | None = None, attacker: AmdWorld | None = None
) -> list[SnpCase]:
    """Every defect, each with the code that must come of it.

    Args:
        now: Unix seconds, inside 2021 to 2048.
        world: whose roots are trusted; one in memory where none is given.
        attacker: another world, whose roots are not.
    """
    world = world or AmdWorld(None, bytes(32))
    attacker = attacker or AmdWorld(None, bytes(31) + b"\x01")
    bench = Bench(world, "Milan", now)
    return [
        *_form(bench),
        *_reserved(bench),
        *_signature(bench),
        *_key_info(bench),
        *certificate_cases(bench, attacker),
        *_products(world, now),
        *_levels(world, now),
        *_chips(world, now),
        *_tables(bench),
        *_blobs(bench),
    ]


def good_cases(now: int, *, world: AmdWorld) -> list[SnpCase]:
    """Authentic evidence of every generation, version, signer and form."""
    found: list[SnpCase] = []
    for line in GENERATIONS:
        bench = Bench(world, line.product, now)
        for version in (2, 3, 5):
            report = bench.resigned(version=version)
            found.append(
                bench.case(f"{line.product} v{version}", None, evidence=report)
            )
        found += _good_forms(bench)
    return found


def _good_forms(bench: Bench) -> Iterator[SnpCase]:
    product, chip = bench.product, bench.chip
    bare = replace(bench.certificates, root=None)
    yield bench.case(f"{product} without a delivered ARK", None, certificates=bare)
    crl = replace(bench.certificates, crl=bench.world.crl(product, now=bench.now))
    yield bench.case(f"{product} with a CRL", None, certificates=crl)
    extended = bench.guest.evidence(REPORT_DATA)
    yield bench.case(f"{product} extended", None, evidence=extended)
    blob = bench.guest.hcl_evidence(RUNTIME_CLAIMS)
    yield bench.case(f"{product} in Azure's blob", None, evidence=blob)
    debug = bench.resigned(policy=0xB0000)
    yield bench.case(f"{product} debug policy", None, evidence=debug)
    masked = bench.resigned(chip_id=bytes(64))
    yield bench.case(f"{product} masked chip id", None, evidence=masked)
    octets = b"\x04" + bytes([len(chip.chip_id)]) + chip.chip_id
    wrapped = bench.endorsed(hardware_id=octets)
    yield bench.case(f"{product} wrapped hardware id", None, certificates=wrapped)
    hosted = bench.world.chip("hosted", product)
    hosted.vlek = hosted.mask_chip_id = True
    guest = hosted.launch(GuestImage(b"kernel", vmpl=1))
    yield bench.case(
        f"{product} VLEK",
        None,
        evidence=guest.evidence(REPORT_DATA),
        certificates=hosted.certificates(),
    )
    updated = bench.world.chip("updated", product)
    guest = updated.launch(GuestImage(b"kernel"))
    updated.firmware_update()
    yield bench.case(
        f"{product} after a firmware update",
        None,
        evidence=guest.report(REPORT_DATA),
        certificates=updated.certificates(),
    )


def _form(bench: Bench) -> Iterator[SnpCase]:
    malformed = Code.SNP_REPORT_MALFORMED
    yield bench.case("empty evidence", malformed, evidence=b"")
    yield bench.case("truncated report", malformed, evidence=bench.report[:-1])
    yield bench.case("half a report", malformed, evidence=bench.report[:592])
    oversized = bench.report + bytes(1 << 17)
    yield bench.case("oversized", Code.EVIDENCE_TOO_LARGE, evidence=oversized)
    trailing = bench.report + b"\x01"
    yield bench.case(
        "trailing byte", Code.SNP_CERTIFICATE_TABLE_MALFORMED, evidence=trailing
    )
    for version in (0, 1, 4, 6, 0xFFFFFFFF):
        report = bench.patched(0, struct.pack("<I", version))
        code = Code.SNP_VERSION_UNSUPPORTED
        yield bench.case(f"report version {version}", code, evidence=report)
    for algorithm in (0, 2):
        report = bench.patched(0x34, struct.pack("<I", algorithm))
        code = Code.SNP_SIGNATURE_ALGORITHM
        yield bench.case(f"signature algorithm {algorithm}", code, evidence=report)


def _reserved(bench: Bench) -> Iterator[SnpCase]:
    code = Code.SNP_REPORT_MALFORMED
    for offset in (0x4C, 0x188, 0x19F, 0x1EB, 0x1EF, 0x1F8, 0x29F):
        report = bench.patched(offset, b"\x01")
        yield bench.case(f"reserved byte {offset:#x}", code, evidence=report)
    for offset in (0x330, 0x49F):
        yield bench.case(
            f"byte behind the signature {offset:#x}",
            code,
            evidence=bench.flipped(offset),
        )
    policies = {"policy without bit 17": 0x10000, "policy bit 26": 0x30000 | 1 << 26}
    for name, policy in policies.items():
        report = bench.patched(0x08, struct.pack("<Q", policy))
        yield bench.case(name, code, evidence=report)
    for name, vmpl in (("VMPL 4", 4), ("report for the hypervisor", 0xFFFFFFFF)):
        report = bench.patched(0x30, struct.pack("<I", vmpl))
        yield bench.case(name, code, evidence=report)
    report = bench.patched(0x110, b"\x01")
    yield bench.case("author key digest without the key", code, evidence=report)


def _signature(bench: Bench) -> Iterator[SnpCase]:
    code = Code.SNP_SIGNATURE_INVALID
    flips = {
        "report data flipped": 0x50,
        "measurement flipped": 0x90,
        "host data flipped": 0xC0,
        "guest SVN flipped": 0x04,
        "id key digest flipped": 0xE0,
        "report id flipped": 0x140,
        "launch TCB flipped": 0x1F0,
        "r flipped": 0x2A0,
        "s flipped": 0x2E8,
        "r too large": 0x2A0 + 48,
        "s too large": 0x2E8 + 71,
    }
    for name, offset in flips.items():
        yield bench.case(name, code, evidence=bench.flipped(offset))
    body = bench.report[:_BODY_BYTES]
    zero = body.ljust(_REPORT_BYTES, b"\0")
    yield bench.case("signature of zeros", code, evidence=zero)
    scalars = b"\xff" * 48 + bytes(24)
    large = (body + scalars + scalars).ljust(_REPORT_BYTES, b"\0")
    yield bench.case("r and s above the order", code, evidence=large)
    other = bench.world.chip("other", bench.product)
    report = other.sign(bench.fields())
    yield bench.case("signed by another chip", code, evidence=report)


def _key_info(bench: Bench) -> Iterator[SnpCase]:
    mismatch = Code.SNP_SIGNING_KEY_MISMATCH
    infos = {
        "VLEK named, VCEK signed": (1 << 2, mismatch),
        "reserved signing key": (2 << 2, mismatch),
        "unsigned report": (7 << 2, mismatch),
        "chip key masked": (2, mismatch),
        "reserved key info bit": (1 << 5, Code.SNP_REPORT_MALFORMED),
    }
    for name, (info, code) in infos.items():
        report = bench.patched(0x48, struct.pack("<I", info))
        yield bench.case(name, code, evidence=report)


def _products(world: AmdWorld, now: int) -> Iterator[SnpCase]:
    mismatch = Code.SNP_PRODUCT_MISMATCH
    milan, genoa = Bench(world, "Milan", now), Bench(world, "Genoa", now)
    foreign = milan.resigned(version=3, cpuid=(0x19, 0x11, 0))
    yield milan.case("Genoa report with a Milan chain", mismatch, evidence=foreign)
    yield genoa.case(
        "report of one product, certificates of another",
        mismatch,
        certificates=milan.certificates,
        roots=milan.roots,
    )
    named = milan.endorsed(product_name="Genoa-B0")
    yield milan.case("Genoa VCEK under Milan", mismatch, certificates=named)
    unknown = milan.resigned(version=3, cpuid=(0x17, 0x31, 0))
    yield milan.case("unknown processor", Code.SNP_PRODUCT_UNKNOWN, evidence=unknown)
    renamed = tuple(replace(root, product="Rome") for root in milan.roots)
    yield milan.case(
        "root of an unknown product", Code.SNP_PRODUCT_UNKNOWN, roots=renamed
    )
    crossed = replace(milan.certificates, intermediate=genoa.certificates.intermediate)
    yield milan.case(
        "Genoa ASK under the Milan ARK",
        Code.CERTIFICATE_ROLE_MISMATCH,
        certificates=crossed,
    )


def _levels(world: AmdWorld, now: int) -> Iterator[SnpCase]:
    code = Code.SNP_TCB_MISMATCH
    for product in ("Milan", "Turin"):
        bench = Bench(world, product, now)
        for component in ("bootloader", "tee", "snp", "microcode", "fmc"):
            level = getattr(bench.chip.tcb, component)
            if level is None:
                continue
            tcb = replace(bench.chip.tcb, **{component: level + 1})
            report = _reporting(bench, tcb)
            yield bench.case(f"{product} TCB {component}", code, evidence=report)
    milan = Bench(world, "Milan", now)
    report = milan.patched(0x182, b"\x01")
    yield milan.case("Milan TCB reserved byte", code, evidence=report)
    turin = Bench(world, "Turin", now)
    report = turin.patched(0x184, b"\x01")
    yield turin.case("Turin TCB reserved byte", code, evidence=report)


def _reporting(bench: Bench, tcb: SnpTcb) -> bytes:
    return bench.resigned(reported_tcb=encode_tcb(tcb))


def _chips(world: AmdWorld, now: int) -> Iterator[SnpCase]:
    code = Code.SNP_CHIP_ID_MISMATCH
    for product in ("Milan", "Turin"):
        bench = Bench(world, product, now)
        length = len(bench.chip.chip_id)
        report = bench.resigned(chip_id=bytes([1]) * length)
        yield bench.case(f"{product} chip id of another", code, evidence=report)
    turin = Bench(world, "Turin", now)
    longer = turin.chip.chip_id + b"\x01"
    report = turin.resigned(chip_id=longer)
    yield turin.case("Turin chip id too long", code, evidence=report)


def _tables(bench: Bench) -> Iterator[SnpCase]:
    code = Code.SNP_CERTIFICATE_TABLE_MALFORMED
    chain = bench.certificates
    good = table.certificate_table(chain, vlek=False)
    size = len(chain.signer)
    header = 4 * 24
    tables = {
        "table that does not end": good[: 24 * 3],
        "table cut inside a certificate": good[: header + size - 1],
        "duplicate table entries": table.encode_table(
            [(table.VCEK, chain.signer), (table.VCEK, chain.intermediate)]
        ),
        "overlapping table entries": _entry(good, 1, header + size - 1, 100),
        "entry inside the header": _entry(good, 0, 24, size),
        "entry outside the table": _entry(good, 2, header + size, 0xFFFFFFFF),
        "empty entry": _entry(good, 0, header, 0),
        "hidden byte behind the certificates": good[:-1] + b"\x01",
        "hidden bytes between certificates": _entry(good, 0, header + 1, size - 1),
        "too many entries": table.encode_table(
            [(table.VCEK, bytes([i + 1])) for i in range(17)]
        ),
    }
    for name, data in tables.items():
        yield bench.case(name, code, evidence=bench.report + data)


def _entry(data: bytes, index: int, offset: int, length: int) -> bytes:
    """A table with one entry's offset and length changed."""
    at = 24 * index + 16
    return data[:at] + struct.pack("<II", offset, length) + data[at + 8 :]


def _blobs(bench: Bench) -> Iterator[SnpCase]:
    malformed = Code.HCL_MALFORMED
    blob = bench.guest.hcl_evidence(RUNTIME_CLAIMS)
    claims = 32 + _REPORT_BYTES + 20
    changed = bytearray(blob)
    changed[claims + 2] ^= 1
    mismatch = Code.HCL_RUNTIME_DATA_MISMATCH
    yield bench.case("runtime claims changed", mismatch, evidence=bytes(changed))
    other = table.hcl_blob(bench.report, RUNTIME_CLAIMS)
    yield bench.case("report over other data", mismatch, evidence=other)
    runtime = 32 + _REPORT_BYTES
    patches = {
        "blob version 3": (4, struct.pack("<I", 3)),
        "blob size too large": (8, struct.pack("<I", 0xFFFFFFFF)),
        "blob for a TDX report": (12, struct.pack("<I", 4)),
        "blob reserved byte": (16, b"\x01"),
        "runtime data version 2": (runtime + 4, struct.pack("<I", 2)),
        "runtime data of TDX": (runtime + 8, struct.pack("<I", 4)),
        "runtime data under SHA-512": (runtime + 12, struct.pack("<I", 3)),
        "runtime data too long": (runtime + 16, struct.pack("<I", 5000)),
        "byte behind the blob": (len(blob) - 1, b"\x01"),
    }
    for name, (offset, value) in patches.items():
        data = blob[:offset] + value + blob[offset + len(value) :]
        yield bench.case(name, malformed, evidence=data)
    yield bench.case("blob cut short", malformed, evidence=blob[:1200])
    yield bench.case("oversized blob", malformed, evidence=blob + bytes(16384))
