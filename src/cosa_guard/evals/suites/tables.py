"""Tables of published benchmarks, split by split: from a model hub through `datasets`, or from local files.

The one place that imports `datasets` and `pyarrow`; CSV and JSONL need neither.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosa_guard.evals.suites.reading import Problems, Raw, rows_of
from cosa_sdk.errors import MissingExtra, UsageError

__all__ = ["Table", "fetched", "local"]

Table = dict[str, list[Raw]]
"""Rows by split. A file that holds all splits is one of them, named after the file."""

_SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


def fetched(where: str, problems: Problems) -> Table:
    """All splits of all subsets of a data set: its id on the hub, or a folder laid out like one.

    Raises:
        MissingExtra: `datasets` is not installed.
        UsageError: it cannot be fetched.
    """
    datasets = _module("datasets", f"reading {where}")
    table: Table = {}
    try:
        for subset in datasets.get_dataset_config_names(where):
            for split, rows in datasets.load_dataset(where, subset).items():
                name = str(split)
                found = [Raw(place=f"{name}:{at}", fields=_plain(row)) for at, row in enumerate(rows, start=1)]
                table.setdefault(name, []).extend(found)
    except Exception as error:  # noqa: BLE001  # a lost connection, a missing key, a changed layout: one way out
        said = f"{type(error).__name__}: {error}"
        local_form = f"{where.rpartition('/')[2].lower()}:PATH"
        raise UsageError(
            f"{where} cannot be fetched: {said}. Copy its files by hand, and name their folder: {local_form}"
        ) from None
    if not table:
        problems.add(where, "has no splits")
    return table


def local(path: Path, problems: Problems) -> Table:
    """The splits in a file, or in a folder with one file or one folder for each split.

    Raises:
        MissingExtra: a file is Parquet, and `pyarrow` is not installed.
        UsageError: there are no such files.
    """
    files = sorted(one for one in path.rglob("*") if _is_table(one)) if path.is_dir() else [path]
    if not files or not path.exists():
        raise UsageError(f"{str(path)!r} has no table: give a folder or a file; known suffixes: {', '.join(_SUFFIXES)}")
    table: Table = {}
    for file in files:
        if not _is_table(file):
            raise UsageError(f"{str(file)!r} is no table: known suffixes: {', '.join(_SUFFIXES)}")
        rows = _parquet(file) if file.suffix.lower() == ".parquet" else rows_of(file, problems)
        table.setdefault(_split(file), []).extend(rows)
    return table


def _is_table(file: Path) -> bool:
    return file.is_file() and file.name.lower().endswith(_SUFFIXES)


def _split(file: Path) -> str:
    """The split of a file: its name without shard and suffix; of `name/0000.parquet`, the folder's name."""
    suffix = next(one for one in sorted(_SUFFIXES, key=len, reverse=True) if file.name.lower().endswith(one))
    stem = _SHARD.sub("", file.name[: -len(suffix)])
    return file.parent.name if stem.isdigit() else stem


def _parquet(file: Path) -> list[Raw]:
    parquet = _module("pyarrow.parquet", f"reading {file.name}")
    try:
        rows = parquet.read_table(file).to_pylist()
    except (OSError, ValueError) as error:  # its own errors are of these two
        raise UsageError(f"{str(file)!r} is not Parquet: {error}") from None
    return [Raw(place=f"{file.name}:{at}", fields=_plain(row)) for at, row in enumerate(rows, start=1)]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name): value for name, value in row.items() if value is not None}


def _module(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra(what, "eval") from None
