# SPDX-License-Identifier: Apache-2.0
"""A provider from start to stop: sockets, workers, signals.

With one worker everything runs in this process. With several, this process binds the
sockets, draws the seed that the workers share, starts them, and starts again what dies.
The seed travels through the pipe of each worker and never through a file.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Final

import structlog

from tightseal.errors import Code, ServiceError, SettingsError, TightsealError
from tightseal.model import memory
from tightseal.model.secret import Secret
from tightseal.service.front import Front
from tightseal.service.hardening import (
    forbid_core_dumps,
    lock_memory,
    may_be_swapped,
)
from tightseal.service.load import SettingsFiles
from tightseal.service.logs import configure_logs, error_fields, set_level
from tightseal.service.metrics import prepare_shared, worker_died
from tightseal.service.server import Listeners, Worker, run_worker
from tightseal.service.settings import Settings, split_address

__all__ = ["EXIT_FAILED", "EXIT_SETTINGS", "EXIT_STOPPED", "SEED_BYTES", "serve"]

EXIT_STOPPED: Final = 0
EXIT_FAILED: Final = 70
"""A part of the provider could not start or kept dying (``EX_SOFTWARE``)."""
EXIT_SETTINGS: Final = 78
"""The settings cannot be used (``EX_CONFIG``)."""

SEED_BYTES: Final = 32
BACKLOG: Final = 4096
FIRST_BACK_OFF_SECONDS: Final = 0.5
LAST_BACK_OFF_SECONDS: Final = 30.0
STEADY_SECONDS: Final = 60.0
"""A worker that lived this long starts again without a wait."""

START_SECONDS: Final = 120.0
"""Longest time until a worker accepts; fetching collateral is part of it."""

STOP_SLACK_SECONDS: Final = 10.0
"""What a worker gets beyond its own drain time before it is killed."""

READY: Final = b"ready"
TICK_SECONDS: Final = 1.0

log = structlog.get_logger("tightseal.supervisor")


def serve(settings: Settings, *, files: SettingsFiles) -> int:
    """Run a provider until it is told to stop.

    Args:
        settings: both kinds.
        files: where they came from, read again on SIGHUP for the log level alone.

    Returns:
        the exit code of the process: 0 where it was told to stop.
    """
    # Until somebody handles it, a hang-up must not end a provider that is starting.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    configure_logs(settings.host.log, simulated=settings.simulated)
    _harden()
    try:
        _prepare(settings)
        listeners = _bind(settings)
        _announce(settings, listeners, files)
        if settings.host.workers == 1:
            seed = Secret(secrets.token_bytes(SEED_BYTES))
            _work(settings, listeners, seed, files=files, on_ready=_say_ready)
            return EXIT_STOPPED
        return _Supervisor(settings, listeners, files=files).run()
    except TightsealError as e:
        log.error("cannot_serve", code=e.code.value, detail=e.detail)  # noqa: TRY400
        return EXIT_SETTINGS if isinstance(e, SettingsError) else EXIT_FAILED
    except Exception as e:  # noqa: BLE001  # the end of the line: say why and exit
        log.error("cannot_serve", **error_fields(e))  # noqa: TRY400
        return EXIT_FAILED


def _harden() -> None:
    """Keep the memory of this process to itself, and say what cannot be."""
    dumps, locks = forbid_core_dumps(), lock_memory()
    refused = dumps | locks | memory.refused()
    if dumps or may_be_swapped():
        log.warning("memory_not_protected", refused=refused)
    elif refused:
        log.info("memory_not_protected", refused=refused, swap="none")


def _prepare(settings: Settings) -> None:
    # Late: its imports are most of the memory and of the time to start.
    from tightseal.service.compose import prepare  # noqa: PLC0415

    prepare(settings)


def _bind(settings: Settings) -> Listeners:
    host = settings.host
    http = _listen(host.listen, setting="host.listen")
    framed = None
    # A signed policy can switch the legacy protocol on while we run.
    if settings.release.legacy.enabled or settings.release.policy_root:
        framed = _listen(host.listen_framed, setting="host.listen_framed")
    return Listeners(http, framed, shared=host.workers > 1)


def _listen(address: str, *, setting: str) -> socket.socket:
    host, port = split_address(address, setting=setting)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server(
            (host, port), family=family, backlog=BACKLOG, reuse_port=False
        )
    except OSError as e:
        detail = f"{setting} = {address}: {e.strerror or e}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e


def _announce(settings: Settings, listeners: Listeners, files: SettingsFiles) -> None:
    log.info(
        "starting",
        http=_name(listeners.http),
        framed=_name(listeners.framed),
        workers=settings.host.workers,
        platform=settings.host.platform.kind.value,
        settings_digest=settings.release.digest().hex(),
        policy_root=settings.release.policy_root or None,
        host_file=str(files.host) if files.host else None,
    )
    if settings.simulated:
        log.warning("simulated_roots_accepted", meaning="development, not production")


def _name(listener: socket.socket | None) -> str | None:
    if listener is None:
        return None
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say_ready() -> None:
    log.info("serving")


def _work(
    settings: Settings,
    listeners: Listeners,
    seed: Secret,
    *,
    files: SettingsFiles,
    on_ready: Callable[[], None],
    lifeline: Connection | None = None,
) -> None:
    """Build one worker's provider and serve, in this process."""
    from tightseal.service.compose import compose  # noqa: PLC0415

    composed = compose(settings, seed=seed)
    # All this lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()

    def attach(loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
        loop.add_signal_handler(signal.SIGTERM, worker.drain)
        loop.add_signal_handler(signal.SIGINT, worker.stop)
        loop.add_signal_handler(signal.SIGHUP, partial(_reread_level, files))
        if lifeline is not None:
            # The pipe ends when the supervisor does, however it dies.
            loop.add_reader(lifeline.fileno(), worker.stop)

    try:
        run_worker(
            composed.front,
            listeners,
            background=composed.background,
            attach=attach,
            on_ready=on_ready,
            finish=composed.finish,
        )
    finally:
        composed.close()
    _abandon_calls(composed.front)


def _abandon_calls(front: Front) -> None:
    """End this process now if a call outlived the drain.

    A thread that waits for hardware cannot be stopped, and the interpreter would wait
    for it; whoever it worked for was cut off, and the journal it would need is closed.
    """
    pools = (front.pool, front.quote_pool, front.operator_pool)
    left = sum(pool.in_flight for pool in pools)
    if left:
        log.warning("calls_abandoned", count=left)
        sys.stderr.flush()
        os._exit(EXIT_STOPPED)


def _reread_level(files: SettingsFiles) -> None:
    """SIGHUP: only the log level; a host must not change anything else in flight."""
    try:
        again = files.load(os.environ).settings
    except SettingsError as e:
        log.error("settings_not_read_again", detail=e.detail)  # noqa: TRY400
        return
    set_level(again.host.log.level)
    log.warning("log_level_read_again", new_level=again.host.log.level.value)


# -- several workers ---------------------------------------------------------------


def _worker_main(
    number: int,
    settings: Settings,
    listeners: Listeners,
    files: SettingsFiles,
    pipe: Connection,
) -> None:
    """Entry point of a worker process."""
    # Until the loop runs, a stop must end the process at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    configure_logs(settings.host.log, simulated=settings.simulated, worker=number)
    _harden()
    try:
        seed = Secret(pipe.recv_bytes(SEED_BYTES))
        _work(
            settings,
            listeners,
            seed,
            files=files,
            on_ready=partial(pipe.send_bytes, READY),
            lifeline=pipe,
        )
    except TightsealError as e:
        log.error("worker_failed", code=e.code.value, detail=e.detail)  # noqa: TRY400
        raise SystemExit(_exit_code(e)) from None
    except Exception as e:  # noqa: BLE001  # the end of the line: say why and exit
        log.error("worker_failed", **error_fields(e))  # noqa: TRY400
        raise SystemExit(EXIT_FAILED) from None


def _exit_code(error: TightsealError) -> int:
    return EXIT_SETTINGS if isinstance(error, SettingsError) else EXIT_FAILED


@dataclass(slots=True)
class _Slot:
    """One worker: its process, its pipe, and when it may start again."""

    number: int
    process: multiprocessing.process.BaseProcess | None = None
    pipe: Connection | None = None
    ready: bool = False
    started: float = 0.0
    not_before: float = 0.0
    back_off: float = field(default=FIRST_BACK_OFF_SECONDS)


class _Supervisor:
    """Starts workers, starts again what dies, stops them in order."""

    def __init__(
        self, settings: Settings, listeners: Listeners, *, files: SettingsFiles
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._files = files
        self._seed = Secret(secrets.token_bytes(SEED_BYTES))
        self._context = multiprocessing.get_context("spawn")
        self._slots = [_Slot(n) for n in range(settings.host.workers)]
        self._stopping: signal.Signals | None = None
        self._hang_up = False
        self._once_ready = False

    def run(self) -> int:
        """Supervise until told to stop."""
        prepare_shared(self._settings.host.run_dir / "metrics")
        wakeup, waker = socket.socketpair()
        for end in (wakeup, waker):
            end.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            while self._stopping is None:
                self._tick(wakeup)
        finally:
            self._stop_all()
        return EXIT_STOPPED

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._hang_up = True
            return
        if self._stopping is not None:
            # Told again: whoever asks does not want to wait for balancers.
            self._tell_all(signal.SIGINT)
        self._stopping = signal.Signals(number)

    def _tick(self, wakeup: socket.socket) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.process is None and now >= slot.not_before:
                self._start(slot)
        pipes = [s.pipe for s in self._slots if s.pipe and not s.ready]
        ends = [s.process.sentinel for s in self._slots if s.process]
        wait([*pipes, *ends, wakeup], timeout=TICK_SECONDS)
        with suppress(BlockingIOError):
            wakeup.recv(64)
        if self._hang_up:
            self._hang_up = False
            _reread_level(self._files)
            self._tell_all(signal.SIGHUP)
        for slot in self._slots:
            self._look_at(slot)

    def _start(self, slot: _Slot) -> None:
        ours, theirs = self._context.Pipe(duplex=True)
        slot.process = self._context.Process(
            target=_worker_main,
            args=(slot.number, self._settings, self._listeners, self._files, theirs),
            name=f"worker-{slot.number}",
        )
        slot.process.start()
        theirs.close()
        slot.pipe, slot.ready, slot.started = ours, False, time.monotonic()
        with suppress(BrokenPipeError):
            ours.send_bytes(self._seed.reveal())

    def _look_at(self, slot: _Slot) -> None:
        if slot.process is None or slot.pipe is None:
            return
        if not slot.ready:
            with suppress(EOFError, OSError):
                slot.ready = slot.pipe.poll() and slot.pipe.recv_bytes() == READY
            if slot.ready and all(s.ready for s in self._slots):
                self._once_ready = True
                _say_ready()
            elif not slot.ready and time.monotonic() - slot.started > START_SECONDS:
                log.error("worker_does_not_start", worker=slot.number)
                slot.process.kill()
        if not slot.process.is_alive():
            self._bury(slot)

    def _bury(self, slot: _Slot) -> None:
        assert slot.process is not None
        assert slot.pipe is not None
        slot.process.join()
        code, pid = slot.process.exitcode, slot.process.pid
        slot.pipe.close()
        slot.process = slot.pipe = None
        if pid is not None:
            worker_died(pid)
        if self._stopping is not None:
            return
        if code == EXIT_SETTINGS or not self._once_ready:
            detail = f"worker {slot.number} could not start (exit code {code})"
            family = SettingsError if code == EXIT_SETTINGS else ServiceError
            raise family(
                Code.SETTINGS_INVALID
                if code == EXIT_SETTINGS
                else Code.PROVIDER_NOT_READY,
                detail,
            )
        lived = time.monotonic() - slot.started
        if lived > STEADY_SECONDS:
            slot.back_off = FIRST_BACK_OFF_SECONDS
        log.error(
            "worker_died", worker=slot.number, exit_code=code, again_in=slot.back_off
        )
        slot.not_before = time.monotonic() + slot.back_off
        slot.back_off = min(slot.back_off * 2, LAST_BACK_OFF_SECONDS)

    def _tell_all(self, number: signal.Signals) -> None:
        for slot in self._slots:
            pid = slot.process.pid if slot.process else None
            # Before it is ready, a worker would die of a signal it does not handle.
            if pid is not None and (slot.ready or number != signal.SIGHUP):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _stop_all(self) -> None:
        told = self._stopping or signal.SIGTERM
        self._stopping = told
        # Held here, the sockets would take connections that no worker serves any more.
        self._listeners.close()
        self._tell_all(told)
        host = self._settings.host
        until = time.monotonic() + host.drain_notice_seconds + host.drain_seconds
        until += STOP_SLACK_SECONDS
        for slot in self._slots:
            if slot.process is None:
                continue
            slot.process.join(max(0.0, until - time.monotonic()))
            if slot.process.is_alive():
                log.error("worker_killed", worker=slot.number)
                slot.process.kill()
                slot.process.join()
        log.info("stopped")
