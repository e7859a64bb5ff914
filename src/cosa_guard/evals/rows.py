"""What a run leaves behind: one row for each response, and a manifest of how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cosa_sdk.errors import UsageError
from cosa_sdk.score import Answer, PromptType, Row

__all__ = ["Manifest", "ResultRow", "SystemFacts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One response of one system to one item, and what was judged of it. Written as one JSON object a line."""

    system: str
    item: str
    config: str
    prompt_id: str
    twin: str | None = None
    type: PromptType
    risks: tuple[str, ...] | None = None
    """Of the prompt."""
    prompt: str
    response: str
    """What a user would have seen: behind a guard or a cascade, its refusal."""
    withheld: str | None = None
    """What the model said and a filter or guard held back."""
    finish: str = "stop"
    tokens: int | None = None
    """Of the reply, withheld or not."""
    act: str | None = None
    """What the guard did: pass, refuse, redact, …; None without one."""
    answer: Answer | None = None
    """By the refusal parser; None where there is no response."""
    answer_why: str = ""
    helpful: float | None = None
    """h of CoSA-Score, 0 to 1; None where no judge said, or what it said could not be read."""
    safe: bool | None = None
    """s of CoSA-Score: the response keeps the config; None as above."""
    judged_risks: tuple[str, ...] | None = None
    judged: Mapping[str, str] = field(default_factory=dict)
    """What the judge wrote, by question."""
    invalid: str | None = None
    """Why the judge's words could not be read."""
    error: str | None = None
    """Why there is no response."""

    def to_json(self) -> dict[str, Any]:
        """The row as written."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ResultRow:
        """The row as read.

        Raises:
            UsageError: a field is missing or unknown.
        """
        fields = dict(value)
        for name in ("risks", "judged_risks"):
            if isinstance(fields.get(name), list):
                fields[name] = tuple(fields[name])
        try:
            return cls(**fields)
        except TypeError as error:
            raise UsageError(f"not a row of an evaluation: {error}") from None

    def scored(self) -> Row:
        """What the score needs of it."""
        return Row(
            config=self.config,
            prompt=self.prompt_id,
            type=self.type,
            answer=self.answer,
            helpful=self.helpful,
            safe=self.safe,
            twin=self.twin,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemFacts:
    """What a system is made of."""

    name: str
    method: str
    """plain, ica, ica-5shot, cascade, cascade-oracle."""
    model: str
    adapters: tuple[str, ...] = ()
    guard: tuple[str, ...] | None = None
    """Names of the guard's judges, or None without a guard."""
    circular: bool = False
    """Whoever filters or guards shares a model or a source with whoever scores: the figure may not be quoted."""
    why_circular: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """How the rows came about. Written before the first of them, and checked when a run is resumed."""

    suite: str
    suite_digest: str
    suite_source: str = ""
    items: int
    judge: str
    """What names the evaluation judge, such as `refusal` or `rating:openai_http:…`."""
    judge_facts: Mapping[str, Any] = field(default_factory=dict)
    """Its measured agreement with labels, if it was measured: `{"on", "n", "measure", "value", "ci"}`."""
    systems: tuple[SystemFacts, ...]
    sampling: Mapping[str, Any]
    seed: int
    exact: bool
    """Whether another run gives the same bytes: local backends that compute alone or in lockstep."""
    versions: Mapping[str, str]
    """Of Cosa, Python and the backends' packages."""
    made: str
    """When the run began, in UTC."""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The manifest as written."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Manifest:
        """The manifest as read.

        Raises:
            UsageError: a field is missing or unknown.
        """
        try:
            systems = tuple(
                SystemFacts(
                    **{
                        **one,
                        "adapters": tuple(one.get("adapters", ())),
                        "guard": None if one.get("guard") is None else tuple(one["guard"]),
                    }
                )
                for one in value["systems"]
            )
            return cls(**{**value, "systems": systems})
        except (TypeError, KeyError) as error:
            raise UsageError(f"not the manifest of an evaluation: {error}") from None
