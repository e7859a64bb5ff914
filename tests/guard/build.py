"""Guards for tests, each in one line, and with nothing that the test does not say."""

from __future__ import annotations

import os
import threading

from cosa_guard import Guard
from cosa_guard.messages import Delta
from cosa_guard.release import MASK
from cosa_guard.testing import FakeBackend, ScriptedJudge, both
from cosa_guard.verdicts import Verdict
from cosa_sdk import SafetyConfig
from cosa_sdk.decide import Evidence

CHUNKINGS = int(os.environ.get("COSA_CHUNKINGS", "300"))
"""Random texts and chunkings that the leak property tries."""
PATIENCE = 20.0
"""Seconds after which a test that waits for an event has failed; no test that passes waits so long."""


def terms_config(*terms, rules=(), default="allow", **enforcement):
    """Forbids terms and accepts openly what `rules` cannot look for."""
    own = ({"id": "words", "stance": "forbid", "terms": list(terms), "note": "secret words"},) if terms else ()
    return SafetyConfig(
        name="terms", default=default, rules=(*own, *rules), enforcement={"on_undecided": "allow", **enforcement}
    )


def risks_config(*, allow=("violence",), forbid=("drugs",), **enforcement):
    """Rules on whole risks, for judges that name them."""
    rules = [{"risk": risk, "stance": "allow"} for risk in allow]
    rules += [{"risk": risk, "stance": "forbid"} for risk in forbid]
    return SafetyConfig(name="risks", rules=rules, enforcement=enforcement)


class TwoColoured(FakeBackend):
    """Can be awaited too: saves a change of threads for every piece where thousands of texts are tried."""

    async def astream(self, request):
        for delta in self.stream(request):
            yield delta


def guard(config, said="Hello.", **options):
    """A guard around a model that says `said`: a text, its pieces, or a function of the request."""
    return Guard(config, **{"judge": "rules", "backend": FakeBackend(said), "accept_unexamined": True, **options})


def watched(config, said="Hello.", messages="Hello there.", **options):
    """One guarded stream, sync and async compared, and the two backends that answered.

    Options that are functions without arguments (`judge=`, `record=`, `backend=`) are called for each guard.
    """
    made = []

    def make():
        fresh = {name: value() if name in {"judge", "record", "backend"} else value for name, value in options.items()}
        made.append(guard(config, said, **fresh))
        return made[-1]

    transcript = both(make, messages)
    return transcript, [one.backend for one in made]


def answered(config, said="Hello.", messages="Hello there.", **options):
    """As `watched`, without the backends."""
    return watched(config, said, messages, **options)[0]


def finder(**words):
    """A factory of judges: `finder(violence=["fight"])`. Underscores stand for dots in floor ids: `floor__minors`."""
    return lambda: ScriptedJudge({name.replace("__", "."): found for name, found in words.items()})


def clean(case, judge="test/1"):
    """Nothing found, everything examined."""
    return Verdict(judge=judge, evidence=Evidence(examined=case.config.elements))


class OwnJudge:
    """A judge from a function of a case; examines everything."""

    inline = True

    def __init__(self, function=clean, *, name="own/1", inline=True, holdback=0):
        self.function, self.name, self.inline, self._holdback = function, name, inline, holdback

    def covers(self, config):
        return config.elements

    def holdback(self, config):
        return self._holdback

    def judge(self, case):
        return self.function(case)


class AwaitedJudge:
    """As `OwnJudge`, for a coroutine function: it can only be awaited."""

    def __init__(self, function, *, name="awaited/1", inline=False):
        self.function, self.name, self.inline = function, name, inline

    def covers(self, config):
        return config.elements

    def holdback(self, config):
        return 0

    async def ajudge(self, case):
        return await self.function(case)


class Gate:
    """A judge that hangs until the test opens it; use as a context manager, so that no thread hangs for ever."""

    name, inline = "gate/1", False

    def __init__(self):
        self.opened, self.entered = threading.Event(), threading.Event()

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.opened.set()

    def covers(self, config):
        return config.elements

    def holdback(self, config):
        return 0

    def judge(self, case):
        self.entered.set()
        assert self.opened.wait(PATIENCE)
        return clean(case)


def masked(text, spans):
    """The text with one mask over every run of characters that spans cover."""
    covered = [any(low <= at < high for low, high in spans) for at in range(len(text))]
    out = []
    for at, char in enumerate(text):
        if not covered[at]:
            out.append(char)
        elif not at or not covered[at - 1]:
            out.append(MASK)
    return "".join(out)


def text_of(pieces):
    return "".join(piece.text if isinstance(piece, Delta) else piece for piece in pieces)
