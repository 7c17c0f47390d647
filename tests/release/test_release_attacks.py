# SPDX-License-Identifier: Apache-2.0
"""Attacks on the pipeline by a host that owns disk, clock, network and quotes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nacl.public import PrivateKey
from release_rig import (
    NOW,
    Rig,
    Wrapped,
    provider_enclave,
    refusal,
    rig,
    root_texts,
    verifier_of,
)

from tightseal.errors import (
    Code,
    EvidenceError,
    PlatformError,
    PolicyError,
    RequestError,
    SettingsError,
    TightsealError,
)
from tightseal.guest.pins import ProviderPin
from tightseal.keys.legacy import legacy_key
from tightseal.model.claims import Claims
from tightseal.model.keypath import KeyRequest
from tightseal.model.secret import Secret
from tightseal.model.settings import (
    LegacyDerivation,
    LegacySettings,
    ReleaseSettings,
)
from tightseal.release import LEGACY_PURPOSE
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

HARDWARE_ROOT = bytes(range(16))
REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
CHAIN = LegacySettings(enabled=True)
COMPATIBLE = LegacySettings(enabled=True, derivation=LegacyDerivation.COMPATIBLE)


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"release attacks".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def other_world() -> World:
    return World.in_memory(b"another world".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture
def plain(world: World, tmp_path: Path) -> Iterator[Rig]:
    with rig(world, tmp_path) as found:
        yield found


def claims_of(world: World, source: Any) -> Claims:
    return verifier_of(world)(source.evidence(bytes(64)), now=NOW)


# -- the provider's own quote ------------------------------------------------------


def test_twin_on_another_machine_replays_our_quote(
    world: World, tmp_path: Path
) -> None:
    """The host hands each of two providers the other's quote."""
    with rig(world, tmp_path) as ours:
        quote = ours.attested.current(now=NOW).evidence
    (tmp_path / "twin").mkdir()
    twin = Wrapped(provider_enclave(world, "two"), evidence=lambda _data: quote)
    with rig(world, tmp_path / "twin", platform=twin, seed=b"\x09" * 32) as found:
        error = refusal(PlatformError, lambda: found.attested.current(now=NOW))
    assert error.code is Code.PLATFORM_FAILED
    assert "report data" in error.detail


def test_own_quote_of_another_enclave_is_refused(world: World, tmp_path: Path) -> None:
    stranger = world.intel.platform("one").load_enclave(EnclaveImage(name="other"))
    ours = Wrapped(provider_enclave(world), evidence=stranger.evidence)
    with rig(world, tmp_path, platform=ours) as found:
        error = refusal(PlatformError, lambda: found.attested.current(now=NOW))
    assert error.code is Code.PLATFORM_FAILED
    assert "measurement" in error.detail


def test_own_quote_of_a_td_is_refused_for_an_enclave(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    ours = Wrapped(provider_enclave(world), evidence=td.evidence)
    with rig(world, tmp_path, platform=ours) as found:
        error = refusal(PlatformError, lambda: found.attested.current(now=NOW))
    assert "TEE kind" in error.detail


def test_own_quote_of_a_debug_twin_is_refused(world: World, tmp_path: Path) -> None:
    image = replace(provider_enclave(world).image, debug=True)  # type: ignore[attr-defined]
    debug = world.intel.platform("one").load_enclave(image)
    ours = Wrapped(provider_enclave(world), evidence=debug.evidence)
    with rig(world, tmp_path, platform=ours) as found:
        error = refusal(TightsealError, lambda: found.attested.current(now=NOW))
    assert error.code in {Code.PROVIDER_DEBUG, Code.DEBUG_ENABLED}


def test_no_key_leaves_before_the_provider_proved_itself(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    def nothing(_data: bytes) -> bytes:
        raise PlatformError(Code.PLATFORM_FAILED, "no quote")

    with rig(world, tmp_path, legacy=CHAIN) as ours:
        _, body = ours.question(td)
    (tmp_path / "mute").mkdir()
    mute = Wrapped(provider_enclave(world), evidence=nothing)
    with rig(world, tmp_path / "mute", platform=mute, legacy=CHAIN) as found:
        # The same seed, so nonce and attested key are this provider's own.
        assert (
            refusal(PlatformError, lambda: found.provider.keys(body, now=NOW)).code
            is Code.PLATFORM_FAILED
        )
        refusal(PlatformError, lambda: found.legacy_key(td))
        assert found.journal.entries() == ()


# -- evidence of one kind taken for another ----------------------------------------


def test_provider_quotes_are_no_workload_evidence(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    """Attested-key quote, quote proof and legacy answer, handed in as evidence."""
    with rig(world, tmp_path, legacy=CHAIN) as ours:
        recipient = bytes(PrivateKey.generate().public_key)
        answer = ours.provider.legacy(td.evidence(recipient.ljust(64, b"\0")), now=NOW)
        quotes = [answer.provider_quote, ours.attested.current(now=NOW).evidence]
        for quote in quotes:
            exchange = ours.exchange()
            exchange.check_challenge(ours.challenge(exchange), now=NOW)
            body = exchange.keys_request(quote)
            error = refusal(
                EvidenceError, lambda b=body: ours.provider.keys(b, now=NOW)
            )
            assert error.code is Code.REPORT_DATA_MISMATCH
            again = refusal(
                EvidenceError, lambda q=quote: ours.provider.legacy(q, now=NOW)
            )
            assert again.code is Code.EVIDENCE_KIND_UNSUPPORTED


def test_evidence_of_v1_gets_nothing_over_legacy(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    with rig(world, tmp_path, legacy=CHAIN) as ours:
        exchange = ours.exchange()
        data = exchange.check_challenge(ours.challenge(exchange), now=NOW)
        quote = td.evidence(data)
        error = refusal(EvidenceError, lambda: ours.provider.legacy(quote, now=NOW))
        assert error.code is Code.REPORT_DATA_MISMATCH


def test_evidence_of_legacy_gets_nothing_over_v1(plain: Rig, td: SimTd) -> None:
    exchange = plain.exchange()
    exchange.check_challenge(plain.challenge(exchange), now=NOW)
    recipient = bytes(PrivateKey.generate().public_key)
    body = exchange.keys_request(td.evidence(recipient.ljust(64, b"\0")))
    error = refusal(EvidenceError, lambda: plain.provider.keys(body, now=NOW))
    assert error.code is Code.REPORT_DATA_MISMATCH
    assert plain.journal.entries() == ()


# -- keys of one kind taken for another --------------------------------------------


def test_neither_way_in_makes_the_others_key(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    """v1 may ask for any purpose, that of the legacy key among them."""
    found = set()
    for name, legacy in (("chain", CHAIN), ("formula", COMPATIBLE)):
        (tmp_path / name).mkdir()
        with rig(world, tmp_path / name, legacy=legacy) as ours:
            keys = (KeyRequest(LEGACY_PURPOSE, "", 32),)
            exchange, body = ours.question(td, keys)
            answer = ours.provider.keys(body, now=NOW)
            released = exchange.open_response(answer, now=NOW)
            found |= {released.get(LEGACY_PURPOSE).reveal(), ours.legacy_key(td)}
    assert len(found) == 4


def test_host_signs_quotes_for_a_hardware_root_under_a_simulated_one(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    """Quotes travel through the host, so it can play the quoting enclave.

    With a simulated root switched on, it forges the workload's quote and the
    provider's, whose sealing key stays the hardware's.
    """
    hardware = Wrapped(
        provider_enclave(world),
        name="gramine",
        sealing_key=lambda: Secret(HARDWARE_ROOT),
    )
    measured = claims_of(world, td).measurements
    formula = legacy_key(
        Secret(HARDWARE_ROOT), **{name: measured[name] for name in REGISTERS}
    )
    with rig(world, tmp_path, platform=hardware, legacy=COMPATIBLE) as ours:
        error = refusal(PolicyError, lambda: ours.legacy_key(td))
        assert error.code is Code.TRUST_DOMAIN_MISMATCH
        (denied,) = ours.journal.entries()
        assert not denied.entry.granted
        assert denied.entry.code == Code.TRUST_DOMAIN_MISMATCH.value
    (tmp_path / "chain").mkdir()
    with rig(world, tmp_path / "chain", platform=hardware, legacy=CHAIN) as ours:
        # The chain has the trust domain in it, so this is nobody's real key.
        assert ours.legacy_key(td) != formula.reveal()


def test_compatible_formula_is_kept_where_root_and_evidence_agree(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    measured = claims_of(world, td).measurements
    with rig(world, tmp_path, legacy=COMPATIBLE) as ours:
        root = ours.platform.sealing_key()
        formula = legacy_key(root, **{name: measured[name] for name in REGISTERS})
        assert ours.legacy_key(td) == formula.reveal()


def test_legacy_is_refused_where_it_is_switched_off(plain: Rig, td: SimTd) -> None:
    assert refusal(RequestError, lambda: plain.legacy_key(td)).code is Code.NOT_FOUND
    assert plain.journal.entries() == ()


def test_workload_of_another_simulated_world_gets_no_key(
    world: World, other_world: World, tmp_path: Path
) -> None:
    stranger = other_world.intel.platform("one").launch_td(TdImage())
    roots = root_texts(world, other_world)
    with rig(world, tmp_path, simulated_roots=roots) as ours:
        own = ours.verifier or verifier_of(world)
        foreign = verifier_of(other_world)

        def either(evidence: bytes, *, now: int) -> Claims:
            try:
                return own(evidence, now=now)
            except TightsealError:
                return foreign(evidence, now=now)

        (tmp_path / "both").mkdir()
        with rig(
            world, tmp_path / "both", simulated_roots=roots, verifier=either
        ) as both:
            error = refusal(PolicyError, lambda: both.key(stranger))
            assert error.code is Code.TRUST_DOMAIN_MISMATCH


# -- what a key belongs to ---------------------------------------------------------

UNBOUND = {
    "td_of_registers": {"tdx_identity": ("rtmr0", "rtmr1", "rtmr2", "rtmr3")},
    "td_of_what_the_host_sets": {"tdx_identity": ("mr_config_id", "mr_owner")},
    "enclave_of_what_the_host_sets": {"sgx_identity": ("config_id", "isv_prod_id")},
    "guest_of_what_the_host_sets": {"snp_identity": ("host_data", "vmpl")},
}


@pytest.mark.parametrize("selection", UNBOUND.values(), ids=UNBOUND)
def test_identity_that_any_code_can_take_on_is_refused(selection: Any) -> None:
    """Firmware of the host's own extends the victim's values into every RTMR."""
    error = refusal(SettingsError, lambda: ReleaseSettings(**selection))
    assert error.code is Code.SETTINGS_INVALID


def test_rogue_firmware_with_the_victims_registers_gets_another_key(
    plain: Rig, world: World, td: SimTd
) -> None:
    rogue = world.intel.platform("one").launch_td(TdImage(firmware=b"host's own"))
    rogue._rtmrs = list(td._rtmrs)
    ours, theirs = claims_of(world, td), claims_of(world, rogue)
    same = [n for n in REGISTERS if ours.measurements[n] == theirs.measurements[n]]
    assert same == ["rtmr0", "rtmr1", "rtmr2", "rtmr3"]
    assert plain.key(td) != plain.key(rogue)


def test_provider_on_a_td_cannot_be_pinned_by_its_firmware(plain: Rig) -> None:
    """Any TD with that firmware could quote whatever a provider would."""
    pin = plain.pin()
    identity = replace(pin.identity, tee="tdx", measurement=bytes(48))
    error = refusal(
        SettingsError, lambda: ProviderPin(identity, pin.trust_domains, True)
    )
    assert error.code is Code.SETTINGS_INVALID
