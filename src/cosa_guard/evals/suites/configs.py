"""The configs that rows name: a preset, a file, free text, an object, or a list of allowed risks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cosa_guard.evals.suites.fields import risks_of
from cosa_sdk import presets, taxonomy
from cosa_sdk.config import Rule, SafetyConfig
from cosa_sdk.errors import ConfigError, CosaError, UnknownName, UsageError
from cosa_sdk.files import load

__all__ = ["Configs", "category_config", "config_of", "readable_name"]

_FILES = (".yaml", ".yml", ".toml", ".json")
_WORDS = 3
"""A text of fewer words is taken for a misspelt name, not for a config."""
_LONGEST = 58
"""Characters that a config's name has beside `allow-`."""
_SHORTENED = 6
_NAMED = 4
"""Words of a text that its name keeps."""


def category_config(allowed: Iterable[str], *, name: str = "") -> SafetyConfig:
    """A config of the paper's category suites: these risks are allowed, every other is forbidden (section 4.3).

    Raises:
        UsageError: a risk that no config may allow.
    """
    risks = [risk for risk in taxonomy.builtin().ids if risk in set(allowed)]
    never = sorted({*allowed} & {taxonomy.OTHER, *taxonomy.FLOOR})
    if never:
        raise UsageError(f"allow names {', '.join(never)}: no config may allow that; leave it out")
    called = "-".join(risks).replace("_", "-")
    if len(called) > _LONGEST:
        called = "-".join(risk[:_SHORTENED] for risk in risks)
    return SafetyConfig(
        name=name or f"allow-{called or 'nothing'}",
        rules=tuple(Rule(stance="allow", risk=risk) for risk in risks),
        default="forbid",
    )


def readable_name(text: str) -> str:
    """A name for a config of free text: its first words, and what tells it from others that begin alike."""
    words = re.findall(r"[a-z0-9]+", text.lower())[:_NAMED]
    return f"{'-'.join(words)[:48] or 'text'}-{_short(text)}"


def _short(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:6]


class Configs:
    """Every config of a suite by name, as rows bring them.

    Args:
        folder: where the suite's file is; paths are relative to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._named: set[str] = set()
        self.by_name: dict[str, SafetyConfig] = {}
        self.allow: dict[str, frozenset[str]] = {}
        self._seen: dict[str, str] = {}

    def name_of(self, value: Any) -> str:
        """Take up the config that a row names, and say what the suite calls it.

        Raises:
            UsageError: no such config, or not a valid one.
        """
        key = value if isinstance(value, str) else repr(value)
        if key not in self._seen:
            name, config, allowed = self._made(value)
            name = self._free(name, config)
            self.by_name[name] = config
            if allowed is not None:
                self.allow[name] = allowed
            self._seen[key] = name
        return self._seen[key]

    def declare(self, name: str, value: Any) -> None:
        """Take up a config that the suite itself defines, under a name for its rows.

        Raises:
            UsageError: not a valid config.
        """
        _, config, allowed = self._made(value)
        self._named.add(name)
        self._seen[name] = name
        self.by_name[name] = config
        if allowed is not None:
            self.allow[name] = allowed

    def _free(self, name: str, config: SafetyConfig) -> str:
        known = self.by_name.get(name)
        return name if known is None or known == config else f"{name}-{config.digest[:6]}"

    def _made(self, value: Any) -> tuple[str, SafetyConfig, frozenset[str] | None]:
        if isinstance(value, str) and value.strip():
            name, config = self._from_text(value.strip())
            return name, config, None
        if isinstance(value, dict) and set(value) == {"allow"}:
            allowed = risks_of(value["allow"], "config.allow")
            config = category_config(allowed)
            return config.name, config, allowed
        if isinstance(value, dict) and value:
            config = config_of(value)
            return config.name, config, None
        raise UsageError(
            f'config is {value!r}: give a preset\'s name, a path, a text, an object, or {{"allow": [risks]}}'
        )

    def _from_text(self, value: str) -> tuple[str, SafetyConfig]:
        if value in presets.names():
            return value, presets.load(value)
        if value.startswith("text:"):
            return _free_text(value.removeprefix("text:").strip())
        if value.lower().endswith(_FILES) and "\n" not in value:
            path = self._folder / value
            return path.stem, _told(lambda: load(path))
        if len(value.split()) >= _WORDS:
            return _free_text(value)
        choices = (*sorted(self._named), *presets.names())
        raise UnknownName("config", value, choices, "Or give a path, or `text:` and the config's own words.")


def _free_text(text: str) -> tuple[str, SafetyConfig]:
    name = readable_name(text)
    return name, _told(lambda: SafetyConfig.from_text(text, name=name))


def config_of(value: Mapping[str, Any]) -> SafetyConfig:
    """A config from the keys and values of an object in a suite; one without a name gets one.

    Raises:
        UsageError: it is not valid.
    """
    fields = {"name": f"config-{_short(repr(value))}", **value}
    return _told(lambda: SafetyConfig(**fields))


def _told(make: Any) -> SafetyConfig:
    """The config, or what is wrong with it, on one line: it stands behind the place of a row."""
    try:
        config: SafetyConfig = make()
    except ConfigError as error:
        faults = "; ".join(str(finding) for finding in error.findings)
        raise UsageError(f"config is not valid: {faults}") from None
    except (CosaError, TypeError) as error:
        raise UsageError(f"config is not valid: {error}") from None
    return config
