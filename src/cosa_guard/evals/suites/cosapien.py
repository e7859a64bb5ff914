"""CoSApien: the paper's hand-written benchmark, five configs of free text with forty prompts each (section 3).

Columns `prompt`, `scenario` (the config's whole text) and `type`; a split's name is its config's. From the hub, as
`microsoft/CoSApien` (CDLA-Permissive-2.0), or from local files with these columns: a folder with a file for each split,
or one file with all of them, told apart by a column `split` or else by `scenario`.

The dataset card calls the types fully allowed, partially allowed and fully disallowed; the rows are known to say
allowed, partial, disallowed and safe. Both are read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cosa_guard.evals.suite import Item, Shot, Suite, prompt_key
from cosa_guard.evals.suites import tables
from cosa_guard.evals.suites.configs import readable_name
from cosa_guard.evals.suites.fields import prompt_of, type_of
from cosa_guard.evals.suites.reading import Problems, Raw
from cosa_sdk.config import SafetyConfig
from cosa_sdk.errors import UsageError

__all__ = ["HUB", "LICENCE", "load"]

HUB = "microsoft/CoSApien"
LICENCE = "CDLA-Permissive-2.0"
_CARD = {"fully allowed": "allowed", "partially allowed": "partial", "fully disallowed": "disallowed"}


def load(where: str | Path | None = None, *, shots: str | Path | None = None) -> Suite:
    """The suite.

    Args:
        where: a folder or file with its columns; None fetches it.
        shots: a JSON file with a list of `{scenario, prompt, response}`, where scenario is a config's name or text.

    Raises:
        MissingExtra: fetching it, or Parquet, needs what is not installed.
        UsageError: it cannot be fetched or read, or rows are wrong.
    """
    source = str(where or HUB)
    problems = Problems(source)
    table = tables.fetched(HUB, problems) if where is None else tables.local(Path(where), problems)
    configs: dict[str, SafetyConfig] = {}
    items: dict[tuple[str, str], Item] = {}
    for split, rows in table.items():
        # One file alone may hold every config; of several, each is a split.
        whole = len(table) == 1 and len({str(raw.fields.get("scenario")) for raw in rows}) > 1
        for raw in rows:
            try:
                item = _item(raw, "" if whole else split, configs)
            except UsageError as error:
                problems.add(raw.place, str(error))
                continue
            first = items.setdefault((item.config, item.prompt_id), item)
            if first.type != item.type:
                problems.add(raw.place, f"type is {item.type!r}, but the same prompt stood there as {first.type!r}")
    if not items and not problems.found:
        problems.add(source, "has no rows")
    problems.check()
    return Suite(
        name="cosapien",
        # By name: the hub and a folder list their splits in other orders, and are the same suite.
        items=tuple(sorted(items.values(), key=lambda item: item.config)),
        configs=dict(sorted(configs.items())),
        shots={} if shots is None else _shots(Path(shots), configs),
        source=source,
        licence=LICENCE,
    )


def _item(raw: Raw, split: str, configs: dict[str, SafetyConfig]) -> Item:
    """One row as an item; its config is taken up.

    Raises:
        UsageError: a column is missing or wrong.
    """
    text = raw.fields.get("scenario")
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"scenario is {text!r}: give the config's text")
    name = split or str(raw.fields.get("split") or readable_name(text))
    config = SafetyConfig.from_text(text.strip(), name=name)
    if configs.setdefault(name, config) != config:
        raise UsageError(f"scenario differs from that of earlier rows of {name!r}: a split has one config")
    said = " ".join(str(raw.fields.get("type") or "").lower().replace("_", " ").split())
    kind = type_of(_CARD.get(said, said))
    prompt = prompt_of(raw.fields.get("prompt"))
    key = prompt_key(prompt)
    risks = frozenset[str]() if kind == "safe" else None
    return Item(id=f"{name}/{key}", config=name, prompt=prompt, type=kind, risks=risks, prompt_id=key)


def _shots(path: Path, configs: dict[str, SafetyConfig]) -> dict[str, tuple[Shot, ...]]:
    try:
        entries: Any = json.loads(path.read_text("utf-8-sig"))
        turns = [(str(one["scenario"]).strip(), (one["prompt"], one["response"])) for one in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"shots {str(path)!r} cannot be read: {error!r}; give a JSON list of {{scenario, prompt, response}}"
        ) from None
    if not all(isinstance(part, str) and part.strip() for _, turn in turns for part in turn):
        raise UsageError(f"shots {str(path)!r}: prompt and response of each: give two texts")
    by_text = {str(config.guideline).strip(): name for name, config in configs.items()}
    found: dict[str, tuple[Shot, ...]] = {}
    for scenario, turn in turns:
        name = scenario if scenario in configs else by_text.get(scenario)
        if name is not None:  # shots of a scenario that the rows lack are of no use, and no harm
            found[name] = (*found.get(name, ()), turn)
    missing = [name for name in configs if name not in found]
    if missing:
        raise UsageError(f"shots {str(path)!r} has none for {', '.join(missing)}: name each config, or give its text")
    return found
