# SPDX-License-Identifier: Apache-2.0
"""What the tests of ``tightseal action`` share: operators' keys, and short commands."""

from pathlib import Path

import action_support as support
import cli_support
from cli_support import Said
from tightseal.model.action import SignedAction
from tightseal.model.action_file import parse_action
from tightseal.policy.bundle.keyfile import generate_key, write_key_pair

ROOT = support.ROOT.hex()


def key_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.key" for name in ("alice", "bob")}
    for file in files.values():
        write_key_pair(generate_key(), file, passphrase=None)
    return files


def run(*arguments: object, stdin: bytes = b"") -> Said:
    return cli_support.run("action", *arguments, stdin=stdin)


def new(*arguments: object, **options: object) -> Said:
    """``sign`` with what every new action needs, unless told otherwise."""
    given: dict[str, object] = {
        "kind": "reset-usage",
        "tenant": "acme",
        "workload": "database",
        "policy_root": ROOT,
    } | options
    words = [
        word
        for name, value in given.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", value)
    ]
    return run("sign", *words, *arguments)


def read(file: Path) -> SignedAction:
    return parse_action(file.read_bytes())


def made(tmp_path: Path, keys: dict[str, Path], **options: object) -> Path:
    file = tmp_path / "reset.action"
    said = new(key=keys["alice"], out=file, **options)
    assert said.status == 0, said.stderr
    return file
