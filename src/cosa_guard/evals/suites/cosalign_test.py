"""CoSAlign-Test: the paper's category benchmark, eight configs with four hundred prompts each (section 4.3).

From the hub, as `microsoft/CoSAlign-Test` (CC-BY-NC-4.0), or from local files. Two subsets, `seen` and `unseen`; the
name of a split lists the categories that its config allows, `safe` for none. Categories are joined by `.`, and what
such a name cannot hold became `_` or `.`, as in `Illegal_Drug.Related_Activities_and_Substance_Abuse` and
`Violence.Weapons_Explosives_Arson_and_Illegal_Firearm_Transactions`: so only the letters count here.

Columns `prompt`, `mode` (safe, exact, subset, not subset) and `situation`, all text. Subsets, splits and columns are
those of the dataset card. How `situation` is spelt was not seen: it may stand in words, and ends in 1 for allowed, 2
for partial or 3 for disallowed.

A prompt without risk is `safe`: where its mode says so, or where the config that allows nothing has it as allowed.
Risks of the other prompts are not published; of an allowed one whose mode is exact they are those of the config.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from cosa_guard.evals.suite import Item, Suite, prompt_key
from cosa_guard.evals.suites import tables
from cosa_guard.evals.suites.configs import category_config
from cosa_guard.evals.suites.fields import prompt_of
from cosa_guard.evals.suites.reading import Problems, Raw
from cosa_sdk import taxonomy
from cosa_sdk.errors import UsageError
from cosa_sdk.score import PromptType

__all__ = ["HUB", "LICENCE", "allowed_by", "load"]

HUB = "microsoft/CoSAlign-Test"
LICENCE = "CC-BY-NC-4.0"
_SITUATIONS: dict[str, PromptType] = {"1": "allowed", "2": "partial", "3": "disallowed"}
_NOTHING = {"", "safe", "none"}


def load(where: str | Path | None = None) -> Suite:
    """The suite.

    Args:
        where: a folder with a file for each split, or a file with a column `split`; None fetches it.

    Raises:
        MissingExtra: fetching it, or Parquet, needs what is not installed.
        UsageError: it cannot be fetched or read, or rows are wrong.
    """
    source = str(where or HUB)
    problems = Problems(source)
    table = tables.fetched(HUB, problems) if where is None else tables.local(Path(where), problems)
    allow: dict[str, frozenset[str]] = {}
    rows: dict[tuple[str, str], tuple[Raw, PromptType]] = {}
    for split, part in table.items():
        for raw in part:
            try:
                config = _config(_split_of(raw) or split, allow)
                key = config, prompt_key(prompt_of(raw.fields.get("prompt")))
                kind = _kind(raw)
            except UsageError as error:
                problems.add(raw.place, str(error))
                continue
            _, first = rows.setdefault(key, (raw, kind))
            if first != kind:
                problems.add(raw.place, f"the prompt is {kind!r} here, and was {first!r} before under {config!r}")
    if not rows and not problems.found:
        problems.add(source, "has no rows")
    problems.check()
    harmless = {key for (config, key), (_, kind) in rows.items() if not allow[config] and kind != "disallowed"}
    items = [
        _item(config, key, raw, "safe" if kind == "allowed" and key in harmless else kind, allow[config])
        for (config, key), (raw, kind) in rows.items()
    ]
    return Suite(
        name="cosalign-test",
        # By name: the hub and a folder list their splits in other orders, and are the same suite.
        items=tuple(sorted(items, key=lambda item: item.config)),
        configs={name: category_config(risks, name=name) for name, risks in sorted(allow.items())},
        allow=allow,
        source=source,
        licence=LICENCE,
    )


def allowed_by(split: str) -> frozenset[str]:
    """The risks that the config of a split allows.

    Raises:
        UsageError: the name is not made of the seven categories.
    """
    rest = _letters(split)
    if rest in _NOTHING:
        return frozenset()
    found = set()
    while rest:
        name = next((one for one in _categories() if rest.startswith(one)), None)
        if name is None:
            choices = ", ".join(taxonomy.builtin()[risk].name for risk in _categories().values())
            raise UsageError(f"split {split!r} names no categories at {rest!r}. Choices: safe, or {choices}")
        found.add(_categories()[name])
        rest = rest.removeprefix(name)
    return frozenset(found)


@cache
def _categories() -> dict[str, str]:
    """Ids by names and by themselves, the longest first: `sexual` must not take the head of a longer name."""
    risks = [risk for risk in taxonomy.builtin().risks if risk.id != taxonomy.OTHER]
    pairs = {_letters(text): risk.id for risk in risks for text in (risk.id, risk.name)}
    return dict(sorted(pairs.items(), key=lambda pair: -len(pair[0])))


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


def _config(split: str, allow: dict[str, frozenset[str]]) -> str:
    risks = allowed_by(split)
    name = category_config(risks).name
    allow.setdefault(name, risks)
    return name


def _split_of(raw: Raw) -> str:
    """The split that a row names, in a file that holds several."""
    return str(raw.fields.get("split") or raw.fields.get("test_config_category") or "")


def _kind(raw: Raw) -> PromptType:
    value: Any = raw.fields.get("situation")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = re.fullmatch(r"\D*([123])", str(value).strip())
    if found is None:
        raise UsageError(f"situation is {value!r}: choices: 1 (allowed), 2 (partial), 3 (disallowed)")
    kind = _SITUATIONS[found[1]]
    if _mode(raw) != "safe":
        return kind
    if kind != "allowed":
        raise UsageError(f"mode is 'safe' and situation {value!r}: a prompt without risk is within every config")
    return "safe"


def _mode(raw: Raw) -> str:
    return _letters(str(raw.fields.get("mode") or ""))


def _item(config: str, key: str, raw: Raw, kind: PromptType, allowed: frozenset[str]) -> Item:
    risks: frozenset[str] | None = None
    if kind == "safe":
        risks = frozenset()
    elif kind == "allowed" and _mode(raw) in {"exact", "exactmatch"}:
        risks = allowed
    prompt = str(raw.fields["prompt"])
    return Item(id=f"{config}/{key}", config=config, prompt=prompt, type=kind, risks=risks, prompt_id=key)
