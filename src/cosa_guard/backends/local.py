"""`local`: the best local backend that is installed, for the model at hand."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from cosa_guard import backends
from cosa_guard.backends.base import AnyBackend
from cosa_guard.backends.models import resolve_model
from cosa_sdk.errors import MissingExtra

__all__ = ["LOCAL", "Choice", "Runtime", "choose", "make"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A backend that runs models on this machine."""

    name: str
    """As `backends.make` takes it."""
    imports: str
    """The package that it stands on,"""
    distribution: str
    """by the name that the index has for it, and the extra that brings it."""
    extra: str
    folders: bool
    """It runs folders in Hugging Face's layout."""
    ggufs: bool

    @property
    def installed(self) -> bool:
        """What it needs is there. Nothing is imported."""
        return find_spec(self.imports) is not None and self.name in backends.names()


LOCAL: Final = (
    Runtime(
        name="llama-cpp",
        imports="llama_cpp",
        distribution="llama-cpp-python",
        extra="llama-cpp",
        folders=False,
        ggufs=True,
    ),
    Runtime(
        name="xllamacpp",
        imports="xllamacpp",
        distribution="xllamacpp",
        extra="local",
        folders=False,
        ggufs=True,
    ),
    Runtime(
        name="transformers",
        imports="transformers",
        distribution="transformers",
        extra="transformers",
        folders=True,
        ggufs=True,
    ),
)
"""The best first. Of a GGUF file transformers makes full precision, slow and large: `local` gives it folders only."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which backend `local` is."""

    name: str
    why: str


def choose(model: str | Path | None = None) -> Choice:
    """Which backend runs `model`, and why that one.

    Args:
        model: A path, or a name that stands for one; anything that is no folder counts as a GGUF file.

    Raises:
        MissingExtra: none that could is installed.
    """
    llama_cpp, xllamacpp, transformers = LOCAL
    if model is not None and Path(model).expanduser().is_dir():
        if not transformers.installed:
            raise MissingExtra("a model in Hugging Face's layout (a folder)", transformers.extra)
        return Choice(transformers.name, "the model is a folder in Hugging Face's layout, which it alone runs")
    if llama_cpp.installed:
        return Choice(llama_cpp.name, "llama-cpp-python is installed: configs stay resident, generation is fastest")
    if xllamacpp.installed:
        return Choice(xllamacpp.name, "llama-cpp-python is not installed; xllamacpp runs GGUF files without a compiler")
    raise MissingExtra("a local model (faster, but compiled for minutes: 'cosa[llama-cpp]')", xllamacpp.extra)


def make(argument: str | None = None, **options: Any) -> AnyBackend:
    """A local backend for a model file, a model folder, a model's name, or the default model.

    Raises:
        MissingExtra: no backend that runs it is installed.
    """
    if not any(runtime.installed for runtime in LOCAL):
        choose(argument)  # which raises: a missing extra comes before a missing file
    model = resolve_model(argument)
    return backends.make(f"{choose(model).name}:{model}", **options)
