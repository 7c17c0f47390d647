# SPDX-License-Identifier: Apache-2.0
"""The SGX extension of PCK certificates, decoded strictly.

Source: Intel SGX PCK Certificate and CRL Specification, section 1.3.5
(OID 1.2.840.113741.1.13.1): a sequence of pairs of OID and value, in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

from tightseal.errors import Code, TightsealError
from tightseal.model import der

__all__ = ["SGX_EXTENSION_OID", "PckExtension", "parse_pck_extension"]

SGX_EXTENSION_OID: Final = "1.2.840.113741.1.13.1"

MAX_EXTENSION_BYTES: Final = 4096
"""Longest extension in bytes; real ones are below 600."""

_PREFIX: Final = bytes.fromhex("2a864886f84d010d01")
_PPID, _TCB, _PCEID, _FMSPC, _SGX_TYPE, _PIID, _CONFIGURATION = range(1, 8)
_COMPONENTS: Final = 16
_PCESVN: Final = 17
_CPUSVN: Final = 18
_DYNAMIC_PLATFORM, _CACHED_KEYS, _SMT_ENABLED = 1, 2, 3


@dataclass(frozen=True, slots=True)
class PckExtension:
    """What Intel certified about a platform.

    Attributes:
        ppid: 16 bytes.
        components: the 16 TCB component SVNs, one byte each.
        pce_svn: 0 to 65535.
        cpu_svn: 16 bytes, opaque.
        pce_id: 2 bytes.
        fmspc: 6 bytes.
        sgx_type: 0 standard, 1 scalable, 2 scalable with integrity.
        piid: 16 bytes; platform CA only.
        dynamic_platform, cached_keys, smt_enabled: platform CA only.
    """

    ppid: bytes
    components: bytes
    pce_svn: int
    cpu_svn: bytes
    pce_id: bytes
    fmspc: bytes
    sgx_type: int
    piid: bytes | None = None
    dynamic_platform: bool | None = None
    cached_keys: bool | None = None
    smt_enabled: bool | None = None


_Pairs = dict[int, tuple[int, bytes]]


def parse_pck_extension(data: bytes, *, fault: type[TightsealError]) -> PckExtension:
    """Decode the extension's value (DER).

    Raises:
        fault: ``pck_extension_invalid``, where it is not strict DER, a field is
            missing, given twice, or of the wrong type or size.
    """
    try:
        if len(data) > MAX_EXTENSION_BYTES:
            _fail(f"{len(data)} bytes, at most {MAX_EXTENSION_BYTES}")
        return _extension(_pairs(der.single(data, der.SEQUENCE), _PREFIX))
    except ValueError as e:
        raise fault(Code.PCK_EXTENSION_INVALID, f"SGX extension: {e}") from e


def _extension(pairs: _Pairs) -> PckExtension:
    tcb = _pairs(_value(pairs, _TCB, der.SEQUENCE), _PREFIX + bytes([_TCB]))
    components = bytes(_number(tcb, n, 0xFF) for n in range(1, _COMPONENTS + 1))
    cpu_svn = _octets(tcb, _CPUSVN, 16)
    if cpu_svn != components:
        # One certificate must not name two TCBs: verifiers that read the one or the
        # other would choose different levels.
        _fail(f"CPUSVN {cpu_svn.hex()} and components {components.hex()} differ")
    configuration: _Pairs = {}
    if _CONFIGURATION in pairs:
        configuration = _pairs(
            _value(pairs, _CONFIGURATION, der.SEQUENCE),
            _PREFIX + bytes([_CONFIGURATION]),
        )
    return PckExtension(
        ppid=_octets(pairs, _PPID, 16),
        components=components,
        pce_svn=_number(tcb, _PCESVN, 0xFFFF),
        cpu_svn=cpu_svn,
        pce_id=_octets(pairs, _PCEID, 2),
        fmspc=_octets(pairs, _FMSPC, 6),
        sgx_type=der.unsigned(_value(pairs, _SGX_TYPE, der.ENUMERATED), 0xFF),
        piid=_octets(pairs, _PIID, 16) if _PIID in pairs else None,
        dynamic_platform=_flag(configuration, _DYNAMIC_PLATFORM),
        cached_keys=_flag(configuration, _CACHED_KEYS),
        smt_enabled=_flag(configuration, _SMT_ENABLED),
    )


def _pairs(content: bytes, prefix: bytes) -> _Pairs:
    """Read pairs of OID and value by the OID's last arc, each at most once."""
    found: _Pairs = {}
    for tag, pair in der.children(content):
        elements = der.children(pair)
        if tag != der.SEQUENCE or len(elements) != len(("oid", "value")):
            _fail("expected pairs of OID and value")
        (oid_tag, oid), value = elements
        if oid_tag != der.OBJECT_IDENTIFIER or oid[:-1] != prefix:
            _fail(f"unexpected OID {oid.hex()}")
        if oid[-1] in found:
            _fail(f"OID {oid.hex()} given twice")
        found[oid[-1]] = value
    return found


def _value(pairs: _Pairs, number: int, tag: int) -> bytes:
    if number not in pairs:
        _fail(f"field {number} is missing")
    got, content = pairs[number]
    if got != tag:
        _fail(f"field {number}: got tag {got:#x}, expected {tag:#x}")
    return content


def _octets(pairs: _Pairs, number: int, size: int) -> bytes:
    content = _value(pairs, number, der.OCTET_STRING)
    if len(content) != size:
        _fail(f"field {number}: got {len(content)} bytes, expected {size}")
    return content


def _number(pairs: _Pairs, number: int, maximum: int) -> int:
    return der.unsigned(_value(pairs, number, der.INTEGER), maximum)


def _flag(pairs: _Pairs, number: int) -> bool | None:
    if number not in pairs:
        return None
    return der.boolean(_value(pairs, number, der.BOOLEAN))


def _fail(text: str) -> NoReturn:
    raise ValueError(text)
