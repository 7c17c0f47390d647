# SPDX-License-Identifier: Apache-2.0
"""Quotes: parsing, naming collateral, inspection, and the whole verification."""

from contextlib import suppress

from fuzz_scenes import NOW, cast

from tightseal.errors import TightsealError
from tightseal.evidence.inspect import inspect_evidence
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.unverified import collateral_query
from tightseal.evidence.intel.verifier import verify_quote

DRAFTS = cast().drafts[:6]
ROOT = DRAFTS[0].root
COLLATERAL = DRAFTS[0].whole_collateral()


def seeds() -> list[bytes]:
    return [draft.evidence() for draft in DRAFTS]


def one(data: bytes) -> None:
    with suppress(TightsealError):
        inspect_evidence(data)
    with suppress(TightsealError):
        verify_quote(data, COLLATERAL, now=NOW, roots=(ROOT,))
    quote = parse_quote(data)
    assert quote.declared_length + quote.trailing_zeros == len(data)
    collateral_query(quote)
