"""Heads: signed statements that a chain had so many records, the last with this hash."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cosa_guard.audit.files import AuditError
from cosa_guard.audit.signing import PublicKey, Signer

__all__ = ["Head", "head_line", "parse_head", "read_heads"]

_LINE: Final = re.compile(
    rb'(\{"v":1,"chain":"([0-9A-Za-z-]{1,80})","count":(0|[1-9][0-9]{0,17}),"hash":"([0-9a-f]{64})",'
    rb'"time":-?[0-9]+\.[0-9]{6},"closed":(true|false),"key":"([0-9a-f]{16})"),"sig":"([0-9a-f]{128})"\}'
)
_PURPOSE: Final = b"cosa-audit-head/1\n"
"""In front of what is signed: a signature made for something else is no head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One head as it was read; nobody has checked its signature."""

    chain: str
    count: int
    hash: str
    """Of the last of so many records; of the chain's line in the manifest when there are none."""
    closed: bool
    """The chain ends here: nothing was recorded later."""
    key: str
    """Name of the key that signed."""
    signed: bytes
    signature: str

    def by(self, keys: Iterable[PublicKey]) -> bool:
        """Whether one of the keys signed it."""
        return any(key.name == self.key and key.signed(self.signed, self.signature) for key in keys)


def head_line(signer: Signer, *, chain: str, count: int, hash: str, time: float, closed: bool) -> bytes:  # noqa: A002
    """A head as a line."""
    state = "true" if closed else "false"
    said = f'{{"v":1,"chain":"{chain}","count":{count},"hash":"{hash}","time":{time:.6f},"closed":{state}'
    said += f',"key":"{signer.name}"'
    return f'{said},"sig":"{signer.sign(_PURPOSE + said.encode("ascii"))}"}}\n'.encode("ascii")


def parse_head(line: bytes) -> Head | None:
    """A line as a head; None if it is none."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    said, chain, count, own, closed, key, signature = found.groups()
    return Head(
        chain=chain.decode("ascii"),
        count=int(count),
        hash=own.decode("ascii"),
        closed=closed == b"true",
        key=key.decode("ascii"),
        signed=_PURPOSE + said,
        signature=signature.decode("ascii"),
    )


def _parsed(path: Path) -> Iterator[Head | None]:
    data = path.read_bytes()
    lines = data.split(b"\n")
    lines.pop()  # empty, or torn: a head that was not written whole says nothing
    return map(parse_head, lines)


def read_heads(paths: Sequence[str | Path]) -> list[Head]:
    """Heads that were exported, of any number of chains.

    Raises:
        AuditError: a file cannot be read, or has lines that are no heads.
    """
    heads: list[Head] = []
    for path in paths:
        try:
            parsed = list(_parsed(Path(path)))
        except OSError as error:
            raise AuditError(f"cannot read the heads {str(path)!r}: {error.strerror}") from None
        for number, head in enumerate(parsed, 1):
            if head is None:
                raise AuditError(f"{str(path)!r} line {number} is no head: give what cosa audit heads printed")
            heads.append(head)
    return heads
