# SPDX-License-Identifier: Apache-2.0
"""Givers and joiners in this process, over a scene's world and collateral."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handoff_scene import NEXT_IMAGE, Site
from tightseal.errors import TightsealError
from tightseal.model.action import (
    Action,
    ActionKind,
    InviteParameters,
    ProviderParts,
    RevokeParameters,
)
from tightseal.model.base64url import encode_base64url
from tightseal.model.secret import Secret
from tightseal.model.wire import ChallengeRequest, decode_json, encode_json
from tightseal.platform.door import open_platform
from tightseal.recovery.join import Joined, join
from tightseal.recovery.joiner import Joiner
from tightseal.release.keyring import KeyringKeeper
from tightseal.service.compose import Composed, compose, prepare
from tightseal.service.current import CurrentProvider
from tightseal.service.joining import Candidate, candidate_of
from tightseal.service.load import load_settings
from tightseal.service.state import prepare_folder

_numbers = iter(range(100_000))


def clock() -> int:
    return int(time.time())


def next_name(kind: str) -> str:
    """A name of a provider that no other one has in this process."""
    return f"{kind}-{next(_numbers)}"


@dataclass
class Direct:
    """A giver that is called and not sent to; what passes by can be changed."""

    provider: CurrentProvider
    now: Callable[[], int]
    sent: list[bytes] = field(default_factory=list)
    on_request: Callable[[bytes], bytes] = lambda body: body
    on_response: Callable[[bytes], bytes] = lambda body: body
    on_confirm: Callable[[bytes], bytes] = lambda body: body

    def challenge(self, body: bytes) -> tuple[bytes, bytes | None]:
        asked = decode_json(body, ChallengeRequest)
        return encode_json(self.provider.challenge(asked, now=self.now())), None

    def hand_over(self, body: bytes) -> bytes:
        self.sent.append(self.on_request(body))
        answer = self.provider.hand_over(self.sent[-1], now=self.now()).ready()
        return self.on_response(answer)

    def confirm(self, body: bytes) -> bytes:
        self.sent.append(self.on_confirm(body))
        return self.provider.confirm_handoff(self.sent[-1], now=self.now())


@dataclass
class Giving:
    """A provider that has the keyring."""

    composed: Composed
    clock: Callable[[], int]
    file: Path

    @property
    def provider(self) -> CurrentProvider:
        found = self.composed.front.provider
        assert isinstance(found, CurrentProvider)
        return found

    @property
    def keeper(self) -> KeyringKeeper:
        desk = self.provider.built().desk
        assert desk is not None
        return desk.keeper

    def direct(self, **changes: Any) -> Direct:
        return Direct(self.provider, self.clock, **changes)


@contextmanager
def giving(
    site: Site, bundle: bytes, name: str, *, clock: Callable[[], int], **options: Any
) -> Iterator[Giving]:
    """A composed provider with a keyring of its own, under the site's policy."""
    host = {"keyring": {"create": True}}
    config = site.configure(name, bundle, machine="machine-a", **host, **options)
    settings = load_settings(config)
    prepare(settings)
    composed = compose(settings, seed=Secret(secrets.token_bytes(32)), host_clock=clock)
    try:
        found = Giving(composed, clock, settings.host.keyring_path)
        found.provider._keeper.offer(bundle, now=clock())
        yield found
    finally:
        composed.close()


@dataclass
class Asking:
    """A provider that wants the keyring."""

    config: Path
    candidate: Candidate
    joiner: Joiner

    @property
    def file(self) -> Path:
        return self.candidate.settings.host.keyring_path


def asking(
    site: Site,
    bundle: bytes,
    name: str,
    *,
    clock: Callable[[], int],
    machine: str = "machine-b",
    image: str = NEXT_IMAGE,
) -> Asking:
    config = site.configure(name, bundle, machine=machine, image=image)
    settings = load_settings(config)
    kind = settings.host.platform
    platform = open_platform(kind.kind.value, kind.options())
    prepare_folder(settings.host)
    candidate = candidate_of(settings, platform, now=clock())
    return Asking(config, candidate, candidate.joiner(clock))


def invitation(
    site: Site,
    giver: Giving,
    joiner: ProviderParts,
    *,
    tenant: str | None = None,
    signers: int | None = None,
    lives: int = 3600,
    counter: int | None = None,
    **changes: Any,
) -> bytes:
    """A signed invitation; parts of the action can be changed."""
    identity = giver.provider.built().attested.identity
    now = giver.clock()
    action = Action(
        kind=ActionKind.INVITE_PROVIDER,
        policy_root=site.approvers.policy_root,
        keyring_id=identity.keyring_id,
        action_id=secrets.token_bytes(16),
        issued_at=now,
        expires_at=now + lives,
        parameters=InviteParameters(
            giver=ProviderParts.of(identity),
            joiner=joiner,
            counter=giver.keeper.keyring.header.counter if counter is None else counter,
            tenant=tenant,
        ),
    )
    return site.approvers.action(replace(action, **changes), signers=signers)


def revoke(
    site: Site, giver: Giving, slots: tuple[bytes, ...], invited: bytes | None = None
) -> None:
    """Have the giver take a signed revocation."""
    now, keyring = giver.clock(), giver.keeper.keyring
    action = Action(
        kind=ActionKind.REVOKE_PROVIDER,
        policy_root=site.approvers.policy_root,
        keyring_id=keyring.header.keyring_id,
        action_id=secrets.token_bytes(16),
        issued_at=now,
        expires_at=now + 3600,
        parameters=RevokeParameters(
            counter=keyring.header.counter,
            slots=tuple(sorted(slots)),
            invitation=invited,
        ),
    )
    giver.provider.act(site.approvers.action(action), now=now)


def joined(asked: Asking, giver: Direct, invited: bytes) -> Joined:
    return join(asked.joiner, giver, invited, done=lambda _step, _what: None)


def refusal(attempt: Callable[[], object]) -> TightsealError:
    with pytest.raises(TightsealError) as refused:
        attempt()
    return refused.value


def changed(body: bytes, **members: Any) -> bytes:
    """A JSON body with other members; bytes are put in as base64url."""
    tree = msgspec.json.decode(body)
    for name, value in members.items():
        assert name in tree
        tree[name] = encode_base64url(value) if isinstance(value, bytes) else value
    return msgspec.json.encode(tree)


@contextmanager
def all_of(*managers: Any) -> Iterator[list[Any]]:
    with ExitStack() as stack:
        yield [stack.enter_context(manager) for manager in managers]
