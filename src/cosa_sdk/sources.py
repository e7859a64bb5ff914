"""From the text of a file to plain values and where each of them stands: the readers behind `files.py`.

A file is text from outside, so what it may do is bounded before pydantic sees it: size, nesting and types, and of YAML
only plain mappings, lists and scalars. Scalars follow YAML 1.2 where 1.1 surprises: `off` and `no` are text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from cosa_sdk.validation import Path, path_text

__all__ = ["LIMIT", "READERS", "Fault", "Format", "Marks", "bounded", "checked", "decoded", "line_column"]

Format = Literal["yaml", "toml", "json"]

Marks = dict[str, tuple[int, int]]
"""Where things stand in a text: path -> offsets of the key and of the value."""

LIMIT = 1 << 20
"""Largest file, in bytes."""
_DEEPEST = 16
"""Levels of nesting; a config has five."""
_MOST = 20_000
"""Values in a file: as many as 200 rules of a hundred terms each have."""
_TOO_DEEP = f"nested deeper than {_DEEPEST} levels"
_SHALLOW = "a config has five"

_QUOTE = "put text in quotes"
_START = "start with a name: `name: my-config`"
_PLAIN_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,14})")
_YAML_HINTS = {"mapping values": "put text that holds ': ' in quotes", "'\\t'": "indent with spaces, not tabs"}
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],]|[^\s{}\[\],:"]+')
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
# The standard reader takes quadratic time for a dotted key: a megabyte of dots would keep it busy for an hour.
_TOML_DOTS = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*\.[ \t]*){%d}""" % _DEEPEST  # noqa: UP031  # braces
)
_TOML_HEADER = re.compile(r"[ \t]*(\[\[?)([^\[\]]+)\]")
_TOML_KEY = re.compile(r"""[ \t]*([\w-]+|"[^"]*"|'[^']*')[ \t]*=[ \t]*""")


class Fault(Exception):
    """What makes a text unreadable, at an offset where that is known."""

    def __init__(
        self, code: str, message: str, *, at: int | None = None, fix: str | None = None, where: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.at = at
        self.fix = fix
        self.where = where


def line_column(text: str, at: int | None) -> tuple[int | None, int | None]:
    """1-based, in characters; None for an unknown offset."""
    if at is None:
        return None, None
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def decoded(data: bytes) -> str:
    """The text of a file of at most `LIMIT` bytes.

    Raises:
        Fault: it is larger, or not UTF-8.
    """
    _check_size(len(data))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise Fault("encoding", message, fix="save the file as UTF-8") from None


def bounded(text: str) -> str:
    """`text` without its byte order mark, if a reader may look at it.

    Raises:
        Fault: it is too large, empty or binary.
    """
    _check_size(len(text.encode("utf-8", "surrogatepass")))
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise Fault("nul", "NUL byte", at=text.index("\0"), fix="remove it: is this a text file?")
    if not text.strip():
        raise Fault("empty", "is empty", fix=_START)
    return text


def _check_size(size: int) -> None:
    if size > LIMIT:
        raise Fault("size", f"is larger than {LIMIT} bytes", fix="a config is a few kilobytes: is this the right file?")


def checked(tree: Any, marks: Marks) -> dict[str, Any]:
    """`tree`, if it is a mapping of bounded depth that holds nothing but JSON's types without fractions.

    Raises:
        Fault: it is not.
    """
    if tree is None:
        raise Fault("empty", "is empty", fix=_START)
    if not isinstance(tree, dict):
        said = "a list" if isinstance(tree, list) else "a single value"
        raise Fault("top-level", f"the top level is {said}, not keys and values", at=0, fix=_START)
    todo: list[tuple[Path, Any]] = [((), tree)]
    seen = 0
    while todo:
        path, value = todo.pop()
        seen += 1
        where = path_text(path)
        at = marks[where][1] if where in marks else None
        _check_count(seen, at)
        if isinstance(value, dict | list):
            _check_depth(len(path), at)
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [((*path, key), part) for key, part in parts]
        elif kind := _unfit(value):
            raise Fault("type", f"{str(value)[:40]} is {kind}, which no key takes", at=at, fix=_QUOTE, where=where)
    return tree


def _unfit(value: Any) -> str | None:
    """What a scalar is that no config has; a digest needs numbers that every JSON reader keeps."""
    match value:
        case None | str() | bool():
            return None
        case int():
            return None if abs(value) < 10**15 else "too large a number"
        case float():
            return "a number with a fraction"
        case _:
            return "a date or time"


def _check_count(values: int, at: int | None) -> None:
    if values > _MOST:
        raise Fault("count", f"has more than {_MOST} values", at=at, fix="is this the right file?")


def _check_depth(depth: int, at: int | None) -> None:
    if depth >= _DEEPEST:
        raise Fault("depth", _TOO_DEEP, at=at, fix=_SHALLOW)


@dataclass(slots=True)
class _Frame:
    """A mapping or list that is being read."""

    into: Any
    part: str | int = -1
    """Key or position of the child that came last."""
    keyed: bool = False
    """In a mapping: the key has come, its value has not."""
    keys: dict[str, int] = field(default_factory=dict)
    """Offsets."""

    @property
    def wants_key(self) -> bool:
        return isinstance(self.into, dict) and not self.keyed


class _Builder:
    """Assembles a tree from its pieces in the order of the text, and notes where each stands."""

    def __init__(self, text: str) -> None:
        self.root: Any = None
        self.marks: Marks = {}
        self._text = text
        self._frames: list[_Frame] = []

    @property
    def where(self) -> str:
        """Path of what came last."""
        return path_text(tuple(frame.part for frame in self._frames))

    def add(self, value: Any, at: int) -> None:
        """A key where one is due, else a value; an empty mapping or list stays open until `close`."""
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.wants_key:
            self._add_key(frame, value, at)
            return
        key_at = at
        if frame is None:
            self.root = value
        elif isinstance(frame.into, dict):
            key_at = frame.keys[str(frame.part)]
            frame.into[frame.part] = value
            frame.keyed = False
        else:
            frame.into.append(value)
            frame.part = len(frame.into) - 1
        self.marks[self.where] = (key_at, at)
        _check_count(len(self.marks), at)
        if isinstance(value, dict | list):
            _check_depth(len(self._frames), at)
            self._frames.append(_Frame(value))

    def close(self) -> None:
        """The innermost mapping or list is complete."""
        self._frames.pop()

    def _add_key(self, frame: _Frame, key: Any, at: int) -> None:
        if not isinstance(key, str):
            raise Fault("key", f"the key {key!r} is not text", at=at, fix="put it in quotes")
        if not key.isprintable():
            raise Fault("key", f"the key {key!r} is not plain text", at=at, fix="remove what cannot be printed")
        frame.part, frame.keyed = key, True
        if key in frame.keys:
            first, _ = line_column(self._text, frame.keys[key])
            line, _ = line_column(self._text, at)
            message = f"duplicate key {key!r} on lines {first} and {line}"
            raise Fault("duplicate-key", message, at=at, fix="keep one", where=self.where)
        frame.keys[key] = at


def _read_yaml(text: str) -> tuple[Any, Marks]:
    """From YAML's events, not its constructor: nothing recurses, and every refused feature has its place."""
    import yaml  # noqa: PLC0415  # loaded with the first YAML file, not with cosa_sdk

    builder = _Builder(text)
    try:
        loader: Any = yaml.SafeLoader(text)  # its methods are untyped
        while loader.check_event():
            _add_event(builder, loader, loader.get_event())
    except yaml.reader.ReaderError as error:
        message = f"the character U+{error.character:04X} is not allowed"
        raise Fault("syntax", message, at=error.position, fix="remove it") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = next((hint for sign, hint in _YAML_HINTS.items() if sign in str(error.problem)), None)
        raise Fault("syntax", f"not YAML: {error.problem}", at=mark.index if mark else None, fix=hint) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise Fault("syntax", f"not YAML: {error}") from None
    return builder.root, builder.marks


def _add_event(builder: _Builder, loader: Any, event: Any) -> None:
    import yaml  # noqa: PLC0415

    at = event.start_mark.index
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise Fault("alias", "anchors and aliases (&, *) are not allowed", at=at, fix="write the value out; quote text")
    if getattr(event, "tag", None):
        raise Fault("tag", f"tags such as {event.tag!r} are not allowed", at=at, fix="remove it; quote text")
    match event:
        case yaml.DocumentStartEvent() if builder.marks:
            raise Fault("documents", "a second document starts here", at=at, fix="one config a file")
        case yaml.ScalarEvent():
            builder.add(_scalar(loader.resolve(yaml.ScalarNode, event.value, event.implicit), event.value, at), at)
        case yaml.MappingStartEvent():
            builder.add({}, at)
        case yaml.SequenceStartEvent():
            builder.add([], at)
        case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
            builder.close()


def _scalar(tag: str, text: str, at: int) -> str | int | bool | None:
    """The value of a scalar that PyYAML would tag so; what YAML's versions read differently must be quoted."""
    match tag.removeprefix("tag:yaml.org,2002:"):
        case "null":
            return None
        case "bool" if text.lower() in {"true", "false"}:
            return text.lower() == "true"
        case "int" if _PLAIN_INT.fullmatch(text):
            return int(text)
        case "int" | "float":
            raise Fault("type", f"{text[:40]!r} without quotes is a number that no key takes", at=at, fix=_QUOTE)
        case "timestamp":
            raise Fault("type", f"{text!r} without quotes is a date, which no key takes", at=at, fix=_QUOTE)
        case "merge":
            raise Fault("alias", "merge keys (<<) are not allowed", at=at, fix="write the keys out; quote text")
        case _:
            return text


def _read_json(text: str) -> tuple[Any, Marks]:
    """`json` decides what is JSON; a walk over the tokens then finds positions and duplicate keys."""
    try:
        tree = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Fault("syntax", f"not JSON: {error.msg}", at=error.pos) from None
    except RecursionError:
        raise Fault("depth", _TOO_DEEP, fix=_SHALLOW) from None
    except ValueError as error:  # a number of thousands of digits, or NaN
        raise Fault("syntax", f"not JSON: {str(error).partition(';')[0]}") from None
    builder = _Builder(text)
    for token in _JSON_TOKEN.finditer(text):
        match token.group():
            case "{":
                builder.add({}, token.start())
            case "[":
                builder.add([], token.start())
            case "}" | "]":
                builder.close()
            case ",":
                pass
            case scalar:
                builder.add(json.loads(scalar), token.start())
    return tree, builder.marks


def _no_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not a value of JSON")


def _read_toml(text: str) -> tuple[Any, Marks]:
    import tomllib  # noqa: PLC0415  # loaded with the first TOML file

    if dots := _TOML_DOTS.search(text):
        _check_depth(_DEEPEST, dots.start())
    try:
        return tomllib.loads(text), _toml_marks(text)
    except RecursionError:
        raise Fault("depth", _TOO_DEEP, fix=_SHALLOW) from None
    except ValueError as error:
        place = _TOML_PLACE.search(str(error))
        message = _TOML_PLACE.sub("", str(error))
        twice = "keep one of the two" if "overwrite" in message or "twice" in message else None
        at = None
        if place is not None:
            lines = text.split("\n")
            line, column = (int(place[1]), int(place[2])) if place[1] else (len(lines), len(lines[-1]) + 1)
            at = sum(len(before) + 1 for before in lines[: line - 1]) + column - 1
        raise Fault("syntax", f"not TOML: {message}", at=at, fix=twice) from None


def _toml_marks(text: str) -> Marks:
    """Places of headers and of keys at the start of a line; what is inside inline tables is found by its outer key."""
    marks: Marks = {"": (0, 0)}
    counts: dict[Path, int] = {}
    table: Path = ()
    fence: str | None = None
    start = 0
    for line in text.split("\n"):
        if fence is not None:
            fence = None if fence in line else fence
        elif header := _TOML_HEADER.match(line):
            table = _toml_table(header, counts)
            marks[path_text(table)] = (start + header.start(1), start + header.start(1))
        elif key := _TOML_KEY.match(line):
            name = key.group(1).strip("\"'")
            marks[path_text((*table, name))] = (start + key.start(1), start + key.end())
            opened = line[key.end() : key.end() + 3]
            fence = opened if opened in {'"""', "'''"} and opened not in line[key.end() + 3 :] else None
        start += len(line) + 1
    return marks


def _toml_table(header: re.Match[str], counts: dict[Path, int]) -> Path:
    """The path that a `[table]` or `[[list]]` header opens; counts the lists' entries."""
    table: Path = ()
    parts = [part.strip().strip("\"'") for part in header.group(2).split(".")]
    for position, part in enumerate(parts):
        table = (*table, part)
        if header.group(1) == "[[" and position == len(parts) - 1:
            counts[table] = counts.get(table, -1) + 1
        if table in counts:
            table = (*table, counts[table])
    return table


READERS: dict[str, Callable[[str], tuple[Any, Marks]]] = {"yaml": _read_yaml, "toml": _read_toml, "json": _read_json}
"""Format -> text to plain values and their places. They raise `Fault`."""
