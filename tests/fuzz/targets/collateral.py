# SPDX-License-Identifier: Apache-2.0
"""Files of collateral: QuoteCollateralV3 and exported bundles."""

from contextlib import suppress

from fuzz_scenes import cast

from tightseal.collateral.bundle import (
    bundle_from_json,
    bundle_to_json,
    intel_from_json,
    intel_to_json,
)
from tightseal.collateral.parts import split
from tightseal.errors import TightsealError


def seeds() -> list[bytes]:
    whole = cast().drafts[0].whole_collateral()
    return [intel_to_json(whole).encode(), bundle_to_json(split(whole)).encode()]


def one(data: bytes) -> None:
    with suppress(TightsealError):
        parts = bundle_from_json(data)
        assert bundle_from_json(bundle_to_json(parts)) == parts
    collateral = intel_from_json(data)
    assert intel_from_json(intel_to_json(collateral)) == collateral
    split(collateral)
