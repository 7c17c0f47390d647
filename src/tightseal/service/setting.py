# SPDX-License-Identifier: Apache-2.0
"""How one setting is described and bounded; the documentation prints it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

__all__ = ["Connections", "Seconds", "about"]


def about(
    text: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    max_length: int | None = None,
) -> msgspec.Meta:
    """What a setting means, with its bounds as the decoder holds them."""
    given = {"ge": ge, "gt": gt, "le": le, "lt": lt, "max_length": max_length}
    bounds: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    return msgspec.Meta(description=text, **bounds)


Seconds = Annotated[float, msgspec.Meta(gt=0, le=600)]
Connections = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
