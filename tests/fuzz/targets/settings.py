# SPDX-License-Identifier: Apache-2.0
"""Settings files."""

from tightseal.cli.config import initial_config
from tightseal.service.load import describe, parse_settings

RICH = """
[host]
[host.platform]
kind = "sim"
[release]
verifier_mode = "both"
exceptions = ["sept_ve_enabled"]
"""


def seeds() -> list[bytes]:
    whole = initial_config()
    lines = [
        x[1:] if x.startswith("#") and " = " in x else x for x in whole.split("\n")
    ]
    return [whole.encode(), "\n".join(lines).encode(), RICH.encode(), b""]


def one(data: bytes) -> None:
    settings = parse_settings(data.decode("utf-8", errors="replace"), environment={})
    describe(settings)
