# SPDX-License-Identifier: Apache-2.0
"""Approvers at their command lines, with the folder that they share."""

from pathlib import Path
from typing import Any

from cli_support import Said, run

NOW = 1_790_000_000
AT = ("--at", NOW)
SECRET = "correct horse battery"
ALL = ["root", "targets", "snapshot", "timestamp"]


def document(name: str, *, tenant: str = "default", mrtd: str = "11") -> str:
    return f"""version = 1
[[workload]]
tenant = "{tenant}"
name = "{name}"
identity = "named"
tee = "tdx"
[[workload.image]]
label = "first"
[workload.image.measurements]
mrtd = "{mrtd * 48}"
rtmr0 = "{"22" * 48}"
rtmr1 = "{"33" * 48}"
rtmr2 = "{"44" * 48}"
rtmr3 = "{"55" * 48}"
td_attributes = "0000001000000000"
[[workload.key]]
purpose = "disk"
"""


class Desk:
    """Approvers with their keys, and the folder that they share."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folder = place / "folder"
        self.secret = place / "passphrase"
        self.secret.write_text(SECRET + "\n")
        self.document = place / "base.toml"
        self.document.write_text(document("database"))
        for name in ("alice", "bob", "carol", "dave"):
            made = self.run("keygen", self.key(name))
            assert made.status == 0

    def key(self, name: str) -> Path:
        return self.place / f"{name}.key"

    def pub(self, name: str) -> Path:
        return self.place / f"{name}.pub"

    def run(self, command: str, *arguments: object, as_json: bool = False) -> Said:
        more: list[object] = ["--json"] if as_json else []
        if command in {"keygen", "sign"}:
            more += ["--passphrase-file", self.secret]
        return run("policy", command, *arguments, *more)

    def init(self, *people: str, threshold: int | None = None) -> Said:
        approvers = [x for name in people for x in ("--approver", self.pub(name))]
        count = len(people) if threshold is None else threshold
        more = ("--threshold", count, "--document", self.document, *AT)
        return self.run("init", self.folder, *approvers, *more, as_json=True)

    def sign(self, name: str, *arguments: object, at: int = NOW) -> dict[str, Any]:
        said = self.run(
            *("sign", self.folder, "--key", self.key(name), "--at", at),
            *arguments,
            as_json=True,
        )
        assert (said.status, said.stderr) == (0, "")
        return said.document

    def publish(self, *arguments: object, at: int = NOW) -> Said:
        return self.run("publish", self.folder, "--at", at, *arguments, as_json=True)

    def change(self, mrtd: str = "66") -> None:
        place = self.folder / "targets" / "policy" / "base.toml"
        place.write_text(document("database", mrtd=mrtd))
