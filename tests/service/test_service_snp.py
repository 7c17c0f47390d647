# SPDX-License-Identifier: Apache-2.0
"""A provider on a simulated SNP chip, and SNP guests that ask it for keys."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import msgspec
import pytest
from service_world import (
    Serving,
    composed_provider,
    identity_of,
    real_clock,
    world_settings,
)

from tightseal.errors import Code, ProviderError
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.guest.client import Client
from tightseal.guest.collateral import judge_with, online, stapled
from tightseal.guest.exchange import Exchange, Terms
from tightseal.guest.pins import ProviderPin
from tightseal.model.keypath import KeyRequest
from tightseal.model.ports import EvidenceSource
from tightseal.model.wire import CHALLENGE_PATH, KEYS_PATH
from tightseal.service.settings import (
    CollateralSettings,
    PlatformKind,
    PlatformSettings,
    Settings,
    SimulatedTee,
)
from tightseal_sim.amd.guest import GuestImage, SimGuest
from tightseal_sim.kds import WorldDistribution, kds_app
from tightseal_sim.scene import LoopbackServer
from tightseal_sim.world import World

PRODUCT = "Milan"
PROVIDER_KERNEL = b"simulated kernel"
WORKLOAD = GuestImage(kernel=b"workload", host_data=b"\x11" * 32)

Place: TypeAlias = tuple[World, Settings]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A world in a folder, and settings of a provider on its chip ``host``."""
    folder = tmp_path_factory.mktemp("snp")
    world = World.create(folder / "world", seed=b"\x51" * 32)
    return world, settings_in(folder / "state", world, folder / "world")


def settings_in(state: Path, world: World, folder: Path, **release: Any) -> Settings:
    return world_settings(
        state,
        platform=PlatformSettings(
            kind=PlatformKind.SIM, world=str(folder), tee=SimulatedTee.SNP
        ),
        # No network: the certificates come with the evidence.
        collateral=CollateralSettings(pccs=(), kds=()),
        roots=(world.amd.root_certificate(PRODUCT),),
        **release,
    )


@pytest.fixture(scope="module")
def provider(place: Place) -> Iterator[Serving]:
    with composed_provider(place[1]) as serving:
        yield serving


def terms(place: Place, *, staple: bool = False) -> Terms:
    world, settings = place
    roots = with_simulated(VENDOR_ROOTS, world.amd.root_certificate(PRODUCT))
    judge = judge_with(roots=roots)
    measurement = GuestImage(kernel=PROVIDER_KERNEL).measurement
    pin = ProviderPin(
        identity=identity_of(settings, "snp", measurement),
        trust_domains=frozenset({str(world.amd.trusted_root(PRODUCT).trust_domain)}),
        allow_simulated=True,
    )
    collateral = stapled(judge=judge) if staple else online(judge=judge)
    return Terms(pin=pin, collateral=collateral)


def guest(
    place: Place,
    name: str = "host",
    image: GuestImage = WORKLOAD,
    *,
    vlek: bool = False,
    mask_chip_id: bool = False,
) -> SimGuest:
    chip = place[0].amd.chip(name, PRODUCT)
    chip.vlek, chip.mask_chip_id = vlek, mask_chip_id
    return chip.launch(image)


def key_of(
    place: Place, provider: Serving, source: EvidenceSource, *, staple: bool = False
) -> bytes:
    on = terms(place, staple=staple)
    with Client(provider.url, source=source, terms=on) as client:
        return client.key("disk").reveal()


def refusal(place: Place, provider: Serving, source: EvidenceSource) -> str:
    with pytest.raises(ProviderError) as refused:
        key_of(place, provider, source)
    assert refused.value.code is Code.PROVIDER_REFUSED
    return refused.value.detail


def test_guest_on_the_same_chip_gets_its_key_every_time(
    place: Place, provider: Serving
) -> None:
    first = key_of(place, provider, guest(place))
    assert first == key_of(place, provider, guest(place))
    assert first == key_of(place, provider, guest(place), staple=True)


def test_key_stays_over_a_restart_of_the_provider(
    place: Place, provider: Serving, tmp_path: Path
) -> None:
    before = key_of(place, provider, guest(place))
    world, settings = place
    folder = Path(settings.host.platform.world)
    again = settings_in(tmp_path / "state", world, folder)
    with composed_provider(again) as restarted:
        assert key_of(place, restarted, guest(place)) == before


@pytest.mark.parametrize(
    "image",
    [
        GuestImage(kernel=b"workloae", host_data=b"\x11" * 32),
        GuestImage(kernel=b"workload", host_data=b"\x12" * 32),
        GuestImage(kernel=b"workload", host_data=b"\x11" * 32, vmpl=1),
        GuestImage(
            kernel=b"workload", host_data=b"\x11" * 32, id_key_digest=b"\x01" * 48
        ),
        GuestImage(kernel=b"workload", host_data=b"\x11" * 32, policy=0x30001),
    ],
    ids=["measurement", "host_data", "vmpl", "id_key_digest", "policy"],
)
def test_what_the_key_belongs_to_changes_it(
    place: Place, provider: Serving, image: GuestImage
) -> None:
    usual = key_of(place, provider, guest(place))
    assert key_of(place, provider, guest(place, image=image)) != usual


def test_firmware_update_of_the_workloads_chip_keeps_the_key(
    place: Place, provider: Serving
) -> None:
    usual = key_of(place, provider, guest(place))
    updated = place[0].amd.chip("host", PRODUCT)
    updated.firmware_update()
    assert key_of(place, provider, updated.launch(WORKLOAD)) == usual


def test_guest_on_another_chip_is_refused(place: Place, provider: Serving) -> None:
    assert "platform_mismatch" in refusal(place, provider, guest(place, "other"))


def test_guest_under_a_vlek_names_no_chip(place: Place, provider: Serving) -> None:
    assert "platform_unknown" in refusal(place, provider, guest(place, vlek=True))


def test_chip_is_read_from_its_certificate_not_from_the_report(
    place: Place, provider: Serving
) -> None:
    usual = key_of(place, provider, guest(place))
    assert key_of(place, provider, guest(place, mask_chip_id=True)) == usual


def test_debug_guest_is_refused(place: Place, provider: Serving) -> None:
    image = GuestImage(kernel=b"workload", policy=0xB0000)
    assert "debug_enabled" in refusal(place, provider, guest(place, image=image))


class Bare:
    """A guest whose host gives no certificate table along."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def evidence(self, report_data: bytes) -> bytes:
        return guest(self._place).report(report_data)


def with_kds(place: Place, kds: str, folder: Path) -> AbstractContextManager[Serving]:
    settings = msgspec.structs.replace(
        place[1],
        host=msgspec.structs.replace(
            place[1].host,
            state_dir=str(folder / "state"),
            collateral=CollateralSettings(pccs=(), kds=(kds,)),
        ),
    )
    return composed_provider(settings)


def test_report_without_certificates_needs_collateral(
    place: Place, provider: Serving
) -> None:
    assert "collateral_" in refusal(place, provider, Bare(place))


@pytest.fixture
def kds(place: Place) -> Iterator[str]:
    """AMD's key distribution, which knows the chip ``host``."""
    chips = [("host", PRODUCT)]
    known = WorldDistribution(place[0].amd, chips=chips, now=real_clock)
    server = LoopbackServer(kds_app(known))
    server.start()
    yield server.url
    server.stop()


def test_report_without_certificates_is_judged_with_those_of_the_kds(
    place: Place, provider: Serving, kds: str, tmp_path: Path
) -> None:
    usual = key_of(place, provider, guest(place))
    with with_kds(place, kds, tmp_path) as online_provider:
        assert key_of(place, online_provider, Bare(place)) == usual


def test_evidence_of_a_paravisor_is_authentic_and_unbound(
    place: Place, kds: str, tmp_path: Path
) -> None:
    class Paravisor:
        """Azure's: the report data is the paravisor's own, whoever asks."""

        def evidence(self, report_data: bytes) -> bytes:
            claims = b'{"user-data":"%b"}' % report_data.hex().encode()
            return guest(place).hcl_evidence(claims)

    with with_kds(place, kds, tmp_path) as online_provider:
        said = refusal(place, online_provider, Paravisor())
    assert "report_data_unbound" in said


def test_receipt_and_info_say_that_one_verifier_judged(
    place: Place, provider: Serving
) -> None:
    with Client(provider.url, source=guest(place), terms=terms(place)) as client:
        released = client.keys(KeyRequest("disk", "", 32))
    assert released.receipt.single_verifier
    info = httpx.get(provider.url + "/v1/info", trust_env=False).json()
    assert info["identity"]["tee"] == "snp"
    assert info["simulated"] is True


def test_answer_with_another_guests_report_is_refused(
    place: Place, provider: Serving
) -> None:
    exchange = Exchange(terms(place), (KeyRequest("disk", "", 32),))
    challenge = httpx.post(
        provider.url + CHALLENGE_PATH,
        content=exchange.challenge_request(),
        trust_env=False,
    )
    exchange.check_challenge(challenge.content, now=real_clock())
    body = exchange.keys_request(guest(place).evidence(bytes(64)))
    answer = httpx.post(provider.url + KEYS_PATH, content=body, trust_env=False)
    assert answer.json()["code"] == "report_data_mismatch"
