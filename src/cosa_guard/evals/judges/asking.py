"""Puts questions to the model behind an evaluation judge."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from cosa_guard import backends
from cosa_guard.backends.base import AnyBackend, Backend, blocks
from cosa_guard.messages import Request
from cosa_sdk.errors import UsageError

__all__ = ["Share", "model_of", "opened", "prompts_digest", "written"]

Share = Callable[[AnyBackend], Backend]
"""Makes a model's answers part of a run: kept, and not asked twice."""


def opened(spec: str | None, share: Share | None) -> Backend:
    """The model of a judge's spec, as `backends.make` takes it; `local` where none is named.

    Raises:
        UsageError: it can only be awaited, and nobody shares it.
        BackendError: it cannot be loaded.
    """
    backend = backends.make(spec or "local")
    if share is not None:
        return share(backend)
    if not blocks(backend):
        raise UsageError(f"backend {backend.name!r} can only be awaited: name a blocking one, or judge within a run")
    return backend


def model_of(backend: AnyBackend) -> str:
    """The model's name, without the backend that runs it."""
    return backend.name.partition(":")[2] or backend.name


def written(backend: Backend, request: Request) -> tuple[str, str | None]:
    """What the model wrote, and why it is not whole: a reply that was cut off has no verdict, whatever it quotes."""
    finish = None
    pieces = []
    for delta in backend.stream(request):
        pieces.append(delta.text)
        finish = delta.finish or finish
    cut = f"cut off after {request.sampling.max_tokens} tokens" if finish == "length" else None
    return "".join(pieces), "the judge's server withheld its answer" if finish == "content_filter" else cut


def prompts_digest() -> str:
    """Of all templates: figures by other prompts are not compared."""
    folder = Path(__file__).parent / "prompts"
    texts = [f"{path.name}\n{path.read_text('utf-8')}" for path in sorted(folder.glob("*.txt"))]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
