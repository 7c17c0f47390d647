# SPDX-License-Identifier: Apache-2.0
"""The pinned provider of slots: who it may be, and how long anybody waits for it."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tightseal.errors import Code, KeyReleaseError, ProviderError, SettingsError
from tightseal.guest.pins import RootedIdentity
from tightseal.guest.provider import ProviderCollateral
from tightseal.model.claims import Tee
from tightseal.model.settings import SlotProviderSettings
from tightseal.service.keyring_settings import KeyringSettings, ProviderSlotSettings
from tightseal.service.slotprovider import REST_SECONDS, PinnedProvider, slot_pin
from tightseal_sim.drill_other import Others
from tightseal_sim.drill_site import IMAGE, NOW, Site

SIMULATED = "simulated:" + "ab" * 48
PIN = SlotProviderSettings(
    measurement="11" * 32,
    keyring_id="22" * 32,
    policy_root="33" * 32,
    trust_domains=("intel",),
)
IDS = {"keyring_id": bytes(32), "slot_id": bytes(16)}


def settings(**changes: Any) -> SlotProviderSettings:
    names = PIN.__struct_fields__
    return SlotProviderSettings(**{n: getattr(PIN, n) for n in names} | changes)


def pinned(
    url: str = "http://other.test",
    *,
    seconds: float = 0.5,
    transport: httpx.BaseTransport | None = None,
    now: list[float] | None = None,
) -> PinnedProvider:
    return PinnedProvider(
        ProviderSlotSettings(url=url, seconds=seconds),
        pin=slot_pin(PIN, domain="intel"),
        source=Site(Tee.SGX).platform(),
        collateral=lambda: ProviderCollateral.behind(unused),
        domain="intel",
        clock=lambda: NOW,
        monotonic=(lambda: now[0]) if now else time.monotonic,
        transport=transport,
    )


def unused(evidence: bytes, *, now: int) -> Any:
    raise AssertionError((evidence, now))


# -- the pin ----------------------------------------------------------------------


def test_pin_as_settings_say_it() -> None:
    pin = slot_pin(PIN, domain="intel")
    assert pin.identity == RootedIdentity(
        "sgx", b"\x11" * 32, b"\x22" * 32, b"\x33" * 32
    )
    assert pin.trust_domains == {"intel"}
    assert not pin.allow_simulated


@pytest.mark.parametrize(
    ("domain", "named", "words"),
    [
        ("intel", ("amd",), "no slot crosses trust domains"),
        ("intel", ("intel", "amd"), "no slot crosses trust domains"),
        ("intel", (SIMULATED,), "no slot crosses trust domains"),
        (SIMULATED, ("intel",), "no slot crosses trust domains"),
        ("simulated:" + "cd" * 48, (SIMULATED,), "no slot crosses trust domains"),
    ],
)
def test_pin_of_another_trust_domain(
    domain: str, named: tuple[str, ...], words: str
) -> None:
    crossing = settings(trust_domains=named, allow_simulated=True)
    with pytest.raises(SettingsError, match=words):
        slot_pin(crossing, domain=domain)


def test_simulated_domain_has_to_be_allowed_besides() -> None:
    with pytest.raises(SettingsError, match="allow_simulated"):
        slot_pin(settings(trust_domains=(SIMULATED,)), domain=SIMULATED)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tee": Tee.TDX, "measurement": "11" * 48}, "leaves out its kernel"),
        ({"tee": Tee.SNP}, "measurement: expected 48 bytes"),
        ({"trust_domains": ("intel", "elsewhere")}, "trust domain 'elsewhere'"),
    ],
)
def test_what_is_no_pin(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        slot_pin(settings(**changes), domain="intel")


def test_address_that_is_none_is_refused_with_the_settings() -> None:
    with pytest.raises(SettingsError, match="provider address"):
        KeyringSettings(provider=ProviderSlotSettings(url="//nowhere"))


# -- the wait ---------------------------------------------------------------------


def test_one_that_was_not_reached_rests() -> None:
    asked = []

    def nobody(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        message = "refused"
        raise httpx.ConnectError(message, request=request)

    now = [0.0]
    other = pinned(transport=httpx.MockTransport(nobody), now=now)
    for _ in range(64):
        with pytest.raises(ProviderError, match=r"http://other\.test: /v1/challenge"):
            other.ask("label", generation=None)
    assert len(asked) == 2, "one question, tried twice"
    now[0] = REST_SECONDS + 1
    with pytest.raises(ProviderError) as caught:
        other.ask("label", generation=1)
    assert caught.value.code is Code.PROVIDER_UNREACHABLE
    assert len(asked) == 4


def test_one_that_refuses_does_not_rest() -> None:
    asked = []

    def odd(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(404, stream=httpx.ByteStream(b"{}"))

    other = pinned(transport=httpx.MockTransport(odd))
    for _ in range(2):
        with pytest.raises(ProviderError):
            other.ask("label", generation=None)
    assert len(asked) == 2


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_one_that_never_answers_is_given_up(silent: str) -> None:
    began = time.monotonic()
    with pytest.raises(ProviderError) as caught:
        pinned(silent, seconds=0.3).ask("label", generation=None)
    assert caught.value.code is Code.PROVIDER_UNREACHABLE
    assert time.monotonic() - began < 5


# -- the key ----------------------------------------------------------------------


def test_key_of_another_trust_domain_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(Tee.SGX)
    slot = Others(accepted=(IMAGE,)).peer(site.world, source=site.platform(), now=NOW)
    slot.create(**IDS)
    # The answer is whole; it is our keyring that is of another domain.
    monkeypatch.setattr(slot._other, "_domain", "intel")  # type: ignore[attr-defined]
    with pytest.raises(KeyReleaseError, match=r"its key is of simulated:.* of intel"):
        slot.create(**IDS)


def test_two_slots_get_two_keys() -> None:
    site = Site(Tee.SGX)
    slot = Others(accepted=(IMAGE,)).peer(site.world, source=site.platform(), now=NOW)
    keys = [
        slot.create(keyring_id=keyring, slot_id=place)[1].reveal()
        for keyring in (bytes(32), b"k" * 32)
        for place in (bytes(16), b"s" * 16)
    ]
    assert len(set(keys)) == 4
