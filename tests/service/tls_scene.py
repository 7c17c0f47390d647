# SPDX-License-Identifier: Apache-2.0
"""A provider on a simulated enclave that ends TLS itself, and clients of it."""

import hashlib
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from service_world import Serving, composed_provider, real_clock, world_settings

from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.guest.client import Client
from tightseal.guest.collateral import judge_with
from tightseal.guest.exchange import Terms
from tightseal.guest.pins import ProviderPin
from tightseal.guest.provider import ProviderCollateral
from tightseal.model.tls import TlsTrust
from tightseal.service.listen_settings import TlsMode, TlsSettings
from tightseal.service.settings import (
    CollateralSettings,
    PlatformKind,
    PlatformSettings,
    Settings,
)
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Scene
from tightseal_sim.sources import WorldSource

MACHINE = "machine-a"
OWN_KEY = TlsSettings(mode=TlsMode.SELF)


def settings_in(
    state: Path, scene: Scene, *, tls: TlsSettings = OWN_KEY, **release: Any
) -> Settings:
    return world_settings(
        state,
        platform=PlatformSettings(
            kind=PlatformKind.SIM, world=str(scene.folder / "world"), machine=MACHINE
        ),
        collateral=CollateralSettings(pccs=(scene.pccs_url,)),
        roots=(scene.world.intel.root_certificate,),
        host={"tls": tls},
        **release,
    )


@contextmanager
def served(
    settings: Settings, *, clock: Callable[[], int] = real_clock
) -> Iterator[Serving]:
    with composed_provider(settings, clock=clock) as serving:
        yield serving


def https(serving: Serving) -> str:
    return f"https://127.0.0.1:{serving.served.http_port}"


def collateral_of(scene: Scene) -> ProviderCollateral:
    roots = with_simulated(VENDOR_ROOTS, scene.world.intel.root_certificate)
    return ProviderCollateral.behind(judge_with(roots=roots)(WorldSource(scene.world)))


def terms(scene: Scene, settings: Settings, **pin: Any) -> Terms:
    ours = scene.pin_of(settings)
    parts = {name: getattr(ours, name) for name in ProviderPin.__slots__} | pin
    return Terms(pin=ProviderPin(**parts), collateral=collateral_of(scene))


def workload(scene: Scene) -> SimTd:
    return scene.world.intel.platform(MACHINE).launch_td(TdImage())


def client(
    scene: Scene,
    serving: Serving,
    on: Terms,
    *,
    tls: TlsTrust | ssl.SSLContext = TlsTrust.ATTESTED,
    clock: Callable[[], int] = real_clock,
) -> Client:
    return Client(
        https(serving), source=workload(scene), terms=on, tls=tls, clock=clock
    )


def any_certificate() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def shown_by(port: int) -> bytes:
    """The certificate that a server shows, DER."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        any_certificate().wrap_socket(plain) as tls,
    ):
        shown = tls.getpeercert(True)
        assert shown is not None
        return shown


def key_hash_of(certificate: bytes) -> bytes:
    key = x509.load_der_x509_certificate(certificate).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()
