"""Files of rows, as plain values with the place of each: what every suite is read with."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosa_sdk.errors import UsageError

__all__ = ["SUFFIXES", "Problems", "Raw", "read_text", "rows_of", "yaml_of"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".yaml", ".yml")
"""Of suites."""
_LARGEST = 64 << 20
"""Bytes of a file, unpacked."""
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """One row as it stands in a file."""

    place: str
    """`file:line`."""
    fields: dict[str, Any]


@dataclass(slots=True)
class Problems:
    """Everything wrong with a suite, told at once."""

    source: str
    found: list[str] = field(default_factory=list)

    def add(self, place: str, message: str) -> None:
        """Note one problem."""
        self.found.append(f"{place}: {message}")

    def check(self) -> None:
        """Stop here if anything was found.

        Raises:
            UsageError: with the first twenty problems and the number of the rest.
        """
        if not self.found:
            return
        count = len(self.found)
        lines = self.found[:_SHOWN]
        if count > _SHOWN:
            lines.append(f"… and {count - _SHOWN} more")
        head = f"suite {self.source!r} has {count} problem{'s' * (count > 1)}, so nothing of it was loaded:"
        raise UsageError("\n  ".join([head, *lines]))


def rows_of(path: Path, problems: Problems) -> list[Raw]:
    """Rows of a JSONL or CSV file, gzipped or not. What cannot be read is noted in `problems`.

    Raises:
        UsageError: there is no such file, or its suffix says nothing.
    """
    text = read_text(path, problems)
    if text is None:
        return []
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".jsonl"):
        return _json_lines(text, path.name, problems)
    if name.endswith(".csv"):
        return _csv(text, path.name, problems)
    raise UsageError(f"{str(path)!r} is no file of rows: known suffixes: {', '.join(SUFFIXES)}")


def read_text(path: Path, problems: Problems) -> str | None:
    """The text of a file, without a byte order mark; None where a problem was noted.

    Raises:
        UsageError: the file cannot be opened.
    """
    try:
        opened: Any = gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # noqa: SIM115
        with opened as file:
            data = file.read(_LARGEST + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"suite file {str(path)!r} cannot be read: {reason}") from None
    if len(data) > _LARGEST:
        problems.add(path.name, f"is larger than {_LARGEST >> 20} MiB unpacked; split it into several suites")
        return None
    try:
        return str(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        problems.add(f"{path.name}:{line}", f"is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8")
        return None


def _json_lines(text: str, name: str, problems: Problems) -> list[Raw]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            value = json.loads(line, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            problems.add(place, f"is not JSON: {error}; write one object on each line")
            continue
        if not isinstance(value, dict):
            problems.add(place, f'is {_shape(value)}; write an object such as {{"config": …, "prompt": …}}')
            continue
        rows.append(Raw(place=place, fields=value))
    return rows


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} stands twice")
    return value


def _csv(text: str, name: str, problems: Problems) -> list[Raw]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Raw] = []
    header: list[str] = []
    while True:
        start = reader.line_num + 1
        place = f"{name}:{start}"
        try:
            cells = next(reader)
        except StopIteration:
            return rows
        except csv.Error as error:
            problems.add(place, f"is not CSV: {error}; close every quote, and double quotes inside a cell")
            return rows
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if len(set(header)) < len(header):
                problems.add(place, f"names a column twice: {', '.join(header)}")
                return []
        elif len(cells) != len(header):
            problems.add(place, f"has {len(cells)} cells, and the header {len(header)}; quote cells that hold commas")
        else:
            rows.append(Raw(place=place, fields=_filled(header, cells)))


def _filled(header: Iterable[str], cells: Iterable[str]) -> dict[str, Any]:
    """A row without its empty cells: an empty cell says nothing, as an absent key does."""
    return {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}


def _shape(value: Any) -> str:
    names = {list: "a list", str: "a text", type(None): "null", bool: "true or false"}
    return names.get(type(value), "a number")


def yaml_of(path: Path, problems: Problems) -> tuple[Any, Callable[[str], list[int]]] | None:
    """The value of a YAML file, and where the entries of a list in it begin; None where a problem was noted.

    The second part takes the list's key, or "" for a file that is one list, and gives lines, 1-based.

    Raises:
        UsageError: the file cannot be opened.
    """
    import yaml  # noqa: PLC0415  # loaded with the first YAML suite

    text = read_text(path, problems)
    if text is None:
        return None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, lambda _key: []
        _check_keys(node)
        value = loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path.name}:{mark.line + 1}" if mark else path.name
        problems.add(place, f"is not YAML: {getattr(error, 'problem', None) or error}")
        return None
    return value, lambda key: _lines(node, key)


def _check_keys(root: Any) -> None:
    """YAML's reader takes the last of two equal keys in silence: half of a suite would be lost."""
    import yaml  # noqa: PLC0415

    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and keys.count(key.value) > 1:
                    problem = f"key {key.value!r} stands twice"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _lines(root: Any, key: str) -> list[int]:
    import yaml  # noqa: PLC0415

    node = root
    if key:
        pairs = root.value if isinstance(root, yaml.MappingNode) else []
        node = next((value for name, value in pairs if name.value == key), None)
    return [entry.start_mark.line + 1 for entry in node.value] if isinstance(node, yaml.SequenceNode) else []
