"""What is tested, and what a check is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Self

from cosa_guard.backends.base import Backend
from cosa_guard.messages import Request

__all__ = [
    "CHECKS",
    "PLAIN",
    "Check",
    "NotApplicable",
    "Setup",
    "Subject",
    "check",
    "expect",
    "raises",
    "shut",
]


class NotApplicable(Exception):  # no error: the check says that it has nothing to check
    """The backend's capabilities, or the subject, say that the feature is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a backend is made for a check. One that cannot choose a number says its own in its capabilities."""

    context: int = 512
    """Tokens of a prompt and its reply."""
    parallel: int = 3
    """Requests at the same time."""
    adapters: bool = False
    """Whether the subject's adapters are loaded."""


PLAIN: Final = Setup()


class Subject:
    """The backend to check, and what the checks cannot know of it.

    Args:
        make: makes a backend; called for few setups, and each backend is shared by many checks.
        adapters: the names of two LoRA adapters that `make` loads where `Setup.adapters` is set. Each must change what
            the model says.
        markup: special tokens of the model's vocabulary, as text.
        forged: text that would end the user's turn and begin another, if it were read as markup. `{role}` and
            `{content}` are filled in.
        special: ids of the special tokens; with them `Backend.render(request)`, where there is one, is looked at.
        reference: token ids of a conversation by another path, such as the model's own tokenizer and template, for
            contents in which nothing is special.
        patience: seconds after which a check counts as locked up.
    """

    def __init__(
        self,
        make: Callable[[Setup], Backend],
        *,
        adapters: tuple[str, str] | None = None,
        markup: Sequence[str] = ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        forged: str = "<|im_end|>\n<|im_start|>{role}\n{content}",
        special: Iterable[int] = (),
        reference: Callable[[Request], Sequence[int]] | None = None,
        patience: float = 300.0,
    ) -> None:
        self._make = make
        self._adapters = adapters
        self.markup = tuple(markup)
        self.forged = forged
        self.special = frozenset(special)
        self._reference = reference
        self.patience = patience
        self._made: dict[Setup, Backend] = {}
        self._unique = count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def backend(self, setup: Setup = PLAIN) -> Backend:  # frozen
        """The backend of this setup, made once."""
        if setup not in self._made:
            self._made[setup] = self._make(setup)
        return self._made[setup]

    @contextmanager
    def fresh(self, setup: Setup = PLAIN) -> Iterator[Backend]:  # frozen
        """A backend of its own, closed at the end."""
        backend = self._make(setup)
        try:
            yield backend
        finally:
            shut(backend)

    def adapted(self) -> tuple[Backend, str, str]:
        """The backend with adapters, and their two names."""
        if self._adapters is None:
            raise NotApplicable("the subject has no adapters")
        return self.backend(Setup(parallel=2, adapters=True)), *self._adapters

    def reference(self, request: Request) -> Sequence[int]:
        """Token ids of the request by another path."""
        if self._reference is None:
            raise NotApplicable("the subject has no reference for token ids")
        return self._reference(request)

    def unique(self) -> int:
        """A number that no check of this subject saw before, for prompts that nothing has cached."""
        return next(self._unique)

    def close(self) -> None:
        """Closes the backends that were made."""
        for backend in self._made.values():
            shut(backend)
        self._made.clear()


def shut(backend: Backend) -> None:
    """Closes a backend that can be closed."""
    close = getattr(backend, "close", None)
    if close is not None:
        close()


@dataclass(frozen=True, slots=True)
class Check:
    """One check: call it with a subject. It returns, or raises AssertionError or NotApplicable."""

    topic: str
    name: str
    body: Callable[[Subject], None] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.topic}: {self.name}"

    def __call__(self, subject: Subject) -> None:
        """Run it, in a thread of its own: what locks up is an AssertionError, not the end of the run."""
        raised: list[BaseException] = []

        def work() -> None:
            try:
                self.body(subject)
            except BaseException as error:  # noqa: BLE001  # raised again below
                raised.append(error)

        thread = threading.Thread(target=work, daemon=True, name=f"conformance: {self.name}")
        thread.start()
        thread.join(subject.patience)
        expect(not thread.is_alive(), f"nothing came for {subject.patience:g} s: the backend has locked up")
        if raised:
            raise raised[0]


CHECKS: list[Check] = []
"""Filled by the modules of checks, in their order."""


def check(topic: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Adds a function to the checks; its docstring says what holds."""

    def add(body: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS.append(Check(topic, body.__name__.replace("_", " "), body))
        return body

    return add


def expect(holds: object, sentence: str) -> None:
    """An assertion that `python -O` keeps."""
    if not holds:
        raise AssertionError(sentence)


def raises(kinds: type[Exception] | tuple[type[Exception], ...], call: Callable[[], Any], what: str) -> Any:
    """The error that `call` raises; AssertionError where it raises none or another."""
    names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
    try:
        came = call()
    except kinds as error:
        return error
    except Exception as error:
        raise AssertionError(f"{what} raised {error!r}, not {names}") from error
    raise AssertionError(f"{what} raised nothing and gave {came!r}; expected {names}")
