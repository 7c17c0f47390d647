# SPDX-License-Identifier: Apache-2.0
"""What operators send to a running provider, and what they are told."""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = [
    "ACTIONS_PATH",
    "MAX_ACTION_BYTES",
    "POLICY_PATH",
    "ActionDone",
    "PolicyAccepted",
]

POLICY_PATH: Final = "/v1/policy"
"""``POST``: a signed bundle, as it stands."""

ACTIONS_PATH: Final = "/v1/actions"
"""``POST``: a signed action, as it stands."""

MAX_ACTION_BYTES: Final = 256 * 1024
"""Longest file of a signed action."""


class PolicyAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a bundle that now decides.

    Attributes:
        version: of this answer; 1.
        accepted: always true; a refusal is a problem document.
        policy_version: of the bundle in force.
        digest: SHA-256 of the whole bundle, base64url.
        expires_at: Unix seconds when the first of its signatures expires.
    """

    version: int = 1
    accepted: bool = True
    policy_version: int
    digest: str
    expires_at: int


class ActionDone(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an action that was done.

    Attributes:
        version: of this answer; 1.
        done: always true; a refusal is a problem document.
        entry_id: of the journal entry about it, base64url.
    """

    version: int = 1
    done: bool = True
    entry_id: str
