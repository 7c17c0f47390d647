# SPDX-License-Identifier: Apache-2.0
"""Client of Intel's PCS v4 and of the PCCS, which caches it.

Source: Intel SGX and TDX Provisioning Certification Service API v4; PCCS design guide.
They differ in places: the PCCS answers ``rootcacrl`` with hex text, and the PCS has no
such address (the root CRL lies at its distribution point); ``pckcrl`` is binary only
where ``encoding=der`` is asked for, else PEM (PCS) or hex (PCCS); the TCB info chain's
header has two names. All forms are understood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes, urlsplit

from tightseal.collateral import wire
from tightseal.collateral.http import Answer, Asker, check_base_url
from tightseal.collateral.parts import Part, PartKind, PartName, make_part
from tightseal.errors import Code, CollateralError, SettingsError

__all__ = ["PartFetcher", "PccsClient", "PccsEndpoint", "check_fresh"]

_API: Final = "certification/v4"
_PCS_HOST: Final = "api.trustedservices.intel.com"
_PCS_ROOT_CRL: Final = (
    "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
)
_TCB_CHAIN: Final[tuple[str, ...]] = (
    "TCB-Info-Issuer-Chain",
    "SGX-TCB-Info-Issuer-Chain",
)
_QE_CHAIN: Final[tuple[str, ...]] = ("SGX-Enclave-Identity-Issuer-Chain",)
_CRL_CHAIN: Final[tuple[str, ...]] = ("SGX-PCK-CRL-Issuer-Chain",)


class PartFetcher(Protocol):
    """Something that can fetch parts of collateral."""

    def fetch(
        self,
        name: PartName,
        *,
        now: int,
        accept: Callable[[Part], None],
        until: float | None = None,
    ) -> Part:
        """Fetch one part that is valid at ``now`` and that ``accept`` lets pass.

        Raises:
            CollateralError: ``collateral_unavailable``.
        """
        ...


@dataclass(frozen=True, slots=True)
class PccsEndpoint:
    """One PCCS or PCS.

    Attributes:
        url: base address, without the path of the API.
        root_crl_url: where the root CRL lies, if not at the API's ``rootcacrl``. It
            is a setting: an address read from a certificate that nobody verified yet
            would send us wherever its author likes.
    """

    url: str
    root_crl_url: str | None = None

    @classmethod
    def parse(cls, url: str) -> PccsEndpoint:
        """Read an address, with or without ``/sgx/certification/v4/`` at its end.

        Raises:
            SettingsError: ``settings_invalid``.
        """
        base = check_base_url(url)
        for tee in ("sgx", "tdx"):
            base = base.removesuffix(f"/{tee}/{_API}")
        pcs = urlsplit(base).hostname == _PCS_HOST
        return cls(base, _PCS_ROOT_CRL if pcs else None)

    def address(self, name: PartName) -> str:
        """The address of a part."""
        if name.kind is PartKind.ROOT_CRL and self.root_crl_url is not None:
            return self.root_crl_url
        tee = "sgx"
        if name.kind in (PartKind.TCB_INFO, PartKind.QE_IDENTITY):
            tee = name.subject.partition(":")[0]
        path = {
            PartKind.TCB_INFO: "tcb",
            PartKind.QE_IDENTITY: "qe/identity",
            PartKind.PCK_CRL: "pckcrl",
            PartKind.ROOT_CRL: "rootcacrl",
        }[name.kind]
        return f"{self.url}/{tee}/{_API}/{path}"


def check_fresh(part: Part, now: int) -> None:
    """Refuse a part that is not valid at ``now``, so that the next place is asked.

    Raises:
        CollateralError: ``collateral_unavailable``.
    """
    if not part.valid_at(now):
        raise CollateralError(
            Code.COLLATERAL_UNAVAILABLE,
            f"valid from {part.issued_at} to {part.expires_at}, now is {now}",
        )


class PccsClient:
    """Fetches Intel's parts; asks several endpoints in order.

    Args:
        endpoints: addresses or ``PccsEndpoint``, best first.
        asker: the bounded HTTP client.
        early: ask for early updates of TCB info and QE identity (``update=early``).
            Feeds must not be mixed: the early feed's higher evaluation numbers make
            the guard refuse the standard one.

    Raises:
        SettingsError: ``settings_invalid``.
    """

    def __init__(
        self,
        endpoints: Sequence[str | PccsEndpoint],
        *,
        asker: Asker,
        early: bool = False,
    ) -> None:
        if not endpoints:
            raise SettingsError(Code.SETTINGS_INVALID, "no PCCS is configured")
        self.endpoints = tuple(
            PccsEndpoint.parse(e) if isinstance(e, str) else e for e in endpoints
        )
        self._asker = asker
        self._early = early

    def fetch(
        self,
        name: PartName,
        *,
        now: int,
        accept: Callable[[Part], None],
        until: float | None = None,
    ) -> Part:
        """Fetch one of Intel's parts.

        Args:
            name: which part.
            now: Unix seconds; a part that is not valid then is not accepted.
            accept: further checks; its ``CollateralError`` sends us on to the next.
            until: latest end, by the monotonic clock.

        Raises:
            CollateralError: ``collateral_unavailable``, with every address and what
                came from it.
        """

        def read(answer: Answer) -> Part:
            part = _part(name, answer)
            check_fresh(part, now)
            accept(part)
            return part

        return self._asker.ask(
            [endpoint.address(name) for endpoint in self.endpoints],
            params=self._params(name),
            read=read,
            what=str(name),
            until=until,
        )

    def _params(self, name: PartName) -> dict[str, str]:
        params: dict[str, str] = {}
        if name.kind is PartKind.TCB_INFO:
            params["fmspc"] = name.subject.partition(":")[2].upper()
        if name.kind is PartKind.PCK_CRL:
            params["ca"] = name.subject.removeprefix("crl:")
            params["encoding"] = "der"
        if self._early and name.kind in (PartKind.TCB_INFO, PartKind.QE_IDENTITY):
            params["update"] = "early"
        return params


def _part(name: PartName, answer: Answer) -> Part:
    """Make a part of an answer."""
    if name.kind is PartKind.ROOT_CRL:
        return make_part(name, wire.crl_der(answer.body))
    if name.kind is PartKind.PCK_CRL:
        chain = _chain(answer, _CRL_CHAIN)
        return make_part(name, wire.crl_der(answer.body), chain=chain)
    member, headers, code = "tcbInfo", _TCB_CHAIN, Code.TCB_INFO_MALFORMED
    if name.kind is PartKind.QE_IDENTITY:
        member, headers, code = "enclaveIdentity", _QE_CHAIN, Code.QE_IDENTITY_MALFORMED
    signed = wire.signed_text(answer.body, name=member, code=code)
    return make_part(
        name,
        signed.text.encode(),
        signature=signed.signature,
        chain=_chain(answer, headers),
    )


def _chain(answer: Answer, names: tuple[str, ...]) -> str:
    """The URL-encoded PEM chain of a header; a plus sign stands for itself."""
    value = answer.header(*names)
    if value is None:
        raise CollateralError(
            Code.COLLATERAL_UNREADABLE, f"no header {' or '.join(names)}"
        )
    try:
        pem = unquote_to_bytes(value).decode("ascii")
    except UnicodeError as error:
        raise CollateralError(
            Code.CERTIFICATE_MALFORMED, f"header {names[0]}: not text"
        ) from error
    wire.certificate_chain(pem)
    return pem
