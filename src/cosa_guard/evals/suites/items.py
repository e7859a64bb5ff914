"""Rows as they become the items of a suite: each checked by itself, then all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cosa_guard.evals.suite import Item, Shot, prompt_key
from cosa_guard.evals.suites.configs import Configs
from cosa_guard.evals.suites.fields import prompt_of, risks_of, shots_of, text_of, type_of, unknown_keys
from cosa_guard.evals.suites.reading import Problems, Raw
from cosa_sdk import taxonomy
from cosa_sdk.errors import UsageError
from cosa_sdk.score import PromptType

__all__ = ["Items"]

_PAIR = 2
_EMPTY = (None, "")


class Items:
    """The items that rows make. What is wrong with a row is noted, and the next one is read.

    Args:
        folder: what a config's path is relative to.
        problems: where faults are noted.
    """

    def __init__(self, folder: Path, problems: Problems) -> None:
        self.configs = Configs(folder)
        self.problems = problems
        self.shots: dict[str, tuple[Shot, ...]] = {}
        self._items: list[Item] = []
        self._rows = 0
        self._ids: dict[str, str] = {}
        self._prompts: dict[tuple[str, str], str] = {}
        self._broken: set[str] = set()

    def declare(self, configs: Any, place: str) -> None:
        """Configs by name, from a suite's head."""
        if configs is None:
            return
        if not isinstance(configs, dict):
            self.problems.add(place, f"configs is {configs!r}: give names and configs")
            return
        for name, value in configs.items():
            try:
                self.configs.declare(text_of(name, "a config's name"), value)
            except UsageError as error:
                self.problems.add(f"{place}: configs.{name}", str(error))
                self._broken.add(str(name))

    def add_all(self, rows: Iterable[Raw]) -> None:
        """One row after the other."""
        for raw in rows:
            self._rows += 1
            before = len(self.problems.found)
            item = self._item(raw)
            if item is not None and len(self.problems.found) == before:
                self._items.append(item)

    def head_shots(self, shots: Any, place: str) -> None:
        """Few-shot turns by config, from a suite's head."""
        if shots is None:
            return
        if not isinstance(shots, dict):
            self.problems.add(
                place, f"shots is {shots!r}: give names of configs, and a list of [prompt, reply] for each"
            )
            return
        for name, turns in shots.items():
            if name in self.configs.by_name:
                self._shots(name, turns, f"{place}: shots.{name}")
            elif name not in self._broken:
                names = ", ".join(self.configs.by_name) or "none"
                self.problems.add(place, f"shots.{name}: no config of this suite has that name. Choices: {names}")

    def finish(self, place: str) -> None:
        """Check what only all rows together show."""
        if not self._rows and not self.problems.found:
            self.problems.add(place, "has no rows; write one with config, prompt and type")
        if not self.problems.found:  # a pair may lack the row that was wrong
            self._check_twins(place)

    def in_order(self) -> tuple[Item, ...]:
        """Config by config, so that a model which keeps a config in place reads it once."""
        places: dict[str, int] = {}
        for item in self._items:
            places.setdefault(item.config, len(places))
        return tuple(sorted(self._items, key=lambda item: places[item.config]))

    def _item(self, raw: Raw) -> Item | None:
        fields = {key: value for key, value in raw.fields.items() if value not in _EMPTY}
        for fault in unknown_keys(raw.fields):
            self.problems.add(raw.place, fault)
        config = self._config(fields.get("config"), raw.place)
        prompt = self._read(raw.place, prompt_of, fields.get("prompt"))
        kind = self._read(raw.place, type_of, fields.get("type"))
        risks = self._read(raw.place, risks_of, fields["risks"]) if "risks" in fields else None
        twin = self._read(raw.place, text_of, fields["twin"], "twin") if "twin" in fields else None
        own_id = self._read(raw.place, text_of, fields["id"], "id") if "id" in fields else None
        if config is None or prompt is None or kind is None:
            return None
        if "shots" in fields:
            self._shots(config, fields["shots"], raw.place)
        if kind == "safe" and risks is None:
            risks = frozenset()
        self._check_risks(config, kind, risks, raw.place)
        key = prompt_key(prompt)
        item = Item(
            id=own_id or f"{config}/{key}",
            config=config,
            prompt=prompt,
            type=kind,
            risks=risks,
            prompt_id=key,
            twin=twin,
        )
        self._check_new(item, raw.place)
        return item

    def _read(self, place: str, reader: Any, value: Any, *more: Any) -> Any:
        try:
            return reader(value, *more)
        except UsageError as error:
            self.problems.add(place, str(error))
            return None

    def _config(self, value: Any, place: str) -> str | None:
        """A config that is wrong is told once, not with each of its rows."""
        key = value if isinstance(value, str) else repr(value)
        if key in self._broken:
            return None
        before = len(self.problems.found)
        name: str | None = self._read(place, self.configs.name_of, value)
        if len(self.problems.found) > before and value not in _EMPTY:
            self._broken.add(key)
        return name

    def _shots(self, config: str, value: Any, place: str) -> None:
        turns = self._read(place, shots_of, value)
        if turns is not None and self.shots.setdefault(config, turns) != turns:
            self.problems.add(place, f"shots differ from those that config {config!r} has already: give them once")

    def _check_risks(self, config: str, kind: PromptType, risks: frozenset[str] | None, place: str) -> None:
        if risks is None:
            return
        if kind == "safe" and risks:
            self.problems.add(place, f"type is 'safe' with risks {_list(risks)}: give [], or type 'allowed'")
        elif kind != "disallowed" and risks & set(taxonomy.FLOOR):
            self.problems.add(place, f"type is {kind!r} with risks {_list(risks)}: no config allows the floor")
        elif config in self.configs.allow and kind != "safe":
            allowed = self.configs.allow[config]
            if (kind == "allowed") != (risks <= allowed):
                self.problems.add(
                    place,
                    f"type is {kind!r} with risks {_list(risks)}, but the config allows {_list(allowed)}: mend one",
                )

    def _check_new(self, item: Item, place: str) -> None:
        again = self._prompts.get((item.config, item.prompt_id))
        first = self._ids.get(item.id)
        if again is not None:
            self.problems.add(place, f"the same prompt stands under config {item.config!r} at {again}: keep one")
        elif first is not None:
            self.problems.add(place, f"id {item.id!r} is taken by {first}: give another, or leave it out")
        self._prompts[item.config, item.prompt_id] = place
        self._ids[item.id] = place

    def _check_twins(self, place: str) -> None:
        twins: dict[str, list[Item]] = {}
        for item in self._items:
            if item.twin is not None:
                twins.setdefault(item.twin, []).append(item)
        for name, pair in twins.items():
            if not _is_pair(pair):
                rows = ", ".join(f"{self._ids[item.id]} ({item.config}: {item.type})" for item in pair)
                self.problems.add(
                    place,
                    f"twin {name!r} is {rows}: give two rows with one prompt, one allowed or safe and one disallowed",
                )


def _is_pair(items: Sequence[Item]) -> bool:
    if len(items) != _PAIR or items[0].prompt_id != items[1].prompt_id:
        return False
    kinds = {item.type for item in items}
    return "disallowed" in kinds and bool(kinds & {"allowed", "safe"})


def _list(risks: Iterable[str]) -> str:
    return ", ".join(sorted(risks)) or "none"
