"""OpenAI's chat completions, as vendors and local servers speak them.

Source: OpenAI's API reference, chat completions and their streaming events; the extra fields of vLLM, llama-server,
OpenRouter and Azure that are metadata are listed, every other one is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cosa_guard.messages import Message, Role
from cosa_guard.wire.chat_messages import content_of, fenced, ids_of, outgoing, placeholder, variants, words
from cosa_guard.wire.chat_writer import ChatWriter, data_event
from cosa_guard.wire.fields import (
    ID,
    LOGPROBS,
    MEDIA,
    META,
    MODEL,
    NAME,
    Found,
    Known,
    Place,
    Table,
    index_of,
    text,
    walk,
    whole,
)
from cosa_guard.wire.protocol import (
    ALL,
    Asked,
    Codec,
    Piece,
    Turn,
    dumps,
    expect,
    inert,
    loads,
    refused_fields,
    settings,
)
from cosa_guard.wire.sse import Event
from cosa_sdk.errors import UnsupportedField, UsageError, WireError

__all__ = ["ChatCompletions", "read_event"]

_MESSAGE: Table = {
    "role": META,
    "content": text("content"),
    "refusal": text("refusal"),
    "reasoning": text("reasoning"),
    "reasoning_content": text("reasoning_content"),
    "tool_calls": {
        "*": {
            "index": META,
            "id": ID,
            "type": META,
            "function": {"name": NAME, "arguments": whole("arguments")},
            "custom": {"name": NAME, "input": whole("input")},
        }
    },
    "function_call": {"name": NAME, "arguments": whole("function_call")},
    "annotations": {"*": {"type": META, "url_citation": whole("citation")}},
    "audio": {"id": META, "expires_at": META, "data": MEDIA, "transcript": text("transcript")},
}
_CHOICE: Table = {
    "index": META,
    "finish_reason": META,
    "native_finish_reason": META,
    "stop_reason": META,
    "content_filter_results": META,
    "logprobs": LOGPROBS,
}
_ENVELOPE: Table = {
    "id": META,
    "object": META,
    "created": META,
    "model": MODEL,
    "service_tier": META,
    "system_fingerprint": META,
    "usage": META,
    "timings": META,
    "provider": MODEL,
    "obfuscation": META,
    "prompt_filter_results": META,
}
CHUNK: Table = {**_ENVELOPE, "choices": {"*": {**_CHOICE, "delta": _MESSAGE}}}
REPLY: Table = {**_ENVELOPE, "choices": {"*": {**_CHOICE, "message": _MESSAGE}}}

_ALLOWED = frozenset(
    "model messages stream stream_options temperature top_p top_k min_p n max_tokens max_completion_tokens stop seed "
    "presence_penalty frequency_penalty repetition_penalty logit_bias logprobs top_logprobs response_format tools "
    "tool_choice parallel_tool_calls functions function_call reasoning_effort verbosity service_tier modalities user "
    "metadata store prompt_cache_key safety_identifier".split()
)
_TEMPLATE = "it changes how the prompt is built, and could take the safety config out of it"
_PREFILL = "it lets a caller begin the model's reply"
_STATE = "it refers to text on the server that no judge has read"
_ADAPTER = "the guard chooses adapters"
_PROMPT = "it would show the prompt, and with it the safety config"
_CUT = "it could cut the safety config out of the prompt"
_PAGES = "the server would read pages that no judge has read"
_CODE = "the server would run it"
DENIED: Mapping[str, str] = {
    "chat_template": _TEMPLATE,
    "chat_template_kwargs": _TEMPLATE,
    "add_generation_prompt": _TEMPLATE,
    "add_special_tokens": _TEMPLATE,
    "documents": _STATE,
    "continue_final_message": _PREFILL,
    "echo": _PROMPT,
    "prompt_logprobs": _PROMPT,
    "return_token_ids": _PROMPT,
    "prediction": _PREFILL,
    "prompt": _STATE,
    "previous_response_id": _STATE,
    "conversation": _STATE,
    "lora": _ADAPTER,
    "lora_request": _ADAPTER,
    "adapters": _ADAPTER,
    "id_slot": _STATE,
    "slot_id": _STATE,
    "cache_salt": _STATE,
    "kv_transfer_params": _STATE,
    "web_search_options": _PAGES,
    "search_parameters": _PAGES,
    "enable_search": _PAGES,
    "data_sources": _PAGES,
    "plugins": _PAGES,
    "truncate_prompt_tokens": _CUT,
    "prompt_truncate_len": _CUT,
    "transforms": _CUT,
    "template": _TEMPLATE,
    "tool_prompt": _TEMPLATE,
    "raw": _TEMPLATE,
    "suffix": _PREFILL,
    "input_ids": _STATE,
    "input_embeds": _STATE,
    "prompt_embeds": _STATE,
    "session_params": _STATE,
    "cached_content": _STATE,
    "lora_path": _ADAPTER,
    "adapter_id": _ADAPTER,
    "response_fields": _PROMPT,
    "logits_processors": _CODE,
    "custom_logit_processor": _CODE,
    "audio": "no judge hears a spoken reply",
}
_DONE = b"data: [DONE]\n\n"
_NAMES = ("id", "object", "created", "model")
_TENANT = ("metadata", "prompt_cache_key", "safety_identifier", "store", "user")
_READ = frozenset({"messages", "model", *_TENANT})
"""What is no setting: read elsewhere, or not sent on."""
_JSON = frozenset("guided_json guided_grammar guided_regex structured_outputs json_schema grammar format".split())
"""Of servers that take more than `response_format`."""
_TOOLS = frozenset({"function", "custom"})
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


class ChatCompletions(Codec):
    """`POST /chat/completions`."""

    name = "openai-chat"
    path = "/chat/completions"
    additive = True

    def read(self, body: Mapping[str, Any], *, proxy: bool) -> Asked:
        refused_fields(body, allowed=_ALLOWED if proxy else None, denied=DENIED)
        messages = expect(body, "messages", list)
        if not messages:
            raise UsageError("messages is missing or empty; give a list with at least one user message")
        turns = [_turn(item, place) for place, item in enumerate(messages)]
        if turns[-1].message.role == "assistant":
            raise UnsupportedField("messages", f"the last message is the assistant's: {_PREFILL}. End with a user's.")
        if "audio" in expect(body, "modalities", list, []):
            raise UnsupportedField("modalities", f"modalities names audio: {DENIED['audio']}. Remove it.")
        tools = [expect(tool, "function", dict, None) or expect(tool, "custom", dict, {}) for tool in _tools(body)]
        tools += expect(body, "functions", list, [])
        schema = expect(body, "response_format", dict, {})
        if proxy and (written := settings(body, _READ)):
            turns.insert(0, Turn(Message("system", written), None))
        return Asked(
            body=body,
            turns=tuple(turns),
            model=expect(body, "model", str, ""),
            stream=expect(body, "stream", bool, default=False),
            choices=expect(body, "n", int, 1),
            structured=schema.get("type") == "json_schema",
            json=schema.get("type") not in (None, "text") or not _JSON.isdisjoint(body),
            tools=frozenset(str(tool.get("name")) for tool in tools if isinstance(tool, dict)),
            ids=tuple(
                [one for item in messages if "tool_calls" in item or "tool_call_id" in item for one in ids_of(item)]
            ),
        )

    def ask(
        self, asked: Asked, turns: Sequence[tuple[Turn, Message]], system: str, identity: str | None = None
    ) -> dict[str, Any]:
        out = {key: value for key, value in asked.body.items() if key != "messages"}
        if identity is not None:
            out = inert({key: value for key, value in out.items() if key not in _TENANT}) | {"user": identity}
        given = asked.body["messages"]
        messages: list[Any] = [{"role": "system", "content": system}]
        for turn, message in turns:
            if turn.source is None:
                continue
            raw = given[turn.source]
            if turn.message.role == "system":
                messages.append({"role": "user", "content": fenced(message.content)})
            elif turn.message.role == "tool" and not any(one["role"] == "assistant" for one in messages):
                continue  # a result whose call was dropped would be refused upstream
            else:
                same = message.content == turn.message.content
                messages.append(outgoing(raw) if same else placeholder(raw, message.content))
        return {**out, "messages": messages}

    def pieces(self, event: Event, known: Known) -> list[Piece]:
        raw = None if event.event else event.raw  # events have no names here, and one may say anything
        if event.data == "[DONE]":
            return [Piece(None, {}, raw=raw or _DONE, last=True)]
        body = read_event(event)
        choices = body.get("choices")
        if not isinstance(choices, list) or not choices:
            failed = "error" in body
            return [Piece(None, body, raw=raw, found=walk(CHUNK, body, known), last=failed)]
        if len(choices) > 1:
            rest = {key: value for key, value in body.items() if key not in {"choices", "usage"}}
            parts = [{**rest, "choices": [choice]} for choice in choices]
            if "usage" in body:
                parts.append({**rest, "choices": [], "usage": body["usage"]})
            return [
                piece
                for part in parts
                for piece in self.pieces(Event(data_event(part), "", dumps(part).decode()), known)
            ]
        choice = choices[0]
        if not isinstance(choice, dict):
            raise WireError("the upstream sent a choice that is no object")
        ends: tuple[Place, ...] = (ALL,) if choice.get("finish_reason") else ()
        return [Piece(index_of(choice, 0), body, raw=raw, found=walk(CHUNK, body, known), ends=ends)]

    def later(self, piece: Piece, found: Found, value: Any) -> bytes:
        envelope: dict[str, Any] = {key: piece.body[key] for key in _NAMES if key in piece.body}
        if found.path.count(".") == 1:
            return data_event({**envelope, "choices": [], found.key: value})
        choice: dict[str, Any] = {"index": piece.lane or 0, "delta": {}, "finish_reason": None}
        if found.path.startswith(".choices[].delta.") and found.path.count(".") == 3:  # noqa: PLR2004  # right below
            return data_event({**envelope, "choices": [{**choice, "delta": {found.key: value}}]})
        if found.path.startswith(".choices[].") and found.path.count(".") == 2:  # noqa: PLR2004  # as above
            return data_event({**envelope, "choices": [{**choice, found.key: value}]})
        return b""

    def reply(self, body: dict[str, Any], known: Known) -> list[Piece]:
        choices = body.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise WireError("the upstream's reply has no choices")
        pieces: dict[int | None, Piece] = {None: Piece(None, body)}
        for position, choice in enumerate(choices):
            lane = index_of(choice, position)
            if lane in pieces:
                raise WireError(f"the upstream's reply has two choices with the index {lane}")
            pieces[lane] = Piece(lane, choice, ends=(ALL,))
        for found in walk(REPLY, body, known):
            pieces[found.place[0] if found.place else None].found.append(found)
        return list(pieces.values())

    def refuse(self, body: dict[str, Any], lane: int, text: str, asked: Asked, known: Known) -> None:  # noqa: ARG002  # it is replaced
        for position, choice in enumerate(body["choices"]):
            if index_of(choice, position) == lane:
                body["choices"][position] = _refused(lane, text, asked)

    def refusal(self, asked: Asked, text: str, request: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{request}",
            "object": "chat.completion",
            "created": 0,
            "model": asked.model,
            "choices": [_refused(lane, text, asked) for lane in range(asked.choices)],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }

    def said(self, body: Mapping[str, Any], lane: int) -> Iterable[tuple[Message, ...]]:
        for position, choice in enumerate(body["choices"]):
            if index_of(choice, position) == lane:
                yield from variants(choice.get("message"))

    def writer(self, asked: Asked, request: str) -> ChatWriter:
        return ChatWriter(asked, request)

    def error(self, status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
        kind = "invalid_request_error" if status < 500 else "server_error"  # noqa: PLR2004  # HTTP's own line
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def error_event(self, code: str, message: str) -> bytes:
        return data_event(self.error(500, code, message))


def read_event(event: Event) -> dict[str, Any]:
    """The JSON object of an event.

    Raises:
        WireError: it is none.
    """
    try:
        return loads(event.data)
    except UsageError as error:
        raise WireError(f"the upstream sent an event that cannot be read: {error}") from None


def _refused(lane: int, text: str, asked: Asked) -> dict[str, Any]:
    content, refusal = (None, text) if asked.structured else (text, None)
    message = {"role": "assistant", "content": content, "refusal": refusal}
    return {"index": lane, "message": message, "finish_reason": "content_filter", "logprobs": None}


def _tools(body: Mapping[str, Any]) -> list[Any]:
    tools = expect(body, "tools", list, [])
    for place, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else tool
        if not isinstance(kind, str) or kind not in _TOOLS:
            raise UnsupportedField(
                f"tools[{place}]",
                f"tools[{place}] has the type {kind!r}; choices: {', '.join(sorted(_TOOLS))}. "
                "The server would run any other, unseen by the guard.",
            )
    return tools  # type: ignore[no-any-return]  # expect checked it


def _turn(item: Any, place: int) -> Turn:
    if not isinstance(item, dict):
        raise UsageError(f"messages[{place}] is {type(item).__name__}; give an object with role and content")
    given = item.get("role")
    role = _ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise UsageError(f"messages[{place}].role is {str(given)[:80]!r}; choices: {', '.join(_ROLES)}")
    if role == "assistant" and item.get("audio"):
        where = f"messages[{place}].audio"
        raise UnsupportedField(where, f"{where} refers to a reply on the server that no judge has read. Send its text.")
    content, media = content_of(item.get("content"), f"messages[{place}]")
    return Turn(Message(role, words({**item, "content": content}), media), place)
