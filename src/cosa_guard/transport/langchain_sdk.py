"""What is particular to LangChain's chat models around clients of the `openai` package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cosa_sdk.errors import UsageError

__all__ = ["with_guarded_clients"]


def with_guarded_clients(model: Any, guarded: Callable[[Any], Any]) -> Any:
    """The same model over guarded clients.

    It keeps a blocking and an awaiting client, and of each the part for chat completions once more; LangChain makes
    the ones that it is not given, so that whoever replaces some leaves a way around the guard.

    Raises:
        UsageError: it has no client to guard, or a part of one without the client.
    """
    parts: dict[str, Any] = {}
    for root, part in (("root_client", "client"), ("root_async_client", "async_client")):
        client = getattr(model, root, None)
        if client is not None:
            parts[root] = guarded(client)
            parts[part] = parts[root].chat.completions
        elif getattr(model, part, None) is not None or not hasattr(model, root):
            raise UsageError(
                f"wrap({type(model).__name__}): it has no {root} to guard. Give a chat model of LangChain that keeps "
                f"clients of the openai package, such as ChatOpenAI(), made without {part}="
            )
    return model.model_copy(update=parts)
