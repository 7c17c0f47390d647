# SPDX-License-Identifier: Apache-2.0
"""Every setting of a provider, in two kinds that never mix.

*Host* settings say where and how the provider runs: addresses, folders, caches, times
and sizes of the transports. The host may change them at will; none of them can change
which key leaves. *Release* settings (:mod:`tightseal.model.settings`) can, so they come
only from the measured configuration.

Both stand in one TOML file, as the tables ``[host]`` and ``[release]``.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from tightseal.errors import Code, SettingsError
from tightseal.model.settings import ReleaseSettings
from tightseal.service.keyring_settings import KeyringSettings
from tightseal.service.listen_settings import (
    FramedSettings,
    HostLimits,
    HttpSettings,
    TlsSettings,
)
from tightseal.service.setting import Seconds, about, require_no_password

__all__ = [
    "CollateralSettings",
    "HostSettings",
    "LogFormat",
    "LogLevel",
    "LogSettings",
    "PlatformKind",
    "PlatformSettings",
    "Settings",
    "SimulatedTee",
    "StateEngine",
    "StateSettings",
    "WitnessSettings",
    "split_address",
]

MAX_PORT: Final = 65535

LOG_TILES_IN_STATE: Final = "postgresql:"
"""In place of a folder of tiles: rows of the database that holds the state."""


class PlatformKind(StrEnum):
    """What the provider stands on."""

    GRAMINE = "gramine"
    SEV_GUEST = "sev-guest"
    SIM = "sim"


class SimulatedTee(StrEnum):
    """What a simulated machine is."""

    SGX = "sgx"
    SNP = "snp"


class StateEngine(StrEnum):
    """What holds the state that a policy with a pinned root needs."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"


class LogFormat(StrEnum):
    """How log lines are written."""

    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """The least severe line that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def split_address(text: str, *, setting: str) -> tuple[str, int]:
    """Split ``host:port`` or ``[v6]:port``; port 0 asks the system for a free one.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    host, colon, port = text.rpartition(":")
    digits = port.isascii() and port.isdigit()
    if not colon or not host or not digits or int(port) > MAX_PORT:
        message = f"{setting} is {text!r}; expected host:port, such as 127.0.0.1:3442"
        raise SettingsError(Code.SETTINGS_INVALID, message)
    return host.removeprefix("[").removesuffix("]"), int(port)


_SIM_IMAGE: Final = {SimulatedTee.SGX: "enclave", SimulatedTee.SNP: "kernel"}
"""What another image is called there: another name, another measurement."""


class PlatformSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which platform, and where it is found."""

    kind: Annotated[
        PlatformKind, about("what the provider stands on: gramine, sev-guest or sim")
    ] = PlatformKind.GRAMINE
    root: Annotated[
        str,
        about("gramine: folder of attestation files; sev-guest: of reports"),
    ] = ""
    device: Annotated[
        str, about("sev-guest: path of the device; empty: the usual one")
    ] = ""
    world: Annotated[str, about("sim: folder of the simulated world")] = ""
    machine: Annotated[str, about("sim: name of the simulated machine to stand on")] = (
        "host"
    )
    tee: Annotated[SimulatedTee, about("sim: sgx for an enclave, snp for a guest")] = (
        SimulatedTee.SGX
    )
    image: Annotated[
        str, about("sim: name of the provider's own image; empty: the usual one")
    ] = ""
    quote_latency_ms: Annotated[
        float, about("sim: time that one quote takes, milliseconds", ge=0, le=60_000)
    ] = 0.0

    def options(self) -> dict[str, Any]:
        """What the platform of this kind is told; an empty setting is left out.

        Which measurements a platform's own sealing key is bound to is no option here:
        it would change which key leaves.
        """
        by_kind: dict[PlatformKind, dict[str, Any]] = {
            PlatformKind.GRAMINE: {"root": self.root},
            PlatformKind.SEV_GUEST: {"root": self.root, "device": self.device},
            PlatformKind.SIM: {
                "world": self.world,
                "platform": self.machine,
                "tee": self.tee.value,
                _SIM_IMAGE[self.tee]: self.image,
                "quote_latency_ms": self.quote_latency_ms,
            },
        }
        return {name: v for name, v in by_kind[self.kind].items() if v}


class CollateralSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where collateral comes from. All of it is signed; the host may choose."""

    pccs: Annotated[
        tuple[str, ...],
        about("base addresses of PCCS or PCS v4, asked in order", max_length=8),
    ] = ("https://api.trustedservices.intel.com",)
    kds: Annotated[
        tuple[str, ...],
        about("base addresses of AMD's KDS, asked in order", max_length=8),
    ] = ("https://kdsintf.amd.com",)
    ca_file: Annotated[
        str, about("PEM of the CA of a PCCS with a certificate of its own")
    ] = ""
    bundle: Annotated[
        str, about("file or folder of collateral; where set, no network is used")
    ] = ""
    cache_dir: Annotated[
        str, about("folder of cached collateral; empty: collateral in state_dir")
    ] = ""
    fetch_seconds: Annotated[
        float, about("whole time of one fetch, all tries, in seconds", gt=0, le=25)
    ] = 20.0
    max_age_seconds: Annotated[
        int, about("oldest unconfirmed collateral, in seconds", ge=3600, le=604_800)
    ] = 86_400
    result_cache: Annotated[
        int, about("signature results kept in memory, entries", ge=16, le=1_000_000)
    ] = 4096


class StateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the state lies: policy in force, usage, operator actions. All sealed."""

    engine: Annotated[
        StateEngine, about("sqlite: a file in state_dir; postgres: a shared database")
    ] = StateEngine.SQLITE
    url: Annotated[
        str, about("postgres: postgresql://user@host/database", max_length=1024)
    ] = ""
    create: Annotated[
        bool, about("make the state where the other files are there and it is not")
    ] = False
    ended_logs: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")], ...],
        about(
            "ids of logs that are over: lost, or of nodes that are gone", max_length=64
        ),
    ] = ()

    def __post_init__(self) -> None:
        """Refuse an address that does not fit the engine."""
        postgres = self.engine is StateEngine.POSTGRES
        if postgres != bool(self.url):
            wanted = "needs url" if postgres else "takes no url"
            message = f"host.state.engine {self.engine.value} {wanted}"
            raise SettingsError(Code.SETTINGS_INVALID, message)
        require_no_password(self.url, setting="host.state.url")


class WitnessSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where witnesses of the audit log are asked, and for how long answers wait.

    Which witnesses count, and whether any answer waits, is a release setting.
    """

    urls: Annotated[
        tuple[str, ...],
        about("submission prefixes of witnesses (C2SP tlog-witness)", max_length=16),
    ] = ()
    request_seconds: Annotated[
        float, about("whole time of one request to a witness, seconds", gt=0, le=60)
    ] = 5.0
    wait_seconds: Annotated[
        float,
        about("that an answer waits to be anchored or cosigned, seconds", gt=0, le=25),
    ] = 5.0
    max_waiting: Annotated[
        int, about("answers that may wait so, per worker", ge=1, le=65_536)
    ] = 256


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, to standard error."""

    format: Annotated[LogFormat, about("json or text")] = LogFormat.JSON
    level: Annotated[LogLevel, about("least severe line; re-read on SIGHUP")] = (
        LogLevel.INFO
    )


class HostSettings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
    """Every host setting with its default."""

    listen: Annotated[str, about("address of the HTTP API, host:port")] = (
        "127.0.0.1:3442"
    )
    listen_framed: Annotated[
        str, about("address of the framed TCP protocol, host:port")
    ] = "127.0.0.1:3443"
    workers: Annotated[
        int, about("worker processes; 1 runs in the main process", ge=1, le=64)
    ] = 1
    threads: Annotated[
        int, about("verifying threads per worker; 0: one a core", ge=0, le=256)
    ] = 0
    queue: Annotated[
        int, about("requests that may wait for a thread, per worker", ge=1, le=65536)
    ] = 256
    max_buffered_bytes: Annotated[
        int,
        about("request bytes held at once, per worker", ge=8 << 20, le=1 << 34),
    ] = 64 << 20
    drain_seconds: Annotated[
        Seconds, about("for requests in flight when told to stop, seconds")
    ] = 30.0
    drain_notice_seconds: Annotated[
        float,
        about("not ready but still answering when told to stop, seconds", ge=0, le=600),
    ] = 5.0
    state_dir: Annotated[str, about("folder of the journal and other state")] = (
        "/var/lib/tightseal"
    )
    platform: PlatformSettings = PlatformSettings()
    state: StateSettings = StateSettings()
    keyring: KeyringSettings = KeyringSettings()
    policy_bundle: Annotated[
        str, about("file of a signed bundle, offered at start and when it changes")
    ] = ""
    log_tiles: Annotated[
        str,
        about(
            "folder or postgresql://… that gets the audit log as C2SP tiles; "
            "postgresql: for the database of host.state; empty: none does",
            max_length=1024,
        ),
    ] = ""
    witnesses: WitnessSettings = WitnessSettings()
    collateral: CollateralSettings = CollateralSettings()
    log: LogSettings = LogSettings()
    tls: TlsSettings = TlsSettings()
    http: HttpSettings = HttpSettings()
    framed: FramedSettings = FramedSettings()
    limits: HostLimits = HostLimits()

    def __post_init__(self) -> None:
        """Refuse what the types cannot express.

        Raises:
            SettingsError: ``settings_invalid``, naming the setting.
        """
        split_address(self.listen, setting="host.listen")
        split_address(self.listen_framed, setting="host.listen_framed")
        if not self.state_dir:
            raise SettingsError(Code.SETTINGS_INVALID, "host.state_dir is empty")
        self._check_log()

    def _check_log(self) -> None:
        if self.http.log and not self.log_tiles:
            detail = "host.http.log serves tiles, and host.log_tiles is empty"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        shared = self.state.engine is StateEngine.POSTGRES
        if self.log_tiles == LOG_TILES_IN_STATE and not shared:
            detail = f"host.log_tiles {self.log_tiles} needs host.state.engine postgres"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        scheme, separator, _ = self.log_tiles.partition("://")
        if separator and scheme not in {"postgresql", "postgres"}:
            detail = f"host.log_tiles {scheme}://…: expected a folder or postgresql://…"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        if separator:
            require_no_password(self.log_tiles, setting="host.log_tiles")

    @property
    def log_place(self) -> str:
        """Where the log's tiles go: a folder or a database's address; or nothing."""
        rows = self.log_tiles == LOG_TILES_IN_STATE
        return self.state.url if rows else self.log_tiles

    @property
    def journal_path(self) -> Path:
        """The SQLite journal."""
        return Path(self.state_dir) / "journal.sqlite"

    @property
    def state_path(self) -> Path:
        """The SQLite state, where there is one."""
        return Path(self.state_dir) / "state.sqlite"

    @property
    def keyring_path(self) -> Path:
        """The keyring, where there is one."""
        named = self.keyring.path
        return Path(named) if named else Path(self.state_dir) / "keyring.tsk"

    @property
    def collateral_dir(self) -> Path:
        """Where fetched collateral is kept."""
        named = self.collateral.cache_dir
        return Path(named) if named else Path(self.state_dir) / "collateral"

    @property
    def run_dir(self) -> Path:
        """What lives only as long as this provider runs."""
        return Path(self.state_dir) / "run"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file: host settings and release settings."""

    host: HostSettings = HostSettings()
    release: ReleaseSettings = ReleaseSettings()

    def __post_init__(self) -> None:
        """Refuse combinations that neither kind can see alone.

        Raises:
            SettingsError: ``settings_invalid``; a simulated platform needs its root
                among the release settings, or nobody's key would be where it seems.
        """
        self.release.check_measured()
        simulated = self.host.platform.kind is PlatformKind.SIM
        if simulated and not self.release.simulated_roots:
            message = (
                "host.platform.kind is sim, but release.simulated_roots is empty: "
                "a simulated platform runs only where release settings name its root"
            )
            raise SettingsError(Code.SETTINGS_INVALID, message)

    @property
    def simulated(self) -> bool:
        """Whether simulated evidence is accepted; every log line says so then."""
        return bool(self.release.simulated_roots)
