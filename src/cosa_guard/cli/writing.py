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

_SYSTEM = (Path("/dev"), Path("/proc"), Path("/sys"))
"""Folders whose files are no files: `/dev/stdout` looks like one where output is sent to a file."""
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
    except (OSError, ValueError) as error:  # ValueError: a name that no file system takes
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot write {str(path)!r}: {reason}") from error


def _meant(path: Path) -> Path:
    """The file behind links: a link stays one, and one to a device leads to no plain file.

    Raises:
        UsageError: something else than a file stands there, or its folder is missing.
    """
    found = path.resolve()
    special = any(found.is_relative_to(folder) or path.absolute().is_relative_to(folder) for folder in _SYSTEM)
    if special or not found.parent.is_dir() or (found.exists() and not found.is_file()):
        raise UsageError(f"cannot write {str(path)!r}: give a file in a folder that exists")
    return found


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
        found = _meant(path)
        if found.exists() and not force:
            raise UsageError(f"{str(path)!r} exists: give another --output, or replace it with --force")
        number, draft = _draft(found)
        os.close(number)
        draft.unlink()


def write_whole(path: Path, text: str) -> None:
    """Write a whole file or none: a run that is stopped leaves what was there before.

    Raises:
        UsageError: the disk is full, or the folder is gone or takes no file.
    """
    with _writing(path):
        found = _meant(path)
        number, draft = _draft(found)
        try:
            with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            umask = os.umask(0)
            os.umask(umask)
            # Temporary files are private; this one is the user's like any other, or as the one it replaces.
            draft.chmod(found.stat().st_mode & 0o777 if found.exists() else 0o666 & ~umask)
            draft.replace(found)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
