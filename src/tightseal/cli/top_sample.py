# SPDX-License-Identifier: Apache-2.0
"""What ``tightseal top`` reads of a provider, and the numbers between two readings.

A provider that is asked may be anybody: answers are bounded, and text out of them is
cleaned before it is shown.
"""

from __future__ import annotations

import math
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, TypeAlias

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from tightseal.errors import Code, ProviderError
from tightseal.guest.http import provider_url
from tightseal.service.health import Readiness

__all__ = ["Buckets", "Poller", "Reading", "difference", "quantile"]

MAX_ANSWER_BYTES: Final = 4 << 20
SECONDS: Final = 5.0
"""Longest wait for one answer, whole."""

Labels: TypeAlias = frozenset[tuple[str, str]]
Key: TypeAlias = tuple[str, Labels]
Buckets: TypeAlias = Counter[float]
"""How many events took at most so many seconds, by the upper bound of the bucket."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a provider.

    Attributes:
        url: of the provider.
        at: seconds of the monotonic clock.
        values: of every sample.
        readiness: what ``/readyz`` said; ``None`` where it said nothing of the form.
        error: why there are no values; ``None`` where there are.
    """

    url: str
    at: float
    values: Mapping[Key, float] = field(default_factory=dict)
    readiness: Readiness | None = None
    error: ProviderError | None = None

    def value(self, name: str, **labels: str) -> float | None:
        """The value of one sample; ``None`` where there is none."""
        return self.values.get((name, frozenset(labels.items())))

    def each(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """Every sample of a metric."""
        for (given, labels), value in self.values.items():
            if given == name:
                yield dict(labels), value


def difference(now: Reading, before: Reading | None) -> Reading:
    """The values of counters since an earlier reading; since the start without one.

    A counter that fell began anew: then all of it is new.
    """
    if before is None:
        return now

    def since(key: Key, value: float) -> float:
        earlier = before.values.get(key, 0.0)
        return value - earlier if value >= earlier else value

    values = {key: since(key, value) for key, value in now.values.items()}
    return Reading(now.url, now.at - before.at, values)


def quantile(share: float, buckets: Buckets) -> float | None:
    """The time within which this share of events ended; ``None`` where there were none.

    Linear within a bucket, as Prometheus' ``histogram_quantile`` has it.

    Args:
        share: above 0, at most 1.
        buckets: cumulative.
    """
    total = max(buckets.values(), default=0.0)
    if total <= 0:
        return None
    rank, low, counted = share * total, 0.0, 0.0
    for bound, upto in sorted(buckets.items()):
        if upto >= rank:
            if bound == float("inf"):
                return low
            part = (rank - counted) / (upto - counted) if upto > counted else 1.0
            return low + (bound - low) * part
        low, counted = bound, upto
    return low


class Poller:
    """Reads several providers, all at once. A context manager.

    Args:
        urls: of the providers.
        tls: how certificates are judged: by public CAs, or by a context.
        monotonic: seconds.

    Raises:
        SettingsError: ``settings_invalid``, for an address.
    """

    def __init__(
        self,
        urls: Iterable[str],
        *,
        tls: ssl.SSLContext | bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls = tuple(dict.fromkeys(str(provider_url(url)) for url in urls))
        self._monotonic = monotonic
        self._http = httpx.Client(
            timeout=SECONDS,
            # A compressed answer could unpack to any size.
            headers={"accept-encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
            verify=tls,
        )
        self._threads = ThreadPoolExecutor(max(1, len(self._urls)))

    def look(self) -> tuple[Reading, ...]:
        """Read every provider, in the order in which they were given."""
        return tuple(self._threads.map(self._read, self._urls))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._http.close()

    def _read(self, url: str) -> Reading:
        at = self._monotonic()
        try:
            status, body = self._get(f"{url}/metrics")
            if status != httpx.codes.OK:
                raise _odd(f"{url}/metrics: status {status}")
            values = _parsed(url, body)
            _, told = self._get(f"{url}/readyz")
        except ProviderError as e:
            return Reading(url, at, error=e)
        readiness = None
        with suppress(msgspec.MsgspecError, UnicodeError):
            readiness = msgspec.json.decode(told, type=Readiness)
        return Reading(url, at, values, readiness)

    def _get(self, url: str) -> tuple[int, bytes]:
        until = self._monotonic() + SECONDS
        body = bytearray()
        try:
            with self._http.stream("GET", url) as response:
                for part in response.iter_raw():
                    body += part
                    if len(body) > MAX_ANSWER_BYTES or self._monotonic() > until:
                        raise _odd(f"{url}: the answer is too long, or too slow")
                return response.status_code, bytes(body)
        except httpx.HTTPError as e:
            detail = f"{url}: {type(e).__name__}: {e}"
            raise ProviderError(Code.PROVIDER_UNREACHABLE, detail) from e


def _parsed(url: str, body: bytes) -> dict[Key, float]:
    try:
        return {
            (sample.name, frozenset(sample.labels.items())): float(sample.value)
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
            if math.isfinite(sample.value)
        }
    except (ValueError, IndexError, KeyError, TypeError) as e:
        raise _odd(f"{url}/metrics: not of Prometheus' text form") from e


def _odd(detail: str) -> ProviderError:
    return ProviderError(Code.RESPONSE_INVALID, detail)
