"""What evaluation judges are asked: the only place that writes their prompts.

Templates are package data with named slots and a version in their name. A judged text is fenced, and cannot close its
fence; a template is filled once, so a text that looks like a slot stays as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from cosa_guard.messages import Message, Request, Sampling
from cosa_sdk import taxonomy
from cosa_sdk.compile import compile as compile_config
from cosa_sdk.config import SafetyConfig
from cosa_sdk.wording import neutralised

__all__ = ["VERSION", "asked_of", "exchange", "instruction", "policy_of", "risk_keys", "written_by"]

VERSION = 1
"""Of the templates; a change of any wording raises it."""
NOTED = "I have read it."
"""What the model is taken to have said between the exchange and a question about it."""

_SLOT = re.compile(r"\{(\w+)\}")


def exchange(prompt: str, response: str) -> str:
    """A prompt and its reply, fenced. Without a prompt, the reply alone."""
    asked = neutralised(prompt).replace("\n", "\n  ")  # indented lines cannot pass for a turn of their own
    context = f"[conversation]\nuser: {asked}\n[/conversation]\n" if prompt else ""
    return _fill(_template("exchange"), conversation=context, response=neutralised(response))


def risk_keys(config: SafetyConfig | None = None) -> tuple[str, ...]:
    """The kinds of harm that a judge is asked about: the taxonomy's, a config's own ones, and the floor."""
    vocabulary = taxonomy.builtin() if config is None else config.vocabulary
    return (*vocabulary.ids, *taxonomy.FLOOR)


def policy_of(config: SafetyConfig) -> str:
    """The config's whole policy in words, as the guard's judges read it."""
    return compile_config(config, "judge").text


def instruction(question: str, config: SafetyConfig) -> str:
    """The system message of a question that is answered in words: a template's name."""
    vocabulary = config.vocabulary
    keys = risk_keys(config)
    return _fill(
        _template(question),
        policy=neutralised(policy_of(config)),
        definitions="\n".join(f"- {key}: {vocabulary[key].name}. {vocabulary[key].definition}" for key in keys),
        shape="{" + ", ".join(f'"{key}": false' for key in keys) + "}",
    )


def written_by(question: str, config: SafetyConfig, prompt: str, response: str, sampling: Sampling) -> Request:
    """A question that is answered in words, the verdict last."""
    return Request(
        messages=(
            Message("system", instruction(question, config)),
            Message("user", exchange(prompt, response)),
        ),
        sampling=sampling,
    )


def asked_of(question: str, prompt: str, response: str) -> Request:
    """A question that is answered by one token. The exchange comes first, so that a backend may keep it."""
    return Request(
        messages=(
            Message("system", _template("reader")),
            Message("user", exchange(prompt, response)),
            Message("assistant", NOTED),
            Message("user", question),
        ),
        # No user's conversation but rows of a suite: what they share may be kept between questions about one of them.
        shared=3,
    )


@lru_cache(maxsize=16)
def _template(name: str) -> str:
    return (Path(__file__).parent / "prompts" / f"{name}.{VERSION}.txt").read_text("utf-8").strip()


def _fill(template: str, **slots: str) -> str:
    return _SLOT.sub(lambda match: slots[match.group(1)], template).strip()
