"""What a protocol is to the guard: how requests are read and rewritten, how answers are taken apart and ended."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from math import isinf
from typing import Any, Final, Protocol

from cosa_guard.folding import whole_characters
from cosa_guard.messages import Message
from cosa_guard.wire.fields import USUAL, Found, Known, Place, strings_in
from cosa_guard.wire.sse import Event, encode
from cosa_sdk.errors import UnsupportedField, UsageError
from cosa_sdk.wording import defused

__all__ = [
    "ALL",
    "Asked",
    "Codec",
    "Piece",
    "Turn",
    "Writer",
    "apart",
    "dumps",
    "expect",
    "grown",
    "inert",
    "inert_json",
    "lasting",
    "lines",
    "loads",
    "refused_fields",
    "settings",
]

ALL: Final[Place] = ()
"""Every text of a lane: the prefix of all places."""


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def dumps(value: Any) -> bytes:
    """A JSON value as bytes, compact. Halves of characters are replaced: UTF-8 has none."""
    return whole_characters(_encode(value)).encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: of two equal ones, upstream and guard might read different ones."""
    read = dict(pairs)
    if len(read) != len(pairs):
        raise ValueError("a name stands twice in one object")  # which one is an upstream's text, judged by nobody
    return read


def _finite(number: str) -> float:
    """A number that JSON can write again."""
    read = float(number)
    if isinf(read):
        raise ValueError("a number is too large")
    return read


_decode = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite).decode


def loads(body: bytes | str) -> dict[str, Any]:
    """A request's or answer's JSON object.

    Raises:
        UsageError: it is no JSON object, or one that two readers could understand differently.
    """
    try:
        value = _decode(body if isinstance(body, str) else body.decode())
    except RecursionError:
        raise UsageError("the body is nested too deeply") from None
    except ValueError as error:  # JSON and UTF-8 errors alike
        raise UsageError(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"the body is a JSON {type(value).__name__}; give an object")
    return value


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a request and where it stands there."""

    message: Message
    source: int | None
    """Index in the request's list of turns; None for text that stands elsewhere in it, such as `instructions`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, read."""

    body: Mapping[str, Any]
    turns: tuple[Turn, ...]
    """In order; the application's own text has the role `system`."""
    model: str
    stream: bool
    choices: int = 1
    structured: bool = False
    """The reply must fit a schema, so that a refusal needs a place of its own."""
    json: bool = False
    """The reply's text is to be JSON."""
    tools: frozenset[str] = frozenset()
    ids: tuple[Any, ...] = ()
    """What the caller names calls of tools, for whom it is no text."""


@dataclass(slots=True, eq=False)
class Piece:
    """An event of an answer, or the part of one that belongs to one lane."""

    lane: int | None
    """Which of several answers; None for what belongs to none."""
    body: dict[str, Any]
    name: str = ""
    raw: bytes | None = None
    """Its bytes, where they may go out as they came."""
    found: list[Found] = field(default_factory=list)
    ends: tuple[Place, ...] = ()
    """Places whose texts are complete with this event."""
    last: bool = False
    """The answer is complete with this event."""
    closing: bool = False
    """It tells how the answer ends, so that nothing of it may follow but the end."""


class Writer(Protocol):
    """Follows what a caller has been given of a streamed answer, and can end it in the protocol's own words."""

    def sent(self, piece: Piece) -> None:
        """Note an event that went out."""
        ...

    def refuse(self, lane: int, text: str) -> bytes:
        """Events that end a lane with a refusal; nothing of that lane may follow."""
        ...

    def close(self) -> bytes:
        """Events that end the answer, when the upstream did not."""
        ...

    def turns(self, lane: int) -> Iterable[tuple[Message, ...]]:
        """The turns that a caller may send back for this lane, in each way that clients write them."""
        ...


class Codec(ABC):
    """One protocol. Pure: dictionaries and bytes."""

    name: str
    path: str
    """Below the base URL, such as `/chat/completions`."""
    usual = USUAL
    """Words of its own metadata."""
    additive = False
    """An event may be sent in two parts: unknown fields can follow later in an event of their own."""

    @abstractmethod
    def read(self, body: Mapping[str, Any], *, proxy: bool) -> Asked:
        """Read a request.

        Args:
            proxy: it comes from outside: only listed fields are let through, and its system text is a caller's.

        Raises:
            UnsupportedField: a field that could switch the guard off, or that the proxy does not know.
            UsageError: it is not a request of this protocol.
        """

    @abstractmethod
    def ask(
        self, asked: Asked, turns: Sequence[tuple[Turn, Message]], system: str, identity: str | None = None
    ) -> dict[str, Any]:
        """The request for the upstream.

        Args:
            turns: those that are kept, each with what the model is to read in its place.
            system: the compiled config, and what follows it.
            identity: names the tenant to the upstream, in the place of what the caller says of itself.
        """

    @abstractmethod
    def pieces(self, event: Event, known: Known) -> list[Piece]:
        """A streamed event, taken apart.

        Raises:
            WireError: it is not JSON, or not of this protocol.
        """

    def encode(self, piece: Piece) -> bytes:
        """An event that was changed, as bytes."""
        return encode(dumps(piece.body).decode("utf-8", "replace"), piece.name)

    def later(self, piece: Piece, found: Found, value: Any) -> bytes:  # noqa: ARG002  # for additive protocols
        """An event with an unknown field that was taken out of an earlier one; nothing where it has no place."""
        return b""

    @abstractmethod
    def reply(self, body: dict[str, Any], known: Known) -> list[Piece]:
        """A whole reply, taken apart by lanes; the pieces' bodies are parts of `body`."""

    @abstractmethod
    def refuse(self, body: dict[str, Any], lane: int, text: str, asked: Asked, known: Known) -> None:
        """Put a refusal in the place of one lane's answer, in a whole reply."""

    @abstractmethod
    def refusal(self, asked: Asked, text: str, request: str) -> dict[str, Any]:
        """A whole reply that only refuses."""

    @abstractmethod
    def said(self, body: Mapping[str, Any], lane: int) -> Iterable[tuple[Message, ...]]:
        """As `Writer.turns`, of a whole reply."""

    @abstractmethod
    def writer(self, asked: Asked, request: str) -> Writer:
        """For one streamed answer; `request` names it where the upstream said nothing yet."""

    @abstractmethod
    def error(self, status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
        """The protocol's error object."""

    @abstractmethod
    def error_event(self, code: str, message: str) -> bytes:
        """An error in the middle of a stream."""


def expect(body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    """A field of the right kind, or the default where it is missing or null.

    Raises:
        UsageError: it is of another kind.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        wanted = kind.__name__ if isinstance(kind, type) else " or ".join(one.__name__ for one in kind)
        raise UsageError(f"{name} is {type(value).__name__}; give {wanted}")
    return value


def refused_fields(
    body: Mapping[str, Any], *, allowed: frozenset[str] | None, denied: Mapping[str, str], where: str = ""
) -> None:
    """Stop at fields that are not let through.

    Args:
        allowed: everything else is refused; None where only `denied` is.
        denied: names with the reason.

    Raises:
        UnsupportedField: there is one.
    """
    for name, value in body.items():
        place = f"{where}{name}"
        if name in denied and value is not None:
            raise UnsupportedField(place, f"the field {place!r} is not let through: {denied[name]}. Remove it.")
        if allowed is not None and name not in allowed:
            raise UnsupportedField(place, f"the field {place!r} is not let through by this proxy. Remove it.")


def grown(known: Any, more: str) -> str:
    """A text with its next piece, whatever stood there before."""
    return known + more if isinstance(known, str) else more


def inert(value: Any) -> Any:
    """A JSON value from a caller whose strings cannot pass for a chat template's markers."""
    if isinstance(value, str):
        return defused(value)
    if isinstance(value, dict):
        return {defused(key): inert(item) for key, item in value.items()}
    if isinstance(value, list):
        return [inert(item) for item in value]
    return value


def inert_json(value: Any) -> Any:
    """As `inert`, for JSON in a string: escapes in it may hide a marker from whoever does not open it."""
    if isinstance(value, str) and "\\u" in value:
        with suppress(ValueError, RecursionError):
            return dumps(inert(_decode(value))).decode()
    return inert(value)


def apart(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Text parts with a line break between them, as judges read them: a server may put them together without one."""
    for part, following in pairwise(parts):
        said, then = part.get("text"), following.get("text")
        if said and then and isinstance(said, str) and isinstance(then, str):
            part["text"] = said if said[-1].isspace() or then[0].isspace() else f"{said}\n"
    return parts


def lasting(block: Mapping[str, Any]) -> dict[str, Any]:
    """The mark that a prompt's cache ends with a block, where it has one."""
    given = block.get("cache_control")
    if not isinstance(given, dict):
        return {}
    ttl = {"ttl": given["ttl"]} if given.get("ttl") in ("5m", "1h") else {}  # anything may stand there
    return {"cache_control": {"type": "ephemeral", **ttl}}


def lines(*values: Any) -> str:
    """All text in JSON values, a line each."""
    return "\n".join(line for value in values for line in strings_in(value))


_USUAL = frozenset(
    "type name description parameters properties required items enum anyOf additionalProperties strict input_schema "
    "object string number integer boolean array null title schema format json_schema json_object text grammar "
    "function custom tool tools mode allowed_tools auto none any required default flex priority scale standard fast "
    "minimal low medium high xhigh max effort summary verbosity concise detailed enabled disabled adaptive "
    "budget_tokens display summarized omitted disable_parallel_tool_use cache_control ephemeral ttl 5m 1h 24h "
    "in_memory include_usage include_obfuscation reasoning.encrypted_content message.output_text.logprobs".split()
)


def settings(body: Mapping[str, Any], but: frozenset[str]) -> str:
    """What a caller's settings say beside the usual words: tools, schemas, and whatever else may reach a prompt.

    Args:
        but: fields that are read elsewhere, or do not go upstream.
    """
    told = (line for name, value in body.items() if name not in but for line in strings_in(value))
    return whole_characters("\n".join(line for line in told if line not in _USUAL and not line.isdigit()))
