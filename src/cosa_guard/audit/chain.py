"""One chain while it is written, and the thread that syncs it and signs its heads."""

from __future__ import annotations

import os
import secrets
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from cosa_guard.audit.files import LOOK_SECONDS, AuditError, OwnFile
from cosa_guard.audit.heads import head_line
from cosa_guard.audit.lines import chained
from cosa_guard.audit.manifest import add_start
from cosa_guard.audit.signing import Signer

__all__ = ["Chain", "Keeper"]


class Chain:
    """The records of one process since it started, each with the hash of the one before.

    Args:
        said: about the start, for the manifest.
        power: who appends is told later, when the record was synced.
    """

    __slots__ = ("_closed", "_file", "_lock", "_looked", "_next", "_power", "id", "state", "waiting")

    def __init__(self, folder: Path, said: Mapping[str, Any], *, power: bool) -> None:
        now = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        self.id = f"{stamp}-{os.getpid()}-{secrets.token_hex(6)}"
        # File first: what a crash leaves between the two is an empty file that nobody names, not a missing chain.
        self._file = OwnFile(folder / f"{self.id}.jsonl")
        try:
            first = add_start(folder, {"chain": self.id, "time": round(now, 6), **said})
        except BaseException:
            self._file.close()
            self._file.path.unlink(missing_ok=True)
            raise
        self.state = 0, first
        """Records, and the hash of the last: replaced in one step, so that anybody may read it."""
        self.waiting: deque[Future[None]] = deque()
        """Those of records that are written and not known to be synced."""
        self._next = self.state
        self._power = power
        self._closed = False
        self._looked = now
        self._lock = Lock()

    def append(self, body: bytes) -> Future[None] | None:
        """Write one record; when it is safe, if that is later than now.

        Raises:
            AuditError: it is not on file.
        """
        with self._lock:
            if self._closed:
                raise AuditError(f"the audit chain {self.id} is closed")
            if self._file.unsettled:
                self._settle()
            now = time.time()
            if abs(now - self._looked) >= LOOK_SECONDS:
                self._file.must_exist()
                self._looked = now
            count, previous = self.state
            line, own = chained(count + 1, now, previous, body)
            self._next = count + 1, own
            try:
                self._file.append(line)
            except AuditError:
                with suppress(AuditError):  # the next record tries again
                    self._settle()
                raise
            self.state = self._next
            self._file.taken()
            if not self._power:
                return None
            kept: Future[None] = Future()
            kept.set_running_or_notify_cancel()  # a caller who goes away takes nobody's record back
            self.waiting.append(kept)
            return kept

    def _settle(self) -> None:
        if self._file.settle():
            self.state = self._next

    def sync(self) -> None:
        """Wait until what is written would survive a power cut."""
        self._file.sync()

    def end(self) -> None:
        """Take no more records."""
        with self._lock:
            self._closed = True
            if self._file.unsettled:
                self._settle()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Keeper:
    """Syncs records for all who wait (power), and signs a head every so many records or seconds.

    One thread does both, away from whoever records: a signature takes as long as ten records.
    """

    def __init__(
        self, chain: Chain, signer: Signer | None, *, folder: Path, power: bool, every: int, seconds: float
    ) -> None:
        self._chain, self._signer = chain, signer
        self._heads = OwnFile(folder / f"{chain.id}.heads.jsonl") if signer else None
        self._power, self._every, self._seconds = power, every, seconds
        self._wake, self._stopping = Event(), False
        self._synced, self._signed, self._at = 0, -1, 0.0
        self.trouble: AuditError | None = None
        """Why no record may be taken: a head cannot be written (tried again), or the disk failed (for good)."""
        self._failed = False
        self._thread: Thread | None = None
        if signer:
            self._sign(chain.state, closed=False)  # vouches for the start, before there is any record
        if signer or power:
            self._thread = Thread(target=self._run, name="cosa-audit", daemon=True)
            self._thread.start()

    def nudge(self) -> None:
        """A record was written, or turned away because of `trouble`: wake the thread if there is something to do."""
        if self._power or self.trouble or (self._signer and self._chain.state[0] - self._signed >= self._every):
            self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._seconds if self._signer else None)
            self._wake.clear()
            self._turn()

    def _turn(self, *, closing: bool = False) -> None:
        if self._failed:
            self._fail(self.trouble)
            return
        waiting = len(self._chain.waiting)
        state = self._chain.state  # read later: it has all who wait
        try:
            if self._power and state[0] > self._synced:
                self._chain.sync()
                self._synced = state[0]
        except BaseException as error:  # noqa: BLE001  # whoever waits must hear of it
            self._fail(error)
            return
        for _ in range(waiting):
            self._chain.waiting.popleft().set_result(None)
        if self._signer and (closing or self.trouble or self._due(state[0])):
            try:
                self._sign(state, closed=closing)
            except Exception as error:  # noqa: BLE001  # records stop, and the thread goes on to try again
                self.trouble = AuditError(f"cannot sign the audit chain {self._chain.id}: {error}")

    def _due(self, count: int) -> bool:
        fresh = count - self._signed
        return fresh >= self._every or (fresh > 0 and time.monotonic() - self._at >= self._seconds)

    def _sign(self, state: tuple[int, str], *, closed: bool) -> None:
        assert self._signer is not None
        assert self._heads is not None
        count, own = state
        line = head_line(self._signer, chain=self._chain.id, count=count, hash=own, time=time.time(), closed=closed)
        self._heads.append(line)
        self._heads.taken()
        if self._power:
            self._heads.sync()
        self._signed, self._at, self.trouble = count, time.monotonic(), None

    def _fail(self, error: BaseException | None) -> None:
        """After a sync that failed nobody knows what is on the disk: this chain takes nothing more."""
        self._failed = True
        self.trouble = error if isinstance(error, AuditError) else AuditError(f"the audit record failed: {error!r}")
        while self._chain.waiting:
            self._chain.waiting.popleft().set_exception(self.trouble)

    def close(self) -> None:
        """Sync and sign what is left, and stop. The chain has ended.

        Raises:
            AuditError: it could not be synced or signed.
        """
        if self._thread is not None:
            self._stopping = True
            self._wake.set()
            self._thread.join()
            self._turn(closing=True)
        self.release()
        if self.trouble is not None:
            raise AuditError(str(self.trouble))

    def release(self) -> None:
        """Close the file, unsigned."""
        if self._heads is not None:
            self._heads.close()
