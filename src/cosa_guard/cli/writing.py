"""What commands leave behind: files that are whole or absent, and words that a terminal may show."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cosa_sdk.errors import UsageError

__all__ = ["must_be_writable", "plain", "write_whole"]

_STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what moves a terminal's cursor or hides, turns or breaks text,"""
_JOINERS = "\u200c\u200d"
"""and those of them that build emoji and Indic ligatures."""


def plain(text: str, *, keep: str = "") -> str:
    r"""Words as a terminal may show them: what would steer it, hide or turn text is spelt out, such as `\x1b`.

    Args:
        keep: characters that stay as they are, such as the line breaks of a message of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = keep + _JOINERS
    return "".join(
        _spelt(char) if unicodedata.category(char) in _STEERING and char not in kept else char for char in text
    )


def _spelt(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Failures to write are the user's to mend: told of the path that was given, not of the temporary one."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def _draft(path: Path) -> tuple[int, Path]:
    """A new file beside the one that is meant, open: it takes the text until that is whole."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".cosa-")
    return number, Path(name)


def must_be_writable(path: Path, *, force: bool) -> None:
    """Find out before a long run, by making the temporary file, what would lose its result.

    Args:
        force: a file that exists is to be replaced.

    Raises:
        UsageError: the path is no file's, its folder takes none, or it exists and `force` is off.
    """
    with _writing(path):
        if not path.parent.is_dir() or (path.exists() and not path.is_file()):
            raise UsageError(f"cannot write {str(path)!r}: give a file in a folder that exists")
        if path.exists() and not force:
            raise UsageError(f"{str(path)!r} exists: give another --output, or replace it with --force")
        number, draft = _draft(path)
        os.close(number)
        draft.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a whole file or none: a run that is stopped leaves what was there before.

    Raises:
        UsageError: the disk is full, or the folder is gone or takes no file.
    """
    with _writing(path):
        number, draft = _draft(path)
        try:
            with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            umask = os.umask(0)
            os.umask(umask)
            draft.chmod(0o666 & ~umask)  # temporary files are private; this one is the user's like any other
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
