"""Anthropic's messages, as Anthropic and the servers that imitate it speak them.

Source: Anthropic's API reference, messages and their streaming events.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cosa_guard.messages import Message
from cosa_guard.wire.anthropic_blocks import ids_of, outgoing, placeholder, text_of, turn_of, variants
from cosa_guard.wire.anthropic_writer import AnthropicWriter, blank, ended, named_event
from cosa_guard.wire.chat_messages import fenced
from cosa_guard.wire.fields import ID, META, MODEL, OPAQUE, USUAL, Found, Known, Place, Table, text, walk, whole
from cosa_guard.wire.openai_chat import DENIED as CHAT_DENIED
from cosa_guard.wire.openai_chat import read_event
from cosa_guard.wire.protocol import ALL, Asked, Codec, Piece, Turn, expect, inert, refused_fields, settings
from cosa_guard.wire.sse import Event
from cosa_sdk.errors import UnsupportedField, UsageError, WireError

__all__ = ["AnthropicMessages"]

_BLOCK: Table = {
    **dict.fromkeys(("type", "caller", "toolset_name"), META),
    **dict.fromkeys(("id", "tool_use_id"), ID),
    "text": text("text"),
    "thinking": text("thinking"),
    "signature": OPAQUE,
    "data": OPAQUE,
    "name": whole("name"),
    "input": whole("input"),
    "citations": whole("citations"),
}
_END: Table = {
    "stop_reason": META,
    "stop_sequence": whole("stop_sequence"),
    "stop_details": {"type": META, "category": META, "explanation": text("explanation")},
    "container": {"id": META, "expires_at": META},
}
REPLY: Table = {
    **dict.fromkeys(("id", "type", "role", "usage"), META),
    "model": MODEL,
    **_END,
    "content": {"*": _BLOCK},
}
STEP: Table = {"type": META, "index": META, "request_id": META}
"""What events have beside what they are about."""
EVENTS: Mapping[str, Table] = {
    "ping": STEP,
    "message_start": {**STEP, "message": REPLY},
    # What a block begins with is not the beginning of the text that its deltas make together.
    "content_block_start": {**STEP, "content_block": {**_BLOCK, "input": whole("first input")}},
    "content_block_delta": {
        **STEP,
        "delta": {
            "type": META,
            "text": text("text"),
            "thinking": text("thinking"),
            "signature": OPAQUE,
            "partial_json": whole("input"),
            "citation": whole("citation"),
        },
    },
    "content_block_stop": STEP,
    "message_delta": {**STEP, "delta": _END, "usage": META},
    "message_stop": STEP,
    "error": {**STEP, "error": {"type": META, "message": text("error")}},
}
_HOLDS = {
    "message_start": "message",
    "content_block_start": "content_block",
    "content_block_delta": "delta",
    "message_delta": "delta",
}
_NAME = re.compile(r"\w{1,64}\Z", re.ASCII)

_ALLOWED = frozenset(
    "model messages max_tokens system stream temperature top_p top_k stop_sequences tools tool_choice thinking "
    "metadata service_tier output_config output_format cache_control speed".split()
)
_SERVER = "the server would run tools, unseen by the guard"
_SUMMARY = "the server would change the conversation after it was judged"
DENIED: Mapping[str, str] = {
    **CHAT_DENIED,
    "mcp_servers": _SERVER,
    "container": _SERVER,
    "context_management": _SUMMARY,
    "compaction": _SUMMARY,
    "thread": "it refers to text on the server that no judge has read",
    "betas": "it is a header's; in the body it could switch on what no judge reads",
    "fallbacks": "another model would answer than the one that was chosen",
}
_TENANT = ("metadata",)
_READ = frozenset({"messages", "system", "model", *_TENANT})
"""What is no setting: read elsewhere, or not sent on."""
_ENVELOPE = ("id", "type", "role", "model", "usage")
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class AnthropicMessages(Codec):
    """`POST /messages`."""

    name = "anthropic-messages"
    path = "/messages"
    usual = USUAL | EVENTS.keys()

    def read(self, body: Mapping[str, Any], *, proxy: bool) -> Asked:
        refused_fields(body, allowed=_ALLOWED if proxy else None, denied=DENIED)
        messages = expect(body, "messages", list)
        if not messages:
            raise UsageError("messages is missing or empty; give a list with at least one user message")
        turns = [turn_of(item, place) for place, item in enumerate(messages)]
        if turns[-1].message.role == "assistant":
            raise UnsupportedField(
                "messages",
                "the last message is the assistant's: it lets a caller begin the model's reply. End with a user's.",
            )
        form = expect(expect(body, "output_config", dict, {}), "format", dict, {}) or expect(
            body, "output_format", dict, {}
        )
        tools = _tools(body)
        first = [settings(body, _READ) if proxy else "", text_of(body.get("system") or "", "system")]
        turns = [*(Turn(Message("system", said), None) for said in first if said), *turns]
        return Asked(
            body=body,
            turns=tuple(turns),
            model=expect(body, "model", str, ""),
            stream=expect(body, "stream", bool, default=False),
            structured=form.get("type") == "json_schema",
            json=bool(form),
            tools=frozenset(tool["name"] for tool in tools if isinstance(tool.get("name"), str)),
            ids=tuple(one for item in messages for one in ids_of(item["content"])),
        )

    def ask(
        self, asked: Asked, turns: Sequence[tuple[Turn, Message]], system: str, identity: str | None = None
    ) -> dict[str, Any]:
        out = {key: value for key, value in asked.body.items() if key not in {"messages", "system"}}
        if identity is not None:
            out = inert({key: value for key, value in out.items() if key not in _TENANT})
            out["metadata"] = {"user_id": identity}
        given, own = asked.body["messages"], text_of(asked.body.get("system") or "", "system")
        messages: list[dict[str, Any]] = []
        calls: set[str] = set()
        for turn, message in turns:
            said = turn.message
            if said.role == "system":
                if turn.source is not None or said.content == own:
                    messages.append({"role": "user", "content": fenced(message.content)})
                continue  # what tools say stays with them
            if said.role == "assistant" and not messages:
                continue  # a conversation begins with its user
            content = given[turn.source or 0]["content"]
            if message.content == said.content:
                content = outgoing(content, calls)
            else:
                content = placeholder(content, message.content, calls)
            if content:
                messages.append({"role": "assistant" if said.role == "assistant" else "user", "content": content})
        return {**out, "system": system, "messages": messages}

    def pieces(self, event: Event, known: Known) -> list[Piece]:
        body = read_event(event)
        kind = body.get("type")
        if not isinstance(kind, str):
            raise WireError("the upstream sent an event without a type")
        index = body.get("index", 0)
        if type(index) is not int or index < 0:
            raise WireError("the upstream sent an event whose index is no index")
        held = body.get(_HOLDS[kind]) if kind in _HOLDS else None
        if kind in _HOLDS and not isinstance(held, dict):
            raise WireError(f"the upstream sent {kind} without {_HOLDS[kind]!r}")
        place: Place = (index,) if kind.startswith("content_block_") else ()
        found = _placed(walk(EVENTS.get(kind, STEP), body, known), place, known)
        if kind not in EVENTS and not known.name(kind):
            found.append(Found(None, place, body, "type", ".type"))
        if kind == "content_block_start" and held is not None and held.get("type") == "tool_use":
            # A call is not begun before what it is called with has passed.
            found.append(Found(whole("input"), place, {"input": ""}, "input", ".content_block.input"))
        last = kind in {"message_stop", "error"}
        ends: tuple[Place, ...] = (ALL,) if last else (place,) if kind == "content_block_stop" else ()
        raw = event.raw if event.event == kind else None
        name = kind if _NAME.match(kind) else ""
        closing = kind == "message_delta"
        return [Piece(None if kind == "ping" else 0, body, name, raw, found, ends, last, closing)]

    def reply(self, body: dict[str, Any], known: Known) -> list[Piece]:
        if not isinstance(body.get("content"), list):
            raise WireError("the upstream's reply has no content")
        return [Piece(0, body, found=_placed(walk(REPLY, body, known), (), known), ends=(ALL,))]

    def refuse(self, body: dict[str, Any], lane: int, text: str, asked: Asked, known: Known) -> None:  # noqa: ARG002  # one lane
        kept = {key: body[key] for key in _ENVELOPE if key in body}
        for found in walk(REPLY, kept, known):  # an identifier that is none may be what was refused
            del kept[found.key]
        body.clear()
        body.update(_refused({**blank(asked, ""), **kept}, text, asked))

    def refusal(self, asked: Asked, text: str, request: str) -> dict[str, Any]:
        return _refused(blank(asked, request), text, asked)

    def said(self, body: Mapping[str, Any], lane: int) -> Iterable[tuple[Message, ...]]:  # noqa: ARG002  # one lane
        return variants(body.get("content"))

    def writer(self, asked: Asked, request: str) -> AnthropicWriter:
        return AnthropicWriter(asked, request)

    def error(self, status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
        kind = _ERRORS.get(status) or ("invalid_request_error" if status < 500 else "api_error")  # noqa: PLR2004
        place = {"param": param} if param else {}
        return {"type": "error", "error": {"type": kind, "message": message, "code": code, **place}}

    def error_event(self, code: str, message: str) -> bytes:
        return named_event(self.error(500, code, message))


def _refused(message: Mapping[str, Any], text: str, asked: Asked) -> dict[str, Any]:
    content = [] if asked.structured else [{"type": "text", "text": text}]
    return {**message, "content": content, **ended(text)}


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = expect(body, "tools", list, [])
    for place, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else tool
        if not isinstance(tool, dict) or kind not in (None, "custom"):  # a set would hash anything
            raise UnsupportedField(
                f"tools[{place}]",
                f"tools[{place}] has the type {kind!r}; choices: 'custom', or none. "
                "The server would run or change any other, unseen by the guard.",
            )
    return tools


def _placed(fields: list[Found], place: Place, known: Known) -> list[Found]:
    """The fields at their places in the whole answer, without names of declared tools."""
    kept = []
    for found in fields:
        if (
            found.field is not None
            and found.field.label == "name"
            and isinstance(found.value, str)
            and found.value in known.tools
        ):
            continue
        found.place = (*place, *found.place)
        kept.append(found)
    return kept
