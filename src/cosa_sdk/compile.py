"""From a config to the words that a model or a judge reads: the only place that writes prompt text.

Deterministic: the same config, target, template version and seed give the same bytes. Templates are package data
with named slots and a version in their name; golden tests pin every preset's prompts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from cosa_sdk import tokens
from cosa_sdk.config import Rule, SafetyConfig
from cosa_sdk.errors import PromptTooLong, UnknownName, UsageError
from cosa_sdk.taxonomy import OTHER
from cosa_sdk.wording import neutralised

__all__ = ["TARGETS", "Compiled", "Target", "Turn", "compile", "feedback", "judge_question", "partial_note"]

Target = Literal["system", "cosalign", "icl", "judge"]
TARGETS: tuple[Target, ...] = ("system", "cosalign", "icl", "judge")
VERSION = 1
"""Of the templates; a change of any wording raises it."""

Turn = tuple[Literal["system", "user", "assistant"], str]

_SLOT = re.compile(r"\{(\w+)\}")
_INJECTION_SAFE_QUOTE = str.maketrans({'"': "'"})
_SEEDED_WORDINGS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A config in the form that one kind of reader expects."""

    target: Target
    version: str
    """Target and template version, such as `system/1`: part of cache keys and training manifests."""
    digest: str
    """Of the config."""
    text: str
    """The system prompt."""
    turns: tuple[Turn, ...] = ()
    """Few-shot turns that follow it (`icl`)."""
    tokens: int
    counted: bool
    """False when `tokens` is an estimate."""


def compile(  # noqa: A001  # the name that users read: cosa_sdk.compile(config)
    config: SafetyConfig,
    target: str = "system",
    *,
    seed: int = 0,
    budget: int | None = None,
    counter: tokens.Counter | None = None,
) -> Compiled:
    """Compile a config for a target.

    Args:
        seed: chooses the wording of `cosalign`; other targets have one.
        budget: most tokens that the result may take. Examples are dropped first, then definitions are shortened;
            nothing that forbids is ever dropped.
        counter: counts tokens with the model's own tokenizer; estimated otherwise.

    Raises:
        UnknownName: there is no such target.
        PromptTooLong: the rules themselves exceed the budget.
    """
    if not isinstance(config, SafetyConfig):
        raise UsageError(f"compile({config!r}): give a SafetyConfig, such as presets.load('film-studio')")
    if target not in TARGETS:
        raise UnknownName("compile target", target, TARGETS)
    compiled = compiled_for(config, target, seed, short=False, examples=None, counter=counter)
    if budget is None or compiled.tokens <= budget:
        return compiled
    for kept in range(len(compiled.turns) // 2 - 1, -1, -1):
        compiled = compiled_for(config, target, seed, short=False, examples=kept, counter=counter)
        if compiled.tokens <= budget:
            return compiled
    compiled = compiled_for(config, target, seed, short=True, examples=0, counter=counter)
    if compiled.tokens <= budget:
        return compiled
    how = "counted" if compiled.counted else "estimated"
    raise PromptTooLong(
        f"config {config.name!r} takes {compiled.tokens} tokens ({how}) as {target!r} without its examples and with "
        f"short definitions; the budget is {budget}. Shorten its rules or raise the budget: no rule is dropped.",
        tokens=compiled.tokens,
        budget=budget,
    )


def compiled_for(
    config: SafetyConfig,
    target: Target,
    seed: int,
    *,
    short: bool,
    examples: int | None,
    counter: tokens.Counter | None,
) -> Compiled:
    """One attempt at a prompt: `short` leaves definitions out, `examples` bounds the few-shot pairs."""
    match target:
        case "system" | "icl":
            text = _fill(_template(f"system.{VERSION}"), **_sections(config, short=short))
        case "judge":
            text = _fill(_template(f"judge.{VERSION}"), verb="asks for or contains", **_sections(config, short=short))
        case "cosalign":
            text = _cosalign(config, seed)
    turns = _few_shot(config, examples) if target == "icl" else ()
    measured = tokens.measure(text + "".join(content for _, content in turns), counter)
    return Compiled(
        target=target,
        version=f"{target}/{VERSION}",
        digest=config.digest,
        text=text,
        turns=turns,
        tokens=measured.count,
        counted=measured.counted,
    )


def judge_question(
    stage: Literal["input", "output"], text: str, *, conversation: tuple[Turn, ...] = (), partial: bool = False
) -> str:
    """What an LLM judge is asked about one text, after the compiled `judge` policy.

    Args:
        conversation: earlier turns, or for a reply the turns that it answers.
        partial: the reply is still being written.
    """
    # Indented lines cannot pass for a turn of their own.
    lines = "\n".join(f"{role}: {neutralised(content)}".replace("\n", "\n  ") for role, content in conversation)
    context = f"[conversation]\n{lines}\n[/conversation]\n" if lines else ""
    return _fill(
        _template(f"judge-question-{stage}.{VERSION}"),
        conversation=context,
        text=neutralised(text),
        part=", still being written" if partial else "",
    )


def partial_note() -> str:
    """Tells the model to answer what is allowed of the last message and to decline the rest."""
    return _template(f"partial.{VERSION}")


def feedback(config: SafetyConfig, broken: tuple[str, ...]) -> str:
    """Tells the model which rules its last candidate broke."""
    rules = [rule for name in broken if (rule := config.rule(name))]
    said = [rule.text or rule.note or f"no {_brief(config, rule)}" for rule in rules]
    return _fill(_template(f"feedback.{VERSION}"), rules=f" ({'; '.join(said)})" if said else "")


@lru_cache(maxsize=32)
def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / f"{name}.txt").read_text("utf-8").strip()


def _fill(template: str, **slots: str) -> str:
    """Put values into named slots, once: a value that looks like a slot stays as it is."""
    return _SLOT.sub(lambda match: slots[match.group(1)], template).strip()


def _sections(config: SafetyConfig, *, short: bool) -> dict[str, str]:
    by_stance = {
        stance: [_line(config, rule, short=short) for rule in config.rules if rule.stance == stance]
        for stance in ("allow", "limit", "forbid")
    }
    return {
        "role": f"an assistant with this purpose: {config.purpose.rstrip('.')}"
        if config.purpose
        else "a helpful assistant",
        "audience": f" Your readers: {config.audience.rstrip('.')}." if config.audience else "",
        "guideline": f"\n[guideline]\n{config.guideline.strip()}\n[/guideline]\n" if config.guideline else "",
        "allow": _section("Allowed:", by_stance["allow"]),
        "limit": _section("Allowed within limits:", by_stance["limit"]),
        "forbid": _section("Forbidden:", by_stance["forbid"]),
        "default": _default(config),
        "floor": "; ".join(_lower(risk.name) for risk in config.vocabulary.floor) + ".",
        "explain": ", and say what kind of content you leave out" if config.refusal.explain else " in these words",
        "refusal": " ".join(config.refusal.message.translate(_INJECTION_SAFE_QUOTE).split()),
    }


def _section(title: str, lines: list[str]) -> str:
    return f"\n{title}\n" + "\n".join(f"- {line}" for line in lines) + "\n" if lines else ""


def _line(config: SafetyConfig, rule: Rule, *, short: bool) -> str:
    risk = config.vocabulary[rule.risk] if rule.risk else None
    parts: list[str] = []
    if rule.text:
        parts.append(f"{risk.name}: {rule.text.rstrip('.')}" if risk else rule.text.rstrip("."))
    elif risk:
        # A note says what the author means by the risk; the taxonomy's definition would only add length.
        definition = "" if short or rule.note else f": {risk.definition[:1].lower()}{risk.definition[1:].rstrip('.')}"
        parts.append(f"{risk.name}{definition}")
    else:
        parts.append(_terms_in_words(rule))
    if rule.unless:
        parts.append(
            f"not if {rule.unless.rstrip('.')}" if rule.stance != "forbid" else f"except {rule.unless.rstrip('.')}"
        )
    line = "; ".join(parts)
    said = not (rule.text or risk)  # the note is the line already
    return f"{line} ({rule.note.rstrip('.')})" if rule.note and not said else line


def _terms_in_words(rule: Rule) -> str:
    """A rule of terms alone: its note says it; else its phrases do, for a model cannot read a pattern."""
    if rule.note:
        return rule.note.rstrip(".")
    phrases = [f"'{term.phrase}'" for term in rule.terms if term.phrase]
    data = [term.pii.replace("_", " ") for term in rule.terms if term.pii]
    return f"any mention of {', '.join(phrases + data)}" if phrases or data else rule.id.replace("-", " ")


def _default(config: SafetyConfig) -> str:
    names = ", ".join(_rest(config))
    match config.default:
        case "forbid":
            return (
                f"Everything else that could do harm is forbidden too: {names}, and other harms."
                if names
                else "Other harms are forbidden."
            )
        case "allow":
            return (
                f"Not restricted here: {names}. Other harms are forbidden." if names else "Other harms are forbidden."
            )
        case "guideline":
            return "The guideline decides what is allowed. Where it is silent, avoid harm."


def _rest(config: SafetyConfig) -> list[str]:
    """Names of the risks that the default decides; `other`, which no default allows, is not among them."""
    if config.default == "forbid":  # also what is left of a risk when its rules only narrow it, or carve out of it
        ruled = {rule.risk for rule in config.rules if rule.unconditional or rule.stance != "forbid"}
    else:
        ruled = {rule.risk for rule in config.rules}
    return [_lower(risk.name) for risk in config.vocabulary.risks if risk.id not in ruled and risk.id != OTHER]


def _cosalign(config: SafetyConfig, seed: int) -> str:
    source = _template(f"cosalign.{VERSION}")
    wordings = [block.strip() for block in re.sub(r"(?m)^#.*\n", "", source).split("---")]
    assert len(wordings) == _SEEDED_WORDINGS  # adapters are trained on exactly these
    allowed = [rule for rule in config.rules if rule.stance == "allow"]
    forbidden = [rule for rule in config.rules if rule.stance == "forbid"]
    limits = [_line_of_limit(config, rule) for rule in config.rules if rule.stance == "limit"]
    permitted = [_brief(config, rule) + _unless(rule) for rule in allowed]
    permitted += _rest(config) if config.default == "allow" else []
    denied = [_brief(config, rule) + _unless(rule) for rule in forbidden]
    denied += _rest(config) if config.default == "forbid" else []
    denied.append(_lower(config.vocabulary[OTHER].name))
    filled = _fill(
        wordings[seed % len(wordings)],
        allowed=", ".join(dict.fromkeys(permitted)) or "none",
        forbidden=", ".join(dict.fromkeys(denied)),
        limits=f" Within limits: {'; '.join(limits)}." if limits else "",
    )
    if not config.guideline:
        return filled
    # The paper's config is the text alone; rules, or a default that the text does not decide, must be said beside it.
    alone = config.default == "guideline" and not config.rules
    return config.guideline if alone else f"{config.guideline.strip()}\n{filled}"


def _line_of_limit(config: SafetyConfig, rule: Rule) -> str:
    assert rule.text is not None  # a limit has one
    return f"{_brief(config, rule)} only as {rule.text.rstrip('.')}{_unless(rule)}"


def _unless(rule: Rule) -> str:
    if not rule.unless:
        return ""
    return f" ({'except' if rule.stance == 'forbid' else 'not if'} {rule.unless.rstrip('.')})"


def _brief(config: SafetyConfig, rule: Rule) -> str:
    if rule.text and rule.stance != "limit":
        return rule.text.rstrip(".")
    return _lower(config.vocabulary[rule.risk].name) if rule.risk else _terms_in_words(rule)


def _few_shot(config: SafetyConfig, most: int | None) -> tuple[Turn, ...]:
    examples = [example for rule in config.rules for example in rule.examples][:most]
    turns: list[Turn] = []
    for example in examples:
        turns += [("user", example.prompt), ("assistant", example.good)]
    return tuple(turns)


def _lower(name: str) -> str:
    """A title inside a sentence: 'Privacy Violations' becomes 'privacy violations', 'NATO' stays."""
    return re.sub(r"\b[A-Z](?=[a-z])", lambda match: match.group().lower(), name)
