# SPDX-License-Identifier: Apache-2.0
"""``tightseal provider``: other providers of one keyring, from invitation to the end.

``invite`` and ``revoke`` make actions for operators to sign and run anywhere. The
others run where the provider runs, inside its TEE, and make no promise for the host:
what is handed over is decided by evidence, policy and signatures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.cli.action_file import read_action_bytes, write_file
from tightseal.cli.action_text import action_json, show_action, standing
from tightseal.cli.keyring_open import JsonFlag, Where, agreed, asked, settings_of
from tightseal.cli.provider_draft import (
    invitation,
    known_from,
    known_json,
    measured_of,
    read_known,
    revocation,
)
from tightseal.cli.verify import UsageError
from tightseal.errors import Code, ProviderError
from tightseal.model.action import Action, SignedAction
from tightseal.model.action_file import encode_action
from tightseal.platform.door import open_platform
from tightseal.recovery.join import Joined, join, rehearse
from tightseal.recovery.peer import HttpGiver
from tightseal.release.revoke import STILL_KNOWN
from tightseal.service.inuse import use
from tightseal.service.joining import Candidate, candidate_of
from tightseal.service.renewal import finish_renewal
from tightseal.service.retire import retire as retire_provider
from tightseal.service.retire import successors
from tightseal.service.roots import ways_of
from tightseal.service.state import prepare_folder

__all__ = ["provider_app"]

DEFAULT_HOURS: Final = 24

From = Annotated[str, Parameter(name="--from")]

provider_app = App(
    name="provider",
    help="Hand a keyring to another provider, and take it away from one.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)


_told = partial(asked, group="provider")


@provider_app.command
@_told
def identity(
    *,
    out: Path | None = None,
    measurement: str | None = None,
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Say who this provider would be, for an invitation; it needs no keyring yet.

    Args:
        out: a new file for ``tightseal provider invite --joiner``.
        measurement: of its image, MRENCLAVE or SNP measurement in hex, where this runs
            outside its TEE; by default the platform is asked.
        where: whose settings.
        as_json: one JSON document on stdout, which is that file too.
    """
    candidate = _candidate(where, measurement)
    document = known_json(candidate)
    if out is not None:
        write_file(out, json.dumps(document, indent=2).encode() + b"\n", replace=False)
    if as_json:
        ui.print_json(document)
        return ui.EXIT_YES
    parts = candidate.parts
    ui.verdict("ready", "to be invited", tone="yes")
    ui.facts(
        [
            ("tee", parts.tee),
            ("measurement", parts.measurement.hex()),
            ("policy root", candidate.release.policy_root),
            ("settings digest", parts.settings_digest.hex()),
            ("policy", f"version {candidate.bundle.version}"),
        ]
    )
    return ui.EXIT_YES


@provider_app.command
@_told
def invite(
    *,
    giver: From,
    joiner: Path,
    out: Path,
    tenant: str | None = None,
    expires_hours: int = DEFAULT_HOURS,
    as_json: JsonFlag = False,
) -> int:
    """Make an invitation, for operators to look at and sign: tightseal action sign.

    What the giver says of itself is not proven here. The provider that joins has it
    proven; a wrong one leads to an invitation that nobody can use.

    Args:
        giver: address of the provider that hands over.
        joiner: file of ``tightseal provider identity``, of the one that may join.
        out: a new file for the action.
        tenant: hand over this tenant's branch alone.
        expires_hours: from now until it is refused; 168 at most.
        as_json: one JSON document on stdout.
    """
    now = int(time.time())
    action = invitation(
        giver=known_from(giver),
        joiner=read_known(joiner),
        tenant=tenant,
        hours=expires_hours,
        now=now,
    )
    return _draft(action, out, now=now, as_json=as_json)


@provider_app.command
@_told
def revoke(
    *,
    giver: From,
    out: Path,
    slot: list[str] | None = None,
    invited_by: str | None = None,
    expires_hours: int = DEFAULT_HOURS,
    as_json: JsonFlag = False,
) -> int:
    """Make a revocation, for operators to look at, sign and submit.

    A provider that takes it removes the slots, makes a new generation and moves wrapped
    keys to it.

    Args:
        giver: address of a provider that stays.
        out: a new file for the action.
        slot: id of a slot of the revoked one, as ``keyring status`` shows; repeat it.
            None is needed for one that never confirmed, or has a branch.
        invited_by: id of the invitation that it joined by, 32 hex digits.
        expires_hours: from now until it is refused; 168 at most.
        as_json: one JSON document on stdout.
    """
    if not slot and invited_by is None:
        raise UsageError("name what is revoked: --slot, --invited-by, or both")
    now = int(time.time())
    action = revocation(
        known_from(giver),
        slots=slot or [],
        invitation=invited_by,
        hours=expires_hours,
        now=now,
    )
    ui.note(STILL_KNOWN)
    return _draft(action, out, now=now, as_json=as_json)


@provider_app.command(name="join")
@_told
def join_command(
    *,
    giver: From,
    invitation: Path,
    rehearsal: Annotated[bool, Parameter("--rehearse")] = False,
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Take the keyring of another provider over, by an invitation.

    Safe to repeat with the same invitation until it was confirmed.

    Args:
        giver: address of the provider that hands over.
        invitation: file of the signed action.
        rehearsal: do everything but hand over; nothing is written.
        where: whose settings.
        as_json: one JSON document on stdout.
    """
    return _join(giver, invitation, where, rehearsal=rehearsal, as_json=as_json)


@provider_app.command
@_told
def upgrade(
    *,
    giver: From,
    invitation: Path,
    where: Where | None = None,
    as_json: JsonFlag = False,
) -> int:
    """Take over from an older version, or from another machine: rehearse, then join.

    Run it as the new provider. The old one serves on until it is retired.

    Args:
        giver: address of the old provider.
        invitation: file of the signed action.
        where: settings of the new provider.
        as_json: one JSON document on stdout.
    """
    _join(giver, invitation, where, rehearsal=True, as_json=as_json, quiet=True)
    status = _join(giver, invitation, where, rehearsal=False, as_json=as_json)
    if status == ui.EXIT_YES and not as_json:
        ui.heading("next")
        ui.facts(
            [
                ("start", "this provider, and let workloads reach it"),
                (
                    "retire",
                    "the old one, once it is stopped: tightseal provider retire",
                ),
            ]
        )
    return status


@provider_app.command
@_told
def retire(
    *, yes: bool = False, where: Where | None = None, as_json: JsonFlag = False
) -> int:
    """Take this provider's keyring off its machine, once another one has it.

    Refused while nobody has confirmed that it opens the same keyring elsewhere, and
    while this provider runs.

    Args:
        yes: without being asked.
        where: whose keyring.
        as_json: one JSON document on stdout.
    """
    settings = settings_of(where or Where())
    kind = settings.host.platform
    platform = open_platform(kind.kind.value, kind.options())
    now = int(time.time())
    found = successors(settings, platform, now=now)
    if not as_json:
        ui.heading("confirmed by")
        ui.facts((s.measurement.hex(), f"at {s.confirmed_at}") for s in found)
    if not agreed("remove the keyring from this machine?", yes=yes, as_json=as_json):
        return ui.EXIT_NO
    slots = retire_provider(settings, platform, now=now)
    ids = [slot_id.hex() for slot_id in slots]
    if as_json:
        ui.print_json({"version": 1, "retired": True, "slots": ids})
        return ui.EXIT_YES
    ui.verdict("retired", str(settings.host.keyring_path), tone="yes")
    ui.facts([("its slots", ", ".join(ids) or "none opened here")])
    ui.note(
        "copies of the file still open on this machine, in this very image; to end that"
        " too, revoke these slots: tightseal provider revoke"
    )
    return ui.EXIT_YES


def _candidate(where: Where | None, measurement: str | None = None) -> Candidate:
    settings = settings_of(where or Where())
    kind = settings.host.platform
    platform = open_platform(kind.kind.value, kind.options())
    measured = None if measurement is None else measured_of(measurement)
    return candidate_of(settings, platform, now=int(time.time()), measured=measured)


def _draft(action: Action, out: Path, *, now: int, as_json: bool) -> int:
    signed = SignedAction(action)
    write_file(out, encode_action(signed), replace=False)
    if as_json:
        ui.print_json(action_json(signed, standing(signed, now=now)))
        return ui.EXIT_YES
    ui.verdict("made", str(out), tone="yes")
    show_action(signed, standing(signed, now=now))
    ui.heading("next")
    ui.facts([("sign", f"tightseal action sign {out} --key FILE")])
    return ui.EXIT_YES


def _join(
    url: str,
    invitation: Path,
    where: Where | None,
    *,
    rehearsal: bool,
    as_json: bool,
    quiet: bool = False,
) -> int:
    candidate = _candidate(where)
    settings, platform = candidate.settings, candidate.platform
    prepare_folder(settings.host)
    joiner = candidate.joiner(lambda: int(time.time()))
    data = read_action_bytes(invitation)
    finish_renewal(settings, lambda: ways_of(settings, platform))

    def done(step: str, what: str) -> None:
        if not as_json:
            ui.facts([(step, what)])

    tls = settings.host.keyring.join.tls
    with HttpGiver(url, tls=tls) as giver, _using(settings.host.keyring_path):
        if rehearsal:
            rehearse(joiner, giver, data, done=done)
            if as_json and not quiet:
                ui.print_json({"version": 1, "rehearsed": True})
            elif not as_json:
                ui.verdict(
                    "rehearsed", "nothing crossed, nothing was written", tone="yes"
                )
            return ui.EXIT_YES
        joined = join(joiner, giver, data, done=done)
    return _show_joined(joined, candidate, as_json=as_json)


@contextmanager
def _using(keyring: Path) -> Iterator[None]:
    """Keep the keyring key from being renewed, and the file from being retired."""
    leave = use(keyring)
    try:
        yield
    finally:
        leave()


def _show_joined(joined: Joined, candidate: Candidate, *, as_json: bool) -> int:
    path = candidate.settings.host.keyring_path
    if as_json:
        ui.print_json(
            {
                "version": 1,
                "file": str(path),
                "keyring_id": joined.keyring_id.hex(),
                "tenant": joined.tenant,
                "current": joined.generation,
                "generations": joined.generations,
                "counter": joined.counter,
                "slots": [slot_id.hex() for slot_id in joined.slots],
                "confirmed": not joined.confirmed,
                "unconfirmed_because": joined.confirmed or None,
            }
        )
    else:
        ui.verdict("joined", str(path), tone="yes")
        ui.facts(
            [
                ("keyring", joined.keyring_id.hex()),
                ("branch", joined.tenant or "none: the whole keyring"),
                ("generation", f"{joined.generation} of {joined.generations}"),
                ("own slots", ", ".join(s.hex() for s in joined.slots)),
            ]
        )
    if joined.confirmed:
        detail = f"it lies here, but the giver does not know: {joined.confirmed}"
        raise ProviderError(Code.PROVIDER_UNREACHABLE, f"{detail}; run the same again")
    return ui.EXIT_YES
