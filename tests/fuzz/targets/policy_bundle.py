# SPDX-License-Identifier: Apache-2.0
"""Signed policy bundles; the first byte says what the rest is.

Most random bytes fail at the first hash, so the rest may also be one metadata file, the
part of one that is then well signed, or a document of a bundle that is well signed.
"""

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

POLICY_TESTS = str(Path(__file__).resolve().parents[2] / "policy")
if POLICY_TESTS not in sys.path:
    sys.path.insert(0, POLICY_TESTS)

from bundle_support import (  # noqa: E402 (a folder of tests, named above)
    ACME,
    ROOT_2,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Json,
    Scene,
    newer,
    verify,
)
from securesystemslib.exceptions import FormatError  # noqa: E402

from tightseal.policy.bundle.archive import pack, unpack  # noqa: E402
from tightseal.policy.bundle.marks import Marks  # noqa: E402
from tightseal.policy.bundle.metadata import policy_root_of  # noqa: E402

ROLES = (ROOT_2, TIMESTAMP, SNAPSHOT, TARGETS, ACME)
DOCUMENTS = ("policy/base.toml", "tenants/acme/web.toml", "release.toml")


@cache
def marks() -> Marks:
    return verify(Scene()).marks


def whole(data: bytes) -> None:
    """A bundle."""
    files = unpack(data)
    assert pack(files) == data
    verify(data, marks=marks())


def root(data: bytes) -> None:
    """A first root, of which anybody may ask the hash."""
    assert len(policy_root_of(data)) == 32


def unsigned(path: str) -> Callable[[bytes], None]:
    """One metadata file of a bundle that is good otherwise."""

    def one(data: bytes) -> None:
        scene = Scene()
        if path in (TARGETS, ACME, SNAPSHOT):
            for by in (SNAPSHOT, TIMESTAMP):
                scene.edit(by, _versions_alone)
        verify(pack(scene.files() | {path: data}))

    return one


def signed(path: str) -> Callable[[bytes], None]:
    """The part ``signed`` of a file, which its own keys then sign."""

    def one(data: bytes) -> None:
        try:
            value = json.loads(data)
            scene = newer().edit(path, lambda part: _replace(part, value))
            bundle = scene.pack()
        except (ValueError, TypeError, RecursionError, FormatError):
            return  # nothing that could be signed
        verify(bundle, marks=marks())

    return one


def document(path: str) -> Callable[[bytes], None]:
    """A document, or the release settings, well signed."""

    def one(data: bytes) -> None:
        scene = Scene()
        scene.contents[path] = data
        verify(scene)

    return one


def _replace(part: Json, value: object) -> None:
    if not isinstance(value, dict):
        message = "no JSON object"
        raise TypeError(message)
    part.clear()
    part.update(value)


def _versions_alone(part: Json) -> None:
    part["meta"] = {
        name: {"version": meta["version"]} for name, meta in part["meta"].items()
    }


KINDS: tuple[Callable[[bytes], None], ...] = (
    whole,
    root,
    *map(unsigned, ROLES),
    *map(signed, ROLES),
    *map(document, DOCUMENTS),
)


def seeds() -> list[bytes]:
    files, scene = newer().files(), Scene()
    parts = [json.dumps(json.loads(files[path])["signed"]).encode() for path in ROLES]
    inputs = (
        newer().pack(),
        files["metadata/1.root.json"],
        *(Scene().files()[path] for path in ROLES),
        *parts,
        *(scene.contents[path] for path in DOCUMENTS),
    )
    return [bytes([at]) + data for at, data in enumerate(inputs)]


def one(data: bytes) -> None:
    kind = KINDS[data[0] % len(KINDS)] if data else whole
    kind(data[1:])
