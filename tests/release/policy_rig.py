# SPDX-License-Identifier: Apache-2.0
"""Operators of a provider under a policy root: their role, their actions, refusals."""

from collections.abc import Callable
from typing import Any

import pytest
from rooted_rig import Rooted

from tightseal.errors import TightsealError
from tightseal.model.action import Action, ActionKind


def refusal(attempt: Callable[[], object]) -> TightsealError:
    with pytest.raises(TightsealError) as refused:
        attempt()
    return refused.value


def role(found: Rooted, *actions: str, threshold: int = 2) -> str:
    """A document in which the approvers are operators as well."""
    keys = ", ".join(f'"{key.public_key.hex()}"' for key in found.approvers.keys)
    listed = ", ".join(f'"{action}"' for action in actions)
    return (
        "version = 1\n[[role]]\n"
        f'name = "keepers"\nthreshold = {threshold}\nkeys = [{keys}]\n'
        f"actions = [{listed}]\n"
    )


def action(found: Rooted, kind: ActionKind, parameters: Any, number: int = 1) -> Action:
    """Asked of this provider, for the next hour."""
    return Action(
        kind=kind,
        policy_root=found.approvers.policy_root,
        keyring_id=found.keyring_id,
        action_id=bytes([number]) * 16,
        issued_at=found.now,
        expires_at=found.now + 3600,
        parameters=parameters,
    )
