# SPDX-License-Identifier: Apache-2.0
"""The provider of the policy in force, made anew when another one comes into force.

A provider never changes: a request is answered whole by the one that it came to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from tightseal.errors import Code, RequestError
from tightseal.model import wire
from tightseal.model.action_file import parse_action
from tightseal.model.base64url import encode_base64url
from tightseal.model.ports import Verifier
from tightseal.model.settings import ReleaseSettings
from tightseal.model.wire_operator import ActionDone, PolicyAccepted
from tightseal.platform.attested import AttestedKeys
from tightseal.policy.actions import authorise
from tightseal.recovery.desk import HandoffDesk
from tightseal.release import LegacyAnswer, Provider
from tightseal.release.begun import Begun, Finished
from tightseal.release.policy import InForce, PolicyKeeper

__all__ = ["Built", "CurrentProvider"]


@dataclass(frozen=True, slots=True)
class Built:
    """A provider with the parts that its release settings shape.

    ``desk`` is ``None`` where there is nothing to hand over, or nobody who could say
    so: without a keyring, or without a policy root.
    """

    in_force: InForce
    provider: Provider
    verifier: Verifier
    attested: AttestedKeys
    desk: HandoffDesk | None = None

    def serves(self, in_force: InForce) -> bool:
        """Whether verifier and attested key would be the same under another policy."""
        ours = self.in_force
        return (
            ours.settings == in_force.settings
            and ours.policy_root == in_force.policy_root
        )


class CurrentProvider:
    """Hands every request to the provider of the policy in force. Thread-safe.

    Args:
        keeper: knows the policy in force.
        build: makes the provider of a policy; told of the one before it.
    """

    def __init__(
        self, keeper: PolicyKeeper, build: Callable[[InForce, Built | None], Built]
    ) -> None:
        self._keeper = keeper
        self._build = build
        self._lock = threading.Lock()
        self._built: Built | None = None

    def built(self) -> Built:
        """The provider in force with its parts.

        Raises:
            ServiceError: ``policy_missing``.
        """
        in_force = self._keeper.current()
        built = self._built
        if built is None or built.in_force is not in_force:
            with self._lock:
                # Again: whoever waited here must not bring an older policy back.
                in_force = self._keeper.current()
                built = self._built
                if built is None or built.in_force is not in_force:
                    built = self._built = self._build(in_force, built)
        return built

    def challenge(
        self, request: wire.ChallengeRequest, *, now: int
    ) -> wire.ChallengeResponse:
        """As of ``release.Provider``."""
        return self.built().provider.challenge(request, now=now)

    def begin(self, body: bytes, *, now: int) -> Begun:
        """As of ``release.Provider``; the same provider finishes it."""
        return self.built().provider.begin(body, now=now)

    def legacy(self, quote: bytes, *, now: int) -> LegacyAnswer:
        """As of ``release.Provider``."""
        return self.built().provider.legacy(quote, now=now)

    def info(self, *, now: int) -> wire.InfoResponse:
        """As of ``release.Provider``."""
        return self.built().provider.info(now=now)

    def public_key(
        self, request: wire.PublicKeyRequest, *, now: int
    ) -> wire.PublicKeyResponse:
        """As of ``release.Provider``."""
        return self.built().provider.public_key(request, now=now)

    def settings(self) -> ReleaseSettings:
        """The release settings in force; before the first bundle the measured ones."""
        return self._keeper.settings()

    def publish(self, bundle: bytes, *, now: int) -> PolicyAccepted:
        """Take a signed bundle; it decides from the next request on.

        Raises:
            SettingsError: what is wrong with it; the last good one stays.
            TightsealError: as ``PolicyKeeper.offer``.
        """
        in_force = self._keeper.offer(bundle, now=now)
        assert in_force.version is not None
        assert in_force.digest is not None
        assert in_force.expires_at is not None
        return PolicyAccepted(
            policy_version=in_force.version,
            digest=encode_base64url(in_force.digest),
            expires_at=in_force.expires_at,
        )

    def admit(self, action: bytes, *, now: int) -> None:
        """Refuse an action that no role of the policy signed; changes nothing.

        Cheap, so that it can be asked before the action waits for the one thread of
        operators, which anybody may send bundles to.

        Raises:
            RequestError: as of ``policy.actions.authorise``.
            ServiceError: there is no policy, or it decides nothing any more.
        """
        built = self.built()
        in_force = built.in_force
        if in_force.policy_root is None:
            # ``act`` says that there are no roles here.
            return
        in_force.require_deciding(now=now)
        authorise(
            parse_action(action),
            roles=in_force.policy.roles,
            policy_root=in_force.policy_root,
            keyring_id=built.attested.identity.keyring_id,
            now=now,
        )

    def act(self, action: bytes, *, now: int) -> ActionDone:
        """As of ``release.Provider``."""
        return self.built().provider.act(action, now=now)

    def hand_over(self, body: bytes, *, now: int) -> Finished:
        """As of ``recovery.desk.HandoffDesk``; ``not_found`` without one."""
        return self._desk().answer(body, now=now)

    def confirm_handoff(self, body: bytes, *, now: int) -> bytes:
        """As of ``recovery.desk.HandoffDesk.confirm``; ``not_found`` without one."""
        return self._desk().confirm(body, now=now)

    def _desk(self) -> HandoffDesk:
        desk = self.built().desk
        if desk is None:
            detail = "nothing to hand over: there is no keyring, or no policy root"
            raise RequestError(Code.NOT_FOUND, detail)
        return desk
