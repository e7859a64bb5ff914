"""Threads for judges that block. Bounded, and never waited for when the process ends.

A thread cannot be stopped from outside: a judge that hangs keeps its thread. So the threads are daemons, calls that
nobody waits for any more are counted, and a full pool refuses at once instead of queueing behind judges that may never
return.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar
from weakref import WeakSet

from cosa_sdk.errors import JudgeError

__all__ = ["Pool", "threads_held"]

T = TypeVar("T")
IDLE = 10.0
"""Seconds after which a thread without work ends: a guard that is no longer used leaves nothing behind."""


_pools: WeakSet[Pool] = WeakSet()
_pools_lock = threading.Lock()


def threads_held() -> int:
    """Threads that calls nobody waits for hold now, in all pools: combinations of judges have pools of their own."""
    with _pools_lock:
        return sum(pool.held for pool in _pools)


class Pool:
    """A bounded pool of daemon threads.

    Args:
        size: most calls that run at the same time, hung ones included.
    """

    def __init__(self, size: int = 32) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._busy = 0
        self.abandoned = 0
        """Calls given up on while they ran, since the pool was made: out of time, or whoever waited has left."""
        self.held = 0
        """Threads that such calls hold now: each one until its judge returns."""
        with _pools_lock:
            _pools.add(self)

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run `call` on a thread.

        Raises:
            JudgeError: every thread is busy.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._busy >= self._size:
                raise JudgeError(
                    f"all {self._size} judge threads are busy ({self.held} calls ran out of time or were left): "
                    "give judges a shorter time-out or the guard a larger pool"
                )
            self._busy += 1
            if self._busy > self._threads:
                self._threads += 1
                threading.Thread(target=self._work, name="cosa-judge", daemon=True).start()

        def job() -> None:
            if not future.set_running_or_notify_cancel():  # from here on nobody can cancel it
                self._free()
                return
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001  # handed to whoever waits
                self._free()
                future.set_exception(error)
            else:
                self._free()
                future.set_result(result)

        self._jobs.put(job)
        return future

    def abandon(self, call: Future[Any]) -> None:
        """Give up on a call that was submitted: it never starts, or its thread is counted until it comes back."""
        if call.cancel() or call.done():
            return
        with self._lock:
            self.abandoned += 1
            self.held += 1
        call.add_done_callback(self._returned)

    def _returned(self, _call: Future[Any]) -> None:
        with self._lock:
            self.held -= 1

    def _free(self) -> None:
        """The thread is free before anybody learns of the result, so that who waited may submit again."""
        with self._lock:
            self._busy -= 1

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE)
            except queue.Empty:
                with self._lock:
                    if self._busy < self._threads:
                        self._threads -= 1
                        return
                continue
            job()
            del job  # and with it the judged text
