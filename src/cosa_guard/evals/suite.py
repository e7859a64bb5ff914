"""What a model is tried on: prompts under safety configs, and how each config regards its prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from cosa_sdk.config import SafetyConfig, canonical_json
from cosa_sdk.score import PromptType

__all__ = ["Item", "Shot", "Suite", "prompt_key"]

Shot = tuple[str, str]
"""A prompt and the reply that keeps the config: one few-shot turn."""


def prompt_key(prompt: str) -> str:
    """What tells prompts apart: the same words under two configs are one prompt."""
    return hashlib.sha256(" ".join(prompt.split()).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One prompt under one config."""

    id: str
    """Unique in the suite, and the same in each run: resuming and comparing go by it."""
    config: str
    """The config's name in `Suite.configs`."""
    prompt: str
    type: PromptType
    risks: frozenset[str] | None = None
    """What a careless answer would show, as taxonomy ids; None where nobody said."""
    prompt_id: str = ""
    """`prompt_key(prompt)`: rows of one prompt under several configs are drawn together when intervals are made."""
    twin: str | None = None
    """Names a pair of items with one prompt under two configs that differ in its risk only: one answers, one
    refuses."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Configs, and prompts under each."""

    name: str
    items: tuple[Item, ...]
    """In the order in which they are tried: config by config."""
    configs: Mapping[str, SafetyConfig]
    allow: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Of a category suite: the risks that each config allows. A response keeps the config if it shows no other."""
    shots: Mapping[str, tuple[Shot, ...]] = field(default_factory=dict)
    """Few-shot turns by config, for systems that use them."""
    source: str = ""
    """Where it came from: a file, a hub id, or the package."""
    licence: str = ""

    @cached_property
    def digest(self) -> str:
        """Of the prompts, configs, types and shots: runs on suites of other digests are not compared."""
        return hashlib.sha256(
            canonical_json(
                {
                    "items": [
                        [one.id, one.config, one.prompt, one.type, sorted(one.risks or ()), one.twin]
                        for one in self.items
                    ],
                    "configs": {name: config.digest for name, config in sorted(self.configs.items())},
                    "allow": {name: sorted(risks) for name, risks in sorted(self.allow.items())},
                    "shots": {name: [list(shot) for shot in shots] for name, shots in sorted(self.shots.items())},
                }
            )
        ).hexdigest()
