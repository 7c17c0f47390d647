# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001
"""Lint an expanded Gramine manifest of a provider: what must hold for its keys.

    gramine-manifest ... tightseal.manifest.template tightseal.manifest
    python3 check.py tightseal.manifest

    gramine-manifest ... service.manifest.template service.manifest
    python3 check.py service.manifest service

Standard library only. Exit status 0: nothing found; 1: findings, one a line; 2: the
file cannot be read.
"""

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SETTINGS: Final = "/etc/tightseal/tightseal.toml"
HOST_FOLDER: Final = "/etc/tightseal-host"
HOST_FILE: Final = "host.toml"
ARGV: Final = [
    *["python3", "-P", "-s", "-B", "-m", "tightseal"],
    *["serve", "--config", SETTINGS],
    *["--host-config", f"{HOST_FOLDER}/{HOST_FILE}"],
]
CACHE: Final = "/var/cache/tightseal"
STATE: Final = "/var/lib/tightseal"
KEYRING: Final = "/var/lib/tightseal-keyring"
SHIM: Final = "/usr/local/lib/libtightseal-egetkey.so"
ENVIRONMENT: Final = frozenset(
    {"LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "HOME"}
)
MIN_THREADS: Final = 16
MAX_THREADS: Final = 512
EXPECTED: Final[dict[str, Any]] = {
    "loader.argv": ARGV,
    "sgx.debug": False,
    "sgx.edmm_enable": False,
    "sgx.remote_attestation": "dcap",
    "sgx.file_check_policy": "strict",
    "sgx.seal_key.flags_mask": "0xffffffffffffffff",
    "sgx.seal_key.xfrm_mask": "0xfffffffffff9ff1b",
    "sgx.seal_key.misc_mask": "0xffffffff",
}
FORBIDDEN: Final = {
    "insecure": "an insecure setting",
    "debug__": "a debugging setting",
    "argv_src_file": "arguments come from outside",
    "env_src_file": "the environment comes from outside",
    "passthrough": "the environment comes from outside",
    "preload": "a library is loaded before ours",
    "enable_stats": "statistics need a debug enclave",
    "profile": "profiling needs a debug enclave",
}


@dataclass(frozen=True)
class Shape:
    """What a shape of the provider needs of its manifest.

    Attributes:
        untrusted: folders of files that protect themselves, or count for nothing.
        trusted: files that must be there by hash, besides the settings.
    """

    untrusted: tuple[str, ...]
    trusted: tuple[str, ...] = ()


SHAPES: Final = {
    "sidecar": Shape(untrusted=(CACHE, HOST_FOLDER)),
    "service": Shape(untrusted=(CACHE, HOST_FOLDER, KEYRING), trusted=(SHIM,)),
}


def problems(manifest: dict[str, Any], shape: str = "sidecar") -> list[str]:
    """What is wrong with the manifest of a shape; empty where nothing is."""
    wanted = SHAPES[shape]
    return [
        *_unexpected_values(manifest),
        *_forbidden_keys(manifest),
        *_environment(manifest),
        *_numbers(manifest),
        *_mounts(manifest, wanted),
        *_needed(manifest, wanted),
        *_files(manifest, wanted),
    ]


def _unexpected_values(manifest: dict[str, Any]) -> Iterator[str]:
    for key, expected in EXPECTED.items():
        got = _at(manifest, key)
        if got != expected or type(got) is not type(expected):
            yield f"{key}: got {got!r}, expected {expected!r}"


def _forbidden_keys(manifest: dict[str, Any]) -> Iterator[str]:
    for path in _keys(manifest):
        name = path.rpartition(".")[2]
        for part, why in FORBIDDEN.items():
            if part in name:
                yield f"{path}: {why}"


def _environment(manifest: dict[str, Any]) -> Iterator[str]:
    environment = _at(manifest, "loader.env")
    for name, value in (environment if isinstance(environment, dict) else {}).items():
        if name not in ENVIRONMENT or not isinstance(value, str):
            yield f"loader.env.{name}: got {value!r}, expected no such variable"


def _numbers(manifest: dict[str, Any]) -> Iterator[str]:
    threads = _at(manifest, "sgx.max_threads")
    if type(threads) is not int or not MIN_THREADS <= threads <= MAX_THREADS:
        bounds = f"{MIN_THREADS} to {MAX_THREADS}"
        yield f"sgx.max_threads: got {threads!r}, expected {bounds}"
    for key in ("sgx.isvprodid", "sgx.isvsvn"):
        value = _at(manifest, key)
        if type(value) is not int or not 0 <= value < 1 << 16:
            yield f"{key}: got {value!r}, expected 0 to 65535"


def _mounts(manifest: dict[str, Any], shape: Shape) -> Iterator[str]:
    mounts = _at(manifest, "fs.mounts")
    trusted = _at(manifest, "sgx.trusted_files") or []
    if not isinstance(mounts, list):
        yield "fs.mounts: expected a list"
        return
    for mount in mounts:
        path, kind = mount.get("path"), mount.get("type", "chroot")
        if kind == "encrypted" and mount.get("key_name") != "_sgx_mrsigner":
            key = mount.get("key_name")
            yield f"{path}: encrypted under {key!r}, expected '_sgx_mrsigner'"
        elif (
            kind == "chroot"
            and path not in shape.untrusted
            and not _covered(mount, trusted)
        ):
            yield f"{path}: neither trusted nor encrypted"
        elif kind not in ("chroot", "encrypted", "tmpfs"):
            yield f"{path}: type {kind!r}"


def _needed(manifest: dict[str, Any], shape: Shape) -> Iterator[str]:
    """Each folder of a provider's own is there once, as the kind that fits it."""
    mounts = _at(manifest, "fs.mounts") or []
    expected = {STATE: "encrypted", **dict.fromkeys(shape.untrusted, "chroot")}
    for path, kind in expected.items():
        got = [m.get("type", "chroot") for m in mounts if m.get("path") == path]
        if got != [kind]:
            yield f"{path}: mounted as {got}, expected {[kind]}"
    places = [
        str(m.get("uri")).rstrip("/") for m in mounts if m.get("path") in expected
    ]
    for one in places:
        if any(f"{other}/".startswith(f"{one}/") for other in places if other != one):
            yield f"{one}: holds another folder of the provider"
    if len(set(places)) != len(places):
        yield f"fs.mounts: folders of the provider are one: {places}"


def _files(manifest: dict[str, Any], shape: Shape) -> Iterator[str]:
    trusted = _at(manifest, "sgx.trusted_files") or []
    allowed = _at(manifest, "sgx.allowed_files") or []
    mounts = {m.get("path"): m.get("uri") for m in _at(manifest, "fs.mounts") or []}
    settings = f"{mounts.get('/etc/tightseal')}/tightseal.toml"
    if settings not in trusted:
        yield f"sgx.trusted_files: {settings} is missing: the settings are not measured"
    for path in shape.trusted:
        if mounts.get(path) is None or mounts[path] not in trusted:
            yield f"sgx.trusted_files: {path} is missing, or is not mounted"
    expected = [
        f"{mounts.get(path)}/{HOST_FILE if path == HOST_FOLDER else ''}"
        for path in shape.untrusted
    ]
    if allowed != expected:
        yield f"sgx.allowed_files: got {allowed!r}, expected {expected!r}"
    for uri in trusted:
        if not isinstance(uri, str):
            yield f"sgx.trusted_files: {uri!r}: the hash is Gramine's to compute"
        elif any(uri.startswith(a) or a.startswith(uri) for a in allowed):
            yield f"sgx.trusted_files: {uri} overlaps an allowed file"


def _covered(mount: dict[str, Any], trusted: list[Any]) -> bool:
    """Whether everything that can be read through a mount is trusted by hash."""
    uri = mount.get("uri")
    files = {uri, f"{uri}/", f"{uri}/tightseal.toml"}
    return any(isinstance(t, str) and t in files for t in trusted)


def _at(manifest: dict[str, Any], key: str) -> Any:
    value: Any = manifest
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _keys(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            inner_path = f"{path}.{name}" if path else name
            yield inner_path
            yield from _keys(inner, inner_path)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner, path)


def main(arguments: list[str]) -> int:
    """Lint one file; see the module."""
    try:
        path, shape = [*arguments, "sidecar"] if len(arguments) == 1 else arguments
        if shape not in SHAPES:
            message = f"{shape}: expected {' or '.join(SHAPES)}"
            raise ValueError(message)
        manifest = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as e:
        sys.stderr.write(f"check.py MANIFEST [SHAPE]: {e}\n")
        return 2
    found = problems(manifest, shape)
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
