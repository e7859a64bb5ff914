"""Several processes behind one port: started, watched, told of signals, and waited for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from cosa_guard.server.log import RequestLog
from cosa_guard.server.run import Settings, check, listening, run
from cosa_sdk.errors import CosaError, UsageError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

__all__ = ["serve"]

RESTART_SECONDS = 1.0
"""Between the end of a worker and the next: one that cannot start must not keep the machine busy."""
_LOOK_SECONDS = 0.2


def serve(settings: Settings, *, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        started: told the URL when requests are accepted.

    Raises:
        UsageError: the file is not valid, or the port is taken.
        MissingExtra: uvicorn or aiohttp is not installed.
    """
    several = settings.workers > 1
    if several:  # a port that may be shared could be shared with another proxy, under other configs
        listening(settings).close()
    with listening(settings, shared=several) as sock:  # with several workers it only keeps the port for them
        settings = replace(settings, port=sock.getsockname()[1])
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        told = partial(started, f"http://{host}:{settings.port}")
        if several:
            check(settings)
            _Supervisor(settings).run(told)
        else:
            run(settings, sock, told)


def _work(settings: Settings, ready: Any) -> None:
    """The life of one worker."""
    try:
        run(settings, listening(settings, shared=True), ready.release)
    except (CosaError, OSError) as error:
        RequestLog().event(f"worker {os.getpid()} cannot start: {error}")
        raise SystemExit(2) from None


class _Supervisor:
    """Keeps as many workers as were asked for until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("spawn")  # a fork would copy threads and event loops
        self._ready = self._context.Semaphore(0)
        self._workers: list[SpawnProcess] = []
        self._stopping = False
        self._log = RequestLog()

    def run(self, started: Callable[[], None]) -> None:
        """Serve until told to stop; every worker has ended then."""
        kept = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._stop),
            signal.SIGINT: signal.signal(signal.SIGINT, self._stop),
            signal.SIGHUP: signal.signal(signal.SIGHUP, self._pass_on),
        }
        try:
            self._workers = [self._start() for _ in range(self._settings.workers)]
            self._await_ready()
            if not self._stopping:
                started()
            while not self._stopping:
                wait([worker.sentinel for worker in self._workers], timeout=_LOOK_SECONDS)
                self._replace_ended()
        finally:
            self._stop()
            for worker in self._workers:
                worker.join()
            for number, handler in kept.items():
                signal.signal(number, handler)

    def _start(self) -> SpawnProcess:
        worker = self._context.Process(target=_work, args=(self._settings, self._ready), name="cosa-serve")
        worker.start()
        return worker

    def _await_ready(self) -> None:
        waiting = len(self._workers)
        while waiting and not self._stopping:
            if self._ready.acquire(timeout=_LOOK_SECONDS):
                waiting -= 1
            elif not all(worker.is_alive() for worker in self._workers):
                raise UsageError("a worker could not start; the lines above say why")

    def _replace_ended(self) -> None:
        for place, worker in enumerate(self._workers):
            if not worker.is_alive() and not self._stopping:
                self._log.event(f"worker {worker.pid} ended with {worker.exitcode}; starting another")
                time.sleep(RESTART_SECONDS)
                self._workers[place] = self._start()

    def _stop(self, *_: Any) -> None:
        self._stopping = True
        self._send(signal.SIGTERM)

    def _pass_on(self, number: int, _: Any) -> None:
        self._send(number)

    def _send(self, number: int) -> None:
        for worker in self._workers:
            if worker.pid is not None and worker.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, number)
