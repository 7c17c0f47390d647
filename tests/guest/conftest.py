# SPDX-License-Identifier: Apache-2.0
"""``tightseal key`` against the scripted provider of a module's ``provider``."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted_provider import NOW, PIN, Provider, Workload, terms

from tightseal.guest.client import Client
from tightseal.guest.pins import pin_to_toml


@pytest.fixture
def key_command(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The command's words before ``--purpose``."""

    def client(url: str, **given: Any) -> Client:
        return Client(
            url,
            source=Workload(provider.evidence),
            terms=replace(terms(provider), log=given["terms"].log),
            clock=lambda: NOW,
            transport=httpx.MockTransport(provider),
        )

    monkeypatch.setattr("tightseal.cli.key.Client", client)
    monkeypatch.setattr("tightseal.cli.key.open_platform", lambda *_: None)
    pin = tmp_path / "pin.toml"
    pin.write_text(pin_to_toml(PIN))
    return ["key", "--provider", "http://provider.test", "--pin", str(pin)]
