# SPDX-License-Identifier: Apache-2.0
"""Approvers and the files that they sign, held in memory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policy_support import NOW, document
from securesystemslib.signer import CryptoSigner, Signer

from tightseal.policy.bundle.approvers import delegate, first_root, next_root
from tightseal.policy.bundle.archive import metadata_path, pack, unpack
from tightseal.policy.bundle.author import Plan, plan_signing, signed_files
from tightseal.policy.bundle.draft import bundle_files
from tightseal.policy.bundle.tree import Tree, read_tree
from tightseal.policy.bundle.verify import (
    ExpiredMetadata,
    VerifiedBundle,
    policy_root_of,
    verify_bundle,
)

DAY = 86_400
DAYS = 90
BASE = "targets/policy/base.toml"
ALICE, BOB, CAROL, DAVE = (CryptoSigner.generate_ed25519() for _ in range(4))


def text(name: str, *, tenant: str = "default", seed: int = 0) -> bytes:
    """A document with one workload; another seed fits other evidence."""
    mrtd = f'mrtd = "{bytes([seed + 1] * 48).hex()}"'
    rules = f'tenant = "{tenant}"'
    return document(name=name, rules=rules, measurements=mrtd).encode()


@dataclass
class Desk:
    """A folder in memory, with what was published from it."""

    files: dict[str, bytes]
    published: Mapping[str, bytes] | None = None
    now: int = NOW
    accepted: VerifiedBundle | None = field(default=None)

    @property
    def tree(self) -> Tree:
        return read_tree(self.files)

    @property
    def root(self) -> bytes:
        return policy_root_of(self.files["metadata/1.root.json"])

    def versions(self) -> dict[str, int]:
        return self.tree.versions()

    def plan(self, who: Signer, *, renew: bool = False, days: int = DAYS) -> Plan:
        return plan_signing(
            self.files,
            who.public_key,
            published=self.published,
            now=self.now,
            days=days,
            renew=renew,
        )

    def sign(self, *people: Signer, renew: bool = False) -> tuple[str, ...]:
        """Everybody signs in turn; returns what the last one signed."""
        roles: tuple[str, ...] = ()
        for who in people:
            plan = self.plan(who, renew=renew)
            self.files |= signed_files(plan, who)
            roles = plan.roles
        return roles

    def bundle(self) -> bytes:
        return pack(bundle_files(self.tree, self.files))

    def publish(self) -> VerifiedBundle:
        """As a provider would that has accepted all that was published before."""
        data = self.bundle()
        self.accepted = verify_bundle(
            data,
            policy_root=self.root,
            marks=self.accepted.marks if self.accepted else None,
            now=self.now,
            expired=ExpiredMetadata.REFUSE,
        )
        self.published = unpack(data)
        return self.accepted

    def edit(self, role: str, **signed: Any) -> None:
        """Change the signed part of a draft, as anybody can who writes to the folder;
        the signatures stay, and are no longer good."""
        path = metadata_path(role)
        value = json.loads(self.files[path])
        value["signed"] |= signed
        self.files[path] = json.dumps(value).encode()


def desk(*people: Signer, threshold: int | None = None) -> Desk:
    """A folder with one document and an unsigned root."""
    root = first_root(
        [who.public_key for who in people],
        threshold=len(people) if threshold is None else threshold,
        now=NOW,
        days=1000,
    )
    return Desk({"metadata/1.root.json": root, BASE: text("database")})


def published(*people: Signer, threshold: int | None = None) -> Desk:
    """The same, signed by as many as it takes, and published."""
    made = desk(*people, threshold=threshold)
    made.sign(*people[: len(people) if threshold is None else threshold])
    made.publish()
    return made


def rotate(made: Desk, *, add: Any = (), remove: Any = (), **more: Any) -> None:
    path, data = next_root(
        made.tree,
        add=[who.public_key for who in add],
        remove=[who.public_key.keyid for who in remove],
        threshold=more.get("threshold"),
        now=made.now,
        days=1000,
    )
    made.files[path] = data


def let(made: Desk, tenant: str, *people: Any, threshold: int = 1) -> None:
    made.files["metadata/targets.json"] = delegate(
        made.tree,
        tenant,
        [who.public_key for who in people],
        threshold=threshold,
        floor=0
        if made.published is None
        else read_tree(made.published).versions()["targets"],
        now=made.now,
        days=DAYS,
    )
