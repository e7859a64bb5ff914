"""Suites of your own: JSON lines, CSV or YAML, read whole or not at all.

A row has `config`, `prompt` and `type`, and may have `risks`, `id`, `twin`, `shots` and `why`. A YAML file is a list of
rows, or has a head: `name`, `licence`, `configs`, `shots`, and `rows` as a list or as names of files beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cosa_guard.evals.suite import Suite
from cosa_guard.evals.suites.items import Items
from cosa_guard.evals.suites.reading import SUFFIXES, Problems, Raw, rows_of, yaml_of
from cosa_sdk.errors import UsageError, nearest

__all__ = ["load_file"]

_HEAD = ("name", "licence", "configs", "shots", "rows")
_YAML = (".yaml", ".yml")


def load_file(path: str | Path) -> Suite:
    """The suite of a file.

    Raises:
        UsageError: the file cannot be read, or something in it is wrong: every fault is told with its row, at most
            twenty of them.
    """
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise UsageError(f"{str(path)!r} is no suite: known suffixes: {', '.join(SUFFIXES)}")
    problems = Problems(str(path))
    items = Items(path.parent, problems)
    head: Mapping[str, Any] = {}
    if path.name.lower().endswith(_YAML):
        head = _yaml(path, items)
    else:
        items.add_all(rows_of(path, problems))
    items.finish(path.name)
    problems.check()
    return Suite(
        name=str(head.get("name") or path.name.partition(".")[0]),
        items=items.in_order(),
        configs=items.configs.by_name,
        allow=items.configs.allow,
        shots=items.shots,
        source=path.name,
        licence=str(head.get("licence") or ""),
    )


def _yaml(path: Path, items: Items) -> Mapping[str, Any]:
    """The head of a YAML suite, whose rows go to `items`; empty for a list of rows alone."""
    read = yaml_of(path, items.problems)
    if read is None:
        return {}
    value, lines = read
    match value:
        case None:
            return {}
        case list():
            _rows(value, lines(""), path, items)
            return {}
        case dict():
            _head(value, lines, path, items)
            return value
        case _:
            items.problems.add(path.name, "is a single value; write a list of rows, or keys such as `rows:`")
            return {}


def _head(head: Mapping[str, Any], lines: Callable[[str], list[int]], path: Path, items: Items) -> None:
    problems = items.problems
    for key in head:
        if key not in _HEAD:
            meant = nearest(str(key), _HEAD)
            hint = f"did you mean {meant!r}? " if meant else ""
            problems.add(path.name, f"key {key!r} is unknown: {hint}Choices: {', '.join(_HEAD)}")
    for key in ("name", "licence"):
        if not isinstance(head.get(key, ""), str):
            problems.add(path.name, f"{key} is {head[key]!r}: put it in quotes")
    items.declare(head.get("configs"), path.name)
    rows = head.get("rows")
    if isinstance(rows, str):
        rows = [rows]
    if not isinstance(rows, list):
        problems.add(path.name, f"rows is {rows!r}: give a list of rows, or names of .jsonl or .csv files beside this")
    elif rows and all(isinstance(row, str) for row in rows):
        for name in rows:
            items.add_all(rows_of(path.parent / name, problems))
    else:
        _rows(rows, lines("rows"), path, items)
    items.head_shots(head.get("shots"), path.name)


def _rows(rows: Sequence[Any], lines: Sequence[int], path: Path, items: Items) -> None:
    for row, line in zip(rows, lines, strict=True):
        place = f"{path.name}:{line}"
        if isinstance(row, dict):
            items.add_all([Raw(place=place, fields={str(key): value for key, value in row.items()})])
        else:
            items.problems.add(place, f"is {row!r}: give keys and values such as `config:` and `prompt:`")
