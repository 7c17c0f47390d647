# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/policy.md, as they stand there, against a running provider.

Only what a page cannot know is put in its place: addresses, the policy root, and the
words that open a simulated world or answer for a terminal.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cli_support import Said, run
from tightseal.guest.pins import pin_to_toml
from tightseal.policy.bundle.archive import root_path
from tightseal.policy.bundle.metadata import policy_root_of
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Provider, Scene

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "policy.md").read_text()
WALK = PAGE[: PAGE.index("### From then on")]
BLOCKS = re.findall(r"```sh\n(.*?)```", WALK, re.DOTALL)
PIN, CASES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[:2]
ROOT, PROVIDER, PCCS = "7f0c…", "https://10.0.2.2:3442", "https://pccs.example:8081"
SECONDS = 60

NEXT_KERNEL = b"the next kernel"

SHIM = """#!/bin/sh -e
case "$* " in
{cases}
esac
exec {python} -c 'import sys; from tightseal.cli import main; sys.exit(main())' "$@"
"""
"""``tightseal`` for lines that only a shell can run."""

SHELL = frozenset("|>&;$`")


class Operator:
    """Somebody at a shell, with the page beside it."""

    def __init__(self, place: Path, stage: Scene, patch: pytest.MonkeyPatch) -> None:
        self.place, self.stage, self._patch = place, stage, patch
        self.root = ""
        self.provider: Provider | None = None
        self.kernel = "simulated kernel"
        (place / "root.pem").write_text(stage.root_pem())
        machine = stage.world.intel.platform("machine-a")
        for name, image in (
            ("quote.bin", TdImage()),
            ("new.bin", replace(TdImage(), kernel=NEXT_KERNEL)),
        ):
            (place / name).write_bytes(machine.launch_td(image).evidence(bytes(64)))

    def run(self, script: str, *, status: int = 0) -> str:
        """A piece of the page, line by line; the last one has the status."""
        for said, meant in self._meant().items():
            script = script.replace(said, meant)
        assert "…" not in script, script
        *lines, last = (x for x in script.splitlines() if x.strip())
        told = [self._line(line, 0) for line in lines]
        return "".join([*told, self._line(last, status)])

    def _line(self, line: str, status: int) -> str:
        words = shlex.split(line, comments=True)
        if words[0] == "export":
            for name, _, value in (word.partition("=") for word in words[1:]):
                self._patch.setenv(name, value)
            return ""
        if words[0] == "tightseal" and not SHELL & set(" ".join(words)):
            said = run(*words[1:], *self._besides(words[1:]))
        else:
            said = self._shell(line)
        assert said.status == status, (line, said.stdout, said.stderr)
        return said.stdout + said.stderr

    def _shell(self, line: str) -> Said:
        cases = (
            f'"{command} "*) set -- "$@" {shlex.join(more)} ;;'
            for command, more in self._simulated().items()
        )
        shim = self.place / "bin" / "tightseal"
        shim.parent.mkdir(exist_ok=True)
        python = shlex.quote(sys.executable)
        shim.write_text(SHIM.format(cases="\n".join(cases), python=python))
        shim.chmod(0o755)
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", line],
            env=dict(os.environ, PATH=f"{shim.parent}:{os.environ['PATH']}"),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    def _besides(self, words: list[str]) -> list[str]:
        line = " ".join(words)
        for command, more in self._simulated().items():
            if line.startswith(f"{command} "):
                return more
        return []

    def _simulated(self) -> dict[str, list[str]]:
        """What a command needs besides: the world's root and TD, and no terminal."""
        root = ["--root-ca", str(self.place / "root.pem")]
        td = {
            "world": str(self.stage.folder / "world"),
            "tee": "tdx",
            "platform": "machine-a",
            "kernel": self.kernel,
        }
        options = [word for n, v in td.items() for word in ("--option", f"{n}={v}")]
        pccs = ["--pccs", self.stage.pccs_url]
        return {
            "policy keygen": ["--no-passphrase"],
            "policy from-evidence": root,
            "policy explain": root,
            "verify": root,
            "key": [*root, *pccs, "--platform", "sim", *options],
        }

    def start(self) -> Provider:
        """A provider with the root that the folder has now; it waits for a bundle."""
        first = (self.place / "approvals" / root_path(1)).read_bytes()
        root = policy_root_of(first)
        self.root = root.hex()
        self.provider = self.stage.provider(policy_root=root)
        return self.provider

    def key(self, kernel: bytes, file: str) -> bytes:
        """The key of a TD with this kernel, got by the page's own command."""
        self.kernel = kernel.decode()
        self.run(block("tightseal key").replace("disk.key", file))
        return (self.place / file).read_bytes()

    def sign_and_publish(self, *names: str) -> str:
        """Approvers in turn, then the page's publish."""
        line = next(x for x in block("policy sign").splitlines() if "alice" in x)
        for name in names:
            self.run(line.replace("alice", name))
        return self.run(block("policy publish"))

    def _meant(self) -> dict[str, str]:
        meant = {PCCS: self.stage.pccs_url}
        if self.provider is not None:
            meant |= {ROOT: self.root, PROVIDER: self.provider.url}
        return meant


def block(words: str) -> str:
    """The first block of the page with these words."""
    return next(text for text in BLOCKS if words in text)


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    place = tmp_path / "desk"
    place.mkdir()
    monkeypatch.chdir(place)
    # Whoever runs this has settings of their own, for git and for tightseal.
    for name in ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL"):
        monkeypatch.setenv(f"GIT_{name}", "operator@example.com")
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("TIGHTSEAL_CACHE", str(place / "cache"))
    monkeypatch.setenv("EDITOR", "true")
    with Scene(tmp_path / "scene") as stage:
        yield Operator(place, stage, monkeypatch)


def write_pin(operator: Operator, provider: Provider) -> None:
    """The page's pin, filled in; every name in it is one that a pin has."""
    real = tomllib.loads(pin_to_toml(provider.pin))["provider"]
    named = tomllib.loads(PIN)["provider"]
    assert set(named) < set(real)
    assert {name for name in named if named[name] == real[name]} == {
        "tee",
        "keyring_id",
    }
    (operator.place / "pin.toml").write_text(pin_to_toml(provider.pin))


def test_from_a_good_quote_to_a_signed_bundle_and_an_upgrade(
    operator: Operator,
) -> None:
    document, keys, folder, sign, publish, use, upgrade = BLOCKS
    assert "granted  default/database" in operator.run(document)
    operator.run(keys)
    operator.run(folder)
    provider = operator.start()
    assert "complete  version 1" in operator.run(sign)
    assert provider.url in operator.run(publish)
    write_pin(operator, provider)
    operator.run(use)
    first = (operator.place / "disk.key").read_bytes()
    assert len(first) == 32

    operator.kernel = NEXT_KERNEL.decode()
    denied = operator.run(use.replace("disk.key", "none.key"), status=1)
    assert "measurements_not_accepted" in denied
    assert "rtmr1 differs; all else matches image 2026-10" in provider.log.read_text()
    assert "image[2026-11].label" in operator.run(upgrade)
    assert "version 2" in operator.sign_and_publish("alice", "bob")
    assert operator.key(NEXT_KERNEL, "upgraded.key") == first
    assert operator.key(b"simulated kernel", "again.key") == first


def test_what_the_table_does_later(operator: Operator) -> None:
    for words in ("from-evidence", "keygen", "policy init"):
        operator.run(block(words))
    provider = operator.start()
    operator.run(block("policy sign"))
    operator.run(block("policy publish"))
    write_pin(operator, provider)
    keygen = block("keygen").splitlines()[1]
    for name in ("carol", "dave"):
        operator.run(keygen.replace("bob", name))
    table = re.findall(r"`(policy (?:root|tenant) approvals [^`]+)`", PAGE)
    rotate, delegate, renew = (f"tightseal {command}" for command in table)

    operator.run(rotate)
    operator.sign_and_publish("alice", "bob", "carol")
    operator.run(delegate)
    theirs = operator.place / "approvals" / "targets" / "tenants" / "acme"
    theirs.mkdir(parents=True, exist_ok=True)
    start = block("from-evidence").splitlines()[1]
    start = start.replace("quote.bin", "new.bin").replace("default", "acme")
    operator.run(start.replace("database.toml", str(theirs / "database.toml")))
    operator.sign_and_publish("dave", "alice", "carol")
    assert len(operator.key(NEXT_KERNEL, "tenant.key")) == 32
    operator.run(renew)
    assert "version 4" in operator.sign_and_publish("alice", "carol")


def test_cases_of_the_page(operator: Operator) -> None:
    operator.run(block("from-evidence"))
    verify = next(
        text
        for text in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
        if "policy test" in text
    )
    case = CASES.split("[[case]]")[1]
    kept = [line for line in case.splitlines() if "event_log" not in line]
    ours = "\n".join(["version = 1", "[[case]]", *kept])
    ours = ours.replace("acme/", "default/")
    make, *rest = verify.splitlines()
    operator.run(make)
    (operator.place / "cases" / "cases.toml").write_text(ours)
    assert "passed  1 of 1 cases" in operator.run("\n".join(rest))
