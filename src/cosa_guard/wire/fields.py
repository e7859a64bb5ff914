"""Which fields of a protocol's answers carry text, as tables, and how an answer is read with one.

A table mirrors the JSON: names to fields, or to tables; `"*"` is every element of a list. What a table does not name
is *unknown*: it may be text that no judge has read, so whoever walks a table gets it too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from cosa_guard.folding import whole_characters
from cosa_sdk.errors import WireError

__all__ = [
    "ID",
    "LOGPROBS",
    "MEDIA",
    "META",
    "MODEL",
    "NAME",
    "OPAQUE",
    "Field",
    "Found",
    "Kind",
    "Known",
    "Names",
    "Place",
    "Table",
    "copy_of",
    "index_of",
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
    ID = "id"
    """Of a tool call: some models write their own."""
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
MODEL: Final = Field(Kind.META, "model")
"""The model's name, or its provider's: known to the caller, even where a config forbids to talk of them."""
ID: Final = Field(Kind.ID)
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
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2}))")
_SPACES = 4
"""An identifier with more words than that is a sentence."""
_PREFIX = re.compile(r"(?:call|toolu|tooluse|fc|ctc|functions|chatcmpl-tool)(?=[_.:-])")
"""What ids of tool calls begin with, and no model's text."""
_DIGITS = dict.fromkeys(range(ord("0"), ord("9") + 1))
_ID = re.compile(r"[\w.:/+=|@-]*\Z", re.ASCII)
_REMEMBERED = 10_000
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


class Names:
    """Identifiers, and names of fields and events, that say nothing under one policy. Remembers what it looked at.

    Args:
        usual: words of the protocol itself, which pass whatever a judge finds in them.
        says: whether a judge of words finds something in a name.
    """

    def __init__(self, usual: frozenset[str] = frozenset(), says: Callable[[str], bool] = lambda _: False) -> None:
        self._usual = usual
        self._says = says
        self.known = dict.fromkeys(usual, True)
        """What was looked at, and whether it passes."""

    def passes(self, name: str) -> bool:
        """It is an identifier, and no judge of words finds anything in it."""
        passes = self.known.get(name)
        if passes is None:
            if len(self.known) > _REMEMBERED:
                self.known.clear()
                self.known.update(dict.fromkeys(self._usual, True))
            passes = self.known[name] = _is_identifier(name) and not self._speaks(name)
        return passes

    def call_passes(self, name: str) -> bool:
        """As `passes`, for the id of a tool call, which may be long."""
        return _ID.match(name) is not None and not self._speaks(name)

    def _speaks(self, name: str) -> bool:
        prefix = _PREFIX.match(name)
        said = name[prefix.end() :] if prefix else name
        return self._says(said.translate(_DIGITS))  # in random numbers a judge finds telephones


class Known:
    """What of the answer to one call is no text of its model's.

    Args:
        tools: names of tools that the request declared.
    """

    __slots__ = ("call", "name", "seen", "tools")

    def __init__(self, tools: frozenset[str] = frozenset(), names: Names | None = None) -> None:
        names = names or Names()
        self.tools = tools
        self.seen = names.known
        self.name = names.passes
        self.call = names.call_passes


def walk(table: Table, value: Mapping[str, Any], known: Known | None = None) -> list[Found]:
    """The fields of an answer that are more than metadata, in their order.

    Args:
        table: a constant: it is prepared once and remembered.

    Raises:
        WireError: a list's element has an index that readers could understand differently.
    """
    node = _nodes.get(id(table))
    if node is None:
        node = _nodes[id(table)] = _Node(table, "")
    found: list[Found] = []
    _walk(node, value, (), known or Known(), found)
    return found


def index_of(item: Mapping[str, Any], otherwise: int) -> int:
    """Where an element says that it belongs.

    Raises:
        WireError: in a way that readers could understand differently: `1.0` is not 1 to everybody.
    """
    index = item.get("index")
    if index is None:
        return otherwise
    if type(index) is not int or index < 0:
        raise WireError("the upstream sent an index that is no whole number from 0")
    return index


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


def _walk(node: _Node, value: Any, place: Place, known: Known, found: list[Found]) -> None:
    children = node.children
    for key, item in value.items():
        entry = children.get(key)
        if not item or item is True or type(item) in _NUMBERS:
            if entry is None and not known.name(key):
                found.append(Found(None, place, value, key, f"{node.path}.{key}"))
        elif isinstance(entry, Field):
            kind = entry.kind
            if kind is Kind.META and type(item) is str and (known.seen.get(item) or known.name(item)):
                continue
            if kind is Kind.TEXT and type(item) is str:
                found.append(Found(entry, place, value, key, f"{node.path}.{key}"))
            elif not _passes(entry, item, known):
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
    node: _Node, each: Field | _Node, items: list[Any], place: Place, known: Known, found: list[Found]
) -> None:
    for position, item in enumerate(items):
        here = (*place, index_of(item, position) if type(item) is dict else position)
        if isinstance(each, Field):
            if not _passes(each, item, known):
                found.append(
                    Found(each if each.kind not in _CHECKED else None, here, items, position, f"{node.path}[]")
                )
        elif isinstance(item, dict):
            _walk(each, item, here, known, found)
        elif item is not None and type(item) not in _NUMBERS:
            found.append(Found(None, here, items, position, f"{node.path}[]"))


# Tuples: an enumeration's members hash slowly.
_STRUCTURED = (Kind.WHOLE, Kind.WHOLE_COPY, Kind.LOGPROBS, Kind.MEDIA)
_CHECKED = (Kind.META, Kind.OPAQUE, Kind.ID)


def _passes(entry: Field, item: Any, known: Known) -> bool:
    """Metadata that is nothing but metadata."""
    kind = entry.kind
    if kind is Kind.META:
        if isinstance(item, str):
            return known.name(item) or (entry is MODEL and _is_identifier(item))
        return all(known.name(string) for string in strings_in(item))
    if kind is Kind.OPAQUE:
        return isinstance(item, str) and _BASE64.match(item) is not None
    if kind is Kind.ID:
        return isinstance(item, str) and known.call(item)
    return kind is Kind.NAME and isinstance(item, str) and item in known.tools


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
            if len(item) > _MANY_NUMBERS and (spelled := _spelled(item)):
                yield spelled
                continue
            waiting.extend(reversed(item))


def _spelled(items: list[Any]) -> str:
    """What a list of characters spells, or of their numbers; nothing where it is another list."""
    if all(type(one) is int and 0 <= one < 0x110000 for one in items):  # noqa: PLR2004  # Unicode ends there
        return "".join(map(chr, items))
    return "".join(items) if all(type(one) is str and len(one) == 1 for one in items) else ""


def readable(value: Any) -> str:
    """A JSON value as the lines of text that a judge reads; JSON inside a string is opened."""
    if isinstance(value, str):
        try:
            opened = _decode(value)
        except (ValueError, RecursionError):
            opened = None
        value = opened if isinstance(opened, dict | list) else [value]
    return whole_characters("\n".join(map(_unescaped, strings_in(value))))


def _all_pairs(pairs: list[tuple[str, Any]]) -> Any:
    """An object; where a name stands twice in it, a list of all that it says."""
    read = dict(pairs)
    return read if len(read) == len(pairs) else [list(pair) for pair in pairs]


_decode = json.JSONDecoder(object_pairs_hook=_all_pairs).decode


def _unescaped(value: str) -> str:
    """A text, and once more with its escapes written out: whoever repairs or opens it would read that."""
    if "\\u" not in value and "\\x" not in value:
        return value
    plain = _ESCAPE.sub(lambda found: chr(int(found.group(1) or found.group(2), 16)), value)
    return f"{value}\n{plain}"


def opened(said: str) -> str:
    """A text from outside, and once more as what it says where it is JSON with escapes in it, as tools answer."""
    if "\\u" not in said:
        return whole_characters(said)
    said = whole_characters(said)
    plain = readable(said)
    return plain if plain.startswith(said) else f"{said}\n{plain}"


USUAL: Final = frozenset(
    "assistant user system tool function custom model stop length tool_calls content_filter end_turn max_tokens "
    "stop_sequence pause_turn refusal tool_use message text output_text reasoning reasoning_text summary_text "
    "thinking redacted_thinking function_call custom_tool_call text_delta thinking_delta signature_delta "
    "input_json_delta citations_delta url_citation response chat.completion chat.completion.chunk in_progress "
    "completed incomplete failed queued cancelled error default auto standard priority flex batch none required low "
    "medium high minimal safe hate self_harm sexual violence jailbreak profanity severity filtered detected reason "
    "effort summary type name mode prompt_tokens completion_tokens total_tokens input_tokens output_tokens "
    "cached_tokens reasoning_tokens audio_tokens text_tokens image_tokens prompt_tokens_details "
    "completion_tokens_details input_tokens_details output_tokens_details accepted_prediction_tokens "
    "rejected_prediction_tokens cache_creation cache_creation_input_tokens cache_read_input_tokens cache_write_tokens "
    "ephemeral_5m_input_tokens ephemeral_1h_input_tokens server_tool_use web_search_requests service_tier "
    "inference_geo".split()
)
"""Words that every protocol's metadata has."""
