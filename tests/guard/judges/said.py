"""What guard models are asked and answer in tests: a config, cases, and judges over scripted models."""

from __future__ import annotations

import asyncio
import math

from cosa_guard import judges
from cosa_guard.messages import Delta, Message
from cosa_guard.testing import AsyncFakeBackend, Capabilities, FakeBackend
from cosa_guard.verdicts import Case
from cosa_sdk import SafetyConfig
from cosa_sdk.config import Rule

CONFIG = SafetyConfig(
    name="kitchen",
    rules=(
        Rule(risk="violence", stance="allow"),
        Rule(risk="drugs", stance="forbid"),
        Rule(id="rivals", stance="forbid", text="names of rival kitchens"),
    ),
)
"""Allows violence, forbids the other risks, and has a rule in words."""
HELLO = "How do I sharpen a knife?"
REPLY = "Use a whetstone."
ASKED = (Message("user", HELLO),)


def input_case(text=HELLO, turns=(), config=CONFIG):
    return Case(config=config, stage="input", text=text, turns=turns)


def output_case(text=REPLY, turns=ASKED, config=CONFIG, **changes):
    return Case(config=config, stage="output", text=text, turns=turns, **changes)


class Scorer(FakeBackend):
    """Shows the probability of Yes that it is told to, or that a function of the request gives."""

    def __init__(self, yes, name="fake:no-such-model"):
        super().__init__("unused", name=name, capabilities=Capabilities(logprobs=True))
        self.yes = yes

    def next_logprobs(self, request, *, top=64):
        self.requests.append(request)
        yes = self.yes(request) if callable(self.yes) else self.yes
        return {token: math.log(share) for token, share in {"Yes": yes, "No": 1 - yes}.items() if share}

    def count_tokens(self, request):
        return 1


class Ending(FakeBackend):
    """Ends its answer as it is told to."""

    def __init__(self, text, finish):
        super().__init__(text)
        self.finish = finish

    def stream(self, request):
        yield Delta(self.script, finish=self.finish)


class Silent(FakeBackend):
    """Ends without a single piece."""

    def stream(self, request):
        return iter(())


def verdict(name, answer, case, **options):
    """The verdict on a model's answer, called and awaited, which must be the same."""
    called = judges.make(name, backend=FakeBackend(answer), **options).judge(case)
    awaited = asyncio.run(judges.make(name, backend=_named_like_fake(answer), **options).ajudge(case))
    assert called == awaited
    return called


def _named_like_fake(answer):
    backend = AsyncFakeBackend(answer)
    backend.name = "fake"
    return backend


def asked(name, case, answer, **options):
    """What the model is asked: role and content of every message of every question."""
    backend = FakeBackend(answer)
    judges.make(name, backend=backend, **options).judge(case)
    return [[(message.role, message.content) for message in request.messages] for request in backend.requests]
