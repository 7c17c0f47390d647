# SPDX-License-Identifier: Apache-2.0
"""Attacks on whole providers: real processes, a host between them and the guests."""

import base64
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from nacl.public import PrivateKey, SealedBox

from tightseal.audit.journal import SqliteJournal
from tightseal.errors import Code, ProviderError
from tightseal.guest.exchange import Exchange
from tightseal.guest.http import RefusedError
from tightseal.model.exchange import Kem
from tightseal.model.keypath import KeyRequest
from tightseal.model.wire import CHALLENGE_PATH, KEYS_PATH
from tightseal.release import LEGACY_PURPOSE
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene

LEGACY = {"enabled": True}
HERE, ELSEWHERE = "machine-a", "machine-b"

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Another simulated world, with roots of its own."""
    with Scene(tmp_path_factory.mktemp("foreign")) as scene:
        yield scene


@pytest.fixture(scope="module")
def ours(scene: Scene) -> Provider:
    return scene.provider("ours", release={"legacy": LEGACY})


@pytest.fixture(scope="module")
def twin(scene: Scene) -> Provider:
    """The same image and settings on another machine."""
    return scene.provider("twin", machine=ELSEWHERE, release={"legacy": LEGACY})


def workload(scene: Scene, machine: str = HERE) -> SimTd:
    return scene.world.intel.platform(machine).launch_td(TdImage())


def key_of(scene: Scene, provider: Provider, *, purpose: str = "disk") -> bytes:
    with scene.client(provider, workload(scene), kem=Kem.X25519) as client:
        return client.key(purpose).reveal()


def post(url: str, path: str, body: bytes) -> httpx.Response:
    return httpx.post(url + path, content=body, trust_env=False)


def entries(provider: Provider) -> list[str]:
    journal = SqliteJournal.open(provider.settings.host.journal_path)
    try:
        return [found.entry.code for found in journal.entries(limit=1000)]
    finally:
        journal.close()


class Host(httpx.BaseTransport):
    """The host on the wire: may answer from anywhere, and change what passes."""

    def __init__(
        self,
        targets: dict[str, str],
        change: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda _p, b: b,
    ) -> None:
        self._targets = targets
        self._change = change

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        answer = post(self._targets[path], path, request.read())
        content = answer.content
        if answer.status_code == httpx.codes.OK:
            content = json.dumps(self._change(path, answer.json())).encode()
        kind = answer.headers["content-type"]
        return httpx.Response(
            answer.status_code,
            stream=httpx.ByteStream(content),
            headers={"content-type": kind},
        )


def refused_by(error: pytest.ExceptionInfo[ProviderError]) -> Code | None:
    assert isinstance(error.value, RefusedError)
    return error.value.refusal


# -- a twin on another machine -----------------------------------------------------


def test_twin_speaks_for_itself_alone(
    scene: Scene, ours: Provider, twin: Provider
) -> None:
    """The pin names no machine, so the twin passes; its policy then says no."""
    host = Host({CHALLENGE_PATH: twin.url, KEYS_PATH: twin.url})
    with (
        scene.client(ours, workload(scene), transport=host) as client,
        pytest.raises(ProviderError) as error,
    ):
        client.key("disk")
    assert refused_by(error) is Code.PLATFORM_MISMATCH


def test_twins_challenge_is_not_ours_to_answer(
    scene: Scene, ours: Provider, twin: Provider
) -> None:
    for challenger, answerer in ((twin, ours), (ours, twin)):
        host = Host({CHALLENGE_PATH: challenger.url, KEYS_PATH: answerer.url})
        with (
            scene.client(ours, workload(scene), transport=host) as client,
            pytest.raises(ProviderError) as error,
        ):
            client.key("disk")
        assert refused_by(error) is Code.NONCE_UNKNOWN


def test_twin_under_our_quote_is_refused_by_the_guest(
    scene: Scene, ours: Provider, twin: Provider
) -> None:
    """The host puts our quote, or our whole binding, into the twin's challenge."""
    question = {"version": 1, "client_nonce": "A" * 43}
    real = post(ours.url, CHALLENGE_PATH, json.dumps(question).encode()).json()
    for taken in (("provider_evidence",), ("provider_evidence", "binding")):

        def swap(
            path: str, body: dict[str, Any], taken: tuple[str, ...] = taken
        ) -> dict[str, Any]:
            changed = {name: real[name] for name in taken}
            return body | changed if path == CHALLENGE_PATH else body

        host = Host({CHALLENGE_PATH: twin.url, KEYS_PATH: twin.url}, swap)
        with (
            scene.client(ours, workload(scene), transport=host) as client,
            pytest.raises(ProviderError) as error,
        ):
            client.key("disk")
        assert error.value.code is Code.CHALLENGE_INVALID


def test_recorded_challenge_answers_no_other_client(
    scene: Scene, ours: Provider
) -> None:
    question = {"version": 1, "client_nonce": "A" * 43}
    recorded = post(ours.url, CHALLENGE_PATH, json.dumps(question).encode()).json()
    host = Host(
        {CHALLENGE_PATH: ours.url, KEYS_PATH: ours.url},
        lambda path, body: recorded if path == CHALLENGE_PATH else body,
    )
    with (
        scene.client(ours, workload(scene), transport=host) as client,
        pytest.raises(ProviderError) as error,
    ):
        client.key("disk")
    assert error.value.code is Code.CHALLENGE_INVALID


# -- settings ----------------------------------------------------------------------

DEFAULTS_WRITTEN_OUT = {
    "verifier": "both",
    "verifier_exceptions": [],
    "accepted_tcb": ["UpToDate"],
    "snp_minimum_tcb": {"microcode": 0},
    "platform": "same",
    "kdf": "hkdf-sha256",
    "tenant": "default",
    "nonce_life": 120,
    "attested_key_life": 3600,
    "limits": {"max_keys": 16, "max_evidence_bytes": 1 << 18},
    "legacy": {"enabled": True, "derivation": "chain", "json_errors": False},
}


def test_key_outlives_restarts_and_defaults_written_out(
    scene: Scene, ours: Provider
) -> None:
    key = key_of(scene, ours)
    again = scene.provider(
        "written-out", release=DEFAULTS_WRITTEN_OUT, host={"workers": 2, "threads": 3}
    )
    assert again.pin.identity == ours.pin.identity
    assert key_of(scene, again) == key
    again.stop()
    assert key_of(scene, scene.provider("written-out", release={"legacy": LEGACY})) == (
        key
    )


EDITS: dict[str, dict[str, Any]] = {
    "tcb": {"accepted_tcb": ["UpToDate", "OutOfDate"]},
    "verifier": {"verifier": "native"},
    "platform": {"platform": "any"},
    "limits": {"limits": {"max_keys": 15}},
}


def test_host_that_edits_release_settings_gets_other_keys_and_no_guests(
    scene: Scene, ours: Provider
) -> None:
    found = {key_of(scene, ours)}
    for name, edit in EDITS.items():
        edited = scene.provider(f"edit-{name}", release={"legacy": LEGACY, **edit})
        found.add(key_of(scene, edited))
        with (
            scene.client(edited, workload(scene), pin=ours.pin) as client,
            pytest.raises(ProviderError) as error,
        ):
            client.key("disk")
        assert error.value.code is Code.PROVIDER_IDENTITY_MISMATCH
        edited.stop()
    assert len(found) == 1 + len(EDITS)


def test_legacy_chain_key_is_not_the_v1_key(scene: Scene, ours: Provider) -> None:
    recipient = PrivateKey.generate()
    quote = workload(scene).evidence(bytes(recipient.public_key).ljust(64, b"\0"))
    payload = json.dumps({"quote": list(quote)}).encode()
    sealed = bytes(json.loads(framed(ours, payload))["encrypted_key"])
    legacy = SealedBox(recipient).decrypt(sealed)
    assert len(legacy) == 32
    assert legacy != key_of(scene, ours, purpose=LEGACY_PURPOSE)


def framed(provider: Provider, payload: bytes) -> bytes:
    with socket.create_connection(provider.framed, timeout=30) as connection:
        connection.sendall(len(payload).to_bytes(4, "big") + payload)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)[4:]


# -- another simulated world -------------------------------------------------------


def test_workload_of_another_world_is_refused(
    scene: Scene, foreign: Scene, ours: Provider
) -> None:
    with (
        scene.client(ours, workload(foreign)) as client,
        pytest.raises(ProviderError) as error,
    ):
        client.key("disk")
    assert refused_by(error) is Code.ROOT_NOT_TRUSTED


def test_world_that_is_switched_on_shares_no_keys(scene: Scene, foreign: Scene) -> None:
    """Both roots are accepted, and still only one of them is the provider's own.

    Collateral is looked up by FMSPC, which both worlds have: ours meets their chain.
    """
    roots = [
        base64.b64encode(s.world.intel.root_certificate).decode()
        for s in (scene, foreign)
    ]
    both = scene.provider("both-roots", release={"simulated_roots": roots})
    assert key_of(scene, both)
    with (
        scene.client(both, workload(foreign)) as client,
        pytest.raises(ProviderError) as error,
    ):
        client.key("disk")
    assert refused_by(error) is Code.CRL_ISSUER_MISMATCH
    assert entries(both) == ["granted"]
    both.stop()


def test_guest_of_another_world_refuses_our_provider(
    foreign: Scene, ours: Provider
) -> None:
    with (
        foreign.client(ours, workload(foreign)) as client,
        pytest.raises(ProviderError) as error,
    ):
        client.key("disk")
    assert error.value.code is Code.PROVIDER_UNVERIFIED
    assert "root_not_trusted" in error.value.detail


# -- two workers -------------------------------------------------------------------


def test_two_workers_enter_one_redemption_once(scene: Scene) -> None:
    """The same request and another one for its nonce, at once, at both workers."""
    pair = scene.provider("two-workers", host={"workers": 2})
    with scene.client(pair, workload(scene), kem=Kem.X25519) as client:
        terms = client._terms
    nonce = b"n" * 32
    first, second = (
        Exchange(terms, (KeyRequest("disk"),), entropy=lambda _n: nonce)
        for _ in range(2)
    )
    challenge = post(pair.url, CHALLENGE_PATH, first.challenge_request()).content
    now = json.loads(challenge)["expires_at"] - pair.settings.release.nonce_life
    bodies = [
        e.keys_request(workload(scene).evidence(e.check_challenge(challenge, now=now)))
        for e in (first, second)
    ]
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda b: post(pair.url, KEYS_PATH, b), bodies * 12))
    granted = {a.content for a in answers if a.status_code == httpx.codes.OK}
    refused = [a.json()["code"] for a in answers if a.status_code != httpx.codes.OK]
    assert len(granted) == 1
    assert refused == ["nonce_replayed"] * 12
    assert entries(pair) == ["granted"]
    pair.stop()
