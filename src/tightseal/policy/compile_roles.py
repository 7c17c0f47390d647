# SPDX-License-Identifier: Apache-2.0
"""The roles of a document, checked beyond their types."""

from __future__ import annotations

from tightseal.policy.compiled import Role
from tightseal.policy.document import RoleRules
from tightseal.policy.locate import Path
from tightseal.policy.read import FieldFault

__all__ = ["compile_role"]


def compile_role(rules: RoleRules, path: Path) -> Role:
    """Make a role.

    Not checked: that each key is somebody else's, and that it is a point of the curve.

    Raises:
        FieldFault: a key that stands twice or is all zero, or a threshold that the
            keys can never reach.
    """
    keys = [bytes.fromhex(key) for key in rules.keys]
    for i, key in enumerate(keys):
        if not any(key):
            raise FieldFault((*path, "keys", i), "all zero, which is no key")
        if key in keys[:i]:
            raise FieldFault((*path, "keys", i), "stands twice")
    if rules.threshold > len(keys):
        message = f"{rules.threshold} of {len(keys)} keys can never sign"
        raise FieldFault((*path, "threshold"), message)
    return Role(
        name=rules.name,
        tenant=rules.tenant,
        threshold=rules.threshold,
        keys=frozenset(keys),
        actions=frozenset(rules.actions),
    )
