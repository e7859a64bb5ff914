"""The `model` judge: a language model reads the compiled policy and one text, and says yes or no.

Where the backend shows logits the answer is read off one prefill, as the log-odds of yes against no: no token is
decoded, and the answer has a probability. Elsewhere the model writes JSON, which must fit a schema.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from cosa_guard.backends.base import AnyBackend, Backend, Scorer, blocks
from cosa_guard.judges.calibration import Calibration, calibration_for
from cosa_guard.messages import Message, Request, Sampling
from cosa_guard.verdicts import Case, Stage, Verdict
from cosa_sdk.compile import Turn, judge_question
from cosa_sdk.compile import compile as compile_config
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import Evidence
from cosa_sdk.errors import JudgeError, UsageError

__all__ = ["ModelJudge", "make", "once", "ruled", "yes_probability"]

HOLDBACK = 40
"""About ten tokens: what makes a sentence bad may be its last word."""
REACH = 6_000
"""Most characters of a conversation that the judge reads. A guard shows its model no more than its judges read."""

_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"breaks": {"type": "boolean"}, "reason": {"type": "string"}},
        "required": ["breaks", "reason"],
        "additionalProperties": False,
    }
)


@lru_cache(maxsize=256)
def _policy(config: SafetyConfig) -> tuple[str, str]:
    compiled = compile_config(config, "judge")
    return compiled.text, compiled.version


def yes_probability(logprobs: Mapping[str, float]) -> float:
    """Probability of yes among the answers yes and no, however they are capitalised or spaced.

    Raises:
        JudgeError: neither is among the candidates.
    """
    mass = {"yes": 0.0, "no": 0.0}
    for token, logprob in logprobs.items():
        word = token.strip().lower()
        if word in mass:
            mass[word] += math.exp(logprob)
    total = mass["yes"] + mass["no"]
    if not total:
        shown = ", ".join(repr(token) for token in list(logprobs)[:5])
        raise JudgeError(f"the model answers neither yes nor no; its likeliest tokens are {shown}")
    return mass["yes"] / total


def ruled(probability: float, logprobs: Mapping[str, float], calibration: Calibration) -> bool | None:
    """What a probability of yes comes to: a violation, none, or not sure enough.

    A model that nobody has measured passes nothing when it would rather say something else than yes or no.
    """
    decided = calibration.decide(probability)
    if decided is False and not calibration.n:
        likeliest = max(logprobs, key=lambda token: logprobs[token])
        return False if likeliest.strip().lower() in {"yes", "no"} else None
    return decided


class ModelJudge:
    """A language model as the judge of a whole config.

    Args:
        backend: the model. One that shows next-token probabilities is several times faster.
        method: `log-odds` or `json`; the better one that the backend has by default.
        timeout: seconds for one case; the guard's own time-out otherwise.

    Raises:
        UsageError: the backend can only be awaited, or lacks what the method needs, or the time-out is not positive.
    """

    inline = False
    reach = REACH

    def __init__(self, backend: AnyBackend, *, method: str | None = None, timeout: float | None = None) -> None:
        if not blocks(backend):
            raise UsageError(f"backend {backend.name!r} can only be awaited; the model judge needs a blocking one")
        can_score = backend.capabilities.logprobs and isinstance(backend, Scorer)
        method = method or ("log-odds" if can_score else "json")
        if method not in {"log-odds", "json"}:
            raise UsageError(f"unknown method {method!r}; choices: log-odds, json")
        if method == "log-odds" and not can_score:
            raise UsageError(f"backend {backend.name!r} shows no next-token probabilities: use method='json'")
        if timeout is not None and not timeout > 0:
            raise UsageError(f"timeout={timeout!r}: give a positive number of seconds, or None for the guard's own")
        self.timeout = timeout
        self._backend: Backend = backend
        self._scorer = backend if isinstance(backend, Scorer) and method == "log-odds" else None
        self._model = backend.name.partition(":")[2]
        self.name = f"model/1:{self._model}"

    def calibration(self, stage: Stage) -> Calibration:
        """How far this model may be believed at that stage."""
        return calibration_for(self._model, stage)

    def fingerprint(self, stage: Stage) -> str:
        """What beside its name and the case decides its verdict: part of cache keys."""
        return f"{'json' if self._scorer is None else 'log-odds'} {self.calibration(stage)!r}"

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """Everything: it reads the whole policy."""
        return config.elements

    def holdback(self, config: SafetyConfig) -> int:  # noqa: ARG002  # the same for every config
        """About ten tokens."""
        return HOLDBACK

    def judge(self, case: Case) -> Verdict:
        """Read the case under the config's policy.

        Raises:
            JudgeError: the answer is neither yes nor no, or not the JSON that was asked for.
            BackendError: the model failed.
        """
        policy, version = _policy(case.config)
        text = case.text
        turns: tuple[Turn, ...] = ()
        if case.stage == "output":
            turns = _recent(case.turns, len(case.text))  # what the reply answers: context
        elif case.turns:
            # Earlier turns that are not the guard's own are under judgement too, not context.
            text = "\n".join([*(f"{role}: {content}" for role, content in _as_turns(case.turns)), f"user: {text}"])
        question = judge_question(case.stage, text, conversation=turns, partial=not case.final)
        request = Request(messages=(Message("system", policy), Message("user", question)))
        name = f"{self.name}/{version}"
        calibration = self.calibration(case.stage)
        if self._scorer is None:
            breaks, reason = self._ask(request)
            probability = float(breaks)
            decided = calibration.decide(probability)
        else:
            logprobs = self._scorer.next_logprobs(request)
            probability, reason = yes_probability(logprobs), ""
            decided = ruled(probability, logprobs, calibration)
        said = f"p(breaks) {probability:.2f}, {calibration}" + (f": {reason}" if reason else "")
        evidence = Evidence(violates=True) if decided else Evidence()
        if decided is False:
            evidence = Evidence(examined=case.config.elements)
        return Verdict(judge=name, evidence=evidence, score=probability, reason=said)

    def _ask(self, request: Request) -> tuple[bool, str]:
        sampling = Sampling(max_tokens=120, json_schema=_SCHEMA)
        text = "".join(delta.text for delta in self._backend.stream(request.replace(sampling=sampling)))
        try:
            answer = json.loads(text, object_pairs_hook=once)
            breaks, reason = answer.pop("breaks"), answer.pop("reason", "")
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise JudgeError(f"the model's verdict is not the JSON that was asked for: {text[:80]!r}") from error
        if answer:
            raise JudgeError(f"the model's verdict holds more than the JSON that was asked for: {text[:80]!r}")
        if not isinstance(breaks, bool):
            raise JudgeError(f"the model's verdict has breaks={breaks!r}, not true or false")
        return breaks, str(reason)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, each of whose keys stands once: of two verdicts nobody knows which is meant."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def _as_turns(turns: tuple[Message, ...]) -> tuple[Turn, ...]:
    return tuple(("assistant" if turn.role == "assistant" else "user", turn.content) for turn in turns)


def _recent(turns: tuple[Message, ...], used: int) -> tuple[Turn, ...]:
    """The newest turns that fit beside `used` characters, oldest first."""
    kept, room = len(turns), REACH - used
    while kept and len(turns[kept - 1].content) <= room:
        kept -= 1
        room -= len(turns[kept].content)
    return _as_turns(turns[kept:])


def make(argument: str | None = None, *, backend: AnyBackend | None = None, timeout: float | None = None) -> ModelJudge:
    """The judge for the names `model` (with `backend=`) and `model:<backend>`.

    Raises:
        UsageError: there is no model to read with.
    """
    if backend is None:
        from cosa_guard import backends  # noqa: PLC0415  # names of backends, needed only here

        backend = backends.make(argument or "local")
    return ModelJudge(backend, timeout=timeout)
