"""`AuditLog`: a folder of chained records whose heads are signed."""

from __future__ import annotations

import os
import weakref
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal, Self, get_args

from cosa_guard.audit.chain import Chain, Keeper
from cosa_guard.audit.files import AuditError
from cosa_guard.audit.lines import TextMode, Texts
from cosa_guard.audit.signing import Signer
from cosa_guard.verdicts import Entry
from cosa_sdk.errors import UnknownName, UsageError

__all__ = ["AuditLog"]

Durability = Literal["process", "power"]
_KEY_BYTES = 32


class AuditLog:
    """Records every ruling in a folder, so that later changes show: `Guard(…, record=AuditLog("audit", key="key"))`.

    Every process that records starts a chain of its own, also after a fork; any number of them may share a folder.
    Close it (or use it in a `with`): a chain that was not closed may have lost its end, and `cosa audit verify` says
    so.

    Args:
        folder: made if it is not there.
        key: file of the Ed25519 private key (PEM) that signs heads; `cosa audit keygen` makes one. Without it nothing
            vouches for the records.
        text: what is kept of the judged text. `hmac`: its length and a keyed hash. `redacted`: the text too, with what
            judges found in it masked, and none of it where they cannot say where it stands. `full`: the text.
        text_key: at least 32 secret bytes, or a file with them, from which the tenants' keys are derived. Without it
            a key is drawn and forgotten: tags can then be compared within a chain and never be recomputed.
        durability: `process`: on return a record survives the end of the process, not a power cut. `power`: it survives
            both; records that come together share one sync, and the call returns a future.
        every: records between signed heads.
        seconds: longest time between a record and the head that covers it.

    Raises:
        AuditError: the folder or its files cannot be written. Recording raises it too, and the guard releases nothing.
        MissingExtra: there is a key, and `cryptography` is not installed.
        UsageError: a key or option is not valid.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        key: str | Path | None = None,
        text: TextMode = "hmac",
        text_key: bytes | str | Path | None = None,
        durability: Durability = "process",
        every: int = 1000,
        seconds: float = 10.0,
    ) -> None:
        if text not in get_args(TextMode):
            raise UnknownName("text", str(text), get_args(TextMode))
        if durability not in get_args(Durability):
            raise UnknownName("durability", str(durability), get_args(Durability))
        if every < 1 or seconds <= 0:
            raise UsageError(f"every={every!r}, seconds={seconds!r}: give at least 1 record and more than 0 seconds")
        self.folder = Path(folder)
        self._text: TextMode = text
        self._text_key = _text_key(text_key)
        self._durability, self._every, self._seconds = durability, every, seconds
        self._signer = Signer(key) if key is not None else None
        self._closed = False
        self._starting = Lock()
        self._started: tuple[Chain, Keeper, Texts] | None = None
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise AuditError(f"cannot make the audit folder {str(folder)!r}: {error.strerror}") from None
        self._start()
        _LOGS.add(self)

    def __call__(self, entry: Entry) -> Future[None] | None:
        """Record one ruling. It is safe on return or, where a future comes back, when that is done."""
        chain, keeper, texts = self._started or self._start()
        if keeper.trouble is not None:
            keeper.nudge()
            raise AuditError(str(keeper.trouble))
        kept = chain.append(texts.body(entry))
        keeper.nudge()
        return kept

    @property
    def chain(self) -> str | None:
        """Id of the chain that this process writes; None when closed, and after a fork until the first record."""
        return self._started[0].id if self._started else None

    def _start(self) -> tuple[Chain, Keeper, Texts]:
        with self._starting:
            if self._closed:
                raise AuditError(f"the audit log {str(self.folder)!r} is closed")
            if self._started is None:
                texts = Texts(self._text, self._text_key)
                said = {
                    "text": self._text,
                    "text_key": texts.name or "drawn",
                    "durability": self._durability,
                    "key": self._signer.name if self._signer else None,
                }
                power = self._durability == "power"
                chain = Chain(self.folder, said, power=power)
                try:
                    keeper = Keeper(
                        chain,
                        self._signer,
                        folder=self.folder,
                        power=power,
                        every=self._every,
                        seconds=self._seconds,
                    )
                except BaseException:
                    chain.close()
                    raise
                self._started = chain, keeper, texts
            return self._started

    def close(self) -> None:
        """Sign the end of the chain; recording fails from then on.

        Raises:
            AuditError: the end could not be synced or signed. What was recorded is there.
        """
        with self._starting:
            self._closed = True
            started, self._started = self._started, None
        if started is None:
            return
        chain, keeper, _ = started
        try:
            try:
                chain.end()
            finally:
                keeper.close()
        finally:
            chain.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def forget(self) -> None:
        """In the child of a fork: leave the chain to the parent; the first record starts another."""
        started, self._started = self._started, None
        self._starting = Lock()  # the parent's may have been held
        if started is not None:
            with suppress(OSError):
                started[0].close()
                started[1].release()


def _text_key(given: bytes | str | Path | None) -> bytes | None:
    if given is None:
        return None
    try:
        key = given if isinstance(given, bytes) else Path(given).read_bytes().strip()
    except OSError as error:
        raise UsageError(f"cannot read the text key {str(given)!r}: {error.strerror}") from None
    if len(key) < _KEY_BYTES:
        raise UsageError(f"a text key has at least {_KEY_BYTES} bytes, this one {len(key)}: cosa audit keygen --text")
    return key


_LOGS: weakref.WeakSet[AuditLog] = weakref.WeakSet()


def _forked() -> None:
    for log in list(_LOGS):
        log.forget()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forked)
