"""What the proxy remembers between requests, each part for one tenant alone."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cosa_guard.judges.base import AnyJudge
from cosa_guard.messages import Message
from cosa_guard.recollection import Kind, Recollection
from cosa_guard.server.errors import HttpError
from cosa_guard.server.limits import Bucket, Gate

__all__ = ["OwnTurns", "Responses", "TenantState", "as_items"]

MOST_BYTES = 64 * 1024 * 1024
"""Of one tenant's stored conversations."""


def as_items(given: Any) -> list[Any]:
    """A request's `input` as a list of items.

    Raises:
        HttpError: it is neither text nor a list.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if isinstance(given, list):
        return given
    raise HttpError(400, "invalid_value", "input is neither text nor a list of items", param="input")


def _replayable(item: Mapping[str, Any]) -> bool:
    """Reasoning can be sent back only where the upstream gave it sealed: it keeps nothing itself."""
    return item.get("type") != "reasoning" or bool(item.get("encrypted_content"))


@dataclass(slots=True)
class Responses:
    """Conversations behind `previous_response_id`: what the caller sent and what was released, never what was not.

    Bounded in number and bytes; the oldest goes first. In this process only: nothing outlives a restart.
    """

    _kept: OrderedDict[str, tuple[int, tuple[Any, ...]]] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def expand(self, previous: Any, given: Any) -> tuple[list[Any], int]:
        """The whole conversation that a request continues, and the bytes that this adds to it.

        Raises:
            HttpError: this tenant was never given that id, or it is gone. Nothing tells the two apart, nor an id of
                another tenant.
        """
        known = self._kept.get(previous) if isinstance(previous, str) else None
        if known is None:
            said = "previous_response_id is not known: send the whole conversation as input"
            raise HttpError(400, "previous_response_not_found", said, param="previous_response_id")
        self._kept.move_to_end(previous)
        return [*known[1], *as_items(given)], known[0]

    def keep(self, items: Sequence[Any], answer: Mapping[str, Any], most: int) -> None:
        """Store a conversation with the answer that was released."""
        name, output = answer.get("id"), answer.get("output")
        if not isinstance(name, str) or not name or not isinstance(output, list):
            return
        kept = (*items, *(item for item in output if isinstance(item, dict) and _replayable(item)))
        size = len(json.dumps(kept))
        self._forget(name)
        self._kept[name] = (size, kept)
        self._bytes += size
        while self._kept and (len(self._kept) > most or self._bytes > MOST_BYTES):
            self._forget(next(iter(self._kept)))

    def _forget(self, name: str) -> None:
        gone = self._kept.pop(name, None)
        if gone is not None:
            self._bytes -= gone[0]


class OwnTurns(Recollection):
    """What one config's guard gave out, in the memory of its whole tenant.

    A reply counts under the config that let it through: another one may forbid it. A refusal counts under all of them:
    it only takes a turn away, and a chat goes on when its config changes.
    """

    def __init__(self, shared: Recollection, config: str) -> None:
        self._shared = shared
        self._config = config

    def remember(self, tenant: str, before: Sequence[Message], text: str, kind: Kind) -> None:
        """As the shared memory does, under this config."""
        self._shared.remember(tenant if kind == "refusal" else self._own(tenant), before, text, kind)

    def recall(self, tenant: str, before: Sequence[Message], text: str) -> Kind | None:
        """What was given under this config, or refused under any."""
        return self._shared.recall(self._own(tenant), before, text) or self._shared.recall(tenant, before, text)

    def _own(self, tenant: str) -> str:
        return f"{tenant}\0{self._config}"


@dataclass(slots=True)
class TenantState:
    """Lives as long as the process, through every reload."""

    gate: Gate = field(default_factory=Gate)
    requests: Bucket = field(default_factory=lambda: Bucket("requests"))
    tokens: Bucket = field(default_factory=lambda: Bucket("tokens"))
    responses: Responses = field(default_factory=Responses)
    judges: dict[str, AnyJudge] = field(default_factory=dict)
    """With what they said to this tenant."""
    recollection: Recollection = field(default_factory=Recollection)
