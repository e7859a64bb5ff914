"""What a backend is: something that continues a conversation. One colour is enough."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

from cosa_guard.messages import Delta, LogProbs, Request

__all__ = ["AnyBackend", "AsyncBackend", "Backend", "Capabilities", "Completer", "PrefixUse", "Scorer", "blocks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do, so that callers ask instead of trying."""

    streaming: bool = True
    logprobs: bool = False
    """`next_logprobs` works: judges may read log-odds."""
    json_schema: bool = False
    adapters: tuple[str, ...] = ()
    """Names of the LoRA adapters that a request may ask for."""
    prefix_cache: bool = False
    """The compiled config is prefilled once and reused."""
    context: int | None = None
    """Tokens that a prompt and its reply may take together."""
    parallel: int | None = None
    """Requests that are computed at the same time; more of them wait. None where a server decides."""
    resident: int | None = None
    """Compiled configs that stay ready at once, so that switching among them costs no prefill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixUse:
    """How much of the prompts was read from cache, since the backend was made."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0


@runtime_checkable
class Backend(Protocol):
    """A blocking backend. It holds its own locks: many threads may call it."""

    name: str
    """Shown in reports, such as `xllamacpp:SmolLM2-135M-Instruct.Q4_1`."""
    capabilities: Capabilities

    def stream(self, request: Request) -> Iterator[Delta]:
        """Generate; the last piece has `finish`. Closing the iterator stops generation.

        Raises:
            PromptTooLong: the prompt does not fit the context.
            BackendError: the model or its server failed.
        """
        ...


@runtime_checkable
class AsyncBackend(Protocol):
    """A backend that can only be awaited."""

    name: str
    capabilities: Capabilities

    def astream(self, request: Request) -> AsyncIterator[Delta]:
        """As `Backend.stream`, asynchronously."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """A backend that shows the distribution over the next token: one prefill, no decoding."""

    def next_logprobs(self, request: Request, *, top: int = 64) -> LogProbs:
        """The `top` likeliest next tokens (decoded text, not stripped) with natural-log probabilities."""
        ...

    def count_tokens(self, request: Request) -> int:
        """Length of the rendered prompt in tokens."""
        ...


@runtime_checkable
class Completer(Protocol):
    """A backend that computes many requests together, in an order that nothing but the requests decides."""

    def complete(self, requests: Sequence[Request]) -> list[Iterator[Delta]]:
        """The replies, in order.

        The same requests give the same replies to the last bit, as long as nobody else uses the backend. Errors of one
        request are raised by its own iterator.
        """
        ...


AnyBackend = Backend | AsyncBackend


def blocks(backend: AnyBackend) -> TypeGuard[Backend]:
    """It can be iterated without awaiting."""
    # isinstance() on a protocol is too slow for every call.
    return hasattr(backend, "stream")
