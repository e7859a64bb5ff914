"""A request in the words of llama.cpp's server, and what the server is not trusted with. Pure."""

from __future__ import annotations

import json
from typing import Any

from cosa_guard.messages import Sampling
from cosa_sdk.errors import UsageError

__all__ = ["Stopper", "closed_schema", "sampling_fields"]


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """How tokens are drawn, all but their number and the stop strings."""
    # Without the server's own defaults, top_k 40 and min_p 0.05: what was asked for is what is drawn from.
    body: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0, "min_p": 0.0}
    if sampling.seed is not None:
        body["seed"] = sampling.seed % 0xFFFFFFFF  # that number itself means 'random'
    return body


def closed_schema(text: str | None) -> Any:
    """The schema, with objects that do not say so closed to further properties: a small model adds them for ever.

    Raises:
        UsageError: it is not the text of a JSON object.
    """
    if text is None:
        return None
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise UsageError(f"json_schema is not JSON: {error}. It begins with {text[:40]!r}.") from error
    if not isinstance(schema, dict):
        raise UsageError(f"json_schema must be a JSON object, not {text[:40]!r}.")
    return _closed(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for key in ("properties", "$defs", "definitions"):
        if isinstance(closed.get(key), dict):
            closed[key] = {name: _closed(part) for name, part in closed[key].items()}
    if "items" in closed:
        closed["items"] = _closed(closed["items"])
    combined = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties", "unevaluatedProperties"}.intersection(closed)
    if "properties" in closed and not combined:
        closed.setdefault("additionalProperties", False)
    return closed


class Stopper:
    """Cuts text at the first stop string. The server's own search loses what it held back when the limit is reached."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self.held = ""
        """Text that may be the beginning of a stop string; it is due when the reply ends."""

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that is free to go, and whether a stop string followed it."""
        self.held += text
        # The one that ends first, so that the cut does not depend on the pieces the text came in.
        hits = [(at + len(stop), at) for stop in self._stops if (at := self.held.find(stop)) >= 0]
        if hits:
            return self.held[: min(hits)[1]], True
        free = len(self.held) - max((_overlap(self.held, stop) for stop in self._stops), default=0)
        ready, self.held = self.held[:free], self.held[free:]
        return ready, False


def _overlap(text: str, stop: str) -> int:
    """How much of the end of `text` may be the beginning of `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
