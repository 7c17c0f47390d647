# SPDX-License-Identifier: Apache-2.0
"""Claims, documents and circumstances that the tests of policy share."""

from dataclasses import replace
from typing import Any

import pytest

from tightseal.errors import Code, SettingsError
from tightseal.model.claims import (
    MEASUREMENT_NAMES,
    Claims,
    PlatformIdentity,
    SnpTcb,
    Tcb,
    TcbStatus,
    Tee,
    TrustDomain,
    Vendor,
)
from tightseal.model.grant import Grant
from tightseal.model.keypath import Authority, KeyRequest
from tightseal.policy.compile import load_policy
from tightseal.policy.engine import Circumstances, decide
from tightseal.policy.eventlog.facts import EventFacts
from tightseal.policy.fields import MEASUREMENT_BYTES

NOW = 1_790_000_000  # 2026-09-21T14:13:20Z
INTEL = TrustDomain(Vendor.INTEL, "aa" * 48)
AMD = TrustDomain(Vendor.AMD, "dd" * 48)
SIM = TrustDomain(Vendor.SIMULATED, "bb" * 48)
HERE = PlatformIdentity(ppid=b"p" * 16, piid=b"i" * 16, fmspc=b"f" * 6)
CHIP = PlatformIdentity(chip_id=b"c" * 64)
DISK = (KeyRequest("disk"),)

HEAD = """version = 1
[[workload]]
name = "w"
identity = "named"
tee = "tdx"
"""
IMAGE = '[[workload.image]]\nlabel = "a"\n[workload.image.measurements]\n'
KEY = '[[workload.key]]\npurpose = "disk"\n'
FF = "ff" * 48
SGX = HEAD.replace("tdx", "sgx")
SNP = HEAD.replace("tdx", "snp")


def value(name: str, seed: int = 0) -> bytes:
    size = MEASUREMENT_BYTES[name]
    if size <= 4:
        return (7 + seed).to_bytes(size, "little")
    return bytes([len(name), ord(name[-1]), seed + 1]) * (size // 3) + bytes(size % 3)


def measured(tee: Tee, **changes: bytes) -> dict[str, bytes]:
    return {name: value(name) for name in MEASUREMENT_NAMES[tee]} | changes


def tcb(status: TcbStatus = TcbStatus.UP_TO_DATE, **changes: Any) -> Tcb:
    base = Tcb(status, frozenset(), 17, "2024-03-13T00:00:00Z", False, False, False)
    return replace(base, **changes)


def td(**changes: Any) -> Claims:
    claims = Claims(
        tee=Tee.TDX,
        trust_domain=INTEL,
        measurements=measured(Tee.TDX),
        report_data=bytes(64),
        debug=False,
        platform=HERE,
        tcb=tcb(),
    )
    return replace(claims, **changes)


def enclave(**changes: Any) -> Claims:
    return replace(td(tee=Tee.SGX, measurements=measured(Tee.SGX)), **changes)


def snp(**changes: Any) -> Claims:
    claims = Claims(
        tee=Tee.SNP,
        trust_domain=AMD,
        measurements=measured(Tee.SNP),
        report_data=bytes(64),
        debug=False,
        platform=CHIP,
        tcb=None,
        snp_tcb=SnpTcb(bootloader=3, tee=0, snp=8, microcode=115),
        single_verifier=True,
    )
    return replace(claims, **changes)


def registers(**changes: bytes) -> Claims:
    return td(measurements=measured(Tee.TDX, **changes))


CODE = {
    Tee.TDX: ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"),
    Tee.SGX: ("mrenclave",),
    Tee.SNP: ("snp_measurement",),
}


def document(
    tee: Tee = Tee.TDX,
    *,
    name: str = "database",
    identity: str = "named",
    rules: str = "",
    tcb_rules: str = "",
    image: str = "",
    measurements: str = "",
    leave_out: tuple[str, ...] = (),
    key: str = "",
    more: str = "",
    head: str = "version = 1",
) -> str:
    """A document with one workload; each part may be added to."""
    selected = "\n".join(
        f'{name} = "{value(name).hex()}"'
        for name in CODE[tee]
        if name not in leave_out and f"{name} =" not in measurements
    )
    return f"""{head}
[[workload]]
name = "{name}"
identity = "{identity}"
tee = "{tee.value}"
{rules}
[workload.tcb]
{tcb_rules}
[[workload.image]]
label = "2026-10"
{image}
[workload.image.measurements]
{selected}
{measurements}
[[workload.key]]
purpose = "disk"
{key}
{more}
"""


def circumstances(**changes: Any) -> Circumstances:
    base = Circumstances(
        authority=Authority("policy_root", b"r" * 64),
        provider_platform=HERE,
        provider_domain=INTEL,
    )
    return replace(base, **changes)


def around(claims: Claims, **changes: Any) -> Circumstances:
    """Circumstances of a provider on the platform of the claims."""
    return circumstances(
        provider_platform=claims.platform,
        provider_domain=claims.trust_domain,
        **changes,
    )


def ask(
    claims: Claims,
    text: str | list[str],
    *,
    keys: tuple[KeyRequest, ...] = DISK,
    now: int = NOW,
    where: Circumstances | None = None,
    events: EventFacts | None = None,
) -> Grant:
    texts = [text] if isinstance(text, str) else text
    return decide(
        claims,
        keys=keys,
        policy=load_policy(texts),
        circumstances=where or around(claims),
        now=now,
        events=events,
    )


def require_refused(text: str, place: str, field: str, word: str) -> None:
    """A document is refused at a place, for a field, with a word in the message."""
    with pytest.raises(SettingsError) as caught:
        load_policy(text)
    assert caught.value.code is Code.POLICY_INVALID
    where = f"{place}: {field}: " if field else f"{place}: "
    assert caught.value.detail.startswith(where)
    assert word in caught.value.detail
