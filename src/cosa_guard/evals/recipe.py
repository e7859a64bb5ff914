"""What a run does, as one file: models, systems, how replies are drawn, limits.

model: local
sampling: {max_tokens: 128, seed: 0}
judge: refusal
systems:
  - plain
  - ica-5shot+guard
  - name: film
    method: ica
    adapters: [film-lora.gguf]
    guard: {judges: [rules, embedded], on_undecided: allow}
limits: {requests_per_minute: 60, price_in: 0.15, price_out: 0.6, max_cost: 5}
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from cosa_guard.evals.limits import Limits
from cosa_guard.evals.systems import METHODS, Method, SystemSpec, parse_system
from cosa_guard.messages import Sampling
from cosa_sdk.errors import UsageError, nearest

__all__ = ["Recipe", "read_recipe"]

_SYSTEM = ("name", "method", "over", "model", "adapters", "guard", "on_undecided")
_GUARD = ("judges", "on_undecided")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that a run needs beside its suite."""

    systems: tuple[SystemSpec, ...]
    model: str = "local"
    """A backend's spec, as `backends.make` takes it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the backend, such as `{"context": 4096}`."""
    judge: str = "refusal"
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    concurrency: int | None = None
    """Questions at a time; None: what the model takes."""


def read_recipe(path: str | Path) -> Recipe:
    """A recipe from YAML, TOML or JSON.

    Raises:
        UsageError: no such file, not one of these, or a field that is unknown or of the wrong kind; names the place.
    """
    path = Path(path)
    tree = _tree(path)
    place = str(path)
    _known(tree, tuple(one.name for one in fields(Recipe)), place)
    systems = tree.get("systems")
    if not isinstance(systems, list) or not systems:
        raise UsageError(f"{place}: systems is {systems!r}; give a list, such as ['plain', 'ica', 'ica+guard']")
    specs = tuple(_system(one, f"{place}: systems[{number}]") for number, one in enumerate(systems))
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{place}: two systems are called {name!r}: give them a name each")
    return Recipe(
        systems=specs,
        model=_word(tree, "model", "local", place),
        options=_mapping(tree, "options", place),
        judge=_word(tree, "judge", "refusal", place),
        sampling=_made(Sampling, _mapping(tree, "sampling", place), f"{place}: sampling"),
        limits=_made(Limits, _mapping(tree, "limits", place), f"{place}: limits"),
        concurrency=_count(tree, "concurrency", place),
    )


def _tree(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    try:
        if path.suffix == ".toml":
            tree: Any = tomllib.loads(text)
        elif path.suffix == ".json":
            tree = json.loads(text)
        else:
            import yaml  # noqa: PLC0415  # only files need it

            tree = yaml.safe_load(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not {path.suffix.removeprefix('.') or 'YAML'}: {error}") from error
    except Exception as error:  # yaml.YAMLError, whose class is known only where yaml was imported
        raise UsageError(f"{path}: not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: holds {type(tree).__name__}; a recipe is a mapping with `systems`")
    return tree


def _system(value: Any, place: str) -> SystemSpec:
    if isinstance(value, str):
        return parse_system(value)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise UsageError(f"{place} is {value!r}; give a short form such as 'ica+guard', or a mapping with a name")
    _known(value, _SYSTEM, place)
    guard, undecided = _guard(value.get("guard"), place)
    undecided = value.get("on_undecided", undecided)
    if undecided not in {None, "allow", "block"}:
        raise UsageError(f"{place}.on_undecided is {undecided!r}; choices: allow, block")
    model = value.get("model")
    if model is not None and not isinstance(model, str):
        raise UsageError(f"{place}.model is {model!r}; give a backend, such as 'local' or 'openai_http:URL#NAME'")
    return SystemSpec(
        name=value["name"],
        method=_method(value, "method", place),
        over=_method(value, "over", place),
        model=model,
        adapters=_adapters(value.get("adapters", []), place),
        guard=guard,
        on_undecided=undecided,
    )


def _guard(value: Any, place: str) -> tuple[tuple[str, ...] | None, Any]:
    if value is None or value is False:
        return None, None
    if value is True:
        return (), None
    undecided = None
    if isinstance(value, dict):
        _known(value, _GUARD, f"{place}.guard")
        undecided, value = value.get("on_undecided"), value.get("judges", [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UsageError(
            f"{place}.guard is {value!r}; give true, a list of judges, or {{judges: […], on_undecided: …}}"
        )
    return tuple(value), undecided


def _method(value: Mapping[str, Any], name: str, place: str) -> Method:
    method = value.get(name, "ica")
    if method not in METHODS:
        raise UsageError(f"{place}.{name} is {method!r}; choices: {', '.join(METHODS)}")
    return cast("Method", method)


def _adapters(value: Any, place: str) -> tuple[tuple[str, float], ...]:
    found: list[tuple[str, float]] = []
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str):
            found.append((one, 1.0))
        elif isinstance(one, dict) and set(one) <= {"path", "scale"} and isinstance(one.get("path"), str):
            found.append((one["path"], float(one.get("scale", 1.0))))
        else:
            raise UsageError(f"{place}.adapters holds {one!r}; give a path, or {{path: …, scale: 1.0}}")
    return tuple(found)


def _known(tree: Mapping[Any, Any], names: tuple[str, ...], place: str) -> None:
    for key in tree:
        if key not in names:
            meant = nearest(str(key), names)
            hint = f"did you mean {meant!r}?" if meant else f"known are {', '.join(names)}"
            raise UsageError(f"{place}: unknown field {key!r}: {hint}")


def _word(tree: Mapping[str, Any], name: str, usual: str, place: str) -> str:
    value = tree.get(name, usual)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{place}: {name} is {value!r}; give a text, such as {usual!r}")
    return value


def _mapping(tree: Mapping[str, Any], name: str, place: str) -> dict[str, Any]:
    value = tree.get(name, {})
    if not isinstance(value, dict):
        raise UsageError(f"{place}: {name} is {value!r}; give a mapping")
    return value


def _count(tree: Mapping[str, Any], name: str, place: str) -> int | None:
    value = tree.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise UsageError(f"{place}: {name} is {value!r}; give a whole number from 1 on")
    return value


def _made(kind: Any, values: dict[str, Any], place: str) -> Any:
    _known(values, tuple(one.name for one in fields(kind)), place)
    try:
        return kind(**values)
    except (UsageError, TypeError) as error:
        raise UsageError(f"{place}: {error}") from None
