"""Labelled rows: what judges are measured on and calibrated with.

Four schemas, told apart by their fields, as JSON lines, gzipped or not:

- answers: `prompt`, `response`, `categories` (of the response), `harmful`, `refused`, `prompt_categories`;
- texts: `text`, `categories`;
- prompts: `prompt`, `categories`, `floor`;
- harmless prompts: `prompt`, `over_refusal`.

Categories are the taxonomy's ids or the one-letter codes D F R P S V W O. An empty list means no risk; null means
unknown, and such a row is left out of whatever needs to know.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, cast

from cosa_sdk import taxonomy
from cosa_sdk.errors import UnknownName, UsageError

__all__ = ["Kind", "LabelledRow", "labelled_row", "read_rows"]

Kind = Literal["prompt", "text", "response"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRow:
    """One text and what is known about it."""

    id: str
    kind: Kind
    text: str
    """What is judged: a prompt, a free-standing text, or a response."""
    prompt: str = ""
    """Of a response: what it answers."""
    risks: frozenset[str] | None = None
    """Ids of what the text shows; None where nobody knows."""
    harmful: bool | None = None
    """Shows any risk at all; known for some rows whose risks are not."""
    refused: bool | None = None
    addressed: bool | None = None
    floor: bool = False
    """Belongs on the floor, whatever the config."""
    source: str = ""
    split: str = ""
    category_kind: str = ""
    """How the risks came about: human, taxonomy, keyword, residual, project."""


def _risks(value: Any, name: str) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(code, str) for code in value):
        raise UsageError(f"{name} is {value!r}; give a list of taxonomy ids or codes, or null for unknown")
    known = set(taxonomy.builtin().ids)
    risks = {code if code in known else taxonomy.by_code(code) for code in value}
    return frozenset(risks)


def _text(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{name} is {value!r}; give a text")
    return value


def _asked(row: dict[str, Any]) -> str:
    value = row.get("prompt")
    if value is not None and not isinstance(value, str):
        raise UsageError(f"prompt is {value!r}; give a text, or leave it out")
    return value or ""


def _flag(row: dict[str, Any], name: str) -> bool | None:
    value = row.get(name)
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"{name} is {value!r}; choices: true, false, null")
    return value


def _name(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value)  # 0 is a name as good as 1


def labelled_row(row: dict[str, Any]) -> LabelledRow:
    """One decoded row of any of the four schemas.

    Raises:
        UsageError: a field is missing or has the wrong type.
        UnknownName: a category is neither a code nor an id.
    """
    common: dict[str, Any] = {
        "id": _name(row, "id"),
        "source": _name(row, "source"),
        "split": _name(row, "split"),
        "category_kind": _name(row, "category_kind"),
    }
    if "response" in row:
        risks = _risks(row.get("categories"), "categories")
        harmful = _flag(row, "harmful")
        if harmful is None and risks is not None:
            harmful = bool(risks)
        return LabelledRow(
            kind="response", text=_text(row, "response"), prompt=_asked(row), risks=risks,
            harmful=harmful, refused=_flag(row, "refused"), addressed=_flag(row, "addressed"), **common,
        )  # fmt: skip
    if "text" in row and "categories" in row:
        risks = _risks(row.get("categories"), "categories")
        return LabelledRow(
            kind="text", text=_text(row, "text"), risks=risks, harmful=None if risks is None else bool(risks), **common
        )
    if "prompt" in row and "categories" in row:
        risks = _risks(row["categories"], "categories")
        floor = bool(_flag(row, "floor"))
        harmful = True if floor else None if risks is None else bool(risks)
        return LabelledRow(
            kind="prompt", text=_text(row, "prompt"), risks=risks, harmful=harmful, floor=floor, **common
        )  # fmt: skip
    if "prompt" in row and "over_refusal" in row:
        return LabelledRow(kind="prompt", text=_text(row, "prompt"), risks=frozenset(), harmful=False, **common)
    raise UsageError(
        f"fields {', '.join(sorted(row)) or 'none'} fit no schema; give prompt and response, text and categories, "
        "prompt and categories, or prompt and over_refusal"
    )


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast("TextIO", gzip.open(path, "rt", encoding="utf-8-sig"))
    return path.open(encoding="utf-8-sig")


def _decoded(line: str) -> LabelledRow:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise UsageError(f"a row is an object, not {type(row).__name__}")
    return labelled_row(row)


def read_rows(path: str | Path) -> Iterator[LabelledRow]:
    """The rows of a file, one by one.

    Raises:
        UsageError: no such file, not (gzipped) JSON lines, or a row that fits no schema; names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no such file: {path}; give labelled rows as JSON lines, gzipped or not")
    try:
        opened = _open(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be opened: {error.strerror}") from error
    number = 0
    with opened as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    yield _decoded(line)
                except (UsageError, UnknownName) as error:
                    raise UsageError(f"{path}:{number}: {error}") from error
                except (ValueError, RecursionError) as error:
                    raise UsageError(f"{path}:{number}: not JSON: {error}") from error
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: unreadable after line {number}: {error}") from error
