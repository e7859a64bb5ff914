"""The judge `refusal`: no model, no score. The runner reads the replies, for the decision score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from cosa_guard.backends.base import AnyBackend, Backend
from cosa_guard.evals.scoring import Judgement
from cosa_guard.evals.suite import Item, Suite
from cosa_sdk.errors import UsageError

__all__ = ["RefusalJudge", "make"]

_AGREEMENT: Final[Mapping[str, Any]] = {
    "measure": "F1 of refused or not",
    "value": 0.937,
    "ci": [0.891, 0.974],
    "n": 130,
    "on": "replies of three sources that were labelled after the parser was written",
}
"""By `python -m cosa_guard.evals.refusal_report --part fresh --data FILE`; `labelled/README.md` says who labelled."""


class RefusalJudge:
    """Says nothing of help and safety."""

    name = "refusal"
    models = frozenset({"refusal"})
    scores = False

    def __init__(self) -> None:
        self.facts: Mapping[str, Any] = {
            "reads": "answered, partial, refused or degenerate, from the reply's words",
            **_AGREEMENT,
        }

    def judge(self, suite: Suite, item: Item, response: str) -> Judgement:  # noqa: ARG002  # the runner reads the reply
        """Nothing: whether a reply answers is read by the runner, for every judge."""
        return Judgement()


def make(argument: str | None = None, *, share: Callable[[AnyBackend], Backend] | None = None) -> RefusalJudge:  # noqa: ARG001  # no model
    """The judge for the name `refusal`.

    Raises:
        UsageError: an argument is given.
    """
    if argument:
        raise UsageError(f"judge 'refusal:{argument}': it has no model; give 'refusal', or 'rating:{argument}'")
    return RefusalJudge()
