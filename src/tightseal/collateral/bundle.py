# SPDX-License-Identifier: Apache-2.0
"""Collateral in files: QuoteCollateralV3, SNP folders, and bundles of many parts.

``QuoteCollateralV3`` is the JSON of dcap-qvl 0.7: nine members, bytes as hex, and an
optional ``pck_certificate_chain``. A *bundle* is our own file for hosts without a
network: every part of a cache, each checked on import as if it had been fetched.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tightseal.collateral import wire
from tightseal.collateral.parts import Part, PartKind, PartName, make_part
from tightseal.errors import Code, CollateralError
from tightseal.model.claims import SnpTcb, Tee
from tightseal.model.collateral import IntelCollateral, SnpCertificates

__all__ = [
    "BUNDLE_FORMAT",
    "MAX_BUNDLE_BYTES",
    "MAX_BUNDLE_PARTS",
    "MAX_FILE_BYTES",
    "FileSource",
    "bundle_from_json",
    "bundle_to_json",
    "intel_from_json",
    "intel_to_json",
    "is_bundle",
    "part_from_fields",
    "part_to_fields",
    "read_bounded",
    "snp_from_folder",
]

MAX_FILE_BYTES: Final = 4 << 20
"""Longest file of collateral for one query, in bytes."""

MAX_BUNDLE_BYTES: Final = 64 << 20
"""Longest bundle, in bytes."""

MAX_BUNDLE_PARTS: Final = 4096
"""Most parts in a bundle."""

BUNDLE_FORMAT: Final = "tightseal-collateral"
BUNDLE_VERSION: Final = 1

_UNREADABLE: Final = Code.COLLATERAL_UNREADABLE
_TEXT_FIELDS: Final = (
    "pck_crl_issuer_chain",
    "tcb_info_issuer_chain",
    "tcb_info",
    "qe_identity_issuer_chain",
    "qe_identity",
)
_HEX_FIELDS: Final = (
    "root_ca_crl",
    "pck_crl",
    "tcb_info_signature",
    "qe_identity_signature",
)
_OPTIONAL: Final = "pck_certificate_chain"


def intel_from_json(text: bytes | str) -> IntelCollateral:
    """Read the JSON of ``QuoteCollateralV3``.

    Raises:
        CollateralError: ``collateral_unreadable`` where it is not exactly that form
            (unknown, missing or doubled members among it), ``collateral_too_large``.

    Judges the form only: lengths of signatures, documents and CRLs are the verifier's.
    """
    if len(text) > MAX_FILE_BYTES:
        raise CollateralError(
            Code.COLLATERAL_TOO_LARGE, f"{len(text)} bytes, at most {MAX_FILE_BYTES}"
        )
    fields = wire.json_object(text, code=_UNREADABLE)
    expected = {*_TEXT_FIELDS, *_HEX_FIELDS}
    _same_members(set(fields) - {_OPTIONAL}, expected)
    chain = fields.get(_OPTIONAL)
    if chain is not None:
        chain = _text(chain, _OPTIONAL)

    def text_of(name: str) -> str:
        return _text(fields[name], name)

    def bytes_of(name: str) -> bytes:
        return wire.hex_bytes(fields[name], what=name, code=_UNREADABLE)

    return IntelCollateral(
        pck_crl_issuer_chain=text_of("pck_crl_issuer_chain"),
        root_ca_crl=bytes_of("root_ca_crl"),
        pck_crl=bytes_of("pck_crl"),
        tcb_info_issuer_chain=text_of("tcb_info_issuer_chain"),
        tcb_info=text_of("tcb_info"),
        tcb_info_signature=bytes_of("tcb_info_signature"),
        qe_identity_issuer_chain=text_of("qe_identity_issuer_chain"),
        qe_identity=text_of("qe_identity"),
        qe_identity_signature=bytes_of("qe_identity_signature"),
        pck_certificate_chain=chain,
    )


def _same_members(got: set[str], expected: set[str]) -> None:
    if got != expected:
        unknown = ", ".join(sorted(got - expected)) or "none"
        missing = ", ".join(sorted(expected - got)) or "none"
        raise CollateralError(
            _UNREADABLE, f"unknown members: {unknown}; missing: {missing}"
        )


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise CollateralError(_UNREADABLE, f"{what}: expected text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CollateralError(_UNREADABLE, f"{what}: not Unicode text") from error
    return value


def intel_to_json(collateral: IntelCollateral) -> str:
    """Write the JSON of ``QuoteCollateralV3``, as dcap-qvl reads it."""
    fields: dict[str, str] = {
        name: getattr(collateral, name) for name in _TEXT_FIELDS
    } | {name: getattr(collateral, name).hex() for name in _HEX_FIELDS}
    if collateral.pck_certificate_chain is not None:
        fields[_OPTIONAL] = collateral.pck_certificate_chain
    return json.dumps(fields, indent=2)


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        CollateralError: ``collateral_unreadable`` or ``collateral_too_large``.
    """
    try:
        if not path.is_file():
            raise CollateralError(_UNREADABLE, f"{path}: not a file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise CollateralError(_UNREADABLE, f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise CollateralError(
            Code.COLLATERAL_TOO_LARGE, f"{path}: more than {limit} bytes"
        )
    return data


def _one_of(folder: Path, *stems: str) -> bytes | None:
    """DER of the one certificate in the folder with any of these names."""
    paths = [folder / f"{stem}.{end}" for stem in stems for end in ("der", "pem")]
    present = [path for path in paths if path.exists()]
    if len(present) > 1:
        names = ", ".join(path.name for path in present)
        raise CollateralError(_UNREADABLE, f"{folder}: expected one of {names}")
    if not present:
        return None
    return wire.certificate_der(read_bounded(present[0], MAX_FILE_BYTES))


def snp_from_folder(path: Path) -> SnpCertificates:
    """Read ``vcek|vlek``, ``ask|asvk``, and where present ``ark`` and ``crl``.

    Each as ``.der`` or ``.pem``.

    Raises:
        CollateralError: ``collateral_unreadable``, ``certificate_malformed``,
            ``crl_malformed``, ``collateral_too_large``.
    """
    if not path.is_dir():
        raise CollateralError(_UNREADABLE, f"{path}: not a folder of certificates")
    signer = _one_of(path, "vcek", "vlek")
    intermediate = _one_of(path, "ask", "asvk")
    if signer is None or intermediate is None:
        missing = "vcek or vlek" if signer is None else "ask or asvk"
        raise CollateralError(_UNREADABLE, f"{path}: no {missing} (.der or .pem)")
    crl = next(
        (p for p in (path / "crl.der", path / "crl.pem") if p.exists()),
        None,
    )
    return SnpCertificates(
        signer=signer,
        intermediate=intermediate,
        root=_one_of(path, "ark"),
        crl=None if crl is None else wire.crl_der(read_bounded(crl, MAX_FILE_BYTES)),
    )


class FileSource:
    """Collateral from one file or folder, read once; implements ``CollateralSource``.

    Args:
        path: a ``QuoteCollateralV3`` file, or for SNP a folder as in
            ``snp_from_folder``. It is given for whatever is asked: the verifier finds
            out whether it fits.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._intel: IntelCollateral | None = None
        self._snp: SnpCertificates | None = None

    def intel(self, *, fmspc: bytes, ca: str, tee: Tee, now: int) -> IntelCollateral:
        """The file's collateral.

        Raises:
            CollateralError: ``collateral_unreadable`` and others of its form.
        """
        del fmspc, ca, tee, now
        if self._intel is None:
            self._intel = intel_from_json(read_bounded(self._path, MAX_FILE_BYTES))
        return self._intel

    def snp(
        self, *, product: str, chip_id: bytes, tcb: SnpTcb, vlek: bool, now: int
    ) -> SnpCertificates:
        """The folder's certificates.

        Raises:
            CollateralError: ``collateral_unreadable`` and others of its form.
        """
        del product, chip_id, tcb, vlek, now
        if self._snp is None:
            self._snp = snp_from_folder(self._path)
        return self._snp


def part_to_fields(part: Part) -> dict[str, str]:
    """A part as JSON members; dates are left out, since they are read from the body."""
    return {
        "kind": part.name.kind.value,
        "subject": part.name.subject,
        "body": part.body.hex(),
        "signature": part.signature.hex(),
        "chain": part.chain,
    }


def part_from_fields(fields: object) -> Part:
    """Read a part and check it as ``make_part`` does.

    Raises:
        CollateralError: ``collateral_unreadable`` or those of ``make_part``.
    """
    if not isinstance(fields, dict):
        raise CollateralError(_UNREADABLE, "a part must be an object")
    _same_members(set(fields), {"kind", "subject", "body", "signature", "chain"})
    texts = {name: _text(value, name) for name, value in fields.items()}
    try:
        kind = PartKind(texts["kind"])
    except ValueError as error:
        raise CollateralError(_UNREADABLE, f"kind {texts['kind']!r}") from error
    return make_part(
        PartName(kind, texts["subject"]),
        wire.hex_bytes(texts["body"], what="body", code=_UNREADABLE),
        signature=wire.hex_bytes(
            texts["signature"], what="signature", code=_UNREADABLE
        ),
        chain=texts["chain"],
    )


def bundle_to_json(parts: tuple[Part, ...]) -> str:
    """Write a bundle, ordered by name so that equal caches give equal files."""
    ordered = sorted(parts, key=lambda part: str(part.name))
    return json.dumps(
        {
            "format": BUNDLE_FORMAT,
            "version": BUNDLE_VERSION,
            "parts": [part_to_fields(part) for part in ordered],
        },
        indent=1,
    )


def is_bundle(fields: dict[str, Any]) -> bool:
    """Whether parsed JSON calls itself a bundle."""
    return fields.get("format") == BUNDLE_FORMAT


def bundle_from_json(text: bytes | str) -> tuple[Part, ...]:
    """Read a bundle; every part is checked as if it had been fetched.

    Raises:
        CollateralError: ``collateral_unreadable``, ``collateral_too_large``, or those
            of ``make_part``.
    """
    if len(text) > MAX_BUNDLE_BYTES:
        raise CollateralError(
            Code.COLLATERAL_TOO_LARGE, f"{len(text)} bytes, at most {MAX_BUNDLE_BYTES}"
        )
    fields = wire.json_object(text, code=_UNREADABLE)
    _same_members(set(fields), {"format", "version", "parts"})
    parts = fields["parts"]
    if not is_bundle(fields) or fields["version"] != BUNDLE_VERSION:
        raise CollateralError(
            _UNREADABLE, f"expected {BUNDLE_FORMAT} version {BUNDLE_VERSION}"
        )
    if not isinstance(parts, list) or len(parts) > MAX_BUNDLE_PARTS:
        raise CollateralError(
            _UNREADABLE, f"parts: expected at most {MAX_BUNDLE_PARTS}"
        )
    return tuple(part_from_fields(item) for item in parts)
