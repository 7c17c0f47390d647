# SPDX-License-Identifier: Apache-2.0
"""Attacks on time, files and switches around the policy in force."""

import base64
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from service_harness import ask_http, running, scripted_settings, until

from tightseal.collateral.guard import MemoryGuard
from tightseal.errors import Code, ServiceError, SettingsError, TightsealError
from tightseal.model.collateral import CollateralFacts
from tightseal.model.secret import Secret
from tightseal.model.settings import FIRST_START, ExpiredPolicy, ReleaseSettings
from tightseal.model.wire_operator import ACTIONS_PATH, POLICY_PATH
from tightseal.policy.bundle.archive import MAX_BUNDLE_BYTES
from tightseal.policy.bundle.verify import MAX_SKEW
from tightseal.release.policy import InForce
from tightseal.service import compose as composing
from tightseal.service import probes
from tightseal.service.bundlefile import BundleFile
from tightseal.service.current import Built, CurrentProvider
from tightseal.service.guarding import FlooredClock, WatchedGuard
from tightseal.service.probes import PolicyWatch, require_policy
from tightseal.service.settings import HostSettings, Settings
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.world import World

NOW = 1_790_000_000
YEARS = 5 * 365 * 86_400


def facts(domain: str, issued_at: int) -> tuple[CollateralFacts, ...]:
    return (CollateralFacts(domain, "sgx:00", "tcb_info", issued_at, 20),)


# -- signed time ------------------------------------------------------------------


def test_a_simulated_world_signs_no_time_for_hardware() -> None:
    """Else a host that switches a world of its own on opens windows years early."""
    guard = WatchedGuard(MemoryGuard(), simulated=False)
    clock = FlooredClock(lambda: NOW, guard)
    guard.admit(facts("intel", NOW - 10), now=NOW)
    guard.admit(facts("simulated:" + "00" * 48, NOW + YEARS), now=NOW + YEARS)
    assert clock.floor() == NOW - 10
    assert clock() == NOW


def test_a_simulated_provider_takes_the_time_of_its_world() -> None:
    guard = WatchedGuard(MemoryGuard(), simulated=True)
    guard.admit(facts("simulated:" + "00" * 48, NOW), now=NOW)
    assert FlooredClock(lambda: NOW, guard).floor() == NOW


@pytest.mark.parametrize("ahead", [1, MAX_SKEW])
def test_a_signer_whose_clock_is_ahead_stops_no_release(ahead: int) -> None:
    """A bundle may be issued a little later than now; it must not shut the provider."""
    clock = FlooredClock(
        lambda: NOW, WatchedGuard(MemoryGuard()), also=lambda: NOW + ahead
    )
    assert clock() == NOW
    assert clock.floor() == NOW + ahead


def test_a_clock_behind_what_signers_signed_is_refused() -> None:
    clock = FlooredClock(
        lambda: NOW - MAX_SKEW - 1, WatchedGuard(MemoryGuard()), also=lambda: NOW
    )
    with pytest.raises(ServiceError) as refused:
        clock()
    assert refused.value.code is Code.CLOCK_BEHIND


# -- the bundle's file ------------------------------------------------------------


class Keeper:
    """Refuses bundles as it is told to."""

    def __init__(self, *errors: TightsealError | None) -> None:
        self._errors = list(errors)
        self.offered: list[bytes] = []

    def look(self, *, now: int) -> None:
        del now

    def offer(self, bundle: bytes, *, now: int) -> None:
        del now
        self.offered.append(bundle)
        error = self._errors.pop(0) if self._errors else None
        if error is not None:
            raise error


def watch(keeper: Keeper, folder: Path) -> PolicyWatch:
    file = folder / "policy.bundle"
    file.write_bytes(b"signed")
    found: Any = keeper
    return PolicyWatch(keeper=found, clock=lambda: NOW, file=BundleFile(file))


def look(watched: PolicyWatch) -> TightsealError | None:
    try:
        watched.look()
    except TightsealError as e:
        return e
    return None


@pytest.mark.parametrize(
    "passing",
    [
        ServiceError(Code.STATE_UNAVAILABLE, "the database restarts"),
        ServiceError(Code.STATE_CONFLICT, "another provider came first"),
        SettingsError(Code.CLOCK_BEHIND, "issued a little later than now"),
    ],
    ids=lambda error: error.code.value,
)
def test_a_file_is_offered_again_after_a_passing_fault(
    tmp_path: Path, passing: TightsealError
) -> None:
    """Else a revocation in it never comes into force, and nobody says so."""
    keeper = Keeper(passing, None)
    watched = watch(keeper, tmp_path)
    assert look(watched) is passing
    assert look(watched) is None
    assert keeper.offered == [b"signed", b"signed"]
    assert look(watched) is None
    assert len(keeper.offered) == 2


def test_a_file_that_was_refused_is_not_judged_again(tmp_path: Path) -> None:
    wrong = SettingsError(Code.BUNDLE_UNDERSIGNED, "one of two")
    keeper = Keeper(wrong)
    watched = watch(keeper, tmp_path)
    assert look(watched) is wrong
    assert look(watched) is None
    assert len(keeper.offered) == 1


# -- readiness and the switch -----------------------------------------------------


def ended(expired_policy: ExpiredPolicy) -> InForce:
    settings = ReleaseSettings(expired_policy=expired_policy)
    builtin = InForce.builtin(settings)
    return InForce(
        policy=builtin.policy,
        settings=settings,
        authority=builtin.authority,
        version=7,
        digest=bytes(32),
        expires_at=NOW - 1,
    )


class Holds:
    """A keeper with something in force."""

    def __init__(self, in_force: InForce) -> None:
        self.in_force = in_force

    def look(self, *, now: int) -> None:
        del now

    def current(self) -> InForce:
        return self.in_force


def test_a_provider_that_releases_nothing_any_more_is_not_ready() -> None:
    keeper: Any = Holds(ended(ExpiredPolicy.REFUSE))
    with pytest.raises(ServiceError) as refused:
        require_policy(keeper, now=NOW)
    assert refused.value.code is Code.POLICY_EXPIRED
    keeper = Holds(ended(ExpiredPolicy.KEEP))
    require_policy(keeper, now=NOW)


def test_a_slow_request_does_not_bring_the_older_policy_back() -> None:
    old, new = ended(ExpiredPolicy.KEEP), ended(ExpiredPolicy.KEEP)
    keeper: Any = Holds(old)
    asked, go = threading.Event(), threading.Event()
    made: list[InForce] = []

    def build(in_force: InForce, _before: Built | None) -> Built:
        made.append(in_force)
        nothing: Any = None
        return Built(in_force, nothing, nothing, nothing)

    current = CurrentProvider(keeper, build)
    lock: Any = current._lock

    class Late:
        """Lets others come first."""

        def __enter__(self) -> None:
            if threading.current_thread() is slow:
                asked.set()
                assert go.wait(10)
            lock.__enter__()

        def __exit__(self, *raised: object) -> None:
            lock.__exit__(*raised)

    late: Any = Late()
    current._lock = late
    slow = threading.Thread(target=current.built)
    slow.start()
    assert asked.wait(10)
    keeper.in_force = new
    assert current.built().in_force is new
    go.set()
    slow.join(10)
    assert made == [new]


def test_a_database_that_hangs_does_not_stop_the_looks_at_health(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else readiness says that the provider is stuck, and to restart it: with the
    database away, that loses the policy which still decides."""
    monkeypatch.setattr(probes, "POLICY_SECONDS", 0.001)
    monkeypatch.setattr(probes, "REFRESH_SECONDS", 0.05)
    ended = threading.Event()
    looks: list[int] = []
    rounds: list[int] = []

    class Hanging:
        def look(self) -> None:
            looks.append(len(rounds))
            if len(looks) == 6:
                ended.set()
            time.sleep(0.1)

    class Counting(probes.Background):
        __slots__ = ()

        def round(self) -> None:
            rounds.append(len(looks))

    some: Any = None
    watch: Any = Hanging()
    Counting(
        front=some,
        guard=some,
        current=some,
        watch=watch,
        keys=None,
        ageing=None,
        refresher=None,
        sampler=some,
    )(ended)
    assert len(rounds) >= len(looks) - 1


def on_hardware(
    folder: Path, monkeypatch: pytest.MonkeyPatch, policy_root: str
) -> Settings:
    """Settings of a machine whose keys are of hardware, with a simulated world on."""
    world = World.in_memory(b"first start".ljust(32, b"\0"))
    root = base64.b64encode(world.intel.root_certificate).decode()
    enclave = world.intel.platform("one").load_enclave(EnclaveImage(name="provider"))

    class Hardware:
        """By its name, what it gives out is not of the simulated kind."""

        name = "gramine"

        def __getattr__(self, part: str) -> Any:
            return getattr(enclave, part)

    monkeypatch.setattr(composing, "_platform", lambda _settings: Hardware())
    return Settings(
        host=HostSettings(state_dir=str(folder / "state")),
        release=ReleaseSettings(policy_root=policy_root, simulated_roots=(root,)),
    )


def compose(settings: Settings) -> composing.Composed:
    seed = Secret(bytes(range(32)))
    return composing.compose(settings, seed=seed, host_clock=lambda: NOW)


@pytest.mark.parametrize("start", [composing.prepare, compose])
def test_hardware_pins_no_policy_root_at_its_first_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[Settings], object]
) -> None:
    """One simulated root in the settings does not make the machine a simulated one."""
    settings = on_hardware(tmp_path, monkeypatch, FIRST_START)
    with pytest.raises(SettingsError, match="first-start"):
        start(settings)


def test_a_provider_on_hardware_keeps_simulated_time_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = on_hardware(tmp_path, monkeypatch, "ab" * 32)
    composing.prepare(settings)
    composed = compose(settings)
    try:
        watch: Any = composed.background
        clock: Any = composed.front.clock
        domain = "simulated:" + "00" * 48
        watch.guard.admit(facts(domain, NOW + YEARS), now=NOW + YEARS)
        assert clock() == NOW
        assert clock.floor() == 0
    finally:
        composed.close()


# -- from the network -------------------------------------------------------------


def test_a_bundle_that_never_ends_keeps_no_action_out() -> None:
    """Anybody may send one; operators' actions are short and must not wait for it."""
    settings = scripted_settings(max_buffered_bytes=MAX_BUNDLE_BYTES)
    with (
        running(settings=settings) as run,
        socket.create_connection(("127.0.0.1", run.http_port), timeout=10) as stalled,
    ):
        head = f"POST {POLICY_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: "
        length = MAX_BUNDLE_BYTES
        stalled.sendall(f"{head}{length}\r\n\r\n".encode())
        stalled.sendall(bytes(length - 1))
        until(lambda: run.front.operator_budget.held == length - 1)
        done = ask_http(run.http_port, "POST", ACTIONS_PATH, b"{}")
    assert done.status == 200
