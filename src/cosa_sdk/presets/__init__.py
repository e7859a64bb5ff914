"""Named configs that ship with Cosa: starting points to copy and edit, one YAML file each."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from cosa_sdk import files
from cosa_sdk.config import SafetyConfig
from cosa_sdk.errors import UnknownName

__all__ = ["describe", "load", "names"]

_FOLDER = Path(__file__).parent


@cache
def load(name: str) -> SafetyConfig:
    """The preset of this name.

    Raises:
        UnknownName: there is no such preset.
    """
    if name not in names():
        raise UnknownName("preset", name, names(), "A file of your own is read by `cosa_sdk.load`.")
    return files.loads((_FOLDER / f"{name}.yaml").read_text("utf-8"), format="yaml", name=f"{name}.yaml")


@cache
def names() -> tuple[str, ...]:
    """Names of all presets, sorted."""
    return tuple(sorted(file.stem for file in _FOLDER.glob("*.yaml")))


def describe(name: str) -> str:
    """What the preset's assistant is for and who reads it, in one line.

    Raises:
        UnknownName: there is no such preset.
    """
    config = load(name)
    return f"{config.purpose}, for {config.audience}"
