# SPDX-License-Identifier: Apache-2.0
"""Vendor root keys against the vendors' own certificates; simulated roots apart."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tightseal.errors import Code, SettingsError
from tightseal.evidence.roots import (
    VENDOR_KEYS,
    VENDOR_ROOTS,
    VendorKey,
    root_key_id,
    simulated_root,
    with_simulated,
)
from tightseal.model.claims import Vendor
from tightseal_sim.world import World

INTEL_ROOT_KEY_ID = (
    "46e403bd34f05a3f2817ab9badcaacc7ffc98e0f261008cd"
    "30dae936cace18d5dcf58eef31463613de1570d516200993"
)
FILES = {
    "": "intel-sgx-root.der",
    "Milan": "amd/milan-ark.der",
    "Genoa": "amd/genoa-ark.der",
    "Turin": "amd/turin-ark.der",
}


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"roots".ljust(32, b"\0"))


@pytest.mark.parametrize("key", VENDOR_KEYS, ids=lambda k: k.product or "Intel")
def test_vendor_key_is_the_published_one(key: VendorKey, vectors: Path) -> None:
    data = (vectors / "roots" / FILES[key.product]).read_bytes()
    index = json.loads((vectors / "roots" / "INDEX.json").read_text())
    entry = next(e for e in index if e["file"] == FILES[key.product])
    certificate = x509.load_der_x509_certificate(data)
    spki = certificate.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    assert key.spki == spki
    assert hashlib.sha256(key.spki).hexdigest() == key.spki_sha256
    assert key.spki_sha256 == entry["spki_sha256"]
    assert key.certificate_sha256 == hashlib.sha256(data).hexdigest()
    assert key.certificate_sha256 == entry["sha256"]
    assert key.subject == entry["subject"]


def test_intel_root_key_id_is_the_one_others_print() -> None:
    (intel,) = VENDOR_ROOTS.intel
    assert intel.trust_domain.root_key_id == INTEL_ROOT_KEY_ID
    assert str(intel.trust_domain) == "intel"


def test_root_key_id_is_over_the_bit_string() -> None:
    for key in VENDOR_KEYS:
        bits = key.spki[key.spki.index(b"\x03", 16) :]
        at = bits.index(b"\0") + 1
        assert hashlib.sha384(bits[at:]).hexdigest() == root_key_id(key.spki)


def test_vendor_roots_cover_every_product_once() -> None:
    assert [r.product for r in VENDOR_ROOTS.amd] == ["Milan", "Genoa", "Turin"]
    assert {r.trust_domain.vendor for r in VENDOR_ROOTS.amd} == {Vendor.AMD}
    assert len({r.spki for r in VENDOR_ROOTS.amd + VENDOR_ROOTS.intel}) == 4


def test_simulated_roots_land_with_their_kind(world: World) -> None:
    intel = simulated_root(world.intel.root_certificate)
    assert [r.trust_domain.vendor for r in intel.intel] == [Vendor.SIMULATED]
    assert not intel.amd
    amd = simulated_root(world.amd.root_certificate("Genoa"))
    assert [(r.name, r.product) for r in amd.amd] == [("ARK-Genoa", "Genoa")]
    assert not amd.intel


def test_simulated_root_is_read_from_pem_and_der_alike(world: World) -> None:
    der = world.intel.root_certificate
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    assert simulated_root(pem) == simulated_root(der)


def test_adding_a_simulated_root_twice_changes_nothing(world: World) -> None:
    once = with_simulated(VENDOR_ROOTS, world.intel.root_certificate)
    assert len(once.intel) == 2
    assert with_simulated(once, world.intel.root_certificate) == once
    assert once.intel[0] == VENDOR_ROOTS.intel[0]


@pytest.mark.parametrize("name", FILES.values())
def test_a_vendors_key_is_refused_as_simulated(name: str, vectors: Path) -> None:
    with pytest.raises(SettingsError) as e:
        with_simulated(VENDOR_ROOTS, (vectors / "roots" / name).read_bytes())
    assert e.value.code is Code.SETTINGS_INVALID
    assert "vendor" in e.value.detail


def test_what_is_no_self_signed_root_is_refused(world: World) -> None:
    good = world.intel.root_certificate
    flipped = good[:-1] + bytes([good[-1] ^ 1])
    leaf = world.intel.tcb_signing.certificate.public_bytes(Encoding.DER)
    for bad in (b"", b"-----BEGIN nothing", good[:-1], flipped, leaf, bytes(1 << 15)):
        with pytest.raises(SettingsError):
            simulated_root(bad)


def test_a_key_of_another_kind_is_no_root() -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for bad in (spki, b"", VENDOR_KEYS[0].spki[:-1]):
        with pytest.raises(SettingsError):
            root_key_id(bad)


def test_a_simulated_domain_is_named_by_its_key(world: World) -> None:
    (root,) = simulated_root(world.intel.root_certificate).intel
    assert root == replace(world.intel.trusted_root, name=root.name)
    assert str(root.trust_domain) == f"simulated:{root_key_id(root.spki)}"
