# SPDX-License-Identifier: Apache-2.0
"""Attacks on what verification remembers: results, parts of collateral, marks."""

import base64
import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tightseal.collateral import guardfile
from tightseal.collateral.cache import RecordCache
from tightseal.collateral.guard import MemoryGuard
from tightseal.collateral.guardfile import FileGuard
from tightseal.collateral.kds import chain_name, signer_name
from tightseal.collateral.parts import Part, PartKind, intel_names, make_part, split
from tightseal.collateral.source import CachedSource
from tightseal.errors import Code, CollateralError, EvidenceError, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.verifier import CHECKS, verify_quote
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.model.claims import Check, Claims, Outcome, SnpTcb, Tee
from tightseal.model.collateral import CollateralFacts, IntelCollateral
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.td import TdImage
from tightseal_sim.world import World

NOW = 1_790_000_000
DAY = 86_400


class Bench:
    """A simulated world, one warm verifier, and what an attacker starts from."""

    def __init__(self) -> None:
        self.intel = World.in_memory(b"attacks".ljust(32, b"\0")).intel
        self.platform = self.intel.platform("one")
        self.quote = self.platform.launch_td(TdImage()).evidence(bytes(64))
        self.cache = ResultCache(512)

    def collateral(self, tee: Tee = Tee.TDX, now: int = NOW) -> IntelCollateral:
        return self.intel.collateral(
            fmspc=self.platform.fmspc, ca="platform", tee=tee, now=now
        )

    def verify(
        self,
        quote: bytes,
        given: IntelCollateral,
        *,
        now: int = NOW,
        guard: MemoryGuard | None = None,
    ) -> Claims:
        return verify_quote(
            quote,
            given,
            now=now,
            roots=(self.intel.trusted_root,),
            guard=guard,
            cache=self.cache,
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def with_chain(quote: bytes, pem: bytes) -> bytes:
    """A version 4 quote with another chain in its unsigned part."""
    parsed = parse_quote(quote)
    before = quote[: parsed.declared_length - len(parsed.certification_data) - 4]
    head, rest = before[:632], before[636:]
    inner_at = 64 + 64 + 2
    inner = rest[inner_at + 4 :] + len(pem).to_bytes(4, "little") + pem
    section = rest[:inner_at] + len(inner).to_bytes(4, "little") + inner
    return head + len(section).to_bytes(4, "little") + section


def rewrapped(pem: bytes, width: int) -> bytes:
    def wrap(block: re.Match[bytes]) -> bytes:
        text = block[1].replace(b"\n", b"")
        lines = [text[at : at + width] for at in range(0, len(text), width)]
        return block[0].replace(block[1], b"\n".join(lines) + b"\n")

    return re.sub(rb"CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)-----END", wrap, pem)


def test_one_chain_rewritten_does_not_fill_the_cache(bench: Bench) -> None:
    given = bench.collateral()
    bench.verify(bench.quote, given)
    kept = len(bench.cache)
    pem = parse_quote(bench.quote).certification_data
    assert with_chain(bench.quote, pem) == bench.quote
    forms = [rewrapped(pem, width) for width in range(4, 64)]
    forms += [pem.rstrip(b"\n\0") + b"\n" * n for n in range(2, 40)]
    forms += [pem.replace(b"\n", b"\r\n", n) for n in range(1, 30)]
    for form in forms:
        assert form != pem
        with pytest.raises(EvidenceError) as caught:
            bench.verify(with_chain(bench.quote, form), given)
        assert caught.value.code is Code.CERTIFICATE_MALFORMED
    assert len(bench.cache) == kept


def boundaries(given: IntelCollateral) -> list[int]:
    """Every moment at which any part of collateral begins or ends, and neighbours."""
    moments: set[int] = set()
    for part in split(given):
        moments |= {part.issued_at, part.expires_at}
    return sorted({m + d for m in moments for d in (-1, 0, 1)})


def judged(call: Callable[[], Claims]) -> tuple[object, ...]:
    try:
        claims = call()
    except TightsealError as error:
        return (error.code, error.checks)
    return (claims,)


def test_a_warm_verdict_is_the_cold_verdict_at_every_moment(bench: Bench) -> None:
    given = bench.collateral()
    bench.verify(bench.quote, given)
    seen = set()
    for now in [0, *boundaries(given), NOW, NOW + 36_500 * DAY]:
        warm = judged(partial(bench.verify, bench.quote, given, now=now))
        roots = (bench.intel.trusted_root,)
        cold = judged(partial(verify_quote, bench.quote, given, now=now, roots=roots))
        assert warm == cold
        seen.add(len(warm))
    assert seen == {1, 2}


def test_what_stood_for_one_tee_does_not_stand_for_the_other(bench: Bench) -> None:
    td, enclave = bench.collateral(Tee.TDX), bench.collateral(Tee.SGX)
    sgx = bench.platform.load_enclave(EnclaveImage(name="app")).evidence(bytes(64))
    bench.verify(bench.quote, td)
    bench.verify(sgx, enclave)
    for quote, given in ((sgx, td), (bench.quote, enclave)):
        with pytest.raises(CollateralError) as caught:
            bench.verify(quote, given)
        assert caught.value.code is Code.TCB_INFO_TYPE_MISMATCH


def test_a_chain_in_the_collateral_is_compared_on_a_warm_cache(bench: Bench) -> None:
    given = bench.collateral()
    bench.verify(bench.quote, given)
    other = bench.intel.platform("two").launch_td(TdImage()).evidence(bytes(64))
    foreign = parse_quote(other).certification_data.rstrip(b"\0").decode()
    with pytest.raises(EvidenceError) as caught:
        bench.verify(bench.quote, replace(given, pck_certificate_chain=foreign))
    assert caught.value.code is Code.EMBEDDED_CHAIN_MISMATCH


def test_a_warm_cache_does_not_hide_going_back(bench: Bench) -> None:
    older, newer = bench.collateral(now=NOW), bench.collateral(now=NOW + DAY)
    guard = MemoryGuard(floors=())
    late = NOW + DAY + 60
    bench.verify(bench.quote, older, now=late, guard=guard)
    bench.verify(bench.quote, newer, now=late, guard=guard)
    with pytest.raises(CollateralError) as caught:
        bench.verify(bench.quote, older, now=late, guard=guard)
    assert caught.value.code is Code.COLLATERAL_ROLLBACK
    made = [check for check in caught.value.checks if isinstance(check, Check)]
    assert made[-1].outcome is Outcome.FAILED
    assert [check.name for check in made] == [r.name for r in CHECKS[: len(made)]]


def forged(genuine: Part, real_root: bytes, *, number: int, issued: int) -> Part:
    """A part by a stranger, with dates of his own and the genuine root behind it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Intel SGX TCB Signing")])
    moment = datetime.fromtimestamp(NOW, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.load_der_x509_certificate(real_root).subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(moment - timedelta(days=1))
        .not_valid_after(moment + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    fields = json.loads(genuine.body)
    fields["tcbEvaluationDataNumber"] = number
    fields["issueDate"] = datetime.fromtimestamp(issued, UTC).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )
    body = json.dumps(fields).encode()
    r, s = decode_dss_signature(key.sign(body, ec.ECDSA(hashes.SHA256())))
    root_pem = x509.load_der_x509_certificate(real_root).public_bytes(Encoding.PEM)
    return make_part(
        genuine.name,
        body,
        signature=r.to_bytes(32, "big") + s.to_bytes(32, "big"),
        chain=(certificate.public_bytes(Encoding.PEM) + root_pem).decode(),
    )


@pytest.mark.parametrize("at", [0, 1], ids=["tcb_info", "qe_identity"])
def test_a_forged_newer_part_does_not_lock_the_genuine_ones_out(
    bench: Bench, tmp_path: Path, at: int
) -> None:
    parts = split(bench.collateral())
    root = bench.intel.root_certificate
    source = CachedSource(
        cache=RecordCache(tmp_path, roots=with_simulated(VENDOR_ROOTS, root))
    )
    spoiler = forged(parts[at], root, number=(1 << 32) - 1, issued=NOW - 1)
    with pytest.raises(CollateralError) as caught:
        source.add(spoiler, now=NOW)
    assert caught.value.code is Code.ROOT_NOT_TRUSTED
    for part in parts:
        source.add(part, now=NOW)
    names = intel_names(fmspc=bench.platform.fmspc, ca="platform", tee=Tee.TDX)
    assert {r.part.name for r in source.cache.records()} == set(names)


def test_parts_of_a_root_that_is_not_switched_on_are_kept_out(bench: Bench) -> None:
    source = CachedSource(cache=RecordCache(None, roots=VENDOR_ROOTS))
    for part in split(bench.collateral()):
        if part.name.kind is PartKind.PCK_CRL and not part.chain:
            continue
        with pytest.raises(CollateralError) as caught:
            source.add(part, now=NOW)
        assert caught.value.code is Code.ROOT_NOT_TRUSTED


def test_a_strange_vcek_is_not_kept_for_years(vectors: Path) -> None:
    folder = vectors / "snp"
    good = folder / "snp-milan-trustee"
    chain = b"".join(
        x509.load_der_x509_certificate((good / name).read_bytes()).public_bytes(
            Encoding.PEM
        )
        for name in ("ask.der", "ark.der")
    )
    source = CachedSource(cache=RecordCache(None, roots=VENDOR_ROOTS))
    source.add(make_part(chain_name("Milan", vlek=False), chain), now=NOW)
    name = signer_name(
        product="Milan",
        chip_id=b"\1" * 64,
        tcb=SnpTcb(bootloader=1, tee=0, snp=8, microcode=115),
    )
    stranger = (folder / "snp-neg-vcek-invalid-legacy" / "vcek.der").read_bytes()
    with pytest.raises(CollateralError) as caught:
        source.add(make_part(name, stranger), now=NOW)
    assert caught.value.code is Code.ROOT_NOT_TRUSTED
    source.add(make_part(name, (good / "vcek.der").read_bytes()), now=NOW)
    with pytest.raises(CollateralError) as caught:
        source.add(make_part(chain_name("Genoa", vlek=False), chain), now=NOW)
    assert caught.value.code is Code.ROOT_NOT_TRUSTED


def test_a_slow_reader_of_the_guard_file_sinks_no_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that read the file before a mark rose ends after it did."""
    path = tmp_path / "guard"
    guard = FileGuard.create(path, floors=())
    fact = CollateralFacts("intel", "tdx", "qe_identity", NOW, 5)
    guard.admit((fact,), now=NOW)
    before = path.read_bytes()
    newer = replace(fact, number=9)
    reached, go_on = threading.Event(), threading.Event()
    real = guardfile.FileGuard._decode

    def slow(self: FileGuard, data: bytes) -> object:
        marks = real(self, data)
        if threading.current_thread() is reader:
            reached.set()
            go_on.wait(10)
        return marks

    monkeypatch.setattr(guardfile.FileGuard, "_decode", slow)
    reader = threading.Thread(target=lambda: guard.check((newer,)))
    path.write_bytes(before)  # another stamp: the reader reads again
    reader.start()
    assert reached.wait(10)
    guard.admit((newer,), now=NOW)
    go_on.set()
    reader.join(10)
    assert {mark.number for mark in guard.marks.values()} == {9}


def test_base64_of_the_chain_has_one_form(bench: Bench) -> None:
    """Bits that padding leaves unused carry nothing."""
    pem = parse_quote(bench.quote).certification_data
    at = pem.index(b"=\n-----END")
    line = pem[pem.rindex(b"\n", 0, at) + 1 : at + 1]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = len(line.rstrip(b"=")) - 1
    other = alphabet[alphabet.index(line[last]) ^ 1]
    twin = line[:last] + bytes([other]) + line[last + 1 :]
    assert base64.b64decode(twin) == base64.b64decode(line)
    with pytest.raises(EvidenceError) as caught:
        bench.verify(
            with_chain(bench.quote, pem.replace(line, twin)), bench.collateral()
        )
    assert caught.value.code is Code.CERTIFICATE_MALFORMED
