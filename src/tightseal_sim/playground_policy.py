# SPDX-License-Identifier: Apache-2.0
"""``make serve``: two approvers, a policy of theirs, and a provider that obeys it.

The approvers' folder is made by the commands that docs/policy.md names, and stays.
"""

from __future__ import annotations

import io
import os
import shlex
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tightseal.cli import main as tightseal
from tightseal.errors import Code, PlatformError
from tightseal.guest.pins import pin_to_toml
from tightseal.policy.bundle.archive import root_path
from tightseal.policy.bundle.folder import PUBLISHED
from tightseal.policy.bundle.metadata import policy_root_of
from tightseal_sim.intel.td import TdImage

if TYPE_CHECKING:
    from tightseal_sim.scene import Provider, Scene

__all__ = ["KERNEL", "rooted_provider", "rooted_steps"]

KERNEL: Final = "mine"
"""The kernel of the upgrade, as ``--option kernel=`` takes it."""

MACHINE: Final = "machine-a"
APPROVERS: Final = ("alice", "bob")


def rooted_provider(stage: Scene, folder: Path) -> Provider:
    """Start a provider under a policy root, with the bundle published last.

    Args:
        stage: where it stands.
        folder: of the playground; gets keys, documents, approvals and the pin.

    Raises:
        PlatformError: ``platform_failed``, where it does not get ready.
    """
    approvals = folder / "approvals"
    if not (approvals / PUBLISHED).exists():
        _approve(stage, folder, approvals)
    provider = stage.provider(
        "rooted",
        policy_root=policy_root_of((approvals / root_path(1)).read_bytes()),
        bundle=(approvals / PUBLISHED).read_bytes(),
    )
    (folder / "rooted.toml").write_text(pin_to_toml(provider.pin))
    return provider


def rooted_steps(
    folder: Path, provider: Provider, pccs: str, *, program: str
) -> list[tuple[str, str]]:
    """What to try besides getting keys: what it is for, and words in a shell.

    Args:
        folder: of the playground.
        provider: that ``rooted_provider`` started.
        pccs: address of the world's PCCS.
        program: the command line's program, as a shell takes it.
    """
    approvals = folder / "approvals"
    policy = approvals / "targets" / "policy"
    explain = shlex.join(
        [
            *(
                "explain",
                "--policy",
                str(policy),
                "--evidence",
                str(folder / "new.bin"),
            ),
            *("--purpose", "disk", "--root-ca", str(folder / "root.pem")),
        ]
    )
    copied = shlex.join(
        ["cp", str(folder / "both.toml"), str(policy / "database.toml")]
    )
    signed = [
        shlex.join(["sign", str(approvals), "--key", str(folder / f"{name}.key")])
        for name in APPROVERS
    ]
    sent = shlex.join(["publish", str(approvals), "--provider", provider.url])
    accept = [copied, *(f"{program} policy {words}" for words in [*signed, sent])]
    named = (
        f"TIGHTSEAL_PCCS={pccs} TIGHTSEAL_CACHE={shlex.quote(str(folder / 'cache'))}"
    )
    return [
        (
            "why the policy denies an upgrade to another kernel",
            f"{named} {program} policy {explain}",
        ),
        ("accept it beside the old one: both sign, then publish", " && ".join(accept)),
    ]


def _approve(stage: Scene, folder: Path, approvals: Path) -> None:
    """From a quote to a signed bundle, and what the next bundle will say."""
    machine = stage.world.intel.platform(MACHINE)
    first, after = TdImage(), replace(TdImage(), kernel=KERNEL.encode())
    before = dict(os.environ)
    os.environ["TIGHTSEAL_PCCS"] = stage.pccs_url
    os.environ["TIGHTSEAL_CACHE"] = str(folder / "cache")
    try:
        for name, image in (("quote", first), ("new", after)):
            quote, document = folder / f"{name}.bin", folder / f"{name}.toml"
            quote.write_bytes(machine.launch_td(image).evidence(bytes(64)))
            document.unlink(missing_ok=True)
            _run(
                *("policy", "from-evidence", quote, "--root-ca", folder / "root.pem"),
                *("--name", "database", "--label", name, "--out", document),
            )
    finally:
        os.environ.clear()
        os.environ.update(before)
    old, new = (
        (folder / f"{name}.toml").read_text().split("[[workload.image]]")
        for name in ("quote", "new")
    )
    added = new[1].partition("[[workload.key]]")[0]
    (folder / "both.toml").write_text(
        "[[workload.image]]".join([old[0], added, old[1]])
    )
    keys = [folder / f"{name}.key" for name in APPROVERS]
    for key in keys:
        if not key.exists():
            _run("policy", "keygen", key, "--no-passphrase")
    named = (word for k in keys for word in ("--approver", k.with_suffix(".pub")))
    if not (approvals / root_path(1)).exists():
        document = folder / "database.toml"
        document.write_bytes((folder / "quote.toml").read_bytes())
        _run("policy", "init", approvals, *named, "--document", document)
    for key in keys:
        _run("policy", "sign", approvals, "--key", key, "--yes")
    _run("policy", "publish", approvals)


def _run(*words: object) -> None:
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = tightseal([str(word) for word in words])
    if status != 0:
        raise PlatformError(Code.PLATFORM_FAILED, said.getvalue().strip())
