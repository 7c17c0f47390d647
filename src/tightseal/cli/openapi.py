# SPDX-License-Identifier: Apache-2.0
"""``tightseal openapi``: the description of HTTP API v1, for tools."""

from __future__ import annotations

import sys

from tightseal.cli import ui
from tightseal.service.openapi import openapi_document

__all__ = ["openapi"]


def openapi() -> int:
    """Print the OpenAPI document of HTTP API v1, as a provider serves it."""
    sys.stdout.write(openapi_document().decode())
    return ui.EXIT_YES
