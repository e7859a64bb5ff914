"""Named configs that ship with Cosa: starting points to copy and edit, one YAML file each."""

from __future__ import annotations

from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from cosa_sdk import files
from cosa_sdk.config import SafetyConfig
from cosa_sdk.errors import UnknownName

__all__ = ["describe", "load", "names"]


@cache
def load(name: str) -> SafetyConfig:
    """The preset of this name.

    Raises:
        UnknownName: there is no such preset.
    """
    if name not in names():
        raise UnknownName("preset", name, names(), "A file of your own is read by `cosa_sdk.load`.")
    return files.loads(_file(name).read_text(encoding="utf-8"), format="yaml", name=f"{name}.yaml")


@cache
def names() -> tuple[str, ...]:
    """Names of all presets, sorted."""
    entries = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(entry.removesuffix(".yaml") for entry in entries if entry.endswith(".yaml")))


def describe(name: str) -> str:
    """What the preset's assistant is for and who reads it, in one line.

    Raises:
        UnknownName: there is no such preset.
    """
    config = load(name)
    return f"{config.purpose}, for {config.audience}"


def _file(name: str) -> Traversable:
    return resources.files(__name__).joinpath(f"{name}.yaml")
