# SPDX-License-Identifier: Apache-2.0
"""The PCCS client against good, bad, slow and dead services."""

import itertools
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from collateral_support import Recorded, Ticker, served
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette

from tightseal.collateral.http import Asker, FetchLimits, shown
from tightseal.collateral.parts import Part, PartKind, PartName, assemble, intel_names
from tightseal.collateral.pccs import PccsClient, PccsEndpoint
from tightseal.errors import Code, CollateralError, SettingsError
from tightseal_sim.faults import Fault, Faults
from tightseal_sim.pccs import Style, pccs_app

Serve = Callable[[Starlette], str]
MakeAsker = Callable[..., Asker]


def anything(_part: Part) -> None:
    """Accept whatever the client itself found good."""


def names_of(world: Recorded) -> tuple[PartName, ...]:
    return intel_names(fmspc=world.fmspc, ca=world.ca, tee=world.tee)


def fetch_all(client: PccsClient, world: Recorded) -> tuple[Part, ...]:
    return tuple(
        client.fetch(name, now=world.now, accept=anything) for name in names_of(world)
    )


def app_of(
    world: Recorded, faults: Faults | None = None, style: Style = Style.PCCS
) -> Starlette:
    return pccs_app(
        world, now=lambda: world.now, shared=world.shared, faults=faults, style=style
    )


@pytest.mark.parametrize("name", ["gramine-skp-tdx-v4", "phala-sgx-v3"])
@pytest.mark.parametrize("style", list(Style))
def test_every_byte_arrives_as_it_was_signed(
    recorded: Callable[[str], Recorded],
    serve: Serve,
    make_asker: MakeAsker,
    style: Style,
    name: str,
) -> None:
    world = recorded(name)
    url = serve(app_of(world, style=style))
    root_crl = f"{url}/IntelSGXRootCA.der" if style is Style.PCS else None
    client = PccsClient([PccsEndpoint(url, root_crl)], asker=make_asker())
    tcb_info, qe_identity, pck_crl, root = fetch_all(client, world)
    assert assemble(tcb_info, qe_identity, pck_crl, root) == world.collateral_


@pytest.mark.parametrize("style", list(Style))
def test_pck_crl_is_understood_in_every_encoding(
    october: Recorded, serve: Serve, style: Style
) -> None:
    url = serve(app_of(october, style=style))
    path = "/sgx/certification/v4/pckcrl?ca=platform"
    plain = httpx.get(url + path).content
    assert plain[:1] == (b"-" if style is Style.PCS else b"3")
    answered = httpx.get(url + path + "&encoding=der").content
    assert answered == october.collateral_.pck_crl
    chain = quote(october.collateral_.pck_crl_issuer_chain, safe="")

    def handler(_request: httpx.Request) -> httpx.Response:
        headers = {"SGX-PCK-CRL-Issuer-Chain": chain}
        return httpx.Response(200, content=plain, headers=headers)

    client = PccsClient([url], asker=Asker(transport=httpx.MockTransport(handler)))
    part = client.fetch(names_of(october)[2], now=october.now, accept=anything)
    assert part.body == october.collateral_.pck_crl


@pytest.mark.parametrize(
    "header", ["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"]
)
def test_both_names_of_the_tcb_chain_header(october: Recorded, header: str) -> None:
    found = october.collateral_
    body = (
        f'{{"signature":"{found.tcb_info_signature.hex().upper()}",'
        f'"tcbInfo":{found.tcb_info}}}'
    )

    def handler(request: httpx.Request) -> httpx.Response:
        assert request.url.params["fmspc"] == october.fmspc.hex().upper()
        chain = quote(found.tcb_info_issuer_chain)
        return httpx.Response(200, content=body.encode(), headers={header: chain})

    client = PccsClient(
        ["https://pccs.example/sgx/certification/v4/"],
        asker=Asker(transport=httpx.MockTransport(handler)),
    )
    part = client.fetch(names_of(october)[0], now=october.now, accept=anything)
    assert part.body.decode() == found.tcb_info


FINAL = {Fault.NOT_FOUND, Fault.REDIRECT, Fault.COMPRESSED, Fault.OVERSIZE}


@pytest.mark.parametrize("fault", sorted(set(Fault) - {Fault.HANGING, Fault.TRICKLING}))
def test_a_spoilt_answer_sends_us_to_the_next_place(
    october: Recorded, serve: Serve, make_asker: MakeAsker, fault: Fault
) -> None:
    faults = Faults()
    faults.plan(fault)
    bad, good = serve(app_of(october, faults)), serve(app_of(october))
    name = names_of(october)[0]
    client = PccsClient([bad, good], asker=make_asker())
    part = client.fetch(name, now=october.now, accept=anything)
    assert part.body.decode() == october.collateral_.tcb_info
    alone = PccsClient([bad], asker=make_asker(sleep=lambda _seconds: None))
    with pytest.raises(CollateralError) as caught:
        alone.fetch(name, now=october.now, accept=anything)
    expected = Code.COLLATERAL_UNAVAILABLE
    if fault is Fault.NOT_FOUND:
        expected = Code.COLLATERAL_NOT_FOUND
    assert caught.value.code is expected
    assert bad.removeprefix("http://") in caught.value.detail
    assert "fmspc=" not in caught.value.detail
    rounds = 1 if fault in FINAL else FetchLimits().rounds
    assert len(faults.paths) == 1 + rounds


def test_a_passing_fault_is_tried_again(
    october: Recorded, serve: Serve, make_asker: MakeAsker
) -> None:
    faults = Faults()
    faults.plan(Fault.OUTAGE, times=1)
    faults.plan(Fault.TRUNCATED, times=1)
    client = PccsClient([serve(app_of(october, faults))], asker=make_asker())
    part = client.fetch(names_of(october)[1], now=october.now, accept=anything)
    assert part.body.decode() == october.collateral_.qe_identity
    assert len(faults.paths) == 3


def test_pauses_grow_with_jitter_and_end_with_the_total_time(ticker: Ticker) -> None:
    def handler(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(500)

    jitter = itertools.cycle([0.0, 1.0])
    limits = FetchLimits(rounds=6, backoff_seconds=1, backoff_max_seconds=4)
    asker = Asker(
        limits,
        transport=httpx.MockTransport(handler),
        sleep=ticker.sleep,
        jitter=lambda: next(jitter),
        monotonic=ticker,
    )
    client = PccsClient(["http://a.example"], asker=asker)
    with pytest.raises(CollateralError):
        client.fetch(PartName(PartKind.ROOT_CRL, "crl:root"), now=0, accept=anything)
    assert ticker.pauses == [0.5, 2.0, 2.0, 4.0, 2.0]


def test_retry_after_is_honoured_but_not_beyond_the_total_time(ticker: Ticker) -> None:
    answers = iter(["2", "600"])

    def handler(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(429, headers={"Retry-After": next(answers)})

    asker = Asker(
        transport=httpx.MockTransport(handler), sleep=ticker.sleep, monotonic=ticker
    )
    client = PccsClient(["http://a.example"], asker=asker)
    with pytest.raises(CollateralError, match="HTTP 429"):
        client.fetch(PartName(PartKind.ROOT_CRL, "crl:root"), now=0, accept=anything)
    assert ticker.pauses == [2.0]


def test_a_place_that_failed_is_asked_last_for_a_while(
    october: Recorded, ticker: Ticker
) -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "dead.example":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, content=october.collateral_.root_ca_crl)

    asker = Asker(
        transport=httpx.MockTransport(handler), sleep=ticker.sleep, monotonic=ticker
    )
    client = PccsClient(["http://dead.example", "http://live.example"], asker=asker)
    name = PartName(PartKind.ROOT_CRL, "crl:root")
    client.fetch(name, now=october.now, accept=anything)
    client.fetch(name, now=october.now, accept=anything)
    ticker.at += FetchLimits().avoid_seconds + 1
    client.fetch(name, now=october.now, accept=anything)
    dead, live = "dead.example", "live.example"
    assert asked == [dead, live, live, dead, live]


def test_expired_and_future_collateral_is_not_taken(
    october: Recorded, serve: Serve, make_asker: MakeAsker
) -> None:
    client = PccsClient(
        [serve(app_of(october))], asker=make_asker(sleep=lambda _seconds: None)
    )
    for now in (october.latest + 40 * 86_400, october.now - 10 * 86_400):
        with pytest.raises(CollateralError, match="valid from") as caught:
            client.fetch(names_of(october)[0], now=now, accept=anything)
        assert caught.value.code is Code.COLLATERAL_UNAVAILABLE


def test_an_answer_about_another_family_is_not_taken(
    october: Recorded, make_asker: MakeAsker
) -> None:
    found = october.collateral_
    body = (
        f'{{"tcbInfo":{found.tcb_info},"signature":"{found.tcb_info_signature.hex()}"}}'
    )

    def handler(_request: httpx.Request) -> httpx.Response:
        headers = {"TCB-Info-Issuer-Chain": quote(found.tcb_info_issuer_chain)}
        return httpx.Response(200, content=body.encode(), headers=headers)

    client = PccsClient(
        ["http://a.example"], asker=make_asker(transport=httpx.MockTransport(handler))
    )
    for subject, code in (
        ("tdx:000000000001", Code.FMSPC_MISMATCH),
        (f"sgx:{october.fmspc.hex()}", Code.TCB_INFO_TYPE_MISMATCH),
    ):
        with pytest.raises(CollateralError, match=code.value):
            client.fetch(
                PartName(PartKind.TCB_INFO, subject), now=october.now, accept=anything
            )


def quick() -> FetchLimits:
    return FetchLimits(
        connect_seconds=0.5,
        read_seconds=0.4,
        attempt_seconds=0.6,
        total_seconds=1.0,
        rounds=2,
        backoff_seconds=0.01,
    )


def timed_failure(client: PccsClient, now: int) -> float:
    begin = time.monotonic()
    with pytest.raises(CollateralError) as caught:
        client.fetch(PartName(PartKind.ROOT_CRL, "crl:root"), now=now, accept=anything)
    assert caught.value.code is Code.COLLATERAL_UNAVAILABLE
    return time.monotonic() - begin


@pytest.mark.parametrize("fault", [Fault.HANGING, Fault.TRICKLING])
def test_a_slow_answer_ends_with_the_total_time(
    october: Recorded, serve: Serve, make_asker: MakeAsker, fault: Fault
) -> None:
    faults = Faults()
    faults.plan(fault)
    client = PccsClient(
        [serve(app_of(october, faults))], asker=make_asker(limits=quick())
    )
    assert timed_failure(client, october.now) < 2.0


@pytest.mark.parametrize("opening", [b"", b"HTTP/1.1 200 OK\r\nX-Long: "])
def test_headers_one_byte_at_a_time_end_with_the_total_time(
    make_asker: MakeAsker, opening: bytes
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def drip() -> None:
        while not stop.is_set():
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                try:
                    peer.sendall(opening)
                    while not stop.wait(0.05):
                        peer.sendall(b"a")
                except OSError:
                    continue

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = PccsClient([url], asker=make_asker(limits=quick()))
        assert timed_failure(client, 0) < 2.0
    finally:
        stop.set()
        listener.close()
        thread.join(5)


def test_a_closed_port_is_named_with_its_path(make_asker: MakeAsker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = PccsClient(
        [f"http://127.0.0.1:{port}/base"], asker=make_asker(limits=quick())
    )
    with pytest.raises(CollateralError) as caught:
        client.fetch(PartName(PartKind.ROOT_CRL, "crl:root"), now=0, accept=anything)
    assert f"127.0.0.1:{port}/base/sgx/certification/v4/rootcacrl" in (
        caught.value.detail
    )
    assert "ConnectError" in caught.value.detail


@pytest.mark.parametrize(
    "url",
    [
        "",
        "pccs.example",
        "ftp://pccs.example",
        "https://user:secret@pccs.example",
        "https://pccs.example?token=1",
        "https://pccs.example#a",
        "https://pccs.example:0",
        "https://pccs.example:99999",
        "https://pccs.exa mple\n",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        PccsEndpoint.parse(url)
    assert caught.value.code is Code.SETTINGS_INVALID


def test_addresses_in_every_common_form() -> None:
    for end in ("", "/", "/sgx/certification/v4/", "/tdx/certification/v4"):
        parsed = PccsEndpoint.parse("https://pccs.example:8081" + end)
        assert parsed == PccsEndpoint("https://pccs.example:8081")
    intel = PccsEndpoint.parse("https://api.trustedservices.intel.com")
    assert intel.address(PartName(PartKind.ROOT_CRL, "crl:root")).endswith(
        "IntelSGXRootCA.der"
    )
    assert shown("https://u:p@h/p?secret=1") == "https://h/p"
    with pytest.raises(SettingsError):
        PccsClient([], asker=Asker(transport=httpx.MockTransport(None)))


def self_signed(folder: Path) -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pccs")])
    begin = datetime.now(UTC) - timedelta(days=1)
    address = x509.IPAddress(ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    return {
        "ssl_keyfile": str(folder / "key.pem"),
        "ssl_certfile": str(folder / "ca.pem"),
    }


def test_tls_is_checked_against_the_ca_that_is_named(
    october: Recorded, make_asker: MakeAsker, tmp_path: Path
) -> None:
    options = self_signed(tmp_path)
    name = names_of(october)[0]
    with served(app_of(october), **options) as url:
        asker = make_asker(ca_file=tmp_path / "ca.pem")
        named = PccsClient([url], asker=asker)
        part = named.fetch(name, now=october.now, accept=anything)
        asker.close()
        assert part.body.decode() == october.collateral_.tcb_info
        stranger = PccsClient([url], asker=make_asker(limits=quick()))
        with pytest.raises(CollateralError, match="CERTIFICATE_VERIFY_FAILED"):
            stranger.fetch(name, now=october.now, accept=anything)
    with pytest.raises(SettingsError):
        Asker(ca_file=tmp_path / "missing.pem")
    with pytest.raises(SettingsError):
        Asker(ca_file=tmp_path / "key.pem")


def test_an_earlier_end_is_kept(ticker: Ticker) -> None:
    def handler(_request: httpx.Request) -> httpx.Response:
        ticker.at += 1
        return httpx.Response(500)

    asker = Asker(
        FetchLimits(rounds=99),
        transport=httpx.MockTransport(handler),
        sleep=ticker.sleep,
        monotonic=ticker,
    )
    begin = ticker.at
    with pytest.raises(CollateralError):
        PccsClient(["http://a.example"], asker=asker).fetch(
            PartName(PartKind.ROOT_CRL, "crl:root"),
            now=0,
            accept=anything,
            until=begin + 3,
        )
    # The last attempt begins in time; what it takes is bounded by its own deadline.
    assert ticker.at - begin < 3 + 1
