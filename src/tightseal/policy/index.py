# SPDX-License-Identifier: Apache-2.0
"""The index of images: from measurements to the few images that may fit.

Every image with an exact value, or a list of machines, is filed under one of them: the
one that the fewest images share. So a hundred thousand workloads on one firmware, which
differ in one register or in their machine alone, cost one look-up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

from tightseal.model.claims import Tee
from tightseal.policy.presented import Presented
from tightseal.policy.selection import Selector

__all__ = ["NEAREST_CANDIDATES", "Filed", "ImageIndex"]

NEAREST_CANDIDATES: Final = 64
"""Most images that are compared to find the nearest one; bounds what a denial costs."""


class _Placed(Protocol):
    @property
    def tee(self) -> Tee: ...


class Filed(Protocol):
    """What the index has to know of an image."""

    @property
    def workload(self) -> _Placed:
        """What says the TEE."""
        ...

    @property
    def selectors(self) -> tuple[tuple[str, Selector], ...]:
        """Name and selector, in the order of the report."""
        ...

    def exact(self) -> dict[str, frozenset[bytes]]:
        """What must be one of some values: measurements, events, platform ids."""
        ...

    def misfits(self, presented: Presented) -> list[str]:
        """What keeps it from fitting, by name; empty where it fits."""
        ...


_I = TypeVar("_I", bound=Filed)


class ImageIndex(Generic[_I]):
    """Images by measurement; made once, never changed.

    Args:
        images: in the order in which they are to be found.
    """

    __slots__ = ("_anchors", "_free", "_images", "_of_tee", "_shared")

    def __init__(self, images: Sequence[_I]) -> None:
        self._images = tuple(images)
        # tee -> name -> value -> numbers of images that accept the value
        self._shared: dict[Tee, dict[str, dict[bytes, list[int]]]] = {}
        self._anchors: dict[Tee, dict[str, dict[bytes, tuple[_I, ...]]]] = {}
        self._free: dict[Tee, tuple[_I, ...]] = {}
        self._of_tee: dict[Tee, list[int]] = {}
        for number, image in enumerate(self._images):
            self._of_tee.setdefault(image.workload.tee, []).append(number)
            shared = self._shared.setdefault(image.workload.tee, {})
            for name, values in image.exact().items():
                for value in values:
                    shared.setdefault(name, {}).setdefault(value, []).append(number)
        self._file()

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[_I]:
        return iter(self._images)

    def _file(self) -> None:
        free: dict[Tee, list[_I]] = {}
        filed: dict[tuple[Tee, str, bytes], list[_I]] = {}
        for image in self._images:
            tee = image.workload.tee
            if not image.selectors:
                continue  # It would fit everything, so it is found by nothing.
            exact = image.exact()
            name = self._anchor(tee, exact)
            if name is None:
                free.setdefault(tee, []).append(image)
                continue
            for value in exact[name]:
                filed.setdefault((tee, name, value), []).append(image)
        self._free = {tee: tuple(images) for tee, images in free.items()}
        for (tee, name, value), images in filed.items():
            by_name = self._anchors.setdefault(tee, {})
            by_name.setdefault(name, {})[value] = tuple(images)

    def _anchor(self, tee: Tee, exact: Mapping[str, frozenset[bytes]]) -> str | None:
        """The name whose accepted values the fewest images share."""
        shared = self._shared[tee]
        best: str | None = None
        least = len(self._images) + 1
        for name, values in exact.items():
            count = max(len(shared[name][value]) for value in values)
            if count < least:
                best, least = name, count
        return best

    def candidates(self, presented: Presented) -> list[_I]:
        """Every image that may fit; those left out do not."""
        tee = presented.claims.tee
        found = list(self._free.get(tee, ()))
        for name, filed in self._anchors.get(tee, {}).items():
            value = _value(presented, name)
            if value is not None:
                found += filed.get(value, ())
        return found

    def matching(self, presented: Presented) -> list[_I]:
        """Every candidate that nothing keeps from fitting."""
        return [
            image
            for image in self.candidates(presented)
            if not image.misfits(presented)
        ]

    def rivals(self, image: _I) -> Iterator[_I]:
        """Every image that evidence of ``image`` might fit too; itself among them."""
        tee, exact = image.workload.tee, image.exact()
        yield from self._free.get(tee, ())
        for name, filed in self._anchors.get(tee, {}).items():
            # Without exact values of its own, it may share any.
            for value in exact.get(name, filed):
                yield from filed.get(value, ())

    def nearest(self, presented: Presented) -> _I | None:
        """The image that the fewest rules keep from fitting.

        Of at most ``NEAREST_CANDIDATES`` that share the rarest values; ``None`` where
        none of the TEE shares a value, or there are none.
        """
        best: _I | None = None
        least = -1
        for number in self._alike(presented):
            image = self._images[number]
            differ = len(image.misfits(presented))
            if differ >= len(image.selectors) and not _any_alike(image, presented):
                continue
            if best is None or differ < least:
                best, least = image, differ
        return best

    def _alike(self, presented: Presented) -> list[int]:
        tee = presented.claims.tee
        everything = self._of_tee.get(tee, [])
        if len(everything) <= NEAREST_CANDIDATES:
            return everything
        lists = []
        for name, values in self._shared.get(tee, {}).items():
            value = _value(presented, name)
            if value is not None and value in values:
                lists.append(values[value])
        chosen: dict[int, None] = {}
        for numbers in sorted(lists, key=len):
            room = NEAREST_CANDIDATES - len(chosen)
            if room <= 0:
                break
            chosen.update(dict.fromkeys(numbers[:room]))
        return sorted(chosen)


def _any_alike(image: Filed, presented: Presented) -> bool:
    return any(s.holds(presented.values.get(name)) for name, s in image.selectors)


def _value(presented: Presented, name: str) -> bytes | None:
    """A measurement, an event, or an id of the platform; their names differ."""
    value: bytes | None = presented.values.get(name)
    if value is None:
        value = getattr(presented.claims.platform, name, None)
    return value
