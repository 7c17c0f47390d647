# SPDX-License-Identifier: Apache-2.0
"""TLS that ends in the provider: real connections, keys, renewal, half-open peers."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from service_harness import (
    http_request,
    parse_http,
    receive_all,
)
from service_world import SEED, Serving, real_clock
from tls_scene import (
    any_certificate,
    client,
    https,
    key_hash_of,
    served,
    settings_in,
    shown_by,
    terms,
    workload,
)

from tightseal.cli import main
from tightseal.cli.ui import EXIT_UNREADABLE, EXIT_YES
from tightseal.errors import Code, ProviderError, SettingsError
from tightseal.guest.async_client import AsyncClient
from tightseal.guest.client import Client
from tightseal.guest.exchange import Exchange
from tightseal.model.keypath import KeyRequest
from tightseal.model.secret import Secret
from tightseal.model.tls import TlsTrust
from tightseal.platform.tls_key import TlsKey
from tightseal.service.listen_settings import TlsMode, TlsSettings
from tightseal.service.settings import Settings
from tightseal_sim.scene import Scene

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

DISK = (KeyRequest("disk"),)
LIFE = 60


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


# -- clients -------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [TlsTrust.ATTESTED, TlsTrust.EXCHANGE])
def test_a_key_over_tls_that_ends_in_the_provider(
    scene: Scene, provider: Serving, settings: Settings, trust: TlsTrust
) -> None:
    with client(scene, provider, terms(scene, settings), tls=trust) as guest:
        assert len(guest.key("disk")) == 32


@pytest.mark.parametrize(
    ("options", "asked"),
    [(("--tls", "exchange"), True), ((), False), (("--tls", "attested"), False)],
)
def test_whoever_watches_may_leave_the_certificate_unjudged_and_has_to_say_so(
    provider: Serving,
    options: tuple[str, ...],
    *,
    asked: bool,
) -> None:
    """What they are shown is unsigned anyway."""
    watch = ["top", https(provider), "--once", "--json", "--interval", "0.2"]
    assert (main([*watch, *options]) != EXIT_UNREADABLE) is asked
    assert (main(["nodes", https(provider), *options]) == EXIT_YES) is asked


def test_an_async_client_judges_the_certificate_too(
    scene: Scene, provider: Serving, settings: Settings
) -> None:
    async def ask(wrong: bool) -> bytes:  # noqa: FBT001
        on = terms(scene, settings)
        if wrong:
            on = replace(on, pin=replace(on.pin, allow_simulated=True, identity=other))
        async with AsyncClient(
            https(provider), source=workload(scene), terms=on, tls=TlsTrust.ATTESTED
        ) as guest:
            return (await guest.key("disk")).reveal()

    other = replace(scene.pin_of(settings).identity, measurement=bytes(32))
    assert len(asyncio.run(ask(wrong=False))) == 32
    with pytest.raises(ProviderError, match="evidence measures") as refused:
        asyncio.run(ask(wrong=True))
    assert refused.value.code is Code.PROVIDER_IDENTITY_MISMATCH


def test_public_cas_do_not_know_the_key(
    scene: Scene, provider: Serving, settings: Settings
) -> None:
    on = terms(scene, settings)
    with Client(https(provider), source=workload(scene), terms=on) as guest:
        guest._bounds = replace(guest._bounds, attempts=1)
        with pytest.raises(ProviderError, match="CERTIFICATE_VERIFY_FAILED"):
            guest.key("disk")


def test_the_challenge_names_the_key_of_the_connection(
    scene: Scene, provider: Serving, settings: Settings
) -> None:
    exchange = Exchange(terms(scene, settings), DISK)
    with httpx.Client(verify=any_certificate(), trust_env=False) as plain:
        answer = plain.post(
            https(provider) + "/v1/challenge", content=exchange.challenge_request()
        ).content
    shown = shown_by(provider.served.http_port)
    with pytest.raises(ProviderError, match="another key"):
        exchange.check_challenge(answer, tls_key_hash=bytes(32), now=real_clock())
    exchange.check_challenge(answer, tls_key_hash=key_hash_of(shown), now=real_clock())


def test_attested_tls_wants_https_and_collateral_of_its_own(
    scene: Scene, provider: Serving, settings: Settings
) -> None:
    on = terms(scene, settings)
    with pytest.raises(SettingsError, match="no https address"):
        Client(provider.url, terms=on, tls=TlsTrust.ATTESTED)
    stapled = replace(on, collateral=replace(on.collateral, wants_stapled=True))
    with pytest.raises(SettingsError, match="staple"):
        Client(https(provider), terms=stapled, tls=TlsTrust.ATTESTED)


# -- the server ----------------------------------------------------------------------


def test_versions_before_1_3_are_refused(provider: Serving) -> None:
    context = any_certificate()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    address = ("127.0.0.1", provider.served.http_port)
    with (
        socket.create_connection(address, timeout=10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain)


def test_no_session_is_resumed(provider: Serving) -> None:
    context = any_certificate()
    address = ("127.0.0.1", provider.served.http_port)
    with (
        socket.create_connection(address, timeout=10) as plain,
        context.wrap_socket(plain) as tls,
    ):
        tls.sendall(http_request("GET", "/healthz"))
        assert parse_http(receive_all(tls)).status == 200
        assert tls.version() == "TLSv1.3"
        session = tls.session
        assert session is None or not session.has_ticket


def test_plain_http_gets_nothing(provider: Serving) -> None:
    address = ("127.0.0.1", provider.served.http_port)
    with socket.create_connection(address, timeout=10) as plain:
        plain.sendall(http_request("GET", "/healthz"))
        assert b"alive" not in receive_all(plain)


def test_workers_of_one_seed_have_one_key_and_another_start_another() -> None:
    assert TlsKey.derived(SEED).spki == TlsKey.derived(SEED).spki
    assert TlsKey.derived(SEED).spki != TlsKey.derived(Secret(bytes(32))).spki


def test_the_private_key_is_in_no_file(scene: Scene, settings: Settings) -> None:
    del scene
    secret = TlsKey.derived(SEED).private_pem().splitlines()[1]
    for path in Path(settings.host.state_dir).rglob("*"):
        if path.is_file():
            assert secret not in path.read_bytes()
    for link in Path("/proc/self/fd").iterdir():
        if link.is_symlink():
            assert "memfd:tls" not in str(link.readlink())


# -- renewal -------------------------------------------------------------------------


def test_the_certificate_is_renewed_and_old_connections_and_challenges_go_on(
    scene: Scene, tmp_path: Path
) -> None:
    offset = [0]

    def clock() -> int:
        return real_clock() + offset[0]

    settings = settings_in(tmp_path, scene, attested_key_life=LIFE)
    with (
        served(settings, clock=clock) as serving,
        client(scene, serving, terms(scene, settings), clock=clock) as guest,
        httpx.Client(verify=any_certificate(), trust_env=False) as plain,
    ):
        port = serving.served.http_port
        first = shown_by(port)
        before = guest.key("disk").reveal()
        exchange = Exchange(terms(scene, settings), DISK)
        challenge = plain.post(
            https(serving) + "/v1/challenge", content=exchange.challenge_request()
        ).content
        report_data = exchange.check_challenge(
            challenge, tls_key_hash=key_hash_of(first), now=clock()
        )

        offset[0] = LIFE
        serving.composed.background.renew_certificate()  # type: ignore[attr-defined]
        second = shown_by(port)
        assert second != first
        assert key_hash_of(second) == key_hash_of(first)

        # The connection stands, with the certificate of before.
        assert guest.key("disk").reveal() == before
        body = exchange.keys_request(workload(scene).evidence(report_data))
        answer = plain.post(https(serving) + "/v1/keys", content=body)
        assert answer.status_code == 200, answer.text
        with exchange.open_response(answer.content, now=clock()) as keys:
            assert keys.get("disk").reveal() == before
        with client(scene, serving, terms(scene, settings), clock=clock) as another:
            assert another.key("disk").reveal() == before


def test_a_certificate_that_nobody_renewed_is_refused_when_it_ends(
    scene: Scene, tmp_path: Path
) -> None:
    offset = [0]

    def clock() -> int:
        return real_clock() + offset[0]

    settings = settings_in(tmp_path, scene, attested_key_life=LIFE)
    with served(settings) as serving:
        offset[0] = 2 * LIFE + 301
        with (
            client(scene, serving, terms(scene, settings), clock=clock) as guest,
            pytest.raises(ProviderError, match="certificate_expired"),
        ):
            guest.key("disk")


def test_without_a_quote_the_exchange_alone_is_left(
    scene: Scene, tmp_path: Path
) -> None:
    settings = settings_in(tmp_path, scene)
    with served(settings) as serving:
        tls = serving.served.front.tls
        assert tls is not None
        bare = TlsKey.derived(SEED).certificate(
            platform=None, now=real_clock(), not_after=real_clock() + LIFE
        )
        tls._context = _context_of(bare + TlsKey.derived(SEED).private_pem(), tmp_path)
        on = terms(scene, settings)
        with client(scene, serving, on, tls=TlsTrust.EXCHANGE) as guest:
            assert len(guest.key("disk")) == 32
        with (
            client(scene, serving, on) as guest,
            pytest.raises(ProviderError, match="evidence_unreadable"),
        ):
            guest.key("disk")


def _context_of(pem: bytes, folder: Path) -> ssl.SSLContext:
    path = folder / "both.pem"
    path.write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


# -- files ---------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> TlsSettings:
    key = TlsKey.derived(Secret(b"\x31" * 32))
    now = real_clock()
    (tmp_path / "key.pem").write_bytes(key.private_pem())
    (tmp_path / "certificate.pem").write_bytes(
        key.certificate(platform=None, now=now, not_after=now + 3600)
    )
    return TlsSettings(
        mode=TlsMode.FILES,
        certificate=str(tmp_path / "certificate.pem"),
        key=str(tmp_path / "key.pem"),
    )


def test_a_key_of_the_host_is_named_by_the_challenge(
    scene: Scene, files: TlsSettings, tmp_path: Path
) -> None:
    settings = settings_in(tmp_path / "state", scene, tls=files)
    own = Path(files.certificate).read_text()
    cas = ssl.create_default_context(cadata=own)
    cas.check_hostname = False
    with served(settings) as serving:
        with client(scene, serving, terms(scene, settings), tls=cas) as guest:
            assert len(guest.key("disk")) == 32
        challenge = Exchange(terms(scene, settings), DISK)
        with httpx.Client(verify=cas, trust_env=False) as plain:
            answer = plain.post(
                https(serving) + "/v1/challenge", content=challenge.challenge_request()
            )
        wanted = key_hash_of(ssl.PEM_cert_to_DER_cert(own))
        challenge.check_challenge(answer.content, tls_key_hash=wanted, now=real_clock())


@pytest.mark.parametrize("wrong", ["certificate", "key", "other_key", "encrypted"])
def test_files_that_cannot_be_used_end_the_start(
    scene: Scene, files: TlsSettings, tmp_path: Path, wrong: str
) -> None:
    key = Path(files.key)
    if wrong == "certificate":
        Path(files.certificate).write_text("no certificate")
    elif wrong == "key":
        key.unlink()
    elif wrong == "other_key":
        key.write_bytes(TlsKey.derived(Secret(b"\x32" * 32)).private_pem())
    else:
        plain = load_pem_private_key(key.read_bytes(), None)
        hidden = BestAvailableEncryption(b"secret")
        key.write_bytes(plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden))
    settings = settings_in(tmp_path / "state", scene, tls=files)
    with pytest.raises(SettingsError, match=r"host\.tls"), served(settings):
        pass


@pytest.mark.parametrize(
    "given",
    [
        {"mode": TlsMode.FILES},
        {"mode": TlsMode.FILES, "certificate": "a"},
        {"mode": TlsMode.FILES, "key": "a"},
        {"mode": TlsMode.SELF, "certificate": "a", "key": "b"},
        {"mode": TlsMode.OFF, "key": "b"},
    ],
)
def test_files_go_with_their_mode_alone(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"host\.tls\.mode"):
        TlsSettings(**given)  # type: ignore[arg-type]
