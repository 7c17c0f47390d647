# SPDX-License-Identifier: Apache-2.0
"""One name for a request: in the log line, the header, the problem, the client."""

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from service_harness import (
    ScriptedProvider,
    ask_http,
    running,
    scripted_error,
    until,
)

from tightseal.cli import main
from tightseal.cli.submit import submit
from tightseal.errors import Code, ProviderError
from tightseal.guest.http import RefusedError
from tightseal.guest.pins import pin_to_toml
from tightseal.model.keypath import KeyRequest
from tightseal.model.wire_operator import POLICY_PATH, PolicyAccepted
from tightseal.service.logs import configure_logs
from tightseal.service.settings import LogSettings
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Provider, Scene

FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]+")
THEIRS = "attack-1"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    out = io.StringIO()
    configure_logs(LogSettings(), simulated=False, stream=out)
    yield out
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []


def line(out: io.StringIO, event: str) -> dict[str, Any]:
    found = [json.loads(text) for text in out.getvalue().splitlines()]
    (one,) = [entry for entry in found if entry["event"] == event]
    assert isinstance(one, dict)
    return one


def test_a_grant_has_the_name_of_its_line(stream: io.StringIO) -> None:
    with running() as run:
        answer = ask_http(run.http_port, "POST", "/v1/keys", b"{}")
    name = answer.headers["x-request-id"]
    assert FORM.fullmatch(name)
    assert line(stream, "answered")["request_id"] == name


def test_a_refusal_has_the_name_of_its_line(stream: io.StringIO) -> None:
    provider = ScriptedProvider(error=scripted_error(Code.TCB_REVOKED))
    with running(provider) as run:
        answer = ask_http(run.http_port, "POST", "/v1/keys", b"{}")
    name = answer.headers["x-request-id"]
    assert FORM.fullmatch(name)
    assert answer.json["instance"] == f"urn:tightseal:request:{name}"
    assert line(stream, "refused")["request_id"] == name


def test_metrics_that_cannot_be_had_have_one_too(stream: io.StringIO) -> None:
    def broken() -> bytes:
        raise OSError("no such file")

    with running() as run:
        # A full disk under the samples that workers share.
        run.front.metrics.render = broken  # type: ignore[method-assign]
        answer = ask_http(run.http_port, "GET", "/metrics")
    assert answer.json["code"] == "internal"
    assert (
        line(stream, "internal_error")["request_id"] == (answer.headers["x-request-id"])
    )


def test_what_operators_send_is_refused_with_the_name_of_its_line(
    stream: io.StringIO,
) -> None:
    provider = ScriptedProvider(error=scripted_error(Code.BUNDLE_UNDERSIGNED))
    with running(provider) as run, pytest.raises(ProviderError) as caught:
        submit(
            f"http://127.0.0.1:{run.http_port}",
            path=POLICY_PATH,
            body=b"bundle",
            kind=PolicyAccepted,
            content_type="application/octet-stream",
        )
    name = caught.value.request_id
    assert line(stream, "refused")["request_id"] == name


@pytest.mark.parametrize(
    "header", ["x-request-id", "x-correlation-id", "traceparent", "request-id"]
)
def test_the_name_that_a_caller_sends_is_ignored(
    stream: io.StringIO, header: str
) -> None:
    headers = f"{header}: {THEIRS}\r\n"
    with running() as run:
        answer = ask_http(run.http_port, "POST", "/v1/keys", b"{}", headers=headers)
    assert FORM.fullmatch(answer.headers["x-request-id"])
    assert THEIRS not in stream.getvalue()


# -- end to end --------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as made:
        yield made


@pytest.fixture(scope="module")
def provider(scene: Scene) -> Provider:
    return scene.provider()


def logged(provider: Provider, name: str | None) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def there() -> bool:
        entries = map(json.loads, provider.log.read_text().splitlines())
        found[:] = [e for e in entries if e.get("request_id") == name]
        return bool(found)

    until(there)
    (one,) = found
    return one


def test_the_client_has_the_name_of_the_line_that_granted(
    scene: Scene, provider: Provider
) -> None:
    td = scene.world.intel.platform("machine-a").launch_td(TdImage())
    with scene.client(provider, td) as client:
        name = client.keys(KeyRequest("disk")).request_id
    entry = logged(provider, name)
    assert (entry["event"], entry["protocol"]) == ("answered", "keys")


def test_the_client_has_the_name_of_the_line_that_refused(
    scene: Scene, provider: Provider
) -> None:
    td = scene.world.intel.platform("machine-b").launch_td(TdImage())
    with scene.client(provider, td) as client, pytest.raises(RefusedError) as caught:
        client.key("disk")
    entry = logged(provider, caught.value.request_id)
    assert (entry["event"], entry["code"]) == ("refused", "platform_mismatch")


def test_the_command_shows_the_names_of_both(
    scene: Scene,
    provider: Provider,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, pin = tmp_path / "root.pem", tmp_path / "pin.toml"
    root.write_text(scene.root_pem())
    pin.write_text(pin_to_toml(provider.pin))

    def key(machine: str) -> int:
        options = (f"world={scene.folder / 'world'}", "tee=tdx", f"platform={machine}")
        return main(
            [
                *("key", "--provider", provider.url, "--purpose", "disk", "--json"),
                *("--pin", str(pin), "--root-ca", str(root)),
                *("--pccs", scene.pccs_url, "--platform", "sim"),
                *(word for option in options for word in ("--option", option)),
            ]
        )

    try:
        assert key("machine-a") == 0
        shown = json.loads(capsys.readouterr().out)
        assert logged(provider, shown["request_id"])["event"] == "answered"
        assert key("machine-b") == 1
        said = re.search(r"^  request: (\S+)$", capsys.readouterr().err, re.MULTILINE)
        assert said is not None
        assert logged(provider, said[1])["code"] == "platform_mismatch"
    finally:
        structlog.reset_defaults()


def test_health_metrics_and_info_write_no_line(provider: Provider) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/v1/info"):
        answer = httpx.get(f"{provider.url}{path}", trust_env=False)
        assert answer.is_success
        assert "x-request-id" not in answer.headers
