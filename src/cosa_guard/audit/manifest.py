"""The manifest: one line for each start of a worker, each with the hash of the line before."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cosa_guard.audit.files import AuditError, sync_folder, write_once
from cosa_guard.audit.lines import digest

__all__ = ["NAME", "Manifest", "Start", "add_start", "read_manifest"]

NAME: Final = "manifest.jsonl"
_CHAIN: Final = re.compile(r"[0-9A-Za-z-]{1,80}")
"""Chains are file names: no path leads out of the folder."""
_NOTHING: Final = "0" * 64
_TAIL = 1 << 16
_PATIENCE = 10.0
"""Seconds to wait while other workers add their line, which takes each a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Start:
    """One line: a chain that must be there, and the hash that its first record must follow."""

    chain: str
    hash: str
    said: Mapping[str, Any]


@dataclass(slots=True)
class Manifest:
    """All lines, and the first thing wrong with them."""

    starts: list[Start] = field(default_factory=list)
    lines: int = 0
    torn: int = 0
    """Lines that were not written whole: a worker ended while it started, or a disk was full."""
    line: int | None = None
    """Where it is broken."""
    detail: str = ""


def add_start(folder: Path, said: Mapping[str, Any]) -> str:
    """Append one line under a lock; the hash of it.

    Raises:
        AuditError: the manifest cannot be locked or written, or the system has no such locks.
    """
    path = folder / NAME
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        raise AuditError(f"cannot open the audit manifest {str(path)!r}: {error.strerror}") from None
    try:
        _lock(file, path)
        before = os.fstat(file).st_size
        tail = os.pread(file, _TAIL, max(0, before - _TAIL))
        torn = b"" if tail.endswith(b"\n") or not tail else b"\n"
        last = tail.removesuffix(b"\n").rpartition(b"\n")[2]
        line = json.dumps({"v": 1, "prev": digest(last) if last else _NOTHING, **said}, separators=(",", ":")).encode()
        try:
            write_once(file, torn + line + b"\n", path)
            os.fsync(file)
        except BaseException:
            os.ftruncate(file, before)
            raise
    except OSError as error:
        raise AuditError(f"cannot write the audit manifest {str(path)!r}: {error.strerror}") from None
    finally:
        os.close(file)  # and the lock is gone
    sync_folder(folder)
    return digest(line)


def _lock(file: int, path: Path) -> None:
    try:
        import fcntl  # noqa: PLC0415  # Windows has none
    except ImportError:
        raise AuditError("an audit log needs a POSIX system; use JsonlRecord here") from None
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise AuditError(f"the audit manifest {str(path)!r} stays locked by another process") from None
            time.sleep(0.005)
        else:
            return


def read_manifest(folder: Path) -> Manifest:
    """Read and check all lines, up to the first that is wrong.

    Raises:
        OSError: the file cannot be read.
    """
    manifest = Manifest()
    *lines, rest = (folder / NAME).read_bytes().split(b"\n")
    manifest.torn += bool(rest)
    previous, chains = _NOTHING, set[str]()
    for number, line in enumerate(lines, 1):
        manifest.lines = number
        said = _read(line)
        if said is None:
            # What a crash left behind; the line after it vouches for it like for any other.
            manifest.torn += 1
        elif said.get("prev") != previous:
            manifest.line = number
            manifest.detail = "does not follow the line before it: one was altered, removed, inserted or moved"
            return manifest
        elif not isinstance(chain := said.get("chain"), str) or not _CHAIN.fullmatch(chain) or chain in chains:
            manifest.line, manifest.detail = number, "names no chain, or one that was named before"
            return manifest
        else:
            chains.add(chain)
            manifest.starts.append(Start(chain, digest(line), said))
        previous = digest(line)
    return manifest


def _read(line: bytes) -> Mapping[str, Any] | None:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None
