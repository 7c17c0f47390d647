# SPDX-License-Identifier: Apache-2.0
"""``tightseal serve``: run a provider until it is told to stop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tightseal.service.load import DEFAULT_CONFIG, SettingsFiles

__all__ = ["serve"]


def serve(
    *,
    config: Annotated[Path, Parameter(name=["--config", "-c"])] = DEFAULT_CONFIG,
    host_config: Annotated[Path | None, Parameter(name=["--host-config"])] = None,
) -> int:
    """Run a provider: the HTTP API, and the framed TCP protocol where it is on.

    Log lines go to standard error. SIGTERM and SIGINT drain and stop; SIGHUP reads the
    log level again. Exit status: 0 told to stop, 70 could not go on, 78 the settings
    cannot be used; 2 where a settings file cannot be read at all.

    Args:
        config: the settings file; see ``tightseal config init``.
        host_config: a second file of host settings alone, which need not be measured;
            it overrides the settings file and is overridden by the environment.
    """
    files = SettingsFiles(config, host_config)
    settings = files.load(os.environ).settings
    # Late, so that a wrong settings file is told at once.
    from tightseal.service.supervisor import serve as run  # noqa: PLC0415

    return run(settings, files=files)
