"""The folder of a run: its manifest, what models said, and the rows. Whole after a crash, used by one run at a time."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cosa_guard.evals.replies import Replies, whole_lines
from cosa_guard.evals.rows import Manifest, ResultRow
from cosa_sdk.errors import UsageError

__all__ = ["Folder", "read_run"]

_MANIFEST, _ROWS, _REPLIES, _LOCK = "manifest.json", "rows.jsonl", "replies.jsonl", ".lock"
_FREE = ("made", "versions")
"""What may differ between the run that began and the one that goes on."""


class Folder:
    """Where a run is kept.

    Args:
        path: is made where it does not exist.

    Raises:
        UsageError: it cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {str(path)!r} for the run: {error.strerror}") from error

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else writes here meanwhile.

        Raises:
            UsageError: another run does.
        """
        with (self.path / _LOCK).open("a", encoding="ascii") as file:
            try:
                import fcntl  # noqa: PLC0415  # not on Windows, where two runs are the user's to avoid

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:
                pass
            except OSError:
                raise UsageError(
                    f"another run is writing to {str(self.path)!r}: wait for it, or name another folder with --output"
                ) from None
            yield

    def begin(self, manifest: Manifest) -> Manifest:
        """Write the manifest, or check that the run that began here is the same; gives the one that stands.

        Raises:
            UsageError: the folder holds another run.
        """
        file = self.path / _MANIFEST
        if not file.exists():
            _write_whole(file, json.dumps(manifest.to_json(), ensure_ascii=False, indent=1) + "\n")
            return manifest
        began = _manifest(file)
        old, new = _plain(began), _plain(manifest)
        differing = [name for name in new if name not in _FREE and old.get(name) != new[name]]
        if differing:
            shown = "; ".join(f"{name} was {_short(old.get(name))}, is {_short(new[name])}" for name in differing[:3])
            raise UsageError(
                f"{str(self.path)!r} holds another run ({shown}). Name another folder with --output, or start afresh "
                "with --fresh, which deletes that run"
            )
        return began

    def clear(self) -> None:
        """Delete the run that is here, and nothing else."""
        for name in (_MANIFEST, _ROWS, _REPLIES):
            (self.path / name).unlink(missing_ok=True)

    def replies(self) -> Replies:
        """What models said so far."""
        return Replies(self.path / _REPLIES)

    def rows(self) -> list[ResultRow]:
        """The rows so far. Rows without a response are left out: they are tried again."""
        return [row for row in _rows(self.path / _ROWS) if row.error is None]

    def add(self, rows: Sequence[ResultRow]) -> None:
        """Write rows, at once."""
        text = "".join(_line(row) for row in rows)
        with (self.path / _ROWS).open("ab", buffering=0) as file:
            data = text.encode()
            while data:
                data = data[file.write(data) or 0 :]

    def finish(self, rows: Sequence[ResultRow]) -> None:
        """Write all rows, in the order of systems and items."""
        _write_whole(self.path / _ROWS, "".join(_line(row) for row in rows))


def read_run(path: str | Path) -> tuple[Manifest, list[ResultRow]]:
    """A run's manifest and rows, from its folder.

    Raises:
        UsageError: there is no run, or it is damaged; names file and line.
    """
    folder = Path(path)
    if not (folder / _MANIFEST).is_file():
        raise UsageError(f"{str(path)!r} holds no run: give the folder that `cosa eval` wrote (its --output)")
    return _manifest(folder / _MANIFEST), _rows(folder / _ROWS)


def _manifest(file: Path) -> Manifest:
    try:
        return Manifest.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is no manifest: {error}. Name another folder, or start afresh with --fresh") from None
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None


def _rows(file: Path) -> list[ResultRow]:
    found: dict[tuple[str, str], ResultRow] = {}
    for number, line in enumerate(whole_lines(file), 1):
        try:
            row = ResultRow.from_json(json.loads(line))
        except (ValueError, TypeError, UsageError) as error:
            raise UsageError(f"{file}:{number}: {error}") from None
        found[row.system, row.item] = row  # a row that was tried again stands later
    return list(found.values())


def _line(row: ResultRow) -> str:
    return json.dumps(row.to_json(), ensure_ascii=True) + "\n"


def _plain(manifest: Manifest) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(manifest.to_json()))
    return plain


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"  # noqa: PLR2004  # three of them fit a message


def _write_whole(path: Path, text: str) -> None:
    number, name = tempfile.mkstemp(dir=path.parent, prefix=".cosa-")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
