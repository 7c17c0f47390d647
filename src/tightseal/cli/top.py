# SPDX-License-Identifier: Apache-2.0
"""``tightseal top``: running providers in a terminal, or once for machines."""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from tightseal.cli import ui
from tightseal.cli.top_numbers import Numbers
from tightseal.cli.top_sample import Poller, Reading
from tightseal.errors import Code, SettingsError
from tightseal.guest.attested_tls import unattested
from tightseal.model.tls import TlsTrust

__all__ = ["tls_of", "top"]

MAX_PROVIDERS: Final = 64
Interval = Annotated[float, Parameter(validator=Number(gte=0.2, lte=60))]


def top(
    provider: str,
    /,
    *more: str,
    interval: Interval = 2.0,
    once: bool = False,
    as_json: Annotated[bool, Parameter("--json")] = False,
    ca_file: Path | None = None,
    tls: TlsTrust = TlsTrust.PUBLIC_CA,
) -> int:
    """Watch providers: releases, refusals, times, health; Ctrl-C ends it.

    With --once: 0 all are ready, 1 one is not, 2 one could not be asked. Rates are of
    the interval between two looks. Unsigned, for people: read from /metrics and
    /readyz.

    Args:
        provider: address, such as http://10.0.2.2:3442.
        more: of further providers.
        interval: seconds between two looks.
        once: look twice, print once, and end.
        as_json: with --once: one JSON document on stdout.
        ca_file: PEM of the CA of providers with a certificate of their own.
        tls: how certificates are judged without it: by public CAs, or not at all
            (``exchange``), for providers that end TLS with a key of their own.
    """
    urls = (provider, *more)
    if len(urls) > MAX_PROVIDERS:
        detail = f"{len(urls)} providers, at most {MAX_PROVIDERS}"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    if as_json and not once:
        raise SettingsError(Code.SETTINGS_INVALID, "--json goes with --once")
    if not once and not sys.stdout.isatty():
        detail = "stdout is no terminal: give --once, and --json for machines"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    with Poller(urls, tls=tls_of(ca_file, tls)) as poller:
        if once:
            return _once(poller, interval, as_json=as_json)
        return _live(poller, interval)


def tls_of(
    ca_file: Path | None, trust: TlsTrust = TlsTrust.PUBLIC_CA
) -> ssl.SSLContext | bool:
    """How the certificates of providers are judged by who reads what is unsigned.

    Raises:
        SettingsError: ``settings_invalid``, where the file has no CA, or for attested
            TLS: there is no pin to judge by.
    """
    if ca_file is None:
        return unattested(trust)
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as e:
        detail = f"{ca_file}: {e.strerror or 'no certificates in PEM'}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e


def _once(poller: Poller, interval: float, *, as_json: bool) -> int:
    before = poller.look()
    time.sleep(interval)
    shown = _between(poller.look(), before)
    if as_json:
        ui.print_json(
            {
                "interval_seconds": interval,
                "providers": [one.document() for one in shown],
            }
        )
    else:
        from tightseal.cli.top_view import print_once  # noqa: PLC0415 (start-up time)

        print_once(shown)
    if any(one.now.error is not None for one in shown):
        return ui.EXIT_UNREADABLE
    return ui.EXIT_YES if all(one.ready for one in shown) else ui.EXIT_NO


def _live(poller: Poller, interval: float) -> int:
    from tightseal.cli.top_view import live  # noqa: PLC0415 (start-up time)

    before: tuple[Reading, ...] = ()
    try:
        with live() as show:
            while True:
                began = time.monotonic()
                now = poller.look()
                show(_between(now, before))
                before = now
                time.sleep(max(0.0, interval - (time.monotonic() - began)))
    except KeyboardInterrupt:
        return ui.EXIT_YES


def _between(now: Sequence[Reading], before: Sequence[Reading]) -> list[Numbers]:
    earlier = {reading.url: reading for reading in before}
    return [Numbers.between(one, earlier.get(one.url)) for one in now]
