"""`SafetyConfig`: one validated object that says what is safe. Everything else is compiled from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from cosa_sdk import patterns
from cosa_sdk.model import Line, Model, Name, Pattern, Prose
from cosa_sdk.taxonomy import FLOOR, Risk, Taxonomy, builtin
from cosa_sdk.validation import fault

__all__ = [
    "SCHEMA_VERSION",
    "Default",
    "Enforcement",
    "Example",
    "Refusal",
    "Rule",
    "SafetyConfig",
    "Stance",
    "Term",
]

SCHEMA_VERSION = 1

Stance = Literal["allow", "limit", "forbid"]
Default = Literal["forbid", "allow", "guideline"]
Pii = Literal["email", "phone", "credit_card", "iban", "us_ssn", "ip_address"]


class Term(Model):
    """A deterministic way to find a breach: exactly one of `phrase`, `regex` and `pii`."""

    phrase: Line | None = None
    """Found as whole words, whatever the case, accents, look-alike letters or invisible characters between."""
    regex: Pattern | None = None
    """RE2 syntax on the normalised text; `*`, `+` and `{n,}` match at most 64 times."""
    pii: Pii | None = None
    """A kind of personal data that patterns can find."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in ("phrase", "regex", "pii") if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"both {' and '.join(given)}" if given else "neither phrase, regex nor pii"
            raise fault("term-kind", f"has {said}; a term is exactly one of them")
        if self.regex is not None:
            try:
                patterns.width(patterns.bounded(self.regex))
            except patterns.PatternFault as problem:
                raise fault("regex", f"regex {self.regex!r} {problem}", at="regex") from None
        if self.phrase is not None and len(self.phrase) > patterns.WIDEST:
            raise fault("term-length", f"phrase of {len(self.phrase)} characters; at most {patterns.WIDEST}")
        return self


class Example(Model):
    """A prompt with a reply that keeps the config and, where it teaches something, one that breaks it."""

    prompt: Prose
    good: Prose
    bad: Prose | None = None


def _as_term(value: Any) -> Any:
    return {"phrase": value} if isinstance(value, str) else value


class Rule(Model):
    """One stance on one thing: a risk of the taxonomy, a described behaviour, or fixed terms."""

    id: Name = ""
    """Names the rule in decisions and reports; the risk when not given."""
    stance: Stance
    risk: str | None = None
    """A taxonomy id; none for a custom rule."""
    text: Line | None = None
    """A condition, in words: what exactly is allowed (`limit`, `allow`) or forbidden (`forbid`)."""
    unless: Line | None = None
    """A condition that takes the permission away again (`allow`, `limit`) or the ban (`forbid`)."""
    note: Line | None = None
    """Explains the rule to the model; never a condition."""
    terms: tuple[Annotated[Term, BeforeValidator(_as_term)], ...] = ()
    """Words, patterns and personal data that break the rule wherever they appear."""
    within: tuple[str, ...] = ()
    """For a custom `allow`: the risks that it carves out of the default."""
    examples: tuple[Example, ...] = ()
    undecided: Literal["allow", "block"] | None = None
    """This rule's own `on_undecided`: `allow` accepts openly what no judge could check."""
    delegable: bool = Field(default=False, strict=True)
    """An inner layer may lift this rule when configs are composed."""

    @model_validator(mode="before")
    @classmethod
    def _id_from_risk(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value.get("id") and isinstance(value.get("risk"), str):
            derived = re.sub(r"[^a-z0-9._-]", "-", value["risk"].lower()).strip("._-")[:64]
            rest = {key: part for key, part in value.items() if key != "id"}
            return {"id": derived, **rest} if derived else rest
        return value

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if not self.id:
            raise fault("rule-id", "has neither id nor risk", fix="give the rule an id")
        if self.risk is None and self.text is None and not self.terms:
            raise fault("rule-empty", f"rule {self.id!r} has no risk, no text and no terms, so nothing can break it")
        if self.stance == "limit" and (self.text is None or self.risk is None):
            raise fault(
                "limit-text",
                f"rule {self.id!r} is a limit without {'text' if self.text is None else 'a risk'}",
                fix="say in `text` what exactly is allowed of which `risk`, or use allow or forbid",
            )
        if self.stance == "allow" and self.terms:
            raise fault(
                "allow-terms", f"rule {self.id!r} allows, so its terms could break nothing", fix="drop the terms"
            )
        carves = self.stance == "allow" and self.risk is None
        if carves and not self.within:
            raise fault(
                "within",
                f"rule {self.id!r} allows without a risk",
                fix="name what it carves out of: within: [violence]",
            )
        if self.within and not carves:
            raise fault("within", f"rule {self.id!r} has `within`, which only an allow without a risk may have")
        return self

    @property
    def unconditional(self) -> bool:
        """The rule is about the whole risk: no text, no `unless`, nothing to read."""
        return self.risk is not None and self.text is None and self.unless is None

    @property
    def element(self) -> str:
        """What a judge reports when it finds the rule's condition, such as `rule:heists`."""
        return f"rule:{self.id}"


class Refusal(Model):
    """How the guard declines."""

    message: Prose = "This assistant can't help with that."
    explain: bool = Field(default=False, strict=True)
    """The model may say which kind of content it declines; the guard's own message never does."""


class Enforcement(Model):
    """What happens when a decision is not `compliant`. The floor is refused whatever stands here."""

    input: Literal["refuse", "warn", "off"] = "refuse"
    output: Literal["refuse", "redact", "regenerate", "warn", "off"] = "refuse"
    attempts: int = Field(default=2, ge=1, le=8, strict=True)
    """Candidates in all for `regenerate`."""
    stream: Literal["hold", "whole", "trail"] = "hold"
    on_error: Literal["block", "allow"] = "block"
    on_undecided: Literal["block", "allow"] = "block"
    media: Literal["refuse", "allow"] = "refuse"


class SafetyConfig(Model):
    """What is safe, for whom. Frozen, hashable and valid: an instance that exists can be enforced."""

    cosa: Literal[1] = 1
    """Version of this schema."""
    name: Name
    version: int = Field(default=1, ge=1, lt=10**15, strict=True)  # JSON readers keep numbers of this size
    purpose: Line | None = None
    """What the assistant is for, in one sentence."""
    audience: Line | None = None
    """Who reads its replies."""
    guideline: Prose | None = None
    """Free text, kept word for word in the prompt: the paper's safety config."""
    rules: tuple[Rule, ...] = Field(default=(), max_length=200)
    default: Default = "forbid"
    """Risks that no rule names. `guideline` when there is a guideline and no rules, else `forbid`."""
    refusal: Refusal = Refusal()
    enforcement: Enforcement = Enforcement()
    taxonomy: Literal["cosa-1"] = "cosa-1"
    risks: tuple[Risk, ...] = Field(default=(), max_length=50)
    """Risks of your own, beside the taxonomy's."""

    @model_validator(mode="before")
    @classmethod
    def _default_from_guideline(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("default") is None:
            value = {key: part for key, part in value.items() if key != "default"}
            if value.get("guideline") and not value.get("rules"):
                value["default"] = "guideline"
        return value

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        from cosa_sdk.coherence import check  # noqa: PLC0415  # it reads SafetyConfig: a cycle at import time

        check(self)
        return self

    @classmethod
    def from_text(cls, text: str, *, name: str = "free-text") -> SafetyConfig:
        """The paper's config: free text alone. A judge that reads the guideline decides.

        Raises:
            ConfigError: the text is empty or holds markup.
        """
        return cls(name=name, guideline=text)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again.

        Raises:
            ConfigError: the changed config is not valid.
        """
        return type(self)(**{**self.model_dump(mode="json"), **changes})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002
        """The same as `replace`: pydantic's own copy is not validated and keeps the old digest."""
        return self.replace(**(update or {}))

    @cached_property
    def vocabulary(self) -> Taxonomy:
        """The taxonomy with the config's own risks."""
        return builtin(self.taxonomy).extended(self.risks)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of schema version, config and taxonomy: the config's version id."""
        body = {
            "schema": SCHEMA_VERSION,
            "config": self.model_dump(mode="json"),
            "taxonomy": self.vocabulary.model_dump(mode="json"),
        }
        return hashlib.sha256(canonical_json(body)).hexdigest()

    @cached_property
    def elements(self) -> frozenset[str]:
        """Everything that a judge could find or rule out: risks, `rule:<id>`, the floor, `guideline`."""
        ids = {*self.vocabulary.ids, *FLOOR, *(rule.element for rule in self.rules if not rule.unconditional)}
        ids |= {rule.element for rule in self.rules if rule.terms}
        return frozenset(ids | ({"guideline"} if self.guideline else set()))

    def rule(self, rule_id: str) -> Rule | None:
        """The rule with this id."""
        return next((rule for rule in self.rules if rule.id == rule_id), None)

    def __hash__(self) -> int:
        return hash(self.digest)


def canonical_json(value: Any) -> bytes:
    """RFC 8785 for the values a config has: no floats, and keys whose UTF-16 order is their code-point order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
