# SPDX-License-Identifier: Apache-2.0
"""The way in for the product: a simulated platform behind the entry point ``sim``.

The product's own door finds this through the entry point group
``tightseal.platforms``; it never imports the simulated world by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tightseal.errors import Code, SettingsError
from tightseal.model.ports import RootPlatform
from tightseal_sim.intel.enclave import EnclaveImage, SimEnclave
from tightseal_sim.intel.quote import QUOTE_FORMS
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

__all__ = ["PROVIDER_ENCLAVE", "open_guest", "open_sim"]

PROVIDER_ENCLAVE: Final = "tightseal-provider"
"""Name of the provider's enclave image."""

MAX_OPTION_BYTES: Final = 1 << 26
"""Largest file behind an option, such as a kernel."""

_COMMON: Final = frozenset({"world", "platform", "tee", "quote_latency_ms"})
_ENCLAVE: Final = _COMMON | {"enclave", "isv_svn", "debug", "ca"}
_GUEST: Final = _COMMON | {
    "firmware",
    "kernel",
    "cmdline",
    "initrd",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
    "events",
    "quote",
    "debug",
}
_SNP: Final = _COMMON | {"product", "kernel"}
_PRODUCTS: Final = ("Milan", "Genoa", "Turin")
_MR_BYTES: Final = 48


def open_sim(options: Mapping[str, Any]) -> RootPlatform:
    """A simulated platform: an SGX enclave, or by ``tee`` a TD or an SNP guest.

    Args:
        options: ``world`` (folder, required), ``platform`` (machine name, default
            ``host``), ``tee`` (``sgx``, ``tdx`` or ``snp``), ``quote_latency_ms``
            (default 0, Intel only); for SGX ``enclave`` (image name, default
            ``tightseal-provider``), ``isv_svn``, ``debug`` and ``ca`` (``platform`` or
            ``processor``); for SNP ``product`` (default ``Milan``) and ``kernel``; for
            TDX see ``open_guest``.

    Raises:
        SettingsError: ``settings_invalid``: no such option, value or world.
    """
    tee = options.get("tee", "sgx")
    if tee == "tdx":
        return open_guest(options)
    if tee == "snp":
        return _snp_guest(options)
    if tee != "sgx":
        raise _invalid(f"tee {tee!r}, expected sgx, tdx or snp")
    _only(options, _ENCLAVE)
    ca = options.get("ca", "platform")
    if ca not in ("platform", "processor"):
        raise _invalid(f"ca {ca!r}, expected platform or processor")
    platform = _world(options).intel.platform(_text(options, "platform", "host"), ca=ca)
    image = EnclaveImage(
        name=_text(options, "enclave", PROVIDER_ENCLAVE),
        isv_svn=_whole(options, "isv_svn", 1, 0xFFFF),
        debug=_flag(options, "debug"),
    )
    enclave: SimEnclave = platform.load_enclave(image)
    return enclave


def open_guest(options: Mapping[str, Any]) -> SimTd:
    """A simulated TD, for a workload; it has evidence and no sealing key.

    Args:
        options: ``world``, ``platform``, ``quote_latency_ms`` as above; ``firmware``,
            ``kernel``, ``cmdline``, ``initrd`` (text, or ``@`` and a file's path);
            ``mr_config_id``, ``mr_owner``, ``mr_owner_config`` (hex of 48 bytes);
            ``events`` (runtime events as ``name=hex,name=hex``); ``quote`` (``v4``,
            ``v5``, ``v5-td15`` or ``v5-td15ex``); ``debug`` (``true`` or ``false``).

    Raises:
        SettingsError: ``settings_invalid``: no such option, value or world.
    """
    _only(options, _GUEST)
    usual = TdImage()
    form = _text(options, "quote", "v4")
    if form not in QUOTE_FORMS:
        raise _invalid(f"quote {form!r}, expected one of {', '.join(QUOTE_FORMS)}")
    image = TdImage(
        firmware=_content(options, "firmware", usual.firmware),
        kernel=_content(options, "kernel", usual.kernel),
        cmdline=_content(options, "cmdline", usual.cmdline.encode()).decode(
            errors="surrogateescape"
        ),
        initrd=_content(options, "initrd", usual.initrd),
        boot_events=_events(options),
        mr_config_id=_register(options, "mr_config_id"),
        mr_owner=_register(options, "mr_owner"),
        mr_owner_config=_register(options, "mr_owner_config"),
        debug=_flag(options, "debug"),
    )
    name = _text(options, "platform", "host")
    td = _world(options).intel.platform(name).launch_td(image)
    td.form = QUOTE_FORMS[form]
    return td


def _snp_guest(options: Mapping[str, Any]) -> RootPlatform:
    _only(options, _SNP)
    product = _text(options, "product", "Milan")
    if product not in _PRODUCTS:
        raise _invalid(f"product {product!r}, expected one of {', '.join(_PRODUCTS)}")
    # Making AMD's RSA keys takes seconds, so that side is loaded only when asked for.
    from tightseal_sim.amd.guest import GuestImage  # noqa: PLC0415

    kernel = _content(options, "kernel", b"simulated kernel")
    chip = _world(options).amd.chip(_text(options, "platform", "host"), product)
    return chip.launch(GuestImage(kernel=kernel))


def _world(options: Mapping[str, Any]) -> World:
    folder = _text(options, "world", "")
    latency = _number(options, "quote_latency_ms", 0, 60_000)
    return World.open(Path(folder), quote_seconds=latency / 1000)


def _only(options: Mapping[str, Any], known: frozenset[str]) -> None:
    if unknown := sorted(set(options) - known):
        raise _invalid(f"unknown options {unknown}, expected {sorted(known)}")


def _text(options: Mapping[str, Any], name: str, default: str) -> str:
    value = options.get(name, default)
    if not isinstance(value, str | Path) or not str(value):
        raise _invalid(f"{name} {value!r}, expected text")
    return str(value)


def _number(
    options: Mapping[str, Any], name: str, default: float, maximum: float
) -> float:
    value = options.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError) as e:
        raise _invalid(f"{name} {value!r}, expected a number") from e
    if not 0 <= number <= maximum:
        raise _invalid(f"{name} {value!r}, expected 0 to {maximum}")
    return number


def _whole(options: Mapping[str, Any], name: str, default: int, maximum: int) -> int:
    number = _number(options, name, default, maximum)
    if not number.is_integer():
        raise _invalid(f"{name} {number!r}, expected a whole number")
    return int(number)


def _flag(options: Mapping[str, Any], name: str) -> bool:
    value = options.get(name, False)
    known = {"true": True, "false": False}
    found = value if isinstance(value, bool) else known.get(str(value).lower())
    if found is None:
        raise _invalid(f"{name} {value!r}, expected true or false")
    return found


def _content(options: Mapping[str, Any], name: str, default: bytes) -> bytes:
    value = options.get(name)
    if value is None:
        return default
    text = _text(options, name, "")
    if not text.startswith("@"):
        return text.encode()
    try:
        with Path(text[1:]).open("rb") as file:
            data = file.read(MAX_OPTION_BYTES + 1)
    except OSError as e:
        raise _invalid(f"{name} {text!r}: {e.strerror}") from e
    if len(data) > MAX_OPTION_BYTES:
        raise _invalid(f"{name} {text!r}: over {MAX_OPTION_BYTES} bytes")
    return data


def _register(options: Mapping[str, Any], name: str) -> bytes:
    value = _hex(name, str(options.get(name, "00" * _MR_BYTES)))
    if len(value) != _MR_BYTES:
        raise _invalid(f"{name}: {len(value)} bytes, expected {_MR_BYTES}")
    return value


def _events(options: Mapping[str, Any]) -> tuple[tuple[str, bytes], ...]:
    text = str(options.get("events", ""))
    pairs = (item.partition("=") for item in text.split(",") if item)
    return tuple((name, _hex("events", payload)) for name, _, payload in pairs)


def _hex(name: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as e:
        raise _invalid(f"{name}: not hexadecimal") from e


def _invalid(detail: str) -> SettingsError:
    return SettingsError(Code.SETTINGS_INVALID, f"simulated platform: {detail}")
