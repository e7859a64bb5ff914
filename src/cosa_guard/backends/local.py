"""`local`: the best local backend that is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from cosa_guard.backends.base import AnyBackend
from cosa_sdk.errors import MissingExtra

__all__ = ["make"]


def make(argument: str | None = None, **options: Any) -> AnyBackend:
    """A local backend for a model file, or for the default model.

    Raises:
        MissingExtra: no local backend is installed.
    """
    if find_spec("xllamacpp") is None:
        raise MissingExtra("a local model", "local")
    from cosa_guard.backends.xllamacpp import make as make_xllamacpp  # noqa: PLC0415  # only where its dependency is

    return make_xllamacpp(argument, **options)
