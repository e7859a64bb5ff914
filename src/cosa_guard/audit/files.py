"""Files that only grow, and what is said when they cannot."""

from __future__ import annotations

import os
from pathlib import Path

from cosa_sdk.errors import CosaError

__all__ = ["LOOK_SECONDS", "AuditError", "OwnFile", "must_exist", "open_to_append", "sync_folder", "write_once"]

LOOK_SECONDS = 1.0
"""How often a file is looked for: it takes as long as writing a record."""


class AuditError(CosaError):
    """A ruling could not be recorded, so nothing was released; or a log cannot be opened or read."""


def open_to_append(path: Path, *, fresh: bool = False) -> int:
    """A file's number, open for appending; its owner alone may read what is made here.

    Args:
        fresh: it must not exist yet.

    Raises:
        AuditError: the file cannot be opened.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | (os.O_EXCL if fresh else 0), 0o600)
    except OSError as error:
        raise AuditError(f"cannot open the audit record {str(path)!r}: {error.strerror}") from None


def write_once(file: int, data: bytes, path: Path) -> None:
    """Hand the data to the operating system in one call, so that lines of several writers never mix.

    Raises:
        AuditError: not all of it was taken.
    """
    try:
        written = os.write(file, data)
    except OSError as error:
        raise AuditError(f"cannot write the audit record {str(path)!r}: {error.strerror}") from None
    if written != len(data):
        raise AuditError(f"the audit record {str(path)!r} took only {written} of {len(data)} bytes")


def must_exist(file: int, path: Path) -> None:
    """Stop where an open file has lost its name: what is written then is kept nowhere.

    Raises:
        AuditError: it was removed, or closed.
    """
    try:
        links = os.fstat(file).st_nlink
    except OSError as error:
        raise AuditError(f"cannot write the audit record {str(path)!r}: {error.strerror}") from None
    if not links:
        raise AuditError(f"the audit record {str(path)!r} was removed: start again to keep another one")


def sync_folder(folder: Path) -> None:
    """Make the names of new files survive a power cut, where folders can be opened at all (not on Windows)."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class OwnFile:
    """A file that this process alone writes: whole pieces, or nothing of them.

    What a full disk or an interrupt left half written is taken back before the next piece, so that a file goes on when
    there is room again. Not safe to share between threads: its owner has the lock.
    """

    __slots__ = ("_file", "_size", "_unsettled", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = 0
        self._unsettled = 0
        """Bytes of a piece that is in the file, or not, or in part."""
        self._file = open_to_append(path, fresh=True)

    def append(self, data: bytes) -> None:
        """Hand a piece to the operating system: it then survives `kill -9` of the process, not a power cut.

        Whoever appends says `taken` when that is noted; until then, and after an error, the piece is unsettled.

        Raises:
            AuditError: it was not written, or only in part.
        """
        if self._unsettled:
            self.settle()
        self._unsettled = len(data)
        write_once(self._file, data, self.path)

    def must_exist(self) -> None:
        """Stop where the file was removed.

        Raises:
            AuditError: it was.
        """
        must_exist(self._file, self.path)

    def taken(self) -> None:
        """The piece is in the file, and its owner has noted it."""
        self._size += self._unsettled
        self._unsettled = 0

    @property
    def unsettled(self) -> bool:
        """An `append` failed, or an interrupt came before its owner could note it."""
        return self._unsettled > 0

    def settle(self) -> bool:
        """Find out whether the unsettled piece is in the file; what is there of it in part is cut off.

        Raises:
            AuditError: that cannot be found out or done.
        """
        try:
            found = os.fstat(self._file).st_size
            whole = found == self._size + self._unsettled
            if found != self._size and not whole:
                os.ftruncate(self._file, self._size)
        except OSError as error:
            raise AuditError(f"cannot mend the audit record {str(self.path)!r}: {error.strerror}") from None
        self._size += self._unsettled if whole else 0
        self._unsettled = 0
        return whole

    def sync(self) -> None:
        """Wait until everything appended would survive a power cut.

        Raises:
            AuditError: the disk failed.
        """
        try:
            os.fsync(self._file)
        except OSError as error:
            raise AuditError(f"cannot sync the audit record {str(self.path)!r}: {error.strerror}") from None

    def close(self) -> None:
        """Close it; appending fails from then on."""
        # The number may belong to another file soon.
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)
