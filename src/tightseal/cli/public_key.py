# SPDX-License-Identifier: Apache-2.0
"""``tightseal public-key``: the public half of a pair that a policy publishes.

For whoever wants to encrypt to a workload or to check what it signed. It takes no
evidence; the provider is checked as ``tightseal key`` checks it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.cli.options import log_to_stderr
from tightseal.cli.provider_collateral import provider_collateral
from tightseal.errors import Code, PlatformError
from tightseal.guest.client import Client
from tightseal.guest.exchange import Terms
from tightseal.guest.pins import read_pin
from tightseal.guest.public_key import PublicKey
from tightseal.model.tls import TlsTrust

__all__ = ["public_key"]


class _NoWorkload:
    """In place of a platform: nothing here is a workload."""

    def evidence(self, report_data: bytes) -> NoReturn:
        """Refuse; public halves are asked for without evidence."""
        detail = f"no evidence of {len(report_data)} bytes: this is no workload"
        raise PlatformError(Code.PLATFORM_UNSUPPORTED, detail)


def public_key(
    tenant: str,
    workload: str,
    purpose: str,
    /,
    *,
    provider: str,
    pin: Path,
    label: str = "",
    as_json: Annotated[bool, Parameter("--json")] = False,
    collateral: Path | None = None,
    pccs: tuple[str, ...] = (),
    kds: tuple[str, ...] = (),
    root_ca: Path | None = None,
    tls: TlsTrust = TlsTrust.PUBLIC_CA,
) -> int:
    """Get a published public half: 0 got it, 1 refused or not trusted, 2 could not ask.

    It proves that the pinned provider, under a policy that publishes the purpose, has
    this pair for it. It does not prove that any workload holds the private half.

    Args:
        tenant: as the policy names it.
        workload: likewise.
        purpose: likewise; of a type that is a pair, and published.
        provider: address of the provider, such as http://10.0.2.2:3442.
        pin: file that says who the provider must be.
        label: a sub-key.
        as_json: one JSON document on stdout, with what the provider signed.
        collateral: offline bundle for the provider's evidence: a file, or for SNP a
            folder.
        pccs: address of a PCCS; may be given again.
        kds: address of AMD's KDS; may be given again.
        root_ca: root certificate of a simulated world, to be trusted too.
        tls: how the certificate of an https provider is judged: by public CAs, not at
            all, since the answer is signed, or by the evidence in it.
    """
    log_to_stderr()
    client = Client(
        provider,
        source=_NoWorkload(),
        terms=Terms(
            pin=read_pin(pin),
            collateral=provider_collateral(
                collateral, pccs=pccs, kds=kds, root_ca=root_ca
            ),
        ),
        tls=tls,
    )
    with client:
        found = client.public_key(tenant, workload, purpose, label)
    if found.simulated:
        ui.note("the provider is simulated: nothing is protected by this pair")
    if as_json:
        ui.print_json(_document(found))
        return ui.EXIT_YES
    ui.verdict("published", found.public_key.hex(), tone="yes")
    ui.facts(_rows(found))
    return ui.EXIT_YES


def _rows(found: PublicKey) -> list[tuple[str, str]]:
    name, policy = found.name, found.policy
    label = f" {name.label!r}" if name.label else ""
    return [
        ("type", found.type.value),
        ("of", f"{name.tenant} / {name.workload} / {name.purpose}{label}"),
        ("generation", str(found.generation)),
        ("trust domain", found.trust_domain),
        ("policy", "none signed" if policy is None else f"version {policy.version}"),
        ("keyring id", found.provider.keyring_id.hex()),
    ]


def _document(found: PublicKey) -> dict[str, object]:
    name, policy, identity = found.name, found.policy, found.provider
    return {
        "tenant": name.tenant,
        "workload": name.workload,
        "purpose": name.purpose,
        "label": name.label,
        "type": found.type.value,
        "public_key": found.public_key.hex(),
        "generation": found.generation,
        "trust_domain": found.trust_domain,
        "issued_at": found.issued_at,
        "simulated": found.simulated,
        "policy": policy and {"version": policy.version, "digest": policy.digest.hex()},
        "provider": {
            "tee": identity.tee,
            "measurement": identity.measurement.hex(),
            "keyring_id": identity.keyring_id.hex(),
            "policy_root": identity.policy_root and identity.policy_root.hex(),
            "settings_digest": identity.settings_digest.hex(),
        },
        "signed": found.signed.hex(),
        "signature": found.signature.hex(),
        "attested_key": found.attested_key.hex(),
    }
