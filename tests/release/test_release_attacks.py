# SPDX-License-Identifier: Apache-2.0
"""Attacks on the pipeline by a host that owns disk, clock, network and quotes."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from nacl.public import PrivateKey
from release_rig import (
    DISK,
    NOW,
    Rig,
    Wrapped,
    provider_enclave,
    rig,
    root_texts,
    verifier_of,
)

from tightseal.errors import (
    Code,
    EvidenceError,
    KeyReleaseError,
    PlatformError,
    PolicyError,
    RequestError,
    ServiceError,
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


def refusal(error: type[TightsealError], attempt: Any) -> TightsealError:
    with pytest.raises(error) as refused:
        attempt()
    return refused.value


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


# -- nonces, retries, epochs -------------------------------------------------------


def test_one_nonce_on_many_threads_is_redeemed_once(plain: Rig, td: SimTd) -> None:
    exchanges = [plain.exchange() for _ in range(6)]
    for exchange in exchanges:
        exchange._client_nonce = exchanges[0]._client_nonce  # type: ignore[misc]
    challenge = plain.challenge(exchanges[0])
    bodies = [
        e.keys_request(td.evidence(e.check_challenge(challenge, now=NOW)))
        for e in exchanges
    ]

    def ask(body: bytes) -> bytes | Code:
        try:
            return plain.provider.keys(body, now=NOW)
        except TightsealError as e:
            return e.code

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(ask, bodies * 2))
    refused = [a for a in answers if a is Code.NONCE_REPLAYED]
    granted = {a for a in answers if isinstance(a, bytes)}
    assert (len(refused), len(granted)) == (10, 1)
    assert len(plain.journal.entries()) == 1


KEPT = {
    "empty": b"",
    "denial_of_no_text": b"D\xff\xfe",
    "denial_of_no_code": b"Dsomething",
    "of_no_kind": b"\x00\x01",
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT)
def test_kept_answer_rewritten_by_the_host_is_an_error_of_ours(
    world: World, td: SimTd, tmp_path: Path, kept: bytes
) -> None:
    with rig(world, tmp_path) as ours:
        _, body = ours.question(td)
        ours.provider.keys(body, now=NOW)
        journal = sqlite3.connect(tmp_path / "journal.sqlite")
        with journal:
            journal.execute("UPDATE redeemed SET response = ?", (kept,))
        journal.close()
        error = refusal(ServiceError, lambda: ours.provider.keys(body, now=NOW))
        assert error.code is Code.JOURNAL_FAILED


def test_denial_is_kept_for_its_retry_and_counted_once(
    plain: Rig, world: World
) -> None:
    elsewhere = world.intel.platform("two").launch_td(TdImage())
    _, body = plain.question(elsewhere)
    for _ in range(2):
        error = refusal(PolicyError, lambda: plain.provider.keys(body, now=NOW))
        assert error.code is Code.PLATFORM_MISMATCH
    assert [e.entry.code for e in plain.journal.entries()] == ["platform_mismatch"]


def test_evidence_for_another_challenge_burns_no_nonce(plain: Rig, td: SimTd) -> None:
    exchange = plain.exchange()
    data = exchange.check_challenge(plain.challenge(exchange), now=NOW)
    stray = exchange.keys_request(td.evidence(data[::-1]))
    assert (
        refusal(EvidenceError, lambda: plain.provider.keys(stray, now=NOW)).code
        is Code.REPORT_DATA_MISMATCH
    )
    answer = plain.provider.keys(exchange.keys_request(td.evidence(data)), now=NOW)
    assert len(exchange.open_response(answer, now=NOW).get("disk")) == 32


@pytest.mark.parametrize("late", [0, 61, 120, 300, 599])
def test_challenge_is_answered_for_as_long_as_its_nonce_lives(
    world: World, td: SimTd, tmp_path: Path, late: int
) -> None:
    """An attested key may live shorter than a nonce: many epochs are in grace."""
    with rig(world, tmp_path, nonce_life=600, attested_key_life=60) as ours:
        exchange, body = ours.question(td)
        for later in range(0, late, 60):
            ours.attested.current(now=NOW + later)
        answer = ours.provider.keys(body, now=NOW + late)
        assert exchange.open_response(answer, now=NOW + late).get("disk")


def test_attested_key_answers_no_longer_than_its_grace(plain: Rig) -> None:
    key = plain.attested.current(now=NOW)
    end = key.binding.not_after
    key_hash = key.binding.key_hash()
    assert plain.attested.answering(key_hash, now=end) is key
    assert plain.attested.answering(key_hash, now=end + 1) is None
    assert plain.attested.answering(bytes(32), now=NOW) is None


def test_clock_that_jumps_about_keeps_few_keys(plain: Rig) -> None:
    life = plain.settings.attested_key_life
    first = plain.attested.current(now=NOW)
    for step in range(40, 0, -1):
        plain.attested.current(now=NOW - step * 5 * life)
    assert len(plain.attested._keys) <= 6
    assert plain.attested.current(now=NOW).binding == first.binding


def test_key_of_an_epoch_is_quoted_once_for_all_threads(
    world: World, tmp_path: Path
) -> None:
    enclave = provider_enclave(world)
    made = []

    def counted(data: bytes) -> bytes:
        made.append(data)
        return enclave.evidence(data)

    ours = Wrapped(enclave, evidence=counted)
    with rig(world, tmp_path, platform=ours) as found, ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda _: found.attested.current(now=NOW), range(16)))
    assert len({id(key) for key in keys}) == 1
    assert len(made) == 1


def test_proof_that_fails_is_tried_once_for_all_who_wait(
    world: World, tmp_path: Path
) -> None:
    """Anybody may ask for challenges while the host gives no quote."""
    made, asked, gate = [], [], threading.Event()

    def late(data: bytes) -> bytes:
        made.append(data)
        assert gate.wait(20)
        raise PlatformError(Code.PLATFORM_FAILED, "no quote")

    def ask(found: Rig) -> Code | None:
        asked.append(1)
        try:
            found.attested.current(now=NOW)
        except TightsealError as e:
            return e.code
        return None

    ours = Wrapped(provider_enclave(world), evidence=late)
    with rig(world, tmp_path, platform=ours) as found, ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(ask, found) for _ in range(8)]
        while len(asked) < len(waiting) or not made:
            time.sleep(0.01)
        time.sleep(0.3)
        gate.set()
        assert {w.result() for w in waiting} == {Code.PLATFORM_FAILED}
        assert len(made) == 1
        # Whoever comes later tries anew.
        assert ask(found) is Code.PLATFORM_FAILED
        assert len(made) == 2


# -- what stays behind -------------------------------------------------------------


def secrets_in(trace: TracebackType | None) -> list[str]:
    """Names of locals on the way of an error that still hold key bytes."""
    found = []
    while trace is not None:
        for name, value in trace.tb_frame.f_locals.items():
            held = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(s, Secret) and any(s.reveal()) for s in held):
                found.append(f"{trace.tb_frame.f_code.co_name}.{name}")
        trace = trace.tb_next
    return found


def test_refused_legacy_recipient_leaves_no_key_behind(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    with rig(world, tmp_path, legacy=CHAIN) as ours:
        low_order = td.evidence(bytes(64))
        error = refusal(
            KeyReleaseError, lambda: ours.provider.legacy(low_order, now=NOW)
        )
        assert error.code is Code.RECIPIENT_KEY_INVALID
        assert secrets_in(error.__traceback__) == []


def test_failed_sealing_leaves_no_key_behind(
    plain: Rig, td: SimTd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> bytes:
        raise KeyReleaseError(Code.ENVELOPE_INVALID, "no")

    monkeypatch.setattr("tightseal.release.provider.seal", fails)
    _, body = plain.question(td, (*DISK, KeyRequest("swap")))
    error = refusal(KeyReleaseError, lambda: plain.provider.keys(body, now=NOW))
    assert secrets_in(error.__traceback__) == []


def test_no_repr_shows_a_secret(plain: Rig, td: SimTd) -> None:
    exchange, body = plain.question(td)
    released = exchange.open_response(plain.provider.keys(body, now=NOW), now=NOW)
    key = released.get("disk").reveal()
    shown = " ".join(
        repr(value)
        for value in (
            released,
            exchange,
            exchange._recipient,
            plain.attested,
            plain.attested.current(now=NOW),
            plain.provider,
            plain.provider._roots.root(0),
        )
    )
    for secret in (key, plain.seed, plain.platform.sealing_key().reveal()):
        for text in (secret.hex(), repr(secret)[2:-1]):
            assert text not in shown
