"""What the local backends refuse, each in the same words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from cosa_guard.messages import Adapter, Sampling
from cosa_sdk.errors import AdapterError, PromptTooLong, UnknownName, UsageError, nearest

__all__ = ["check_length", "check_numbers", "check_sampling", "options_of", "scales_of"]

T = TypeVar("T")


def options_of(kind: type[T], backend: str, given: Mapping[str, Any]) -> T:
    """A backend's options, a dataclass, from keywords.

    Raises:
        UnknownName: a keyword that is none of its fields.
    """
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]  # a dataclass
    for name in given:
        if name not in names:
            raise UnknownName(f"option of the backend {backend!r}", name, names)
    return kind(**given)


def check_numbers(options: object, least: Mapping[str, int], *, backend: str, optional: Collection[str] = ()) -> None:
    """Raises UsageError unless each option is a whole number from its least on; those in `optional` may be None."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if not ((value is None and name in optional) or (type(value) is int and value >= smallest)):
            raise UsageError(f"option {name}={value!r} of {backend!r} must be a whole number from {smallest} on.")


def check_sampling(sampling: Sampling) -> None:
    """Raises UsageError for what `Sampling` would have refused itself, had it not been made around that."""
    if sampling.max_tokens < 1 or "" in sampling.stop:
        raise UsageError("max_tokens must be at least 1, and a stop string must not be empty.")


def check_length(tokens: int, *, context: int, trained: int | None, model: str) -> None:
    """Raises PromptTooLong unless a prompt leaves room for a token of the reply.

    Args:
        context: Tokens that a prompt and its reply may take.
        trained: Tokens that the model could take, with other options.
        model: The backend's name.
    """
    budget = context - 1
    if tokens > budget:
        most = trained or context
        more = f" or raise the option context (this model: up to {most})" if most > context else ""
        raise PromptTooLong(
            f"the prompt has {tokens} tokens, and {model!r} takes {budget} beside the reply. Shorten it{more}.",
            tokens=tokens,
            budget=budget,
        )


def scales_of(
    adapters: Sequence[Adapter], loaded: Sequence[str], *, model: str, form: str = "file"
) -> dict[str, float]:
    """The scale of each adapter that a request names, 0 left out.

    Raises:
        AdapterError: one is not loaded.
    """
    for adapter in adapters:
        if adapter.name not in loaded:
            meant = nearest(adapter.name, loaded)
            raise AdapterError(
                f"unknown adapter {adapter.name!r}{f': did you mean {meant!r}?' if meant else '.'} Loaded with "
                f"{model!r}: {', '.join(loaded) or f'none; name its {form} in the option adapters'}."
            )
    return {adapter.name: adapter.scale for adapter in adapters if adapter.scale}
