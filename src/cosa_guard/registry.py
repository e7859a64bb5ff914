"""Names for things that plugins may add. Two instances exist: backends and judges."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from cosa_sdk.errors import UnknownName, UsageError

__all__ = ["Registry"]

T = TypeVar("T")
Factory = Callable[..., T]


class Registry(Generic[T]):
    """Factories by name. Built-in ones load on first use; plugins join by entry point or by `register`.

    Args:
        kind: what the things are, for messages: `backend`.
        group: entry-point group that plugins publish under.
        builtin: name to `module:attribute`; nothing is imported before it is asked for.
    """

    def __init__(self, kind: str, group: str, builtin: dict[str, str]) -> None:
        self._kind = kind
        self._group = group
        self._builtin = builtin
        self._added: dict[str, Factory[T]] = {}

    def register(self, name: str, factory: Factory[T]) -> None:
        """Add a factory; it is called as `factory(argument)` with what follows the colon in `name:argument`.

        Raises:
            UsageError: the name is taken, or holds a colon.
        """
        if ":" in name or not name:
            raise UsageError(f"{name!r} cannot name a {self._kind}: it must not be empty or hold a colon")
        if name in self._added or name in self._builtin:
            raise UsageError(f"a {self._kind} named {name!r} is registered already")
        self._added[name] = factory

    def names(self) -> tuple[str, ...]:
        """Every name that `make` takes."""
        return tuple(sorted({*self._builtin, *self._added, *(point.name for point in entry_points(group=self._group))}))

    def make(self, spec: str, **options: Any) -> T:
        """Build from `name` or `name:argument`.

        Raises:
            UnknownName: nobody registered the name.
            MissingExtra: its optional dependency is not installed.
        """
        name, _, argument = spec.partition(":")
        factory = self._added.get(name) or self._load(name)
        return factory(argument or None, **options)

    def _load(self, name: str) -> Factory[T]:
        target = self._builtin.get(name)
        if target is not None:
            module, _, attribute = target.partition(":")
            factory: Factory[T] = getattr(__import__(module, fromlist=[attribute]), attribute)
            return factory
        for point in entry_points(group=self._group):
            if point.name == name:
                loaded: Factory[T] = point.load()
                return loaded
        raise UnknownName(self._kind, name, self.names())
