# SPDX-License-Identifier: Apache-2.0
"""``make serve``: leaves a provider running to play with, and says what to try."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tightseal.errors import TightsealError
from tightseal.guest.pins import pin_to_toml
from tightseal_sim.scene import Provider, Scene

__all__ = ["main"]

FOLDER = Path(".tightseal")


def _next_commands(
    folder: Path, provider: Provider, pccs: str
) -> list[tuple[str, str]]:
    common = (
        f".venv/bin/tightseal key --provider {provider.url}"
        f" --pin {folder}/pin.toml --root-ca {folder}/root.pem --pccs {pccs}"
        f" --platform sim --option world={folder}/world --option tee=tdx"
    )
    return [
        (
            "get the key of a TD on this machine (try it twice)",
            f"{common} --option platform=machine-a --purpose disk --json",
        ),
        (
            "the same TD with another kernel gets another key",
            (
                f"{common} --option platform=machine-a --option kernel=mine"
                " --purpose disk --json"
            ),
        ),
        (
            "the same TD on another machine is refused",
            f"{common} --option platform=machine-b --purpose disk",
        ),
    ]


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder: Path = parser.parse_args().folder
    console = Console(highlight=False, soft_wrap=True)
    try:
        with Scene(folder) as stage:
            stage.world.intel.platform("machine-b")
            provider = stage.provider(
                release={"legacy": {"enabled": True}}, host={"log": {"format": "text"}}
            )
            (folder / "root.pem").write_text(stage.root_pem())
            (folder / "pin.toml").write_text(pin_to_toml(provider.pin))
            framed = ":".join(map(str, provider.framed))
            console.print(
                f"[bold green]A simulated provider is running.[/bold green]\n"
                f"  HTTP API     {provider.url}  (see /v1/info, /readyz, /metrics)\n"
                f"  framed TCP   {framed}\n"
                f"  its log      {provider.log}\n\n"
                "[bold]In another terminal, try:[/bold]"
            )
            for text, command in _next_commands(folder, provider, stage.pccs_url):
                console.print(f"\n  # {text}\n  {escape(command)}")
            console.print("\nCtrl-C stops it; the world stays in .tightseal.")
            _wait(provider)
    except KeyboardInterrupt:
        console.print("\nstopped")
        return 0
    except TightsealError as error:
        console.print(f"[bold red]{escape(str(error))}[/bold red]")
        return 1
    console.print("[bold red]the provider ended; see its log[/bold red]")
    return 1


def _wait(provider: Provider) -> None:
    while provider.process.poll() is None:
        time.sleep(0.5)


if __name__ == "__main__":
    raise SystemExit(main())
