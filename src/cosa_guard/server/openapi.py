"""`/openapi.json`, written from the request models below; a test holds it to the routes."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from cosa_sdk.model import Model

__all__ = ["CheckRequest", "document"]

LONGEST_TEXT = 1_000_000


class CheckRequest(Model):
    """A text to check against the key's config."""

    text: Annotated[str, Field(max_length=LONGEST_TEXT)]
    stage: Literal["input", "output"] = "input"
    prompt: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = None
    """With `stage: output`, what the text answers."""


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None


class ChatRequest(BaseModel):
    """OpenAI's chat completions. The fields of its API reference that the guard lets through; others are refused."""

    messages: Annotated[list[_Message], Field(min_length=1)]
    model: str | None = None
    stream: bool = False
    n: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    tools: list[dict[str, Any]] | None = None


class ResponsesRequest(BaseModel):
    """OpenAI's responses. `previous_response_id` names an answer of this proxy to this tenant."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    stream: bool = False
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    previous_response_id: str | None = None
    store: bool = True


class _Turn(BaseModel):
    role: Literal["user", "assistant"]
    content: str | list[dict[str, Any]]


class MessagesRequest(BaseModel):
    """Anthropic's messages."""

    messages: Annotated[list[_Turn], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)]
    model: str | None = None
    system: str | None = None
    stream: bool = False
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    tools: list[dict[str, Any]] | None = None


_POSTS: dict[str, tuple[str, type[BaseModel]]] = {
    "/v1/chat/completions": ("Guarded chat completion", ChatRequest),
    "/v1/responses": ("Guarded response", ResponsesRequest),
    "/v1/messages": ("Guarded message", MessagesRequest),
    "/v1/cosa/check": ("Check a text against the key's config", CheckRequest),
}
_GETS = {
    "/v1/models": "The models that the key may use",
    "/healthz": "The process answers",
    "/readyz": "Upstreams are reachable and the process is not draining",
    "/metrics": "Prometheus metrics, where they are switched on",
    "/openapi.json": "This document",
}
_OPEN = frozenset({"/healthz", "/readyz", "/openapi.json"})
_FAULTS = {
    "400": "The request is not valid, or has a field that the guard does not let through",
    "401": "No valid API key",
    "403": "The key is not bound to that config",
    "404": "No such model or route for this key",
    "408": "The body did not arrive",
    "413": "The body is larger than the key allows",
    "415": "The body is not plain JSON",
    "424": "The guard could not answer safely, or not record what it decided: nothing is released",
    "429": "Too many requests; retry-after says when to come back",
    "502": "The model server failed",
    "503": "Decisions cannot be judged or recorded",
    "504": "The model server did not answer in time",
}


@cache
def document() -> bytes:
    """OpenAPI 3.1, as JSON."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for path, (summary, model) in _POSTS.items():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
        paths[path] = {"post": {**_operation(path, summary), "requestBody": {"required": True, "content": content}}}
    for path, summary in _GETS.items():
        paths[path] = {"get": _operation(path, summary)}
    schemas["Error"] = {"type": "object"}
    page = {
        "openapi": "3.1.0",
        "info": {
            "title": "cosa serve",
            "version": version("cosa"),
            "description": "A guarded proxy for language models.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    return json.dumps(page).encode()


def _operation(path: str, summary: str) -> dict[str, Any]:
    kinds = ["text/plain"] if path == "/metrics" else ["application/json"]
    if path in _POSTS and path != "/v1/cosa/check":
        kinds.append("text/event-stream")
    answers = {"200": {"description": "Done", "content": {kind: {} for kind in kinds}}}
    if path in _POSTS:
        faults = list(_FAULTS)
    else:
        faults = ["503"] if path == "/readyz" else [] if path in _OPEN else ["401", "404"]
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    answers |= {status: {"description": _FAULTS[status], "content": error} for status in faults}
    return {"summary": summary, "responses": answers, **({} if path in _OPEN else {"security": [{"key": []}]})}
