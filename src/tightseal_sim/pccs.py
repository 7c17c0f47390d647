# SPDX-License-Identifier: Apache-2.0
"""A PCCS and PCS v4 over HTTP for a simulated Intel world.

Source: Intel PCS API v4; the PCCS's own answers. With ``Style.PCCS`` the root CRL is
hex at ``rootcacrl`` and a PCK CRL without ``encoding=der`` is hex too; with
``Style.PCS`` that CRL is PEM, and the root CRL is DER at ``/IntelSGXRootCA.der``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tightseal.errors import TightsealError
from tightseal.model.claims import Tee
from tightseal.model.collateral import IntelCollateral
from tightseal_sim.faults import Faults
from tightseal_sim.intel.catalogue import FMSPCS

__all__ = ["CollateralWorld", "SharedParts", "Style", "pccs_app"]

_FMSPC_CHARS: Final = 12
_CAS: Final = ("platform", "processor")
_UPDATES: Final = ("standard", "early")
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_LINE_CHARS: Final = 64


class CollateralWorld(Protocol):
    """What can give collateral: the simulated world, or recorded collateral."""

    def collateral(
        self, *, fmspc: bytes, ca: str, tee: Tee, now: int
    ) -> IntelCollateral:
        """Collateral of a platform family; an error of the tree where unknown."""
        ...


class Style(StrEnum):
    """Whose answers to imitate where the two differ."""

    PCCS = "pccs"
    PCS = "pcs"


@dataclass(frozen=True, slots=True)
class SharedParts:
    """A family that the world has, for the parts that all families share."""

    fmspc: bytes = FMSPCS["platform"]
    ca: str = "platform"
    tee: Tee = Tee.TDX


class _RefusalError(Exception):
    """A request that gets a status and no collateral."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def _header(pem: str) -> str:
    return quote(pem, safe="")


def _pem_crl(der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = [text[at : at + _LINE_CHARS] for at in range(0, len(text), _LINE_CHARS)]
    inner = "\n".join(lines)
    return f"-----BEGIN X509 CRL-----\n{inner}\n-----END X509 CRL-----\n".encode()


class _Service:
    """The routes over one world."""

    def __init__(
        self,
        world: CollateralWorld,
        now: Callable[[], int],
        style: Style,
        shared: SharedParts,
    ) -> None:
        self._world = world
        self._now = now
        self._style = style
        self._shared = shared

    def _collateral(self, *, fmspc: bytes, ca: str, tee: Tee) -> IntelCollateral:
        try:
            return self._world.collateral(fmspc=fmspc, ca=ca, tee=tee, now=self._now())
        except (TightsealError, KeyError) as error:
            raise _RefusalError(_NOT_FOUND, "No cache data for this platform.") from (
                error
            )

    def tcb(self, request: Request, tee: Tee) -> Response:
        """TCB info of one FMSPC."""
        _check_update(request)
        text = request.query_params.get("fmspc", "")
        try:
            fmspc = bytes.fromhex(text)
        except ValueError as error:
            raise _RefusalError(_BAD_REQUEST, "fmspc is not valid") from error
        if len(text) != _FMSPC_CHARS:
            raise _RefusalError(_BAD_REQUEST, "fmspc is not valid")
        found = self._collateral(fmspc=fmspc, ca=self._shared.ca, tee=tee)
        body = (
            f'{{"tcbInfo":{found.tcb_info},'
            f'"signature":"{found.tcb_info_signature.hex()}"}}'
        )
        return Response(
            body,
            media_type="application/json",
            headers={"TCB-Info-Issuer-Chain": _header(found.tcb_info_issuer_chain)},
        )

    def identity(self, request: Request, tee: Tee) -> Response:
        """Identity of the quoting enclave."""
        _check_update(request)
        found = self._collateral(fmspc=self._shared.fmspc, ca=self._shared.ca, tee=tee)
        body = (
            f'{{"enclaveIdentity":{found.qe_identity},'
            f'"signature":"{found.qe_identity_signature.hex()}"}}'
        )
        chain = _header(found.qe_identity_issuer_chain)
        return Response(
            body,
            media_type="application/json",
            headers={"SGX-Enclave-Identity-Issuer-Chain": chain},
        )

    def pck_crl(self, request: Request) -> Response:
        """CRL of one PCK CA."""
        ca = request.query_params.get("ca", "").lower()
        if ca not in _CAS:
            raise _RefusalError(_BAD_REQUEST, "ca is not valid")
        found = self._collateral(fmspc=self._shared.fmspc, ca=ca, tee=self._shared.tee)
        der = found.pck_crl
        if request.query_params.get("encoding", "").lower() != "der":
            der = _pem_crl(der) if self._style is Style.PCS else der.hex().encode()
        return Response(
            der,
            media_type="application/pkix-crl",
            headers={"SGX-PCK-CRL-Issuer-Chain": _header(found.pck_crl_issuer_chain)},
        )

    def root_crl(self, request: Request) -> Response:
        """The root's CRL: hex as the PCCS does, or DER at the distribution point."""
        found = self._collateral(
            fmspc=self._shared.fmspc, ca=self._shared.ca, tee=self._shared.tee
        )
        binary = request.url.path.endswith(".der")
        body = found.root_ca_crl if binary else found.root_ca_crl.hex().encode()
        return Response(body, media_type="application/pkix-crl")


def _check_update(request: Request) -> None:
    if request.query_params.get("update", "standard").lower() not in _UPDATES:
        raise _RefusalError(_BAD_REQUEST, "update is not valid")


def pccs_app(
    world: CollateralWorld,
    *,
    now: Callable[[], int],
    shared: SharedParts | None = None,
    style: Style = Style.PCCS,
    faults: Faults | None = None,
) -> Starlette:
    """A service that speaks the v4 API.

    Args:
        world: where collateral comes from.
        now: Unix seconds.
        shared: which family the parts that all share are taken from.
        style: PCCS or PCS.
        faults: what to do wrong.
    """
    service = _Service(world, now, style, shared or SharedParts())
    plan = faults or Faults()

    def route(path: str, handler: Callable[[Request], Response]) -> Route:
        async def endpoint(request: Request) -> Response:
            async def good() -> Response:
                try:
                    return handler(request)
                except _RefusalError as error:
                    return PlainTextResponse(error.text, error.status)

            return await plan.answer(request, good)

        return Route(path, endpoint)

    sgx, tdx = "/sgx/certification/v4", "/tdx/certification/v4"
    root = "/IntelSGXRootCA.der" if style is Style.PCS else f"{sgx}/rootcacrl"
    return Starlette(
        routes=[
            route(f"{sgx}/tcb", lambda r: service.tcb(r, Tee.SGX)),
            route(f"{tdx}/tcb", lambda r: service.tcb(r, Tee.TDX)),
            route(f"{sgx}/qe/identity", lambda r: service.identity(r, Tee.SGX)),
            route(f"{tdx}/qe/identity", lambda r: service.identity(r, Tee.TDX)),
            route(f"{sgx}/pckcrl", service.pck_crl),
            route(root, service.root_crl),
        ]
    )
