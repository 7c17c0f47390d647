# SPDX-License-Identifier: Apache-2.0
"""The labelled chain: root, trust domain, tenant, workload, purpose, label.

One KDF step a level, each under its own label of the registry:

====================  ==========================================================
level                 value that enters
====================  ==========================================================
``KDF_TRUST_DOMAIN``  ``[kdf id, trust domain]``
``KDF_TENANT``        ``tenant``
``KDF_WORKLOAD``      ``[protocol class, generation, workload binding]``
``KDF_PURPOSE``       ``purpose``
``KDF_LABEL``         ``[label, length in bytes]``
====================  ==========================================================

The KDF is that of the whole chain. Inner nodes have the size of its hash (32, 48 or 64
bytes); the length asked for is part of the last step, so that a short key is never a
prefix of a longer one. The formula is frozen by ``tests/data/key_vectors.json``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tightseal.keys.form import check_path
from tightseal.keys.kdf import check_root, node_bytes, step
from tightseal.model.labels import Label

if TYPE_CHECKING:
    from tightseal.model.canonical import Value
    from tightseal.model.keypath import KeyPath
    from tightseal.model.secret import Secret

__all__ = ["derive"]


def derive(root: Secret, path: KeyPath) -> Secret:
    """Derive the key of ``path`` from ``root``: ``path.length`` bytes.

    The same root and path give the same key in every version. Inner nodes are wiped as
    far as Python allows (see ``Secret``). Whether the path may be asked for is not
    judged here: it comes from a grant.

    Raises:
        KeyReleaseError: ``key_path_invalid``, where a field is malformed;
            ``sealing_key_unavailable``, where the root is short or all zero.
    """
    check_path(path)
    check_root(root)
    node = root
    for label, value in _inner_levels(path):
        child = step(
            path.kdf,
            parent=node,
            label=label,
            value=value,
            length=node_bytes(path.kdf),
        )
        if node is not root:
            node.wipe()
        node = child
    last: list[Value] = [path.label, path.length]
    key = step(
        path.kdf, parent=node, label=Label.KDF_LABEL, value=last, length=path.length
    )
    node.wipe()
    return key


def _inner_levels(path: KeyPath) -> tuple[tuple[Label, Value], ...]:
    workload: list[Value] = [
        path.protocol_class.value,
        path.generation,
        path.workload.as_value(),
    ]
    return (
        (Label.KDF_TRUST_DOMAIN, [path.kdf.value, path.trust_domain]),
        (Label.KDF_TENANT, path.tenant),
        (Label.KDF_WORKLOAD, workload),
        (Label.KDF_PURPOSE, path.purpose),
    )
