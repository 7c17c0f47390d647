# SPDX-License-Identifier: Apache-2.0
"""A stage for demonstrations, tests and benchmarks: a world, its PCCS, real providers.

The world and its PCCS are simulated; the providers are the product's own, started as
their users start them, each in a process of its own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
import uvicorn

from tightseal.errors import Code, PlatformError
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.guest.client import Client
from tightseal.guest.collateral import judge_with, online
from tightseal.guest.exchange import Terms
from tightseal.guest.pins import ProviderPin, RootedIdentity
from tightseal.model.exchange import Kem
from tightseal.model.ports import EvidenceSource
from tightseal.model.provider import ProviderIdentity, sidecar_keyring_id
from tightseal.model.wire_operator import ACTIONS_PATH, POLICY_PATH
from tightseal.service.load import parse_settings
from tightseal.service.settings import Settings
from tightseal_sim.door import PROVIDER_ENCLAVE
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.pccs import pccs_app
from tightseal_sim.world import World

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["LoopbackServer", "Provider", "Scene", "free_port"]

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 15.0
"""Longest wait for a process to come up or go down."""


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class Provider:
    """A running provider.

    Attributes:
        url: of the HTTP API.
        framed: host and port of the framed TCP protocol.
        settings: as the provider read them.
        config: its settings file.
        log: its log file.
        process: its main process.
        pin: what clients must find; computed from image and settings, not asked.
    """

    url: str
    framed: tuple[str, int]
    settings: Settings
    config: Path
    log: Path
    process: subprocess.Popen[bytes]
    pin: ProviderPin

    def publish(self, bundle: bytes) -> httpx.Response:
        """Send a signed bundle, as ``tightseal policy publish`` does."""
        return self._send(POLICY_PATH, bundle)

    def act(self, action: bytes) -> httpx.Response:
        """Send a signed action, as ``tightseal action submit`` does."""
        return self._send(ACTIONS_PATH, action)

    def _send(self, path: str, body: bytes) -> httpx.Response:
        return httpx.post(
            f"{self.url}{path}", content=body, timeout=30.0, trust_env=False
        )

    def stop(self) -> None:
        """Ask the provider to drain and end; kill it where it does not."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_SECONDS)

    def wait_ready(self, path: str = "/readyz") -> None:
        """Wait until the provider says that it is ready.

        Args:
            path: ``/healthz``, where it can answer before it can release.

        Raises:
            PlatformError: ``platform_failed``, with the end of its log.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.get(f"{self.url}{path}", timeout=2.0, trust_env=False)
                if answer.status_code == httpx.codes.OK:
                    return
            time.sleep(0.05)
        end = self.log.read_text(errors="replace")[-800:]
        detail = f"the provider did not get ready; its log ends: {end}"
        raise PlatformError(Code.PLATFORM_FAILED, detail)


class Scene:
    """A world in a folder, its PCCS on a loopback port, and providers on it.

    Args:
        folder: where everything lies; made if missing. A world that is there already
            is opened, so that keys stay the same.
        quote_latency_ms: how long a quote takes on this hardware.
    """

    def __init__(self, folder: Path, *, quote_latency_ms: float = 0.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.quote_latency_ms = quote_latency_ms
        place = folder / "world"
        self.world = World.open(place) if place.exists() else World.create(place)
        self._pccs = LoopbackServer(
            pccs_app(self.world.intel, now=lambda: int(time.time()))
        )
        self._providers: list[Provider] = []

    def __enter__(self) -> Self:
        self._pccs.start()
        return self

    def __exit__(self, *_: object) -> None:
        for provider in self._providers:
            provider.stop()
        self._pccs.stop()

    @property
    def pccs_url(self) -> str:
        """Address of the simulated PCCS."""
        return self._pccs.url

    def root_pem(self) -> str:
        """The world's root certificate, as ``--root-ca`` takes it."""
        return ssl.DER_cert_to_PEM_cert(self.world.intel.root_certificate)

    def configure(
        self,
        name: str = "provider",
        *,
        machine: str = "machine-a",
        image: str = "",
        release: Mapping[str, Any] | None = None,
        host: Mapping[str, Any] | None = None,
        policy_root: bytes | None = None,
        bundle: bytes | None = None,
    ) -> Path:
        """Write the settings of a provider; nothing is started.

        Args:
            name: of its folder of state.
            machine: the simulated machine that it stands on.
            image: name of its image; empty for the usual one.
            release: release settings besides the simulated root.
            host: host settings besides addresses, folders and platform.
            policy_root: the pinned policy root.
            bundle: a signed bundle, put where the provider looks for one.

        Returns:
            the settings file.
        """
        self.world.intel.platform(machine)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        root = base64.b64encode(self.world.intel.root_certificate).decode()
        rooted = {} if policy_root is None else {"policy_root": policy_root.hex()}
        signed: dict[str, Any] = {}
        if bundle is not None:
            (folder / "policy.tsb").write_bytes(bundle)
            signed = {"policy_bundle": str(folder / "policy.tsb")}
        document: dict[str, Any] = {
            "host": {
                "listen": f"127.0.0.1:{free_port()}",
                "listen_framed": f"127.0.0.1:{free_port()}",
                # Nobody balances load here, so that there is nobody to be told.
                "drain_notice_seconds": 0,
                "state_dir": str(folder / "state"),
                "platform": {
                    "kind": "sim",
                    "world": str(self.folder / "world"),
                    "machine": machine,
                    **({"image": image} if image else {}),
                    **self._latency(),
                },
                "collateral": {"pccs": [self.pccs_url]},
                **signed,
                **(host or {}),
            },
            "release": {"simulated_roots": [root], **rooted, **(release or {})},
        }
        config = folder / "tightseal.toml"
        config.write_text(_toml(document))
        return config

    def provider(self, name: str = "provider", **settings: Any) -> Provider:
        """Start a provider and wait until it is ready.

        Under a policy root without a first bundle it is not ready yet, and answers.

        Args:
            name: of its folder of state.
            settings: as of :meth:`configure`.

        Raises:
            PlatformError: ``platform_failed``, where it does not get ready.
        """
        config = self.configure(name, **settings)
        waits = settings.get("policy_root") is not None and not settings.get("bundle")
        return self.start(config, wait_for="/healthz" if waits else "/readyz")

    def start(self, config: Path, *, wait_for: str = "/readyz") -> Provider:
        """Start the provider of a settings file.

        Args:
            config: of :meth:`configure`.
            wait_for: what has to answer.

        Raises:
            PlatformError: ``platform_failed``, where it does not get ready.
        """
        log = config.parent / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen(  # noqa: S603 (our own program)
                [sys.executable, "-m", "tightseal", "serve", "--config", str(config)],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        settings = parse_settings(config.read_text(), environment={})
        framed, port = settings.host.listen_framed.rsplit(":", 1)
        provider = Provider(
            url=f"http://{settings.host.listen}",
            framed=(framed, int(port)),
            settings=settings,
            config=config,
            log=log,
            process=process,
            pin=self.pin_of(settings),
        )
        self._providers.append(provider)
        provider.wait_ready(wait_for)
        return provider

    def _latency(self) -> dict[str, Any]:
        if not self.quote_latency_ms:
            return {}
        return {"quote_latency_ms": self.quote_latency_ms}

    def pin_of(self, settings: Settings) -> ProviderPin:
        """What a workload's image pins: known from image and settings alone."""
        domain = str(self.world.intel.trusted_root.trust_domain)
        image = settings.host.platform.image or PROVIDER_ENCLAVE
        measurement = EnclaveImage(name=image).mr_enclave
        identity: ProviderIdentity | RootedIdentity
        if settings.release.policy_root:
            identity = RootedIdentity(
                tee="sgx",
                measurement=measurement,
                keyring_id=sidecar_keyring_id(),
                policy_root=bytes.fromhex(settings.release.policy_root),
            )
        else:
            identity = ProviderIdentity(
                tee="sgx",
                measurement=measurement,
                keyring_id=sidecar_keyring_id(),
                policy_root=None,
                settings_digest=settings.release.digest(),
            )
        return ProviderPin(
            identity=identity,
            trust_domains=frozenset({domain}),
            allow_simulated=True,
        )

    def client(
        self,
        provider: Provider,
        source: EvidenceSource,
        *,
        kem: Kem = Kem.MLKEM768_X25519,
        pin: ProviderPin | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> Client:
        """A workload's client, which trusts this world's root and checks everything."""
        roots = with_simulated(VENDOR_ROOTS, self.world.intel.root_certificate)
        judge = judge_with(roots=roots)
        terms = Terms(
            pin=pin or provider.pin,
            collateral=online(pccs=[self.pccs_url], judge=judge),
            kem=kem,
        )
        return Client(provider.url, source=source, terms=terms, transport=transport)


def _toml(document: Mapping[str, Any]) -> str:
    """Tables of settings as TOML; JSON's scalars and lists are TOML's as well."""

    def value(item: Any) -> str:
        if isinstance(item, Mapping):
            inner = ", ".join(f"{k} = {value(v)}" for k, v in item.items())
            return "{ " + inner + " }"
        if isinstance(item, list | tuple):
            return "[" + ", ".join(value(v) for v in item) + "]"
        return json.dumps(item)

    lines = []
    for table, settings in document.items():
        lines.append(f"[{table}]")
        lines += [f"{name} = {value(item)}" for name, item in settings.items()]
        lines.append("")
    return "\n".join(lines)


class LoopbackServer:
    """A Starlette application on a loopback port, in a thread."""

    def __init__(self, app: Starlette) -> None:
        self._port = free_port()
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self._port, log_level="error", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Serve, and return when connections are taken."""
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> None:
        """End, and wait for it."""
        self._server.should_exit = True
        self._thread.join(STOP_SECONDS)
