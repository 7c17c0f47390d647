# SPDX-License-Identifier: Apache-2.0
"""A provider's certificate, judged: each defect by name, and nothing sent to it."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from certificate_maker import (
    CCC,
    DSTACK,
    GRAMINE,
    NOW,
    Key,
    ccc_report_data,
    certificate,
    claims_buffer,
    dstack_report_data,
    tagged,
    wrapped,
)
from tightseal.errors import Code, ProviderError
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.guest.async_client import AsyncClient
from tightseal.guest.attested_tls import (
    CERTIFICATE_CHECKS,
    TlsTrust,
    attested_context,
    verify_certificate,
)
from tightseal.guest.client import Client
from tightseal.guest.collateral import judge_with
from tightseal.guest.exchange import Terms
from tightseal.guest.http import Bounds
from tightseal.guest.pins import ProviderPin
from tightseal.guest.provider import ProviderCollateral
from tightseal.model.claims import TcbStatus
from tightseal.model.ports import Verifier
from tightseal.model.provider import ProviderIdentity, sidecar_keyring_id
from tightseal.model.wire import StapledJson
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.sources import WorldSource
from tightseal_sim.world import World

KEY = Key()
BUFFER = claims_buffer(KEY.spki)
IMAGE = EnclaveImage(name="provider")


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(seed=b"\x61" * 32)


@pytest.fixture(scope="module")
def collateral(world: World) -> ProviderCollateral:
    roots = with_simulated(VENDOR_ROOTS, world.intel.root_certificate)
    return ProviderCollateral.behind(judge_with(roots=roots)(WorldSource(world)))


@pytest.fixture(scope="module")
def pin(world: World) -> ProviderPin:
    enclave = world.intel.platform("host").load_enclave(IMAGE)
    identity = ProviderIdentity(
        tee="sgx",
        measurement=enclave.own_measurement()[1],
        keyring_id=sidecar_keyring_id(),
        policy_root=None,
        settings_digest=bytes(64),
    )
    domain = str(world.intel.trusted_root.trust_domain)
    return ProviderPin(
        identity=identity, trust_domains=frozenset({domain}), allow_simulated=True
    )


def quoted(
    world: World, report_data: bytes, *, image: EnclaveImage = IMAGE, on: str = "host"
) -> bytes:
    return world.intel.platform(on).load_enclave(image).evidence(report_data)


def good(world: World, **options: Any) -> bytes:
    quote = quoted(world, ccc_report_data(BUFFER))
    return certificate([(CCC, tagged(quote, BUFFER))], **options)


def test_a_good_certificate_is_the_key_of_the_pinned_image(
    world: World, pin: ProviderPin, collateral: ProviderCollateral
) -> None:
    got = verify_certificate(good(world), pin=pin, collateral=collateral, now=NOW)
    assert got.certificate.spki == KEY.spki
    assert got.claims.measurements["mrenclave"] == pin.identity.measurement
    assert [name for name, _ in CERTIFICATE_CHECKS] == ["own_signature", "validity"]


def _of(extensions: Callable[[World], list[tuple[str, bytes]]]) -> Any:
    return lambda world: certificate(extensions(world))


def _ccc(image: EnclaveImage = IMAGE, data: bytes = ccc_report_data(BUFFER)) -> Any:
    def made(world: World) -> list[tuple[str, bytes]]:
        return [(CCC, tagged(quoted(world, data, image=image), BUFFER))]

    return _of(made)


DEFECTS: dict[str, tuple[Any, Code, str]] = {
    "signed_by_another": (
        lambda w: good(w, signer=Key(2)),
        Code.PROVIDER_UNVERIFIED,
        "certificate_chain_invalid",
    ),
    "expired": (
        lambda w: good(w, not_after=NOW - 301),
        Code.PROVIDER_UNVERIFIED,
        "certificate_expired",
    ),
    "not_yet_valid": (
        lambda w: good(w, not_before=NOW + 301),
        Code.PROVIDER_UNVERIFIED,
        "certificate_not_yet_valid",
    ),
    "valid_for_ever": (
        lambda w: good(w, not_after=NOW + 4 * 86_400),
        Code.PROVIDER_UNVERIFIED,
        "longest life",
    ),
    "ends_before_it_begins": (
        lambda w: good(w, not_before=NOW, not_after=NOW),
        Code.PROVIDER_UNVERIFIED,
        "longest life",
    ),
    "trailing_byte": (
        lambda w: good(w) + b"\0",
        Code.PROVIDER_UNVERIFIED,
        "certificate_malformed",
    ),
    "no_evidence": (
        lambda _w: certificate([]),
        Code.PROVIDER_UNVERIFIED,
        "evidence_unreadable",
    ),
    "two_evidences": (
        lambda w: certificate(2 * [(CCC, tagged(quoted(w, bytes(64)), BUFFER))]),
        Code.PROVIDER_UNVERIFIED,
        "twice",
    ),
    "claims_about_another_key": (
        lambda w: certificate([(CCC, _another_key(w))]),
        Code.PROVIDER_UNVERIFIED,
        "report_data_mismatch",
    ),
    "quote_about_another_key": (
        _ccc(data=ccc_report_data(claims_buffer(Key(2).spki))),
        Code.PROVIDER_UNVERIFIED,
        "report_data_mismatch",
    ),
    "another_form_gramine": (
        _of(lambda w: [(GRAMINE, quoted(w, bytes(64)))]),
        Code.PROVIDER_UNVERIFIED,
        "expected ccc",
    ),
    "another_form_dstack": (
        _of(
            lambda w: [(f"{DSTACK}1", wrapped(quoted(w, dstack_report_data(KEY.spki))))]
        ),
        Code.PROVIDER_UNVERIFIED,
        "expected ccc",
    ),
    "another_image": (
        _ccc(EnclaveImage(name="another")),
        Code.PROVIDER_IDENTITY_MISMATCH,
        "evidence measures",
    ),
    "debug_enclave": (
        _ccc(replace(IMAGE, debug=True)),
        Code.PROVIDER_UNVERIFIED,
        "debug_enabled",
    ),
    "damaged_quote": (
        lambda w: certificate(
            [(CCC, tagged(_flipped(quoted(w, ccc_report_data(BUFFER))), BUFFER))]
        ),
        Code.PROVIDER_UNVERIFIED,
        "quote_signature_invalid",
    ),
}


def _another_key(world: World) -> bytes:
    buffer = claims_buffer(Key(2).spki)
    return tagged(quoted(world, ccc_report_data(buffer)), buffer)


def _flipped(quote: bytes) -> bytes:
    at = 48 + 64
    return quote[:at] + bytes([quote[at] ^ 1]) + quote[at + 1 :]


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_refused_by_its_name(
    world: World, pin: ProviderPin, collateral: ProviderCollateral, defect: str
) -> None:
    made, code, said = DEFECTS[defect]
    with pytest.raises(ProviderError, match=said) as refused:
        verify_certificate(made(world), pin=pin, collateral=collateral, now=NOW)
    assert refused.value.code is code


def test_the_pin_decides_over_trust_domain_and_tcb(
    world: World, pin: ProviderPin, collateral: ProviderCollateral
) -> None:
    encoded = good(world)
    stranger = replace(pin, trust_domains=frozenset({"intel"}))
    with pytest.raises(ProviderError, match="trust domain"):
        verify_certificate(encoded, pin=stranger, collateral=collateral, now=NOW)
    real = replace(stranger, allow_simulated=False)
    with pytest.raises(ProviderError) as refused:
        verify_certificate(encoded, pin=real, collateral=collateral, now=NOW)
    assert refused.value.code is Code.PROVIDER_SIMULATED
    strict = replace(pin, accepted_tcb=frozenset({TcbStatus.OUT_OF_DATE}))
    with pytest.raises(ProviderError, match="TCB status"):
        verify_certificate(encoded, pin=strict, collateral=collateral, now=NOW)


# -- nothing is sent -------------------------------------------------------------------


@contextmanager
def impostor(encoded: bytes, folder: Path) -> Iterator[tuple[int, list[bytes]]]:
    """A TLS server with any certificate; the list gets whatever clients send it."""
    pem = folder / "impostor.pem"
    pem.write_bytes(KEY.pem() + ssl.DER_cert_to_PEM_cert(encoded).encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    got: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as tls:
                    tls.settimeout(10)
                    got.append(tls.recv(65536))
            except OSError:
                got.append(b"")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], got
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def options(pin: ProviderPin, collateral: ProviderCollateral) -> dict[str, Any]:
    return {
        "terms": Terms(pin=pin, collateral=collateral),
        "tls": TlsTrust.ATTESTED,
        "clock": lambda: NOW,
        "bounds": Bounds(attempts=1),
    }


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("honest", [False, True], ids=["impostor", "honest"])
def test_an_impostor_gets_no_byte(
    world: World,
    pin: ProviderPin,
    collateral: ProviderCollateral,
    tmp_path: Path,
    asynchronous: bool,  # noqa: FBT001
    honest: bool,  # noqa: FBT001
) -> None:
    encoded = good(world) if honest else certificate([])

    def ask(url: str) -> None:
        if not asynchronous:
            with Client(url, **options(pin, collateral)) as client:
                client.public_key("tenant", "workload", "purpose")
            return

        async def whole() -> None:
            async with AsyncClient(url, **options(pin, collateral)) as client:
                await client.public_key("tenant", "workload", "purpose")

        asyncio.run(whole())

    with (
        impostor(encoded, tmp_path) as (port, got),
        pytest.raises(ProviderError) as refused,
    ):
        ask(f"https://127.0.0.1:{port}")
    assert (got[0] != b"") is honest
    assert (refused.value.code is Code.PROVIDER_UNVERIFIED) is not honest


def test_the_async_client_judges_once_a_connection_and_not_on_its_loop(
    world: World, pin: ProviderPin, collateral: ProviderCollateral, tmp_path: Path
) -> None:
    threads: list[threading.Thread] = []

    def verifier_for(stapled: StapledJson | None) -> Verifier:
        threads.append(threading.current_thread())
        return collateral.verifier_for(stapled)

    watched = ProviderCollateral(verifier_for)

    async def ask(url: str) -> None:
        async with AsyncClient(url, **options(pin, watched)) as client:
            await client.public_key("tenant", "workload", "purpose")

    with (
        impostor(good(world), tmp_path) as (port, got),
        pytest.raises(ProviderError),
    ):
        asyncio.run(ask(f"https://127.0.0.1:{port}"))
    assert got[0]
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_any_event_loop_judges_at_its_first_byte(
    world: World, pin: ProviderPin, collateral: ProviderCollateral, tmp_path: Path
) -> None:
    """The context protects clients that know nothing of it, such as asyncio's own."""
    context = attested_context(pin=pin, collateral=collateral, clock=lambda: NOW)

    def bridged(port: int) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65536))
            plain.sendall(outgoing.read())
            tls.write(b"secret")
            plain.sendall(outgoing.read())
        return b"sent"

    with (
        impostor(certificate([]), tmp_path) as (port, got),
        pytest.raises(ProviderError, match="evidence_unreadable"),
    ):
        bridged(port)
    assert got == [b""]
    with impostor(good(world), tmp_path) as (port, got):
        assert bridged(port) == b"sent"
    assert got == [b"secret"]
