# SPDX-License-Identifier: Apache-2.0
"""Defects of certificates, CRLs and roots, by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tightseal.errors import Code
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal_sim.amd import pki
from tightseal_sim.amd.bench import REPORT_DATA, Bench, SnpCase
from tightseal_sim.amd.guest import GuestImage
from tightseal_sim.amd.keys import public_spki
from tightseal_sim.amd.world import CSP_ID, AmdWorld
from tightseal_sim.derive import Seed

__all__ = ["certificate_cases"]


def certificate_cases(bench: Bench, attacker: AmdWorld) -> Iterator[SnpCase]:
    """Every defect of a chain, each with the code that must come of it."""
    yield from _roots(bench, attacker)
    yield from _intermediates(bench, attacker)
    yield from _signers(bench)
    yield from _malformed_signers(bench)
    yield from _extensions(bench)
    yield from _roles(bench)
    yield from _role_marks(bench)
    yield from _dates(bench)
    yield from _revocation(bench, attacker)


def _roots(bench: Bench, attacker: AmdWorld) -> Iterator[SnpCase]:
    untrusted = Code.ROOT_NOT_TRUSTED
    foreign = Bench(attacker, bench.product, bench.now)
    yield foreign.case("foreign ARK", untrusted, roots=bench.roots)
    bare = replace(foreign.certificates, root=None)
    yield foreign.case(
        "foreign ARK not delivered", untrusted, certificates=bare, roots=bench.roots
    )
    borrowed = replace(foreign.certificates, root=bench.certificates.root)
    yield foreign.case(
        "foreign ASK under the pinned ARK",
        Code.CERTIFICATE_CHAIN_INVALID,
        certificates=borrowed,
        roots=bench.roots,
    )
    swapped = replace(bench.certificates, root=foreign.certificates.root)
    yield bench.case("delivered ARK is foreign", untrusted, certificates=swapped)
    yield bench.case("no roots", untrusted, roots=())
    vendor = VENDOR_ROOTS.amd
    yield bench.case("simulated ARK under vendor roots", untrusted, roots=vendor)
    garbled = replace(bench.certificates, root=b"\x30\x00")
    yield bench.case("garbled ARK", Code.CERTIFICATE_MALFORMED, certificates=garbled)


def _intermediates(bench: Bench, attacker: AmdWorld) -> Iterator[SnpCase]:
    invalid, role = Code.CERTIFICATE_CHAIN_INVALID, Code.CERTIFICATE_ROLE_MISMATCH
    fields = bench.world.intermediate_fields(bench.product, vlek=False)
    forged = pki.issue(fields, attacker.root_key(bench.product))
    yield bench.case(
        "ASK not signed by ARK",
        invalid,
        certificates=replace(bench.certificates, intermediate=forged),
    )
    weak = pki.issue(fields, bench.world.root_key(bench.product), weak=True)
    yield bench.case(
        "ASK signed with SHA-256",
        invalid,
        certificates=replace(bench.certificates, intermediate=weak),
    )
    yield bench.case(
        "ARK in the place of the ASK",
        role,
        certificates=replace(
            bench.certificates,
            intermediate=bench.world.root_certificate(bench.product),
        ),
    )
    changes: tuple[tuple[str, Code, dict[str, Any]], ...] = (
        ("ASK of another product", role, {"subject": pki.name("SEV-Genoa")}),
        ("ASK that is no CA", role, {"extensions": ()}),
        ("ASK with another issuer", invalid, {"issuer": pki.name("ARK-Genoa")}),
    )
    for name, code, change in changes:
        chain = bench.intermediate(**change)
        yield bench.case(name, code, certificates=chain)


def _signers(bench: Bench) -> Iterator[SnpCase]:
    invalid = Code.CERTIFICATE_CHAIN_INVALID
    fields = bench.signer_fields()
    by_root = pki.issue(fields, bench.world.root_key(bench.product))
    yield bench.case(
        "VCEK signed by the ARK",
        invalid,
        certificates=replace(bench.certificates, signer=by_root),
    )
    yield bench.case(
        "VCEK signed by the ASVK",
        invalid,
        certificates=bench.signer(by_asvk=True),
    )
    yield bench.case(
        "VCEK signed with SHA-256", invalid, certificates=bench.signer(weak=True)
    )
    other = bench.signer(issuer=pki.name("SEV-Other"))
    yield bench.case("VCEK with another issuer", invalid, certificates=other)
    flipped = bytearray(bench.certificates.signer)
    flipped[-1] ^= 1
    yield bench.case(
        "VCEK not signed by ASK",
        invalid,
        certificates=replace(bench.certificates, signer=bytes(flipped)),
    )
    p256 = Seed(bytes(32)).p256("vcek")
    small = bench.signer(spki=public_spki(p256))
    yield bench.case("P-256 VCEK", Code.SNP_SIGNATURE_ALGORITHM, certificates=small)
    rsa = public_spki(bench.world.root_key(bench.product))
    wrong = bench.signer(spki=rsa)
    yield bench.case("RSA VCEK", Code.SNP_SIGNATURE_ALGORITHM, certificates=wrong)


def _malformed_signers(bench: Bench) -> Iterator[SnpCase]:
    malformed = Code.CERTIFICATE_MALFORMED
    said = bench.signer_fields().extensions
    certificate = bench.certificates.signer
    garbled = {
        "empty VCEK": b"",
        "truncated VCEK": certificate[:-1],
        "VCEK with a trailing byte": certificate + b"\0",
        "oversized VCEK": certificate + bytes(8192),
    }
    for name, data in garbled.items():
        chain = replace(bench.certificates, signer=data)
        yield bench.case(name, malformed, certificates=chain)
    critical = bytes.fromhex("300e06042a0304050101ff0403020100")
    unknown = bench.signer(extensions=(*said, critical))
    yield bench.case("unknown critical extension", malformed, certificates=unknown)
    twice = bench.signer(extensions=(*said, said[0]))
    yield bench.case("repeated extension", malformed, certificates=twice)


def _extensions(bench: Bench) -> Iterator[SnpCase]:
    invalid = Code.SNP_EXTENSION_INVALID
    said = bench.signer_fields().extensions
    for index in (0, 1, 2, 3, 4, 5):
        kept = tuple(e for i, e in enumerate(said) if i != index)
        chain = bench.signer(extensions=kept)
        yield bench.case(f"extension {index} missing", invalid, certificates=chain)
    changes: tuple[tuple[str, Code, dict[str, Any]], ...] = (
        ("structure of Turin on Milan", invalid, {"structure": 1}),
        ("hardware id cut short", invalid, {"hardware_id": bytes(63)}),
        ("hardware id of Turin on Milan", invalid, {"hardware_id": bytes(8)}),
        ("unknown product", Code.SNP_PRODUCT_UNKNOWN, {"product_name": "Rome-B0"}),
        (
            "product with an empty stepping",
            Code.SNP_PRODUCT_UNKNOWN,
            {"product_name": "Milan-"},
        ),
    )
    for name, code, change in changes:
        chain = bench.endorsed(**change)
        yield bench.case(name, code, certificates=chain)


def _roles(bench: Bench) -> Iterator[SnpCase]:
    role = Code.CERTIFICATE_ROLE_MISMATCH
    hosted = bench.world.chip("hosted", bench.product)
    hosted.vlek = True
    vlek = hosted.certificates()
    report = hosted.launch(GuestImage(b"kernel")).report(REPORT_DATA)
    under_ask = replace(vlek, intermediate=bench.certificates.intermediate)
    yield bench.case(
        "VLEK through the ASK", role, evidence=report, certificates=under_ask
    )
    under_asvk = replace(bench.certificates, intermediate=vlek.intermediate)
    yield bench.case("VCEK through the ASVK", role, certificates=under_asvk)
    fields, _ = bench.world.signer_fields(
        hosted.name, hosted.line, hosted.tcb, vlek=True
    )
    issuer = pki.name(f"SEV-{bench.product}")
    made = pki.issue(
        replace(fields, issuer=issuer),
        bench.world.intermediate_key(bench.product, vlek=False),
    )
    confused = replace(bench.certificates, signer=made)
    yield bench.case(
        "VLEK that the ASK signed", role, evidence=report, certificates=confused
    )
    yield bench.case(
        "VLEK for a report by the VCEK",
        Code.SNP_SIGNING_KEY_MISMATCH,
        certificates=vlek,
    )


def _role_marks(bench: Bench) -> Iterator[SnpCase]:
    role = Code.CERTIFICATE_ROLE_MISMATCH
    both = bench.endorsed(csp_id=CSP_ID)
    yield bench.case("VCEK with a CSP id", role, certificates=both)
    neither = bench.endorsed(hardware_id=None)
    yield bench.case("VCEK without a hardware id", role, certificates=neither)
    named = bench.signer(subject=pki.name("SEV-Milan"))
    yield bench.case("signer of another name", role, certificates=named)
    extensions = *bench.signer_fields().extensions, *pki.authority_extensions(None)
    authority = bench.signer(extensions=extensions)
    yield bench.case("VCEK that is a CA", role, certificates=authority)


def _dates(bench: Bench) -> Iterator[SnpCase]:
    now = bench.now
    windows: tuple[tuple[str, Code, dict[str, Any]], ...] = (
        ("expired", Code.CERTIFICATE_EXPIRED, {"not_after": now - 1}),
        ("not yet valid", Code.CERTIFICATE_NOT_YET_VALID, {"not_before": now + 1}),
    )
    for name, code, window in windows:
        signer = bench.signer(**window)
        yield bench.case(f"VCEK {name}", code, certificates=signer)
        chain = bench.intermediate(**window)
        yield bench.case(f"ASK {name}", code, certificates=chain)


def _revocation(bench: Bench, attacker: AmdWorld) -> Iterator[SnpCase]:
    now, product = bench.now, bench.product
    revoked = bench.world.crl(product, now=now, revoked=True)
    yield bench.case(
        "revoked ASK",
        Code.CERTIFICATE_REVOKED,
        certificates=replace(bench.certificates, crl=revoked),
    )
    forged = attacker.crl(product, now=now)
    yield bench.case(
        "CRL by an attacker",
        Code.CRL_SIGNATURE_INVALID,
        certificates=replace(bench.certificates, crl=forged),
    )
    changes: tuple[tuple[str, Code, dict[str, Any]], ...] = (
        ("expired CRL", Code.CRL_EXPIRED, {"next_update": now - 1}),
        ("CRL of the future", Code.CRL_NOT_YET_VALID, {"this_update": now + 1}),
        (
            "CRL of another product",
            Code.CRL_ISSUER_MISMATCH,
            {"issuer": pki.name("ARK-Genoa")},
        ),
    )
    for name, code, change in changes:
        yield bench.case(name, code, certificates=bench.crl(**change))
    good = bench.world.crl(product, now=now)
    garbled = {
        "empty CRL": b"",
        "truncated CRL": good[:-1],
        "CRL with a trailing byte": good + b"\0",
        "oversized CRL": good + bytes(65536),
        "certificate in the place of the CRL": bench.certificates.intermediate,
    }
    for name, data in garbled.items():
        chain = replace(bench.certificates, crl=data)
        yield bench.case(name, Code.CRL_MALFORMED, certificates=chain)
