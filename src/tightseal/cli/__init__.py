# SPDX-License-Identifier: Apache-2.0
"""The command line: one thin file a command, loaded only when it is called."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from tightseal._version import __version__
from tightseal.errors import TightsealError

__all__ = ["COMMANDS", "build_app", "main"]

_VERIFY: Final = "Verify evidence: 0 authentic, 1 rejected, 2 could not be read."

COMMANDS: Final = (
    ("verify", "tightseal.cli.verify:verify", _VERIFY),
    ("inspect", "tightseal.cli.inspect:inspect", "Show evidence, unverified."),
    (
        "collateral",
        "tightseal.cli.collateral:collateral_app",
        "Fetch, export, import and show collateral.",
    ),
    ("key", "tightseal.cli.key:key", "Get a key from a provider."),
    (
        "public-key",
        "tightseal.cli.public_key:public_key",
        "Get the public half of a pair that a policy publishes.",
    ),
    ("serve", "tightseal.cli.serve:serve", "Run a provider."),
    (
        "policy",
        "tightseal.cli.policy:policy_app",
        "Write, check, explain, sign and publish policies.",
    ),
    (
        "action",
        "tightseal.cli.action:action_app",
        "Sign what a running provider is asked for, and submit it.",
    ),
    ("config", "tightseal.cli.config:config_app", "Show and check settings."),
    ("audit", "tightseal.cli.audit:audit_app", "Show what a provider decided."),
    (
        "state",
        "tightseal.cli.state:state_app",
        "Check, migrate, back up and restore what a provider remembers.",
    ),
    (
        "keyring",
        "tightseal.cli.keyring:keyring_app",
        "Make and look after the keyring that a provider's keys come from.",
    ),
    (
        "provider",
        "tightseal.cli.provider:provider_app",
        "Hand a keyring to another provider, and take it away from one.",
    ),
    ("top", "tightseal.cli.top:top", "Watch running providers."),
    (
        "nodes",
        "tightseal.cli.nodes:nodes",
        "Show the nodes over a provider's state, and what is wrong with them.",
    ),
    ("openapi", "tightseal.cli.openapi:openapi", "Print the description of the API."),
    (
        "drill",
        "tightseal.cli.drill:drill",
        "Try what hardware and hosts do to keys, in a simulated world.",
    ),
)
"""Every command, where it is, and what it does; a build may leave modules out."""

SIMULATED: Final = frozenset({"drill"})
"""Commands that exist only where the simulated world is installed."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it."""


def build_app() -> App:
    """The application with its commands, none of them imported yet."""
    app = App(
        name="tightseal",
        help="Persistent keys for confidential workloads: verify evidence, serve keys.",
        version=f"tightseal {__version__}",
        default_parameter=Parameter(negative=()),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
    )
    for name, target, summary in COMMANDS:
        if _is_here(name, target):
            app.command(target, name=name, help=summary)
    return app


def _is_here(name: str, target: str) -> bool:
    if name in SIMULATED and find_spec("tightseal_sim") is None:
        return False
    return find_spec(target.partition(":")[0]) is not None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; by default those of the process,
            which is then ours: no core dump of it is written.

    Returns:
        the exit status: the command's own, or 2 where the command line is wrong.
    """
    # AMD's VCEKs have serial number 0; saying so with every report helps nobody.
    warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't")
    if argv is None:
        _harden()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        result = build_app()(arguments)
        sys.stdout.flush()
    except UnusedCliTokensError as error:
        return _usage("unknown option, or too many arguments", error)
    except CycloptsError as error:
        return _usage(str(error), error)
    except TightsealError as error:
        from tightseal.cli import ui  # noqa: PLC0415 (start-up time)

        ui.show_error(error)
        return ui.exit_status(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough; the interpreter must not flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def _harden() -> None:
    # Every command, since many have keys in hand: roots, signing keys, passphrases.
    from tightseal.service.hardening import forbid_core_dumps  # noqa: PLC0415

    forbid_core_dumps()


def _usage(message: str, error: CycloptsError) -> int:
    from tightseal.cli import ui  # noqa: PLC0415 (start-up time)

    return ui.usage_error(message, " ".join([*(error.command_chain or ()), "--help"]))
