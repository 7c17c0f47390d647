# SPDX-License-Identifier: Apache-2.0
"""``tightseal action``: sign what a running provider is asked for, and submit it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Final, ParamSpec

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.cli.action_file import read_action, write_file
from tightseal.cli.action_new import Asked, Origin, new_action
from tightseal.cli.action_slot import AskedSlot
from tightseal.cli.action_text import Standing, action_json, show_action, standing
from tightseal.cli.passphrase import asker
from tightseal.cli.policy_input import read_documents, seconds_of
from tightseal.cli.submit import submit as send
from tightseal.cli.verify import UsageError
from tightseal.errors import (
    Code,
    ProviderError,
    RequestError,
    TightsealError,
)
from tightseal.model.action import (
    MAX_SIGNATURES,
    Signature,
    SignedAction,
)
from tightseal.model.action_file import encode_action
from tightseal.model.tls import TlsTrust
from tightseal.model.wire_fields import ENTRY_ID_BYTES, exactly
from tightseal.model.wire_operator import ACTIONS_PATH, ActionDone
from tightseal.policy.actions import authorise, check_form
from tightseal.policy.bundle.keyfile import SigningKey, is_encrypted, load_signing_key
from tightseal.policy.compile import compile_policy

__all__ = ["action_app"]

FILE_MODE: Final = 0o644
AGREED: Final = "yes"
CONTENT_TYPE: Final = "application/json"
ANSWER_VERSION: Final = 1

JsonFlag = Annotated[bool, Parameter("--json")]
KeyFile = Annotated[Path, Parameter(allow_leading_hyphen=True)]
PolicyFiles = Annotated[list[Path] | None, Parameter(name=["--policy", "-p"])]
_P = ParamSpec("_P")

action_app = App(
    name="action",
    help="Sign what a running provider is asked for, and submit it.",
    default_parameter=Parameter(negative=()),
    result_action="return_value",
)


def _asked(command: Callable[_P, int]) -> Callable[_P, int]:
    """A wrong command line is told as such; an unreadable action was not judged."""

    @wraps(command)
    def told(*args: _P.args, **kwargs: _P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            return ui.usage_error(str(error), f"action {command.__name__} --help")

    return told


@action_app.command
@_asked
def sign(
    file: Path | None = None,
    /,
    *,
    key: KeyFile,
    out: Path | None = None,
    passphrase_file: Path | None = None,
    yes: bool = False,
    as_json: JsonFlag = False,
    asked: Asked | None = None,
    origin: Origin | None = None,
    slot: AskedSlot | None = None,
) -> int:
    """Make and sign an action, or add a signature: 0 signed, 1 not, 2 unreadable.

    With FILE, a signature is added to it, after showing what it asks for. Without, a
    new action is made of the other options and written to --out.

    Args:
        file: an action that others signed.
        key: file of the operator's key; see ``tightseal policy keygen``.
        out: where the action is written; a new file. By default FILE itself.
        passphrase_file: holds the passphrase of the key; else the terminal is asked.
        yes: sign FILE without being asked.
        as_json: one JSON document on stdout.
        asked: what a new action asks, and of whom.
        origin: where the key is that is to be adopted.
        slot: which slot it is about.
    """
    now = int(time.time())
    target = out or file
    if target is None:
        raise UsageError("name the new file with --out, or an action to sign")
    if file is None:
        action = new_action(asked or Asked(), origin or Origin(), slot, now=now)
        signed = SignedAction(action)
    elif asked or origin or slot:
        raise UsageError("an action that exists is signed as it is")
    else:
        signed = read_action(file)
    signer = _signer(key, passphrase_file)
    ask = _Ask(yes=yes, quiet=as_json, now=now)
    if file is not None and not ask.agreed(signed, signer):
        return ui.EXIT_NO
    signature = Signature(signer.public_key, signer.sign(signed.action.to_sign()))
    signed = signed.signed(signature)
    if len(signed.signatures) > MAX_SIGNATURES:
        raise UsageError(f"it has {MAX_SIGNATURES} signatures, which is the most")
    write_file(target, encode_action(signed), replace=out is None)
    if as_json:
        ui.print_json(action_json(signed, standing(signed, now=now)))
        return ui.EXIT_YES
    ui.verdict("signed", str(target), tone="yes")
    if file is None:
        show_action(signed, standing(signed, now=now))
    return ui.EXIT_YES


@action_app.command
@_asked
def show(
    file: Path,
    /,
    *,
    policy: PolicyFiles = None,
    at: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    as_json: JsonFlag = False,
) -> int:
    """Show what an action asks for: 0 nothing against it, 1 something, 2 unreadable.

    Args:
        file: the action.
        policy: documents with the roles that are to allow it; without them, roles are
            not judged.
        at: judge as of this time, Unix seconds or RFC 3339; now by default.
        as_json: one JSON document on stdout.
    """
    now = seconds_of(at)
    signed = read_action(file)
    how = standing(signed, now=now)
    if policy:
        how = _judged(signed, policy, now=now)
    if as_json:
        ui.print_json(action_json(signed, how))
    else:
        word = "valid" if how.good else "not valid"
        count = f"{len(signed.signatures)} signatures"
        ui.verdict(word, count, tone="yes" if how.good else "no")
        show_action(signed, how)
    return ui.EXIT_YES if how.good else ui.EXIT_NO


@action_app.command
@_asked
def submit(
    file: Path,
    /,
    *,
    provider: str,
    tls: TlsTrust = TlsTrust.PUBLIC_CA,
    as_json: JsonFlag = False,
) -> int:
    """Give an action to a provider: 0 done, 1 refused, 2 unreadable.

    The answer is the provider's word; its journal entry says what it did.

    Args:
        file: the action, with enough signatures.
        provider: address of the provider, such as http://10.0.2.2:3442.
        tls: how the certificate of an https provider is judged: public-ca, or exchange
            for not at all, since what is sent is signed.
        as_json: one JSON document on stdout.
    """
    signed = read_action(file)
    done = send(
        provider,
        ACTIONS_PATH,
        encode_action(signed),
        ActionDone,
        content_type=CONTENT_TYPE,
        tls=tls,
    )
    if done.version != ANSWER_VERSION:
        detail = f"version {done.version}, expected {ANSWER_VERSION}"
        raise ProviderError(Code.RESPONSE_INVALID, detail)
    try:
        entry_id = exactly(done.entry_id, "entry_id", ENTRY_ID_BYTES).hex()
    except RequestError as e:
        raise ProviderError(Code.RESPONSE_INVALID, e.detail) from e
    if as_json:
        ui.print_json({"done": done.done, "entry_id": entry_id})
    else:
        word = "done" if done.done else "not done"
        ui.verdict(word, f"journal entry {entry_id}", tone="yes" if done.done else "no")
    return ui.EXIT_YES if done.done else ui.EXIT_NO


# -- another signature ------------------------------------------------------------


def _signer(file: Path, passphrase_file: Path | None) -> SigningKey:
    secret = asker(passphrase_file)
    passphrase = secret("passphrase").encode() if is_encrypted(file) else None
    return load_signing_key(file, passphrase=passphrase)


@dataclass(frozen=True, slots=True)
class _Ask:
    """Whether to sign what somebody else made.

    Attributes:
        yes: without being asked.
        quiet: stdout belongs to one JSON document.
        now: Unix seconds.
    """

    yes: bool
    quiet: bool
    now: int

    def agreed(self, signed: SignedAction, signer: SigningKey) -> bool:
        """Show what is to be signed, and ask."""
        how = standing(signed, now=self.now)
        if how.expired:
            raise UsageError("the action has expired; make a new one")
        if self.quiet and not self.yes:
            raise UsageError("--json does not ask: look at it first, then give --yes")
        check_form(signed.action)
        if any(s.key == signer.public_key for s in signed.signatures):
            ui.note("this key has signed it before; its signature is made anew")
        if not self.quiet:
            show_action(signed, how)
        if self.yes:
            return True
        ui.note(f"sign this as {signer.public_key.hex()}? Type {AGREED}:")
        if sys.stdin.readline().strip() == AGREED:
            return True
        ui.note("not signed; where nobody can be asked, give --yes")
        return False


def _judged(signed: SignedAction, policy: list[Path], *, now: int) -> Standing:
    """As a provider of these documents would, which it is taken to be meant for."""
    roles = compile_policy(read_documents(policy)).roles
    action = signed.action
    try:
        done = authorise(
            signed,
            roles=roles,
            policy_root=action.policy_root,
            keyring_id=action.keyring_id,
            now=now,
        )
    except TightsealError as e:
        return standing(signed, now=now, code=e.code, detail=e.detail)
    return standing(signed, now=now, role=str(done.role))
