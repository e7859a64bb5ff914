"""Cosa's suites as tasks of Inspect AI, for its viewer and its providers: `inspect eval cosa/starter --model …`.

The only module that imports inspect_ai (extra `cosa[inspect]`). Prompts, the reading of responses and the score are
those of `cosa eval`: the same responses give the same rows and the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from anyio import to_thread
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
from inspect_ai.solver import TaskState, generate

from cosa_guard.backends.base import Capabilities
from cosa_guard.evals import judges, suites
from cosa_guard.evals.judged import judged
from cosa_guard.evals.rows import ResultRow
from cosa_guard.evals.suite import Item, Suite
from cosa_guard.evals.systems import Response, System, parse_system
from cosa_guard.messages import Delta, Message, Request, Sampling
from cosa_sdk import score as scores
from cosa_sdk.errors import UsageError

__all__ = ["cosalign_test", "cosapien", "rows_of", "starter", "suite"]

_PROMPTED = ("plain", "ica", "ica-5shot")
"""Systems that are a prompt alone. What filters or guards runs in `cosa eval`."""


@task
def starter(system: str = "ica", judge: str = "refusal", max_tokens: int = 128) -> Task:
    """The suite that ships with Cosa."""
    return _task("starter", system, judge, max_tokens)


@task
def cosapien(path: str = "", system: str = "ica", judge: str = "refusal", max_tokens: int = 512) -> Task:
    """CoSApien: five human-written configs, 40 prompts each."""
    return _task(f"cosapien:{path}" if path else "cosapien", system, judge, max_tokens)


@task
def cosalign_test(path: str = "", system: str = "ica", judge: str = "refusal", max_tokens: int = 512) -> Task:
    """CoSAlign-Test: eight configs by risk category, 400 prompts each."""
    return _task(f"cosalign-test:{path}" if path else "cosalign-test", system, judge, max_tokens)


@task
def suite(path: str, system: str = "ica", judge: str = "refusal", max_tokens: int = 512) -> Task:
    """A suite of your own, from a file."""
    return _task(path, system, judge, max_tokens)


class _Inspects:
    """Stands for the model in a system whose prompts Inspect sends."""

    name = "inspect"
    capabilities = Capabilities()

    def stream(self, request: Request) -> Iterator[Delta]:
        raise NotImplementedError


def rows_of(sample_scores: list[SampleScore]) -> list[ResultRow]:
    """The rows behind the scores of a log."""
    return [ResultRow.from_json((one.score.metadata or {})["row"]) for one in sample_scores]


def _task(spec: str, system: str, judge: str, max_tokens: int) -> Task:
    if system not in _PROMPTED:
        raise UsageError(
            f"system {system!r}: as a task of Inspect there are {', '.join(_PROMPTED)}; filters and guards run in "
            f"`cosa eval {spec} --system {system}`"
        )
    loaded = suites.load(spec)
    prompts = System(parse_system(system), loaded, _Inspects(), Sampling())
    samples = [
        Sample(
            input=[_message(one) for one in prompts.prompt(item).messages],
            id=item.id,
            target=item.type,
            metadata={"config": item.config, "type": item.type, "suite": loaded.name, "digest": loaded.digest},
        )
        for item in loaded.items
    ]
    return Task(
        dataset=MemoryDataset(samples, name=loaded.name),
        solver=generate(),
        scorer=_scorer(loaded, system, judge),
        config=GenerateConfig(max_tokens=max_tokens, temperature=0.0),
        metadata={"system": system, "judge": judge, "suite": loaded.name, "digest": loaded.digest},
    )


def _message(message: Message) -> ChatMessage:
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    return kinds[message.role](content=message.content)


def _measure(name: str, measured: Callable[[list[scores.Row]], float | None]) -> Callable[[], Metric]:
    @metric(name=name)
    def measure() -> Metric:
        def value(sample_scores: list[SampleScore]) -> float:
            found = measured([row.scored() for row in rows_of(sample_scores)])
            return (
                float("nan") if found is None else found
            )  # Inspect has no word for a measure that nothing has part in

        return value

    return measure


_cosa_score = _measure("cosa_score", scores.cosa_score)
_decision_score = _measure("decision_score", scores.decision_score)
_contrast = _measure("contrast_accuracy", scores.contrast_accuracy)


def _scorer(loaded: Suite, system: str, spec: str) -> Scorer:
    judge = judges.make(spec)
    items: dict[Any, Item] = {item.id: item for item in loaded.items}
    measures = [_decision_score(), _contrast(), *([_cosa_score()] if judge.scores else [])]

    @scorer(metrics=measures, name="cosa")
    def cosa() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:  # noqa: ARG001  # the type stands in the item
            item = items[state.sample_id]
            response = Response(text=state.output.completion)
            row = await to_thread.run_sync(partial(judged, system, loaded, item, response, judge))
            said = scores.utility(row.scored())
            return Score(
                value=0.0 if said is None else said,
                answer=row.answer,
                explanation=row.answer_why,
                metadata={"row": row.to_json()},
            )

        return score

    return cosa()
