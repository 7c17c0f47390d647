# SPDX-License-Identifier: Apache-2.0
"""The provider's certificate before a CCC client of no kin, and before the commands."""

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest
from ccc_client import Refused, check, connect
from service_harness import http_request, parse_http, receive_all
from service_world import Serving
from tls_scene import (
    MACHINE,
    https,
    key_hash_of,
    served,
    settings_in,
    shown_by,
    terms,
)

from certificate_maker import (
    CCC,
    DSTACK,
    Key,
    attestation,
    attestation_v0,
    certificate,
    claims_buffer,
    dstack_report_data,
    packed,
    tagged,
    wrapped,
)
from cli_support import run
from tightseal.cli.submit import submit
from tightseal.errors import Code, ProviderError, SettingsError
from tightseal.evidence.attested_certificate import certificate_evidence
from tightseal.evidence.certificate import read_certificate
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.unverified import collateral_query
from tightseal.guest.exchange import Exchange
from tightseal.guest.pins import pin_to_toml
from tightseal.model.keypath import KeyRequest
from tightseal.model.tls import TlsTrust
from tightseal.model.wire_operator import POLICY_PATH, PolicyAccepted
from tightseal.recovery.peer import HttpGiver
from tightseal.service.keyring_settings import JoinSettings
from tightseal.service.listen_settings import TlsSettings
from tightseal.service.settings import Settings
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.eventlog import Event, runtime_event
from tightseal_sim.intel.eventlog_wire import to_dstack_json
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Scene

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("tls")) as scene:
        yield scene


@pytest.fixture(scope="module")
def settings(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_in(tmp_path_factory.mktemp("state"), scene)


@pytest.fixture(scope="module")
def provider(settings: Settings) -> Iterator[Serving]:
    with served(settings) as serving:
        yield serving


def trust(scene: Scene, quote: bytes, settings: Settings) -> dict[str, Any]:
    """What a CCC client is configured with, from elsewhere than the peer."""
    now = int(time.time())
    query = collateral_query(parse_quote(quote))
    given = scene.world.intel.collateral(
        fmspc=query.fmspc, ca=query.ca, tee=query.tee, now=now
    )
    return {
        "mrenclave": scene.pin_of(settings).identity.measurement,
        "root": scene.world.intel.root_certificate,
        "now": now,
        "collateral": dcap_qvl.QuoteCollateralV3(
            given.pck_crl_issuer_chain,
            given.root_ca_crl,
            given.pck_crl,
            given.tcb_info_issuer_chain,
            given.tcb_info,
            given.tcb_info_signature,
            given.qe_identity_issuer_chain,
            given.qe_identity,
            given.qe_identity_signature,
        ),
    }


# -- a CCC client of no kin ------------------------------------------------------------


def test_a_ccc_client_connects(
    scene: Scene, provider: Serving, settings: Settings
) -> None:
    port = provider.served.http_port
    quote = certificate_evidence(read_certificate(shown_by(port))).evidence
    with connect(port, **trust(scene, quote, settings)) as tls:
        tls.sendall(http_request("GET", "/healthz"))
        assert parse_http(receive_all(tls)).json == {"alive": True}


def test_a_ccc_client_refuses_what_ours_refuses(
    scene: Scene, provider: Serving, settings: Settings
) -> None:
    shown = shown_by(provider.served.http_port)
    quote = certificate_evidence(read_certificate(shown)).evidence
    on = trust(scene, quote, settings)
    check(shown, **on)
    with pytest.raises(Refused, match="another enclave"):
        check(shown, **(on | {"mrenclave": bytes(32)}))
    other = certificate([(CCC, tagged(quote, claims_buffer(Key(1).spki)))])
    with pytest.raises(Refused, match="not about these claims"):
        check(other, **on)


# -- commands --------------------------------------------------------------------------


@pytest.fixture
def online(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """Options with which commands judge this world's evidence."""
    monkeypatch.setenv("TIGHTSEAL_PCCS", scene.pccs_url)
    monkeypatch.setenv("TIGHTSEAL_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "root.pem"
    root.write_text(scene.root_pem())
    return ("--root-ca", str(root))


def test_verify_and_inspect_take_an_address_a_pem_and_der(
    provider: Serving, online: tuple[str, ...], tmp_path: Path
) -> None:
    port = provider.served.http_port
    shown = shown_by(port)
    der, pem = tmp_path / "certificate.der", tmp_path / "certificate.pem"
    der.write_bytes(shown)
    pem.write_text(ssl.DER_cert_to_PEM_cert(shown))
    expected = read_certificate(shown).key_hash.hex()
    for name in (f"127.0.0.1:{port}", der, pem):
        said = run("verify", name, *online, "--json")
        assert said.status == 0, said
        assert said.document["certificate"]["key_sha256"] == expected
        assert said.document["certificate"]["form"] == "ccc"
        seen = run("inspect", name, "--json")
        assert seen.document["sections"]["certificate"]["key_sha256"] == expected
        assert seen.document["kind"] == "quote"
    assert f"key_sha256         {expected}" in run("verify", pem, *online).stdout


def test_verify_refuses_evidence_about_another_key(
    provider: Serving, online: tuple[str, ...], tmp_path: Path
) -> None:
    shown = shown_by(provider.served.http_port)
    quote = certificate_evidence(read_certificate(shown)).evidence
    stolen = tmp_path / "stolen.der"
    stolen.write_bytes(certificate([(CCC, tagged(quote, claims_buffer(Key(1).spki)))]))
    document = run("verify", stolen, *online, "--json").document
    assert (document["verdict"], document["code"]) == (
        "rejected",
        "report_data_mismatch",
    )


@pytest.mark.parametrize("write", [attestation, attestation_v0, None])
def test_verify_replays_the_log_of_a_certificate_of_dstack(
    scene: Scene,
    online: tuple[str, ...],
    tmp_path: Path,
    write: Callable[..., bytes] | None,
) -> None:
    key, path = Key(), tmp_path / "dstack.der"
    td = scene.world.intel.platform(MACHINE).launch_td(TdImage())
    for name, payload in (("app-id", b"\x11" * 20), ("system-ready", b"")):
        td.extend(3, runtime_event(name, payload))
    quote = td.evidence(dstack_report_data(key.spki))
    kept = [event for event in td.event_log if event.rtmr == 3]

    def said(events: list[Event]) -> dict[str, Any]:
        if write is not None:
            rows = [(f"{DSTACK}8", wrapped(write(quote, events)))]
        else:
            log = to_dstack_json(events, stripped=True)
            rows = [
                (f"{DSTACK}1", wrapped(quote)),
                (f"{DSTACK}2", wrapped(packed(log))),
            ]
        path.write_bytes(certificate(rows, key=key))
        return run("verify", path, *online, "--json").document

    good = said(kept)
    assert (good["verdict"], good["tee"]) == ("authentic", "tdx")
    assert good["certificate"]["form"] == "dstack"
    assert good["certificate"]["event_log_replayed"] == len(kept)
    for lie in (kept[:-1], kept[::-1], [*kept, runtime_event("app-id", b"x")]):
        assert said(lie)["code"] == "event_log_mismatch"


def test_an_address_where_nobody_answers_is_unreadable() -> None:
    said = run("verify", "127.0.0.1:1")
    assert (said.status, said.stdout) == (2, "")
    assert "evidence_unreadable" in said.stderr
    assert run("inspect", "127.0.0.1:99999").status == 2


def key_command(
    scene: Scene, port: int, pin: Path, online: tuple[str, ...], *more: str
) -> tuple[object, ...]:
    return (
        "key",
        *("--provider", f"https://127.0.0.1:{port}", "--pin", pin, "--purpose", "disk"),
        *("--platform", "sim", "--option", f"world={scene.folder / 'world'}"),
        *("--option", f"platform={MACHINE}", "--json", *online, *more),
    )


def test_key_over_attested_tls(
    scene: Scene,
    provider: Serving,
    settings: Settings,
    online: tuple[str, ...],
    tmp_path: Path,
) -> None:
    pin = tmp_path / "pin.toml"
    ours = scene.pin_of(settings)
    pin.write_text(pin_to_toml(ours))
    port, pccs = provider.served.http_port, ("--pccs", scene.pccs_url)

    def asked(*more: str) -> Any:
        return run(*key_command(scene, port, pin, online, *more))

    attested = asked("--tls", "attested", *pccs)
    assert attested.status == 0, attested
    assert attested.document["simulated"] is True
    # What the provider staples comes too late for its certificate.
    assert "staple" in asked("--tls", "attested").stderr
    assert asked("--tls", "exchange").status == 0
    assert "CERTIFICATE_VERIFY_FAILED" in asked(*pccs).stderr

    other = EnclaveImage(name="another").mr_enclave
    identity = replace(ours.identity, measurement=other)
    pin.write_text(pin_to_toml(replace(ours, identity=identity)))
    refused = asked("--tls", "attested", *pccs)
    assert refused.status == 1
    assert "provider_identity_mismatch" in refused.stderr


def test_what_is_signed_may_go_over_a_certificate_that_nobody_judged(
    provider: Serving,
) -> None:
    def given(tls: TlsTrust) -> ProviderError:
        with pytest.raises(ProviderError) as refused:
            submit(
                https(provider),
                POLICY_PATH,
                b"no bundle",
                PolicyAccepted,
                content_type="application/octet-stream",
                tls=tls,
            )
        return refused.value

    assert given(TlsTrust.EXCHANGE).code is Code.PROVIDER_REFUSED
    unknown = given(TlsTrust.PUBLIC_CA)
    assert unknown.code is Code.PROVIDER_UNREACHABLE
    assert "CERTIFICATE_VERIFY_FAILED" in unknown.detail
    with pytest.raises(SettingsError, match="no pin"):
        given(TlsTrust.ATTESTED)


def test_a_joining_provider_learns_the_key_of_its_connection(
    scene: Scene, provider: Serving, settings: Settings
) -> None:
    exchange = Exchange(terms(scene, settings), (KeyRequest("disk"),))
    with HttpGiver(https(provider), tls=TlsTrust.EXCHANGE) as giver:
        answer, key_hash = giver.challenge(exchange.challenge_request())
    exchange.check_challenge(answer, tls_key_hash=key_hash, now=int(time.time()))
    assert key_hash == key_hash_of(shown_by(provider.served.http_port))


def test_an_invitation_is_no_pin_of_a_certificate() -> None:
    with pytest.raises(SettingsError, match=r"host\.keyring\.join\.tls"):
        JoinSettings(tls=TlsTrust.ATTESTED)


def test_off_is_the_default_and_says_null(scene: Scene, tmp_path: Path) -> None:
    settings = settings_in(tmp_path, scene, tls=TlsSettings())
    with served(settings) as serving:
        assert serving.served.front.tls is None
        key = serving.composed.front.provider.built().attested.current(  # type: ignore[attr-defined]
            now=int(time.time())
        )
        assert key.binding.tls_key_hash is None
