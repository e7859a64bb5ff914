"""What goes to a model and what comes back, the same for every provider."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cosa_sdk.errors import UsageError

if TYPE_CHECKING:
    from cosa_guard.verdicts import Report

__all__ = ["Adapter", "Delta", "Finish", "Message", "Reply", "Request", "Role", "Sampling", "Usage"]

Role = Literal["system", "user", "assistant", "tool"]
Finish = Literal["stop", "length", "content_filter"]
"""Why a reply ended: the model was done, the token limit was reached, or the guard refused."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as text."""

    role: Role
    content: str
    media: tuple[str, ...] = ()
    """Kinds of the non-text parts that came with the turn, such as `image_url`; their bytes are not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter to apply for one request, by the name it was loaded under."""

    name: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or not math.isfinite(self.scale):
            raise UsageError(f"Adapter(name={self.name!r}, scale={self.scale!r}): give a finite number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next tokens are drawn. The default is greedy, so that a run can be repeated."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int | None = None
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    """A JSON Schema as JSON text; the reply is constrained to it."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str) or not all(isinstance(stop, str) and stop for stop in self.stop):
            raise UsageError(f"Sampling(stop={self.stop!r}): give a tuple of non-empty strings, such as ('\\n\\n',)")
        object.__setattr__(self, "stop", tuple(self.stop))
        for name, least, most in (("temperature", 0, 2), ("top_p", 0, 1), ("max_tokens", 1, None)):
            value = getattr(self, name)
            kinds = int if name == "max_tokens" else int | float
            if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least or (most and value > most):
                upto = f" to {most}" if most else " on"
                raise UsageError(f"Sampling({name}={value!r}): give a number from {least}{upto}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a backend is asked to continue.

    `messages[0]`, when it is a system message, is the compiled config: constant over a config's requests, so a
    backend may keep its KV state. Contents are text, never markup: a backend must not parse them for special tokens.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    adapters: tuple[Adapter, ...] = ()
    shared: int | None = None
    """How many messages at the head are the same for many requests, such as a compiled config and its few-shot turns: a
    backend may compute them once and keep them. Nothing that a user wrote may be among them. None: the system message.
    """
    scope: str = ""
    """Whose conversation it is, such as a tenant. What a backend keeps of a conversation serves its own scope only."""

    def replace(self, **changes: object) -> Request:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]  # dataclasses.replace takes any field


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of a reply. Pieces carry text of any length, down to nothing."""

    text: str
    tokens: int = 1
    """How many tokens the piece stands for."""
    finish: Finish | None = None
    """Set on the last piece only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of one reply; None where the backend does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole guarded reply."""

    text: str
    finish: Finish
    report: Report
    usage: Usage = Usage()


LogProbs = Mapping[str, float]
"""Candidate next tokens, as text, with their natural-log probabilities."""
