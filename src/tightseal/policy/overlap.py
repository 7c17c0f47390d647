# SPDX-License-Identifier: Apache-2.0
"""Pairs of workloads that one piece of evidence could fit both.

Exact for measurements, events and dates. It errs towards finding a pair for platforms,
where machines described by different ids may be one, and for logged digests, since one
log may show those of both.
"""

from __future__ import annotations

from collections.abc import Iterator

from tightseal.model.settings import PlatformRule
from tightseal.policy.compiled import Image, Machine, Workload
from tightseal.policy.index import ImageIndex
from tightseal.policy.selection import overlap

__all__ = ["overlaps"]


def overlaps(
    index: ImageIndex[Image], *, limit: int, across_tenants: bool = False
) -> list[tuple[Image, Image]]:
    """Pairs of images of different workloads that can fit the same evidence.

    Args:
        index: the images of a policy.
        limit: most pairs that are returned; one for each two workloads.
        across_tenants: only pairs of workloads of different tenants.
    """
    found: list[tuple[Image, Image]] = []
    seen: set[tuple[str, str]] = set()
    for one, other in _pairs(index):
        if len(found) >= limit:
            break
        names = (str(one.workload), str(other.workload))
        if across_tenants and one.workload.tenant == other.workload.tenant:
            continue
        if names in seen or not _fit_both(one, other):
            continue
        seen.add(names)
        found.append((one, other))
    return found


def _pairs(index: ImageIndex[Image]) -> Iterator[tuple[Image, Image]]:
    """Pairs of different workloads that no filed value tells apart."""
    for one in index:
        for other in index.rivals(one):
            if str(one.workload) < str(other.workload):
                yield one, other


def _fit_both(one: Image, other: Image) -> bool:
    theirs = dict(other.selectors)
    return (
        one.workload.trust_domain == other.workload.trust_domain
        and _same_time(one, other)
        and _same_place(one.workload, other.workload)
        and all(
            overlap(selector, theirs[name])
            for name, selector in one.selectors
            if name in theirs
        )
    )


def _same_time(one: Image, other: Image) -> bool:
    begins = max(one.begins or 0, other.begins or 0)
    ends = [image.ends for image in (one, other) if image.ends is not None]
    return not ends or begins < min(ends)


def _same_place(one: Workload, other: Workload) -> bool:
    mine, theirs = one.platform, other.platform
    if isinstance(mine, PlatformRule) or isinstance(theirs, PlatformRule):
        return True
    return any(_may_be_one(a, b) for a in mine for b in theirs)


def _may_be_one(one: Machine, other: Machine) -> bool:
    theirs = dict(other.ids)
    return all(theirs.get(name, value) == value for name, value in one.ids)
