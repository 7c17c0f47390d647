# SPDX-License-Identifier: Apache-2.0
"""A good bundle of two tenants, and ways to spoil it before and after it is signed."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from policy_support import NOW, document
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from tightseal.policy.bundle.archive import pack
from tightseal.policy.bundle.marks import Marks
from tightseal.policy.bundle.verify import (
    ExpiredMetadata,
    VerifiedBundle,
    policy_root_of,
    verify_bundle,
)

DAY = 86_400
ROLES = ("root", "timestamp", "snapshot", "targets")
TENANTS = ("acme", "zeta")
ROOT_1 = "metadata/1.root.json"
ROOT_2 = "metadata/2.root.json"
TIMESTAMP = "metadata/timestamp.json"
SNAPSHOT = "metadata/snapshot.json"
TARGETS = "metadata/targets.json"
ACME = "metadata/tenant-acme.json"
ZETA = "metadata/tenant-zeta.json"
ACME_DOCUMENT = "targets/tenants/acme/web.toml"

Json = dict[str, Any]
Edit = Callable[[Json], None]


def key(name: str) -> CryptoSigner:
    """A signer whose key is decided by its name."""
    seed = hashlib.sha256(name.encode()).digest()
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(seed))


def keys(*names: str) -> list[CryptoSigner]:
    return [key(name) for name in names]


def after(seconds: int) -> datetime:
    return datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds)


def told(seconds: int) -> str:
    return after(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def tenant_document(tenant: str, name: str) -> bytes:
    return document(name=name, rules=f'tenant = "{tenant}"').encode()


def signed_json(signed: Json, signers: Iterable[CryptoSigner]) -> Json:
    payload = (encode_canonical(signed) or "").encode()
    signatures = [signer.sign(payload).to_dict() for signer in signers]
    return {"signatures": signatures, "signed": signed}


def to_bytes(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


@dataclass
class Scene:
    """What goes into a bundle.

    Attributes:
        signers: whose signatures each file gets, by path.
        contents: targets by path below ``targets/``.
        versions: of each role, 1 where not given.
        edits: changes to the part ``signed`` of a file, before it is signed.
        spoils: changes to a whole file, after it was signed and before it is listed.
        drops: paths that are left out in the end.
        adds: what is put in in the end, or takes the place of what was listed.
    """

    signers: dict[str, list[CryptoSigner]] = field(
        default_factory=lambda: {
            ROOT_1: keys("old-1", "old-2"),
            ROOT_2: keys("old-1", "old-2", "new-1", "new-2"),
            TIMESTAMP: keys("timestamp"),
            SNAPSHOT: keys("snapshot"),
            TARGETS: keys("targets-1", "targets-2"),
            ACME: keys("acme-1", "acme-2"),
            ZETA: keys("zeta-1"),
        }
    )
    contents: dict[str, bytes] = field(
        default_factory=lambda: {
            "release.toml": b"nonce_life = 60\n[limits]\nmax_keys = 4\n",
            "policy/base.toml": document(name="base").encode(),
            "tenants/acme/web.toml": tenant_document("acme", "web"),
            "tenants/acme/mail.toml": tenant_document("acme", "mail"),
            "tenants/zeta/web.toml": tenant_document("zeta", "web"),
        }
    )
    versions: dict[str, int] = field(
        default_factory=lambda: {"timestamp": 7, "snapshot": 6, "targets": 5}
    )
    tenants: tuple[str, ...] = TENANTS
    edits: dict[str, list[Edit]] = field(default_factory=dict)
    spoils: dict[str, list[Edit]] = field(default_factory=dict)
    drops: set[str] = field(default_factory=set)
    adds: dict[str, bytes] = field(default_factory=dict)

    def edit(self, path: str, change: Edit) -> "Scene":
        self.edits.setdefault(path, []).append(change)
        return self

    def spoil(self, path: str, change: Edit) -> "Scene":
        self.spoils.setdefault(path, []).append(change)
        return self

    def put(self, path: str, **values: Any) -> "Scene":
        """Set fields of the part ``signed``."""
        return self.edit(path, lambda signed: signed.update(values))

    def files(self) -> dict[str, bytes]:
        made: dict[str, bytes] = {}
        for version in (1, 2):
            path = f"metadata/{version}.root.json"
            made[path] = self._file(path, root(version))[1]
        listed = {}
        for tenant in self.tenants:
            role = f"tenant-{tenant}"
            listed[role] = self._role(role, self._targets(role, tenant), made)
        targets = self._targets("targets", None)
        targets.delegations = delegations(self.tenants)
        listed["targets"] = self._role("targets", targets, made)
        snapshot = Snapshot(
            self.versions.get("snapshot", 1),
            expires=after(30 * DAY),
            meta={f"{role}.json": meta for role, meta in listed.items()},
        )
        meta = self._role("snapshot", snapshot, made)
        timestamp = Timestamp(
            self.versions.get("timestamp", 1),
            expires=after(7 * DAY),
            snapshot_meta=meta,
            unrecognized_fields={"x-tightseal-issued": told(-3600)},
        )
        self._role("timestamp", timestamp, made)
        made |= {f"targets/{path}": data for path, data in self.contents.items()}
        kept = {path: data for path, data in made.items() if path not in self.drops}
        return kept | self.adds

    def pack(self) -> bytes:
        return pack(self.files())

    def _targets(self, role: str, tenant: str | None) -> Targets:
        folder = f"tenants/{tenant}/" if tenant else ("policy/", "release.toml")
        return Targets(
            self.versions.get(role, 1),
            expires=after(90 * DAY),
            targets={
                path: TargetFile.from_data(path, data)
                for path, data in self.contents.items()
                if path.startswith(folder)
            },
        )

    def _role(self, role: str, signed: Signed, made: dict[str, bytes]) -> MetaFile:
        path = f"metadata/{role}.json"
        version, made[path] = self._file(path, signed)
        return MetaFile.from_data(version, made[path], ["sha256"])

    def _file(self, path: str, signed: Signed) -> tuple[int, bytes]:
        value = signed.to_dict()
        for change in self.edits.get(path, ()):
            change(value)
        version = value.get("version")
        good = version if type(version) is int and version > 0 else 1
        whole = signed_json(value, self.signers[path])
        for change in self.spoils.get(path, ()):
            change(whole)
        return good, to_bytes(whole)


def root(version: int) -> Root:
    """Root 1 with the old keys, root 2 with new ones; both 2 of 3 for root."""
    names = {
        "root": [f"{'old' if version == 1 else 'new'}-{i}" for i in (1, 2, 3)],
        "timestamp": ["timestamp"],
        "snapshot": ["snapshot"],
        "targets": ["targets-1", "targets-2", "targets-3"],
    }
    made = Root(
        version,
        expires=after((365 if version == 2 else -1) * DAY),
        roles={
            role: Role([], 2 if role in ("root", "targets") else 1) for role in ROLES
        },
        consistent_snapshot=False,
    )
    for role, holders in names.items():
        for name in holders:
            made.add_key(key(name).public_key, role)
    return made


def delegations(tenants: Iterable[str] = TENANTS) -> Delegations:
    """Acme needs two of its two approvers, every other tenant one."""
    made = Delegations({}, {})
    for tenant in tenants:
        holders = keys(
            *[f"{tenant}-{i}" for i in ((1, 2) if tenant == "acme" else (1,))]
        )
        ids = [holder.public_key.keyid for holder in holders]
        role = f"tenant-{tenant}"
        assert made.roles is not None
        made.roles[role] = DelegatedRole(
            role, ids, len(ids), terminating=True, paths=[f"tenants/{tenant}/*.toml"]
        )
        made.keys |= {holder.public_key.keyid: holder.public_key for holder in holders}
    return made


def newer(by: int = 1) -> Scene:
    """The same, published again: every role has risen."""
    scene = Scene()
    scene.versions = {
        role: scene.versions.get(role, 1) + by
        for role in ("timestamp", "snapshot", "targets", "tenant-acme", "tenant-zeta")
    }
    return scene


POLICY_ROOT = policy_root_of(Scene().files()[ROOT_1])


def verify(
    bundle: bytes | Scene,
    *,
    marks: Marks | None = None,
    now: int = NOW,
    policy_root: bytes = POLICY_ROOT,
    expired: ExpiredMetadata = ExpiredMetadata.REFUSE,
) -> VerifiedBundle:
    data = bundle if isinstance(bundle, bytes) else bundle.pack()
    return verify_bundle(
        data, policy_root=policy_root, marks=marks, now=now, expired=expired
    )


def content(verified: VerifiedBundle) -> Any:
    """What a bundle says, to be compared."""
    texts = [(d.source.name, d.source.text) for d in verified.documents]
    marks = verified.marks
    versions = (marks.root, marks.timestamp, marks.snapshot, marks.roles)
    times = (verified.issued_at, verified.expires_at)
    return texts, verified.release, versions, times
