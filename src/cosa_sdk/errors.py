"""The one error tree, by whose fault it is.

CosaError
├── UsageError                   you: the call or its arguments
│   ├── UnknownName              a name that nobody registered
│   ├── MissingExtra             an optional dependency that is not installed
│   ├── PromptTooLong            the prompt does not fit, and nothing that forbids may be dropped
│   ├── UnguardedRoute           a way to the model that the guard cannot see into
│   ├── UnsupportedField         a request field that could switch the guard off
│   └── ConfigError              a safety config or its file
│       └── FloorViolation       a rule that names what no config may govern
├── BackendError                 the model, its file or its server
│   ├── ModelFileError           missing, unreadable, or not a GGUF
│   ├── AdapterError             missing, not an adapter, or made for another model
│   ├── OutOfMemory              the model does not fit
│   └── WireError                an upstream's answer that is not its protocol
├── JudgeError                   a judge raised, hung, or answered nonsense
└── Blocked                      a decision, carrying its report
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "AdapterError",
    "BackendError",
    "Blocked",
    "ConfigError",
    "CosaError",
    "Finding",
    "FloorViolation",
    "JudgeError",
    "MissingExtra",
    "ModelFileError",
    "OutOfMemory",
    "PromptTooLong",
    "UnguardedRoute",
    "UnknownName",
    "UnsupportedField",
    "UsageError",
    "WireError",
    "nearest",
]


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice a person most likely meant by `name`, or None."""
    import difflib  # noqa: PLC0415  # only errors need it

    found = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return found[0] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong with a config: what, where, and how to mend it."""

    code: str
    """Stable name for scripts, such as `unknown-key`."""
    message: str
    where: str = ""
    """Path inside the config, such as `rules[2].stance`."""
    severity: str = "error"
    """`error` or `warning`."""
    file: str | None = None
    line: int | None = None
    """1-based; None where the source has no lines (a Python object)."""
    column: int | None = None
    fix: str | None = None
    """The next step, in words."""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        head = ": ".join(part for part in (place, self.where) if part)
        tail = f" ({self.fix})" if self.fix else ""
        return f"{head}: {self.message}{tail}" if head else f"{self.message}{tail}"


def _again(kind: type[CosaError], args: tuple[Any, ...], state: dict[str, Any]) -> CosaError:
    """An error as it was, without calling its constructor."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class CosaError(Exception):
    """Base of everything that Cosa raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Constructors take what makes up the message, not the message: errors must still cross processes.
        return _again, (type(self), self.args, self.__dict__)


class UsageError(CosaError):
    """The call or its arguments are wrong; nothing was sent or written."""


class UnknownName(UsageError):
    """A name that is not in a registry or a list of choices."""

    def __init__(self, kind: str, name: str, choices: Sequence[str], hint: str = "") -> None:
        meant = nearest(name, choices)
        text = f"unknown {kind} {name!r}"
        if meant:
            text += f": did you mean {meant!r}?"
        text += f" Choices: {', '.join(choices) or 'none'}." if meant else f". Choices: {', '.join(choices) or 'none'}."
        super().__init__(f"{text} {hint}".rstrip())
        self.name = name
        self.choices = tuple(choices)


class MissingExtra(UsageError):
    """An optional dependency is not installed; the message is the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra: pip install 'cosa[{extra}]'")
        self.extra = extra


class PromptTooLong(UsageError):
    """The rules alone exceed the budget, or a prompt exceeds the model's context."""

    def __init__(self, message: str, *, tokens: int, budget: int) -> None:
        super().__init__(message)
        self.tokens = tokens
        self.budget = budget


class UnguardedRoute(UsageError):
    """A route or connection that the guard does not understand; nothing was sent."""


class UnsupportedField(UsageError):
    """A request field that the guard does not let through; `field` is its path."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class ConfigError(UsageError):
    """A safety config is not valid; `findings` has every fault that was found, not only the first."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        count = len(self.findings)
        head = "" if count == 1 else f"{count} faults\n"
        super().__init__(head + "\n".join(str(finding) for finding in self.findings))


class FloorViolation(ConfigError):
    """A structured rule names a floor id; the floor cannot be allowed, limited or re-stated."""


class BackendError(CosaError):
    """The model, its file or its server failed."""


class ModelFileError(BackendError):
    """A model file is missing, unreadable, damaged, or not a GGUF."""


class AdapterError(BackendError):
    """An adapter is missing, is not an adapter, or was made for another model."""


class OutOfMemory(BackendError):
    """The model and its context do not fit into the memory that is free."""


class WireError(BackendError):
    """An upstream answered something that is not its protocol, or stopped in the middle."""


class JudgeError(CosaError):
    """A judge raised, ran out of time, or gave an answer that cannot be read."""


class Blocked(CosaError):
    """The guard refused and the caller asked for an exception (`raise_on_block=True`)."""

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report
        """The `cosa_guard.Report` of the call."""
