# SPDX-License-Identifier: Apache-2.0
"""``make serve``: leaves a provider running to play with, and says what to try."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tightseal.errors import TightsealError
from tightseal.guest.pins import pin_to_toml
from tightseal_sim.playground_policy import KERNEL, rooted_provider, rooted_steps
from tightseal_sim.scene import Provider, Scene

__all__ = ["main"]

FOLDER = Path(".tightseal")


def _program() -> str:
    """The command line's program, as it is called from here."""
    program = Path(sys.executable).with_name("tightseal")
    if not program.exists():
        return f"{sys.executable} -m tightseal"
    here = Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)


def _next_commands(
    folder: Path, provider: Provider, rooted: Provider, pccs: str
) -> list[tuple[str, str]]:
    def command(
        machine: str, *options: str, of: Provider = provider, pin: str = "pin.toml"
    ) -> str:
        words = [
            *("key", "--provider", of.url, "--purpose", "disk"),
            *("--pin", str(folder / pin)),
            *("--root-ca", str(folder / "root.pem"), "--pccs", pccs),
            *("--platform", "sim", "--option", f"world={folder / 'world'}"),
            *("--option", "tee=tdx", "--option", f"platform={machine}"),
            *(word for option in options for word in ("--option", option)),
            *("--json", "--reveal"),
        ]
        return f"{_program()} {shlex.join(words)}"

    named = command("machine-a", of=rooted, pin="rooted.toml")
    after = command("machine-a", f"kernel={KERNEL}", of=rooted, pin="rooted.toml")
    denied, accepted = rooted_steps(folder, rooted, pccs, program=_program())
    return [
        ("get the key of a TD on this machine (try it twice)", command("machine-a")),
        (
            "the same TD with another kernel gets another key",
            command("machine-a", f"kernel={KERNEL}"),
        ),
        ("the same TD on another machine is refused", command("machine-b")),
        ("under a signed policy: the key of its name", named),
        denied,
        accepted,
        ("the other kernel, the same name: the same key", after),
    ]


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder: Path = parser.parse_args().folder
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    console = Console(highlight=False, soft_wrap=True)
    try:
        with Scene(folder) as stage:
            stage.world.intel.platform("machine-b")
            provider = stage.provider(
                release={"legacy": {"enabled": True}}, host={"log": {"format": "text"}}
            )
            (folder / "root.pem").write_text(stage.root_pem())
            (folder / "pin.toml").write_text(pin_to_toml(provider.pin))
            rooted = rooted_provider(stage, folder)
            framed = ":".join(map(str, provider.framed))
            console.print(
                f"[bold green]A simulated provider is running.[/bold green]\n"
                f"  HTTP API     {provider.url}  (see /v1/info, /readyz, /metrics)\n"
                f"  framed TCP   {framed}\n"
                f"  its log      {escape(str(provider.log))}\n"
                f"  another one  {rooted.url}  (obeys the policy that is signed in "
                f"{escape(str(folder / 'approvals'))})\n\n"
                "[bold]In another terminal, try:[/bold]"
            )
            commands = _next_commands(folder, provider, rooted, stage.pccs_url)
            for text, command in commands:
                console.print(f"\n  # {text}\n  {escape(command)}")
            console.print(
                f"\nCtrl-C stops it; the world stays in {escape(str(folder))}."
            )
            provider.process.wait()
    except KeyboardInterrupt:
        console.print("\nstopped")
        return 0
    except TightsealError as error:
        console.print(f"[bold red]{escape(str(error))}[/bold red]")
        return 1
    console.print("[bold red]the provider ended; see its log[/bold red]")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
