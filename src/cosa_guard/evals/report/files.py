"""Rows of a run as a file for other tools: JSON lines, or Parquet with one column for each field."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from cosa_guard.evals.rows import ResultRow
from cosa_sdk.errors import MissingExtra, UsageError

__all__ = ["SUFFIXES", "check_rows", "to_jsonl", "to_parquet", "write_rows"]

_LISTS: Final = ("risks", "judged_risks")
_WHOLE: Final = ("tokens",)
_NUMBERS: Final = ("helpful",)
_TRUTHS: Final = ("safe",)


def to_jsonl(rows: Iterable[ResultRow]) -> bytes:
    """One JSON object a line, as `ResultRow.from_json` reads them."""
    return "".join(json.dumps(row.to_json(), ensure_ascii=True) + "\n" for row in rows).encode()


def to_parquet(rows: Sequence[ResultRow]) -> bytes:
    """One column a field, of the same type whatever the rows; what the judge wrote is JSON in a column of text.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow()
    names = list(ResultRow.__dataclass_fields__)
    kinds = {
        **dict.fromkeys(_LISTS, pyarrow.list_(pyarrow.string())),
        **dict.fromkeys(_WHOLE, pyarrow.int64()),
        **dict.fromkeys(_NUMBERS, pyarrow.float64()),
        **dict.fromkeys(_TRUTHS, pyarrow.bool_()),
    }
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in names])
    plain = [_columns(row) for row in rows]
    columns = {name: [row[name] for row in plain] for name in names}
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns, schema=schema), sink)
    return bytes(sink.getvalue())


SUFFIXES: Final[dict[str, Callable[[Sequence[ResultRow]], bytes]]] = {".jsonl": to_jsonl, ".parquet": to_parquet}
"""How rows are written, by the end of a file's name."""


def check_rows(path: str | Path) -> None:
    """Find out before a run what `write_rows` would raise after it.

    Raises:
        UsageError: the name has another ending.
        MissingExtra: Parquet, and pyarrow is not installed.
    """
    _writer(Path(path))([])


def write_rows(path: str | Path, rows: Sequence[ResultRow]) -> None:
    """Write a whole file or none: Parquet or JSON lines, by its name.

    Raises:
        UsageError: the name has another ending, or the file cannot be written.
        MissingExtra: Parquet, and pyarrow is not installed.
    """
    file = Path(path)
    data = _writer(file)(rows)
    try:
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            draft.write_bytes(data)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def _writer(file: Path) -> Callable[[Sequence[ResultRow]], bytes]:
    write = SUFFIXES.get(file.suffix.lower())
    if write is None:
        raise UsageError(f"{str(file)!r}: give a name that ends in {' or '.join(SUFFIXES)}")
    return write


def _columns(row: ResultRow) -> dict[str, Any]:
    plain = row.to_json()
    plain["judged"] = json.dumps(plain["judged"], ensure_ascii=True)
    for name in _LISTS:
        plain[name] = None if plain[name] is None else [_sound(one) for one in plain[name]]
    return {name: _sound(value) if isinstance(value, str) else value for name, value in plain.items()}


def _sound(value: str) -> str:
    # Half a surrogate pair is a string to Python and no text to Parquet.
    return value.encode("utf-8", "replace").decode("utf-8")


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # noqa: PLC0415  # large, and only for Parquet
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise MissingExtra("Parquet (rows in JSON lines need none: name the file .jsonl)", "eval") from None
    return pa, parquet
