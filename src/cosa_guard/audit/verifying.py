"""Reading an audit log again: what is whole, what a signature vouches for, and what is wrong where."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cosa_guard.audit.files import AuditError
from cosa_guard.audit.heads import Head, parse_head
from cosa_guard.audit.lines import LINE
from cosa_guard.audit.manifest import NAME, Manifest, Start, read_manifest
from cosa_guard.audit.signing import PublicKey

__all__ = ["STATUSES", "ChainReport", "FolderReport", "Status", "last_heads", "verify"]

Status = Literal["valid", "unanchored", "truncated", "missing", "broken"]
STATUSES: Final[tuple[Status, ...]] = ("valid", "unanchored", "truncated", "missing", "broken")
"""From best to worst."""
_LONGEST = 1 << 26
"""Bytes of a line: a file without line ends must not fill the memory."""


@dataclass(slots=True, kw_only=True)
class ChainReport:
    """What is known about one chain.

    `valid` needs all three: every record follows the one before it, every record is covered by a signed head, and the
    last head says that the chain ended there.
    """

    chain: str
    status: Status = "unanchored"
    records: int = 0
    """Whole records that follow each other from the start on."""
    anchored: int = 0
    """So many of them are vouched for by a signature."""
    closed: bool = False
    """A signed head says that nothing was recorded later."""
    torn: bool = False
    """The last line was not written whole: the process ended in the middle of it. It was never acknowledged."""
    line: int | None = None
    """Where it is broken."""
    detail: str = ""


@dataclass(slots=True, kw_only=True)
class FolderReport:
    """What is known about one folder; its status is that of its worst part."""

    folder: str
    starts: int = 0
    """Lines of the manifest that name a chain."""
    torn: int = 0
    """Lines of the manifest that were not written whole."""
    broken: str = ""
    """What is wrong with the manifest."""
    chains: list[ChainReport] = field(default_factory=list)

    @property
    def status(self) -> Status:
        """Of the worst part."""
        worst = [chain.status for chain in self.chains] or ["unanchored"]
        return "broken" if self.broken else max(worst, key=STATUSES.index)


class _Wrong(Exception):
    """What makes a chain broken, missing or truncated, and at which line."""

    def __init__(self, status: Status, detail: str, line: int | None = None) -> None:
        super().__init__(detail)
        self.status: Status = status
        self.line = line


def verify(folder: str | Path, *, keys: Sequence[PublicKey] = (), heads: Iterable[Head] = ()) -> FolderReport:
    """Read everything in the folder of an `AuditLog`. It may be in use.

    Args:
        keys: whose signatures count. None: nothing is anchored.
        heads: exported earlier and kept elsewhere. They show what the folder alone cannot: that a chain was taken away
            together with its line in the manifest, or put back as it was some time ago.

    Raises:
        AuditError: there is no such folder, or it holds no audit log, or cannot be read.
    """
    place = Path(folder)
    kept: dict[str, list[Head]] = {}
    for head in heads:
        kept.setdefault(head.chain, []).append(head)
    try:
        # Names first: what is started while the manifest is read is not held against it.
        names = {path.name for path in place.iterdir() if path.suffix == ".jsonl" and path.stat().st_size}
        if not names and not kept:
            raise AuditError(f"{str(folder)!r} holds no audit log: it has no {NAME}")
        manifest = read_manifest(place) if NAME in names else Manifest(detail="it is missing", line=0)
    except OSError as error:
        raise AuditError(f"cannot read the audit folder {str(folder)!r}: {error.strerror}") from None
    report = FolderReport(folder=str(folder), starts=len(manifest.starts), torn=manifest.torn)
    if manifest.line is not None:
        report.broken = f"line {manifest.line} {manifest.detail}" if manifest.line else manifest.detail
    for start in manifest.starts:
        report.chains.append(_verify_chain(place, start, keys, kept.pop(start.chain, [])))
    known = {start.chain for start in manifest.starts}
    strays = {name.removesuffix(".jsonl").removesuffix(".heads") for name in names - {NAME}} - known
    for chain in sorted(strays):
        report.chains.append(ChainReport(chain=chain, status="broken", detail="the manifest does not name it"))
        kept.pop(chain, None)
    for chain in sorted(kept):
        report.chains.append(ChainReport(chain=chain, status="missing", detail="only the heads kept elsewhere name it"))
    return report


def last_heads(folder: str | Path) -> Iterator[bytes]:
    """The newest head of every chain, as the line that it is: to be kept where nobody who can write the folder can.

    Raises:
        AuditError: the folder cannot be read.
    """
    place = Path(folder)
    try:
        starts = read_manifest(place).starts
        for start in starts:
            path = place / f"{start.chain}.heads.jsonl"
            lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
            if lines and parse_head(lines[-1]) is not None:
                yield lines[-1]
    except OSError as error:
        raise AuditError(f"cannot read the audit folder {str(folder)!r}: {error.strerror}") from None


def _verify_chain(place: Path, start: Start, keys: Sequence[PublicKey], kept: list[Head]) -> ChainReport:
    report = ChainReport(chain=start.chain)
    try:
        own = _own_heads(place / f"{start.chain}.heads.jsonl", start.chain)
        _check_signatures([*own, *kept], keys)
        _follow(place / f"{start.chain}.jsonl", start, [*own, *kept], report, signed=bool(keys))
        _judge(report, [*own, *kept], signed=bool(keys))
    except _Wrong as wrong:
        report.status, report.detail, report.line = wrong.status, str(wrong), wrong.line
    except OSError as error:
        report.status, report.detail = "broken", f"cannot be read: {error.strerror}"
    return report


def _check_signatures(heads: list[Head], keys: Sequence[PublicKey]) -> None:
    for head in heads if keys else ():
        if not head.by(keys):
            raise _Wrong("broken", f"the head at record {head.count} is forged, or signed by another key ({head.key})")


def _own_heads(path: Path, chain: str) -> list[Head]:
    if not path.exists():
        return []
    heads: list[Head] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        head = parse_head(line)
        if head is None or head.chain != chain:
            raise _Wrong("broken", f"line {number} of its heads is no head of this chain")
        if heads and (head.count < heads[-1].count or heads[-1].closed):
            raise _Wrong("broken", f"line {number} of its heads does not follow the one before it")
        heads.append(head)
    return heads


def _follow(path: Path, start: Start, heads: list[Head], report: ChainReport, *, signed: bool) -> None:
    """Read the chain from its start as far as it holds."""
    wanted: dict[int, set[str]] = {}
    for head in heads:
        wanted.setdefault(head.count, set()).add(head.hash)
    if not path.is_file():
        raise _Wrong("missing", "the manifest names it, and its file is not there")
    previous = start.hash
    _meet(wanted, 0, previous, report, signed=signed)
    with path.open("rb") as file:
        while line := file.readline(_LONGEST):
            number = report.records + 1
            if not line.endswith(b"\n"):
                if len(line) == _LONGEST:
                    raise _Wrong("broken", f"line {number} does not end", number)
                report.torn = True
                return
            previous = _checked(line[:-1], number, previous)
            report.records = number
            _meet(wanted, number, previous, report, signed=signed)


def _checked(line: bytes, number: int, previous: str) -> str:
    """The hash of a line that is what it says and follows the one before it."""
    found = LINE.fullmatch(line)
    if found is None:
        raise _Wrong("broken", f"line {number} is no record: it was altered, or written by something else", number)
    said, seq, before, own = found.groups()
    if hashlib.sha256(said).hexdigest().encode("ascii") != own:
        raise _Wrong("broken", f"line {number} was altered: its hash is another", number)
    if before.decode("ascii") != previous:
        what = "its start in the manifest" if number == 1 else f"line {number - 1}"
        raise _Wrong(
            "broken", f"line {number} does not follow {what}: lines were removed, inserted or moved, or swapped", number
        )
    if int(seq) != number:
        raise _Wrong("broken", f"line {number} calls itself record {int(seq)}", number)
    return own.decode("ascii")


def _meet(wanted: dict[int, set[str]], number: int, own: str, report: ChainReport, *, signed: bool) -> None:
    hashes = wanted.get(number)
    if hashes is None:
        return
    if hashes != {own}:
        raise _Wrong("broken", f"record {number} is not the one of its head: records were written anew", number or None)
    if signed:
        report.anchored = number


def _judge(report: ChainReport, heads: list[Head], *, signed: bool) -> None:
    """What a chain that holds as far as it goes is worth."""
    furthest = max((head.count for head in heads), default=0)
    if furthest > report.records:
        raise _Wrong("truncated", f"a head says {furthest} records, and there are {report.records}")
    ends = {head.count for head in heads if head.closed}
    if ends and (ends != {report.records} or report.torn):
        raise _Wrong("broken", f"it goes on after its end at record {min(ends)}", min(ends) + 1)
    report.closed = signed and bool(ends)
    if report.closed:
        report.status = "valid"
    elif report.anchored < report.records:
        after = f" after {report.anchored}" if report.anchored else ""
        report.detail = f"no signature that was checked vouches for the records{after}"
    else:
        report.detail = "it was not closed: later records may be missing"
    if report.torn:
        report.detail += "; its last line was not written whole"
