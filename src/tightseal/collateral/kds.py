# SPDX-License-Identifier: Apache-2.0
"""Client of AMD's key distribution service.

Source: AMD 57230, "VCEK Certificate and KDS Interface Specification", chapter 4. The
service gives VCEKs by hardware id and TCB, the chains of both VCEK and VLEK (PEM:
intermediate, then ARK) and the CRLs. VLEKs themselves go to cloud providers only, so
they come with the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from tightseal.collateral import wire
from tightseal.collateral.http import Answer, Asker, check_base_url
from tightseal.collateral.parts import Part, PartKind, PartName, make_part
from tightseal.collateral.pccs import check_fresh
from tightseal.errors import Code, CollateralError, SettingsError
from tightseal.model.claims import SnpTcb

__all__ = ["AMD_KDS", "KdsClient", "chain_name", "crl_name", "signer_name"]

AMD_KDS: Final = "https://kdsintf.amd.com"

_PRODUCTS: Final = ("Milan", "Genoa", "Turin")
_CHIP_ID_BYTES: Final = 64
_TURIN_ID_BYTES: Final = 8
_SPL_MAX: Final = 255


def signer_name(*, product: str, chip_id: bytes, tcb: SnpTcb) -> PartName:
    """Name the VCEK of one chip at one TCB.

    Turin's chip id is 8 bytes in a field of 64.

    Raises:
        CollateralError: ``collateral_unavailable``, where the report gives nothing to
            ask for: an unknown product, a masked or malformed chip id, a TCB without
            the components of the product.
    """
    _check_product(product)
    size = _TURIN_ID_BYTES if product == "Turin" else _CHIP_ID_BYTES
    if len(chip_id) not in (size, _CHIP_ID_BYTES) or any(chip_id[size:]):
        raise CollateralError(
            Code.COLLATERAL_UNAVAILABLE,
            f"chip id of {len(chip_id)} bytes does not fit {product}",
        )
    if not any(chip_id):
        raise CollateralError(
            Code.COLLATERAL_UNAVAILABLE,
            "the report's chip id is masked, so no VCEK can be asked for",
        )
    spls = [tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode]
    if (tcb.fmc is not None) != (product == "Turin"):
        raise CollateralError(
            Code.COLLATERAL_UNAVAILABLE, f"the TCB is not of the form of {product}"
        )
    if tcb.fmc is not None:
        spls.append(tcb.fmc)
    if not all(0 <= spl <= _SPL_MAX for spl in spls):
        raise CollateralError(Code.COLLATERAL_UNAVAILABLE, f"TCB out of range: {tcb}")
    levels = ".".join(str(spl) for spl in spls)
    return PartName(
        PartKind.SNP_SIGNER, f"vcek:{product}:{chip_id[:size].hex()}:{levels}"
    )


def chain_name(product: str, *, vlek: bool) -> PartName:
    """Name the chain (intermediate, ARK) of a product.

    Raises:
        CollateralError: ``collateral_unavailable``, where the product is unknown.
    """
    _check_product(product)
    return PartName(PartKind.SNP_CHAIN, f"{'vlek' if vlek else 'vcek'}:{product}")


def crl_name(product: str, *, vlek: bool) -> PartName:
    """Name the CRL of a product.

    Raises:
        CollateralError: ``collateral_unavailable``, where the product is unknown.
    """
    _check_product(product)
    return PartName(PartKind.SNP_CRL, f"{'vlek' if vlek else 'vcek'}:{product}")


def _check_product(product: str) -> None:
    if product not in _PRODUCTS:
        raise CollateralError(
            Code.COLLATERAL_UNAVAILABLE,
            f"expected one of {', '.join(_PRODUCTS)}, got {product!r}",
        )


class KdsClient:
    """Fetches AMD's parts; asks several addresses in order.

    Args:
        urls: base addresses, best first; AMD's own or a cache that speaks the same.
        asker: the bounded HTTP client.

    Raises:
        SettingsError: ``settings_invalid``.
    """

    def __init__(self, urls: Sequence[str] = (AMD_KDS,), *, asker: Asker) -> None:
        if not urls:
            raise SettingsError(Code.SETTINGS_INVALID, "no KDS is configured")
        self.urls = tuple(check_base_url(url) for url in urls)
        self._asker = asker

    def fetch(
        self,
        name: PartName,
        *,
        now: int,
        accept: Callable[[Part], None],
        until: float | None = None,
    ) -> Part:
        """Fetch one of AMD's parts; arguments and errors as of ``PccsClient.fetch``.

        Raises:
            CollateralError: ``collateral_unavailable``.
        """
        path, params = _question(name)

        def read(answer: Answer) -> Part:
            part = make_part(name, _body(name, answer.body))
            check_fresh(part, now)
            accept(part)
            return part

        return self._asker.ask(
            [f"{url}{path}" for url in self.urls],
            params=params,
            read=read,
            what=str(name),
            until=until,
        )


def _body(name: PartName, body: bytes) -> bytes:
    if name.kind is PartKind.SNP_CRL:
        return wire.crl_der(body)
    if name.kind is PartKind.SNP_SIGNER:
        return wire.certificate_der(body)
    return body


def _question(name: PartName) -> tuple[str, dict[str, str]]:
    """Path and query of a part."""
    key, product, *rest = name.subject.split(":")
    base = f"/{key}/v1/{product}"
    if name.kind is PartKind.SNP_CHAIN:
        return f"{base}/cert_chain", {}
    if name.kind is PartKind.SNP_CRL:
        return f"{base}/crl", {}
    hardware_id, levels = rest
    names = ("blSPL", "teeSPL", "snpSPL", "ucodeSPL", "fmcSPL")
    spls = [f"{int(level):02d}" for level in levels.split(".")]
    return f"{base}/{hardware_id}", dict(zip(names, spls, strict=False))
