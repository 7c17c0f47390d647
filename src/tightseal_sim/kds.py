# SPDX-License-Identifier: Apache-2.0
"""AMD's key distribution service over HTTP for a simulated or recorded AMD world.

Source: AMD 57230, chapter 4.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tightseal.errors import TightsealError
from tightseal.model.claims import SnpTcb
from tightseal_sim.amd.generations import GENERATIONS, generation
from tightseal_sim.amd.world import AmdWorld
from tightseal_sim.faults import Faults

__all__ = ["KeyDistribution", "WorldDistribution", "kds_app"]

_NOT_FOUND: Final = 404
_BAD_REQUEST: Final = 400
_SPL_MAX: Final = 255


class KeyDistribution(Protocol):
    """What can give AMD's certificates; ``None`` or an error of the tree for no."""

    def signer(self, *, product: str, chip_id: bytes, tcb: SnpTcb) -> bytes | None:
        """The VCEK of a chip at a TCB, DER."""
        ...

    def issuers(self, *, product: str, vlek: bool) -> tuple[bytes, bytes] | None:
        """Intermediate and ARK, DER."""
        ...

    def crl(self, *, product: str, vlek: bool) -> bytes | None:
        """The CRL, DER."""
        ...


class WorldDistribution:
    """Key distribution for chips of a simulated AMD world.

    Args:
        world: the world.
        chips: names and products of the chips that it knows.
        now: Unix seconds, for the CRL.
    """

    def __init__(
        self,
        world: AmdWorld,
        *,
        chips: Sequence[tuple[str, str]],
        now: Callable[[], int],
    ) -> None:
        self._world = world
        self._chips = tuple(chips)
        self._now = now

    def signer(self, *, product: str, chip_id: bytes, tcb: SnpTcb) -> bytes | None:
        """The VCEK of a chip at a TCB, DER."""
        for name, line_name in self._chips:
            line = generation(line_name)
            if line_name == product and self._world.chip_id(name, line) == chip_id:
                found = self._world.certificates(name, line, tcb, vlek=False)
                return found.signer
        return None

    def issuers(self, *, product: str, vlek: bool) -> tuple[bytes, bytes] | None:
        """Intermediate and ARK, DER."""
        if product not in {line.product for line in GENERATIONS}:
            return None
        return (
            self._world.intermediate_certificate(product, vlek=vlek),
            self._world.root_certificate(product),
        )

    def crl(self, *, product: str, vlek: bool) -> bytes | None:
        """The CRL, DER."""
        if product not in {line.product for line in GENERATIONS}:
            return None
        return self._world.crl(product, now=self._now(), vlek=vlek)


def _pem(der: bytes) -> str:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"


def _spl(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= _SPL_MAX):
        message = f"{name} is not valid"
        raise ValueError(message)
    return int(text)


def _tcb(request: Request) -> SnpTcb:
    """The TCB asked for; AMD takes a level that is not given as zero."""
    return SnpTcb(
        bootloader=_spl(request, "blSPL") or 0,
        tee=_spl(request, "teeSPL") or 0,
        snp=_spl(request, "snpSPL") or 0,
        microcode=_spl(request, "ucodeSPL") or 0,
        fmc=_spl(request, "fmcSPL"),
    )


def _absent() -> Response:
    return PlainTextResponse("not found", _NOT_FOUND)


def kds_app(world: KeyDistribution, *, faults: Faults | None = None) -> Starlette:
    """A service that speaks the KDS interface.

    Args:
        world: where certificates come from.
        faults: what to do wrong.
    """
    plan = faults or Faults()

    def signer(request: Request) -> Response:
        try:
            chip_id = bytes.fromhex(request.path_params["hwid"])
            tcb = _tcb(request)
        except ValueError as error:
            return PlainTextResponse(str(error), _BAD_REQUEST)
        product = request.path_params["product"]
        der = world.signer(product=product, chip_id=chip_id, tcb=tcb)
        return _absent() if der is None else Response(der)

    def chain(request: Request) -> Response:
        vlek = request.path_params["key"] == "vlek"
        found = world.issuers(product=request.path_params["product"], vlek=vlek)
        return _absent() if found is None else Response("".join(map(_pem, found)))

    def crl(request: Request) -> Response:
        vlek = request.path_params["key"] == "vlek"
        der = world.crl(product=request.path_params["product"], vlek=vlek)
        return _absent() if der is None else Response(der)

    def route(path: str, handler: Callable[[Request], Response]) -> Route:
        async def endpoint(request: Request) -> Response:
            async def good() -> Response:
                if request.path_params.get("key", "vcek") not in ("vcek", "vlek"):
                    return _absent()
                try:
                    return handler(request)
                except (TightsealError, KeyError):
                    return _absent()

            return await plan.answer(request, good)

        return Route(path, endpoint)

    return Starlette(
        routes=[
            route("/{key}/v1/{product}/cert_chain", chain),
            route("/{key}/v1/{product}/crl", crl),
            route("/vcek/v1/{product}/{hwid}", signer),
        ]
    )
