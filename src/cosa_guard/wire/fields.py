"""Which fields of a protocol's answers carry text, as tables, and how an answer is read with one.

A table mirrors the JSON: names to fields, or to tables; `"*"` is every element of a list. What a table does not name
is *unknown*: it may be text that no judge has read, so whoever walks a table gets it too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, Final

__all__ = [
    "LOGPROBS",
    "MEDIA",
    "META",
    "NAME",
    "OPAQUE",
    "Field",
    "Found",
    "Kind",
    "Place",
    "Table",
    "copy_of",
    "opened",
    "readable",
    "strings_in",
    "text",
    "walk",
    "whole",
]


class Kind(Enum):
    """What a field holds."""

    META = "meta"
    """Identifiers and numbers that an upstream sets, not its model."""
    OPAQUE = "opaque"
    """Base64 that nobody but the upstream can read: signatures, encrypted reasoning."""
    NAME = "name"
    """Of a tool: metadata where the request declared it, else text."""
    MEDIA = "media"
    """Sound or pictures."""
    TEXT = "text"
    """Text that arrives in pieces."""
    COPY = "copy"
    """Text that came in pieces before."""
    WHOLE = "whole"
    """Text that means something only when it is complete: tool arguments, citations."""
    WHOLE_COPY = "whole copy"
    LOGPROBS = "logprobs"
    """Tokens of the text beside it, with probabilities and alternatives."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field that a table knows."""

    kind: Kind
    label: str = ""
    """Which of the texts at its place it belongs to, such as `content`."""


META: Final = Field(Kind.META)
OPAQUE: Final = Field(Kind.OPAQUE)
NAME: Final = Field(Kind.NAME, "name")
MEDIA: Final = Field(Kind.MEDIA)
LOGPROBS: Final = Field(Kind.LOGPROBS)


def text(label: str) -> Field:
    """Text that arrives in pieces, or all at once in a whole reply."""
    return Field(Kind.TEXT, label)


def copy_of(label: str) -> Field:
    """The text with that label once more, complete."""
    return Field(Kind.COPY, label)


def whole(label: str, *, copy: bool = False) -> Field:
    """Text that is judged when it is complete."""
    return Field(Kind.WHOLE_COPY if copy else Kind.WHOLE, label)


Table = Mapping[str, "Field | Table"]
Place = tuple[int, ...]
"""Indices of the list elements on the way to a field: choice, tool call, content block."""

_IDENTIFIER = re.compile(r"[\w.:/@+ ()=,-]{0,200}\Z", re.ASCII)
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_SPACES = 4
"""An identifier with more words than that is a sentence."""
_BASE64 = re.compile(r"[A-Za-z0-9+/=_-]*\Z")
_NUMBERS = frozenset({int, float, bool})
_MANY_NUMBERS = 3


@dataclass(slots=True)
class Found:
    """A field of an answer that may carry text."""

    field: Field | None
    """None for what the table does not know."""
    place: Place
    holder: Any
    """The object or list that has it."""
    key: Any
    path: str

    @property
    def value(self) -> Any:
        """What it holds now."""
        return self.holder[self.key]


def walk(table: Table, value: Mapping[str, Any], known: frozenset[str] = frozenset()) -> list[Found]:
    """The fields of an answer that are more than metadata, in their order.

    Args:
        table: a constant: it is prepared once and remembered.
        known: names of tools that the request declared.
    """
    node = _nodes.get(id(table))
    if node is None:
        node = _nodes[id(table)] = _Node(table, "")
    found: list[Found] = []
    _walk(node, value, (), known, found)
    return found


class _Node:
    """A table, prepared for walking."""

    __slots__ = ("children", "each", "path", "table")

    def __init__(self, table: Table, path: str) -> None:
        self.table = table  # kept alive: it is remembered by its identity
        self.path = path
        self.each: Field | _Node | None = None
        self.children: dict[str, Field | _Node] = {}
        for key, entry in table.items():
            below = f"{path}[]" if key == "*" else f"{path}.{key}"
            prepared = entry if isinstance(entry, Field) else _Node(entry, below)
            if key == "*":
                self.each = prepared
            else:
                self.children[key] = prepared


_nodes: dict[int, _Node] = {}


def _walk(node: _Node, value: Any, place: Place, known: frozenset[str], found: list[Found]) -> None:
    children = node.children
    for key, item in value.items():
        entry = children.get(key)
        if not item or item is True or type(item) in _NUMBERS:
            if entry is None and not _IDENTIFIER.match(key):
                found.append(Found(None, place, value, key, f"{node.path}.{key}"))
        elif isinstance(entry, Field):
            kind = entry.kind
            if kind is Kind.META and type(item) is str and _is_identifier(item):
                continue
            if kind is Kind.TEXT and type(item) is str:
                found.append(Found(entry, place, value, key, f"{node.path}.{key}"))
            elif not _passes(kind, item, known):
                fits = isinstance(item, str) or kind in _STRUCTURED
                field = entry if fits and kind not in _CHECKED else None
                found.append(Found(field, place, value, key, f"{node.path}.{key}"))
        elif entry is not None and type(item) is dict:
            _walk(entry, item, place, known, found)
        elif entry is not None and entry.each is not None and type(item) is list:
            _elements(entry, entry.each, item, place, known, found)
        else:
            found.append(Found(None, place, value, key, f"{node.path}.{key}"))


def _elements(
    node: _Node, each: Field | _Node, items: list[Any], place: Place, known: frozenset[str], found: list[Found]
) -> None:
    for position, item in enumerate(items):
        index = item.get("index") if isinstance(item, dict) else None
        here = (*place, index if type(index) is int else position)
        if isinstance(each, Field):
            if not _passes(each.kind, item, known):
                found.append(
                    Found(each if each.kind not in _CHECKED else None, here, items, position, f"{node.path}[]")
                )
        elif isinstance(item, dict):
            _walk(each, item, here, known, found)
        elif item is not None and type(item) not in _NUMBERS:
            found.append(Found(None, here, items, position, f"{node.path}[]"))


# Tuples: an enumeration's members hash slowly.
_STRUCTURED = (Kind.WHOLE, Kind.WHOLE_COPY, Kind.LOGPROBS, Kind.MEDIA)
_CHECKED = (Kind.META, Kind.OPAQUE)


def _passes(kind: Kind, item: Any, known: frozenset[str]) -> bool:
    """Metadata that is nothing but metadata."""
    if kind is Kind.META:
        if isinstance(item, str):
            return _is_identifier(item)
        return all(_is_identifier(string) for string in strings_in(item))
    if kind is Kind.OPAQUE:
        return isinstance(item, str) and _BASE64.match(item) is not None
    return kind is Kind.NAME and item in known


@lru_cache(maxsize=4096)
def _is_identifier(string: str) -> bool:
    return _IDENTIFIER.match(string) is not None and string.count(" ") <= _SPACES


def strings_in(value: Any) -> Iterator[str]:
    """Everything in a JSON value that can be read as text: strings, keys, and lists of character codes."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield from item
            waiting.extend(reversed(item.values()))
        elif isinstance(item, list):
            if len(item) > _MANY_NUMBERS and all(type(one) is int and 0 <= one < 0x110000 for one in item):  # noqa: PLR2004  # Unicode ends there
                yield "".join(map(chr, item))
                continue
            waiting.extend(reversed(item))


def readable(value: Any) -> str:
    """A JSON value as the lines of text that a judge reads; JSON inside a string is opened."""
    if isinstance(value, str):
        try:
            opened = json.loads(value)
        except (ValueError, RecursionError):
            return _unescaped(value)
        if not isinstance(opened, dict | list):
            return _unescaped(value)
        return "\n".join([*strings_in(opened), *_raw(value, opened)])
    return "\n".join(strings_in(value))


def _unescaped(value: str) -> str:
    """What is no JSON, and once more with its escapes written out: whoever repairs it would read that."""
    if "\\u" not in value:
        return value
    return f"{value}\n{_ESCAPE.sub(lambda found: chr(int(found.group(1), 16)), value)}"


def opened(said: str) -> str:
    """A text from outside, and once more as what it says where it is JSON with escapes in it, as tools answer."""
    if "\\u" not in said:
        return said
    plain = readable(said)
    return plain if plain.startswith(said) else f"{said}\n{plain}"


def _raw(value: str, opened: Any) -> list[str]:
    """The JSON as it was written, where it holds more than what was read of it: doubled keys, odd spacing."""
    plain = json.dumps(opened, ensure_ascii=False, separators=(",", ":"))
    return [] if len(plain) >= len(value.replace(": ", ":").replace(", ", ",")) - 2 else [value]
