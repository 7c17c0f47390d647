# SPDX-License-Identifier: Apache-2.0
"""The simulated Intel world: real verifiers accept it, under its own root alone."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dcap_qvl
import pytest
from cryptography import x509

from tightseal.errors import Code, CollateralError, PlatformError, SettingsError
from tightseal.model.claims import TcbStatus, Tee, Vendor
from tightseal_sim.intel.collateral import collateral_json
from tightseal_sim.intel.enclave import EnclaveImage, SimEnclave
from tightseal_sim.intel.platform import SimPlatform
from tightseal_sim.intel.quote import QuoteForm
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.intel.world import IntelWorld
from tightseal_sim.world import World

NOW = 1_790_000_000
DATA = bytes(range(64))
TD_FORMS = [f for f in QuoteForm if f is not QuoteForm.V3_SGX]
TIMES = [
    1_600_000_000,
    NOW,
    NOW - NOW % 86400,
    NOW - NOW % 86400 + 86399,
    2_500_000_000,
]


def collateral(
    platform: SimPlatform, tee: Tee, now: int = NOW, world: IntelWorld | None = None
) -> dcap_qvl.QuoteCollateralV3:
    found = (world or platform.world).collateral(
        fmspc=platform.fmspc, ca=platform.ca, tee=tee, now=now
    )
    return dcap_qvl.QuoteCollateralV3.from_json(collateral_json(found))


def judged(source: SimTd | SimEnclave, quote: bytes, now: int = NOW) -> object:
    tee = Tee.TDX if isinstance(source, SimTd) else Tee.SGX
    root = source.platform.world.root_certificate
    return dcap_qvl.verify_with_root_ca(
        quote, collateral(source.platform, tee, now), root, now
    )


def claims(source: SimTd | SimEnclave, quote: bytes) -> dict[str, object]:
    tee = Tee.TDX if isinstance(source, SimTd) else Tee.SGX
    verifier = dcap_qvl.QuoteVerifier(source.platform.world.root_certificate)
    policy = dcap_qvl.QuotePolicy.strict(NOW)
    given = collateral(source.platform, tee)
    verdict = verifier.verify_with_policy(quote, given, NOW, policy)
    found: dict[str, object] = json.loads(verdict.to_json())
    return found


@pytest.fixture
def td(world: World) -> SimTd:
    return world.intel.platform("host").launch_td(TdImage())


@pytest.fixture
def enclave(world: World) -> SimEnclave:
    return world.intel.platform("host").load_enclave(EnclaveImage("tightseal-provider"))


@pytest.mark.parametrize("form", TD_FORMS)
@pytest.mark.parametrize("now", TIMES)
def test_td_quotes_are_accepted_under_the_own_root(
    td: SimTd, form: QuoteForm, now: int
) -> None:
    report = judged(td, td.quote(DATA, form=form), now)
    assert report.status == "UpToDate"  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", TD_FORMS)
def test_td_quotes_are_refused_under_intels_root(td: SimTd, form: QuoteForm) -> None:
    with pytest.raises(ValueError, match="root CA CRL"):
        dcap_qvl.verify(
            td.quote(DATA, form=form), collateral(td.platform, Tee.TDX), NOW
        )


@pytest.mark.parametrize("now", TIMES)
def test_sgx_quotes_are_accepted_under_the_own_root_alone(
    enclave: SimEnclave, now: int
) -> None:
    quote = enclave.evidence(DATA)
    assert judged(enclave, quote, now).status == "UpToDate"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="root CA CRL"):
        dcap_qvl.verify(quote, collateral(enclave.platform, Tee.SGX, now), now)


def test_strict_policy_reads_what_was_put_in(td: SimTd, enclave: SimEnclave) -> None:
    platform = td.platform
    for source in (td, enclave):
        found = claims(source, source.evidence(DATA))
        pck = found["platform"]["pck"]  # type: ignore[index]
        assert bytes(pck["ppid"]) == platform.ppid
        assert bytes(pck["platform_instance_id"]) == platform.piid
        assert bytes(pck["fmspc"]) == platform.fmspc
        assert bytes(pck["cpu_svn"]) == platform.cpusvn
        root = bytes(found["platform"]["root_key_id"]).hex()  # type: ignore[index]
        assert root == platform.world.trusted_root.trust_domain.root_key_id


def test_measurements_of_the_quote_are_the_tds(td: SimTd) -> None:
    td.extend(3, ("app-id", b"\x01" * 20))
    report = claims(td, td.evidence(DATA))["report"]["TD10"]  # type: ignore[index]
    expected = {name.replace("rtmr", "rt_mr"): v for name, v in td.measurements.items()}
    assert report["mr_td"] == expected.pop("mrtd").hex()
    for name, value in expected.items():
        assert report[name] == value.hex()
    assert report["report_data"] == DATA.hex()


def test_sgx_and_td_of_one_machine_share_the_ppid(world: World) -> None:
    one, two = world.intel.platform("one"), world.intel.platform("two")
    found = set()
    for platform in (one, two):
        td = platform.launch_td(TdImage())
        enclave = platform.load_enclave(EnclaveImage("e"))
        reports = [judged(s, s.evidence(DATA)) for s in (td, enclave)]
        ppids = {bytes(r.ppid) for r in reports}  # type: ignore[attr-defined]
        assert ppids == {platform.ppid}
        # The quoting enclaves differ, so the header's QE id links nothing.
        assert td.evidence(DATA)[28:44] != enclave.evidence(DATA)[28:44]
        found |= ppids
    assert len(found) == 2


def test_processor_ca_has_no_piid_and_no_tdx(world: World) -> None:
    platform = world.intel.platform("desktop", ca="processor")
    enclave = platform.load_enclave(EnclaveImage("e"))
    assert platform.piid is None
    assert judged(enclave, enclave.evidence(DATA)).status == "UpToDate"  # type: ignore[attr-defined]
    with pytest.raises(PlatformError) as refused:
        platform.launch_td(TdImage())
    assert refused.value.code is Code.PLATFORM_UNSUPPORTED


def test_two_worlds_do_not_accept_each_others_quotes() -> None:
    worlds = [World.in_memory(bytes([n]) * 32).intel for n in (1, 2)]
    for own, other in (worlds, reversed(worlds)):
        td = own.platform("host").launch_td(TdImage())
        quote = td.evidence(DATA)
        judged(td, quote)
        for given, root in (
            (collateral(td.platform, Tee.TDX), other.root_certificate),
            (collateral(td.platform, Tee.TDX, world=other), other.root_certificate),
            (collateral(td.platform, Tee.TDX, world=other), own.root_certificate),
        ):
            with pytest.raises(ValueError, match="Verification failed"):
                dcap_qvl.verify_with_root_ca(quote, given, root, NOW)


def test_two_worlds_share_no_identity_and_no_key() -> None:
    first, second = (World.in_memory(bytes([n]) * 32).intel for n in (1, 2))
    assert first.trusted_root.trust_domain != second.trusted_root.trust_domain
    assert first.trusted_root.trust_domain.vendor is Vendor.SIMULATED
    image = EnclaveImage("tightseal-provider")
    a, b = (w.platform("host").load_enclave(image) for w in (first, second))
    assert a.platform.ppid != b.platform.ppid
    assert a.sealing_key() != b.sealing_key()
    # What an image measures to is a matter of the image alone.
    assert a.own_measurement() == b.own_measurement()


def test_names_and_profile_are_intels(world: World) -> None:
    platform = world.intel.platform("host")
    leaf, ca, root = x509.load_pem_x509_certificates(platform.pck_chain.encode())
    signing = x509.load_pem_x509_certificates(world.intel.tcb_signing_chain.encode())[0]
    names = [
        c.subject.rfc4514_string().split(",")[-1] for c in (leaf, ca, root, signing)
    ]
    assert names == [
        "CN=Intel SGX PCK Certificate",
        "CN=Intel SGX PCK Platform CA",
        "CN=Intel SGX Root CA",
        "CN=Intel SGX TCB Signing",
    ]
    leaf.verify_directly_issued_by(ca)
    ca.verify_directly_issued_by(root)
    signing.verify_directly_issued_by(root)
    for certificate in (leaf, ca, root, signing):
        assert certificate.not_valid_before_utc == datetime(2020, 1, 1, tzinfo=UTC)
        assert certificate.not_valid_after_utc.year == 2049
    usage = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (usage.critical, usage.value.ca) == (True, False)


def test_crls_have_number_key_id_and_next_update(world: World) -> None:
    intel = world.intel
    for crl, issuer in (
        (intel.root_crl(NOW), intel.root),
        (intel.pck_crl("platform", NOW), intel.pck_cas["platform"]),
        (intel.pck_crl("processor", NOW), intel.pck_cas["processor"]),
    ):
        parsed = x509.load_der_x509_crl(crl.encode())
        assert parsed.is_signature_valid(issuer.certificate.public_key())  # type: ignore[arg-type]
        number = parsed.extensions.get_extension_for_class(x509.CRLNumber)
        assert number.value.crl_number >= 1
        parsed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
        assert parsed.next_update_utc is not None
        assert parsed.last_update_utc <= datetime.fromtimestamp(NOW, UTC)


def test_collateral_of_one_day_is_one_and_the_same(world: World) -> None:
    def at(now: int) -> object:
        fmspc = world.intel.platform("host").fmspc
        return world.intel.collateral(fmspc=fmspc, ca="platform", tee=Tee.TDX, now=now)

    midnight = NOW - NOW % 86400
    assert at(midnight) == at(midnight + 86399)
    assert at(midnight) != at(midnight + 86400)


@pytest.mark.parametrize(
    ("fmspc", "ca", "tee"),
    [
        (bytes(6), "platform", Tee.TDX),
        (bytes.fromhex("70f06d070000"), "cloud", Tee.TDX),
        (bytes.fromhex("70f06d070000"), "platform", Tee.SNP),
    ],
)
def test_unknown_collateral_is_unavailable(
    world: World, fmspc: bytes, ca: str, tee: Tee
) -> None:
    with pytest.raises(CollateralError) as refused:
        world.intel.collateral(fmspc=fmspc, ca=ca, tee=tee, now=NOW)
    assert refused.value.code is Code.COLLATERAL_UNAVAILABLE


# -- updates, recovery, revocation -------------------------------------------------


@pytest.fixture
def own() -> IntelWorld:
    return World.in_memory(b"\x55" * 32).intel


@pytest.mark.parametrize("tee", [Tee.TDX, Tee.SGX])
def test_recovery_makes_old_microcode_out_of_date_until_updated(
    own: IntelWorld, tee: Tee
) -> None:
    platform = own.platform("host")
    source: SimTd | SimEnclave = (
        platform.launch_td(TdImage())
        if tee is Tee.TDX
        else platform.load_enclave(EnclaveImage("e"))
    )

    def verdict() -> tuple[str, list[str]]:
        report = judged(source, source.evidence(DATA))
        return report.status, sorted(report.advisory_ids)  # type: ignore[attr-defined]

    before = platform.pck.certificate
    assert verdict() == ("UpToDate", [])
    own.publish_recovery(("INTEL-SA-99001",))
    own.publish_recovery(("INTEL-SA-99002", "INTEL-SA-99003"))
    assert verdict() == (
        "OutOfDate",
        ["INTEL-SA-99001", "INTEL-SA-99002", "INTEL-SA-99003"],
    )
    platform.microcode_update()
    assert verdict() == ("OutOfDate", ["INTEL-SA-99002", "INTEL-SA-99003"])
    platform.microcode_update()
    assert verdict() == ("UpToDate", [])
    after = platform.pck.certificate
    assert after.serial_number != before.serial_number
    assert after.public_key() != before.public_key()


def test_publications_raise_the_evaluation_number(own: IntelWorld) -> None:
    def number() -> int:
        return own.tcb_info(own.platform("host").fmspc, Tee.TDX, NOW).evaluation_number

    first = number()
    own.publish_recovery()
    own.publish_status(TcbStatus.SW_HARDENING_NEEDED)
    assert number() == first + 2


def test_module_update_under_a_running_td_advises_relaunch(own: IntelWorld) -> None:
    platform = own.platform("host")
    td = platform.launch_td(TdImage())
    own.publish_recovery(("INTEL-SA-99004",), tdx_module=True)
    quote = td.quote(DATA, form=QuoteForm.V5_TD15)
    assert judged(td, quote).status == "OutOfDate"  # type: ignore[attr-defined]
    platform.tdx_module_update()
    quote = td.quote(DATA, form=QuoteForm.V5_TD15)
    assert judged(td, quote).status == "TDRelaunchAdvised"  # type: ignore[attr-defined]
    again = td.restart()
    quote = again.quote(DATA, form=QuoteForm.V5_TD15)
    assert judged(again, quote).status == "UpToDate"  # type: ignore[attr-defined]


def test_revocation_hits_one_machine_until_its_next_pck(own: IntelWorld) -> None:
    bad, good = (own.platform(n).launch_td(TdImage()) for n in ("bad", "good"))
    number = own.pck_crl("platform", NOW).number
    own.revoke_pck(bad.platform)
    own.revoke_pck(bad.platform)
    assert own.pck_crl("platform", NOW).number == (number or 0) + 1
    assert own.pck_crl("processor", NOW).revoked == ()
    with pytest.raises(ValueError, match="CertRevoked"):
        judged(bad, bad.evidence(DATA))
    judged(good, good.evidence(DATA))
    bad.platform.microcode_update()
    judged(bad, bad.evidence(DATA))


# -- one world, several processes --------------------------------------------------

_OTHER_PROCESS = """
import sys
from pathlib import Path
from tightseal.model.claims import Tee
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.td import TdImage
from tightseal_sim.world import World
intel = World.open(Path(sys.argv[1])).intel
host = intel.platform("host")
if sys.argv[2] == "update":
    host.microcode_update()
td, enclave = host.launch_td(TdImage()), host.load_enclave(EnclaveImage("e"))
found = intel.collateral(
    fmspc=host.fmspc, ca="platform", tee=Tee.TDX, now=1790000000
)
print(td.evidence(bytes(64)).hex())
print(enclave.evidence(bytes(64)).hex())
print(enclave.sealing_key().reveal().hex())
print(intel.root_certificate.hex())
print(found.content_hash.hex())
"""


def elsewhere(folder: Path, word: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_PROCESS, str(folder), word],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()


def test_processes_see_one_world(tmp_path: Path) -> None:
    intel = World.create(tmp_path).intel
    host = intel.platform("host")

    def here() -> list[str]:
        td, enclave = host.launch_td(TdImage()), host.load_enclave(EnclaveImage("e"))
        found = intel.collateral(fmspc=host.fmspc, ca="platform", tee=Tee.TDX, now=NOW)
        return [
            td.evidence(bytes(64)).hex(),
            enclave.evidence(bytes(64)).hex(),
            enclave.sealing_key().reveal().hex(),
            intel.root_certificate.hex(),
            found.content_hash.hex(),
        ]

    before = here()
    assert elsewhere(tmp_path, "look") == before
    updated = elsewhere(tmp_path, "update")
    assert updated[:3] != before[:3]
    assert here() == updated
    intel.publish_recovery()
    assert elsewhere(tmp_path, "look") == here()


def test_create_and_open_are_different_calls(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        World.open(tmp_path)
    created = World.create(tmp_path, seed=b"\x01" * 32)
    with pytest.raises(SettingsError):
        World.create(tmp_path)
    opened = World.open(tmp_path)
    twin = World.in_memory(b"\x01" * 32)
    roots = {w.intel.root_certificate for w in (created, opened, twin)}
    assert len(roots) == 1


@pytest.mark.parametrize(
    "state",
    [
        "",
        "{}",
        "[]",
        '{"version": 2, "seed": "' + "00" * 32 + '"}',
        '{"version": 1, "seed": "00"}',
        '{"version": 1, "seed": "' + "zz" * 32 + '"}',
        '{"version": 1, "seed": "' + "00" * 32 + '", "more": 1}',
    ],
)
def test_a_spoiled_state_is_refused(tmp_path: Path, state: str) -> None:
    World.create(tmp_path)
    (tmp_path / "world.json").write_text(state)
    with pytest.raises(SettingsError):
        World.open(tmp_path)


def test_a_machine_keeps_its_ca(own: IntelWorld) -> None:
    own.platform("host")
    with pytest.raises(SettingsError):
        own.platform("host", ca="processor")
    with pytest.raises(SettingsError):
        own.platform("")
    assert [p.name for p in own.platforms] == ["host"]


# -- launch and runtime measurements -----------------------------------------------

CHANGES = {
    "firmware": b"other firmware",
    "kernel": b"simulated kerneL",
    "cmdline": "console=hvc0 rw",
    "initrd": b"other initrd",
    "vcpus": 4,
    "boot_events": (("app-id", b"\1"),),
}
REGISTERS = {
    "firmware": "mrtd",
    "kernel": "rtmr1",
    "cmdline": "rtmr2",
    "initrd": "rtmr2",
    "vcpus": "rtmr0",
    "boot_events": "rtmr3",
}


@pytest.mark.parametrize("field", CHANGES)
def test_each_part_of_an_image_has_its_register(world: World, field: str) -> None:
    platform = world.intel.platform("host")
    usual = platform.launch_td(TdImage()).measurements
    image = replace(TdImage(), **{field: CHANGES[field]})  # type: ignore[arg-type]
    other = platform.launch_td(image).measurements
    assert [n for n in usual if usual[n] != other[n]] == [REGISTERS[field]]


def test_wrong_report_data_is_refused(td: SimTd, enclave: SimEnclave) -> None:
    for source in (td, enclave):
        for size in (0, 63, 65):
            with pytest.raises(PlatformError):
                source.evidence(bytes(size))


def test_debug_workloads_do_not_pass_for_providers(world: World) -> None:
    platform = world.intel.platform("host")
    for source in (
        platform.launch_td(TdImage(debug=True)),
        platform.load_enclave(EnclaveImage("e", debug=True)),
    ):
        with pytest.raises(PlatformError) as refused:
            source.own_measurement()
        assert refused.value.code is Code.PROVIDER_DEBUG
        with pytest.raises(ValueError, match="Debug mode is enabled"):
            judged(source, source.evidence(DATA))


def test_a_td_has_no_sealing_key(td: SimTd) -> None:
    with pytest.raises(PlatformError) as refused:
        td.sealing_key()
    assert refused.value.code is Code.SEALING_KEY_UNAVAILABLE
