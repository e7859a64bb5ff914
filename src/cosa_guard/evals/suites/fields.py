"""The fields of a suite's row: what each may hold, and what a wrong one is told."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, get_args

from cosa_guard.evals.suite import Shot
from cosa_sdk import taxonomy
from cosa_sdk.errors import UsageError, nearest
from cosa_sdk.score import PromptType

__all__ = ["KNOWN", "TYPES", "prompt_of", "risks_of", "shots_of", "text_of", "type_of", "unknown_keys"]

TYPES: tuple[PromptType, ...] = get_args(PromptType)
KNOWN = ("config", "prompt", "type", "risks", "id", "twin", "shots", "why")
"""`why` says why the type follows from the config. It is for people: nothing reads it."""
_MEANT = {
    "allowed": ("fully allowed", "allow", "permitted", "compliant", "1"),
    "partial": ("partially allowed", "partially", "partial allowed", "mixed", "2"),
    "disallowed": ("fully disallowed", "disallow", "forbidden", "not allowed", "unsafe", "violates", "3"),
    "safe": ("benign", "harmless", "no risk", "none"),
}


def type_of(value: Any) -> PromptType:
    """How the config regards the prompt.

    Raises:
        UsageError: none of the four types. Other words for them are named, not taken: one that is misread would turn
            every figure around.
    """
    for known in TYPES:
        if value == known:
            return known
    said = " ".join(re.split(r"[\s_-]+", str(value).strip().lower()))
    meant = next((known for known in TYPES if said == known or said in _MEANT[known]), None) or nearest(said, TYPES)
    hint = f"did you mean {meant!r}? " if meant else ""
    raise UsageError(f"type is {value!r}: {hint}Choices: {', '.join(TYPES)}")


def prompt_of(value: Any) -> str:
    """The prompt.

    Raises:
        UsageError: not a text, or an empty one.
    """
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"prompt is {value!r}: give the text that the model is asked")
    return value


def text_of(value: Any, name: str) -> str:
    """A short name, such as an id. A number counts as its digits.

    Raises:
        UsageError: neither text nor number, or empty.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{name} is {value!r}: give a name in quotes, or leave the key out")
    return value.strip()


def risks_of(value: Any, name: str = "risks") -> frozenset[str]:
    """Taxonomy ids, from a list of ids or one-letter codes; of CSV, from a text of them; `none` means no risk.

    Raises:
        UsageError: not such a list, or an id that the taxonomy lacks.
    """
    if isinstance(value, str):
        value = [part for part in re.split(r"[\s,;|]+", value) if part and part not in {"none", "-"}]
    ids = (*taxonomy.builtin().ids, *taxonomy.FLOOR)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UsageError(f"{name} is {value!r}: give a list of risks, [] for no risk. Choices: {', '.join(ids)}")
    found = set()
    for one in value:
        try:
            found.add(one if one in ids else taxonomy.by_code(one))
        except UsageError:
            meant = nearest(one.lower(), ids)
            hint = f"did you mean {meant!r}? " if meant else ""
            raise UsageError(
                f"{name} names {one!r}: {hint}Choices: {', '.join(ids)}, or the codes D F V P R S W O"
            ) from None
    return frozenset(found)


def shots_of(value: Any) -> tuple[Shot, ...]:
    """Few-shot turns, from a list of `[prompt, reply]` or `{"prompt": …, "reply": …}`.

    Raises:
        UsageError: any other form.
    """
    if not isinstance(value, list):
        raise UsageError(f"shots is {value!r}: give a list of [prompt, reply]")
    turns = []
    for number, one in enumerate(value, start=1):
        pair: Any = [one.get("prompt"), one.get("reply")] if isinstance(one, dict) and len(one) == 2 else one  # noqa: PLR2004
        whole = isinstance(pair, list) and len(pair) == 2  # noqa: PLR2004  # a pair
        if not whole or not all(isinstance(part, str) and part.strip() for part in pair):
            raise UsageError(f"shot {number} is {one!r}: give [prompt, reply], two texts")
        turns.append((pair[0].strip(), pair[1].strip()))
    return tuple(turns)


def unknown_keys(names: Iterable[str], known: tuple[str, ...] = KNOWN) -> list[str]:
    """What is wrong with keys that look like known ones. Keys of a file's own are left alone."""
    found = []
    for name in names:
        if name in known:
            continue
        meant = nearest(str(name).lower(), known)
        if meant:
            found.append(f"key {name!r} is unknown: did you mean {meant!r}? Choices: {', '.join(known)}")
    return found
