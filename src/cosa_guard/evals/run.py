"""Tries systems on a suite: asks, judges, writes rows, and goes on where a run was stopped.

On a backend that computes requests together in an order that the requests alone decide (`Completer`), a run that was
killed and started again leaves the same rows, to the byte, as one that was not.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from cosa_guard import backends
from cosa_guard.backends.base import AnyBackend, Backend, Completer
from cosa_guard.evals.asking import AT_ONCE, AtOnce, Desk, Lockstep
from cosa_guard.evals.folder import Folder
from cosa_guard.evals.judged import begun, filtered, judged
from cosa_guard.evals.limits import Meter
from cosa_guard.evals.recipe import Recipe
from cosa_guard.evals.replies import Replies
from cosa_guard.evals.rows import Manifest, ResultRow, SystemFacts
from cosa_guard.evals.scoring import EvaluationJudge
from cosa_guard.evals.suite import Item, Suite
from cosa_guard.evals.systems import System, adapter_name, circular
from cosa_sdk.errors import BackendError, CosaError, JudgeError, PromptTooLong, UsageError

__all__ = ["Progress", "Run", "evaluate"]

WAVE = 32
"""Rows that are computed together. More wait for each other, fewer leave a batch half empty at its end."""
_WRONG_IN_A_ROW = 20
"""Failed rows after which a run gives up: a server that is gone will not come back for the rest."""
_PACKAGES = ("cosa", "llama-cpp-python", "xllamacpp", "transformers", "torch", "openai", "anthropic", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come."""

    rows: int
    total: int
    answers: int
    """That models gave since the run was started, for responses and for judges."""
    system: str


Told = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that has ended."""

    manifest: Manifest
    rows: tuple[ResultRow, ...]
    """System by system, in the order of the suite."""
    found: int
    """Rows that were there before: of a run that was stopped."""
    meter: Meter


def evaluate(
    suite: Suite,
    recipe: Recipe,
    judge: EvaluationJudge | Callable[[Callable[[AnyBackend], Backend]], EvaluationJudge],
    *,
    folder: Path | None = None,
    fresh: bool = False,
    told: Told | None = None,
    open_backend: Callable[[str, Mapping[str, Any]], AnyBackend] | None = None,
) -> Run:
    """Try every system on every item, and judge what comes back.

    Args:
        judge: who scores; or what makes it, called with what makes a model's answers part of the run.
        folder: where the run is kept, and found again when it was stopped; None: in memory.
        fresh: delete what the folder holds of a run.
        told: called as the run goes on, from several threads.
        open_backend: makes models, for tests and plugins; `backends.make` by default.

    Raises:
        UsageError: a system cannot be built, the folder holds another run, or the cost is reached.
        BackendError: a model cannot be loaded, or fails again and again.
    """
    return _Evaluation(suite, recipe, folder, told or (lambda _: None), open_backend or _open).run(judge, fresh=fresh)


def _open(spec: str, options: Mapping[str, Any]) -> AnyBackend:
    return backends.make(spec, **options)


class _Evaluation:
    def __init__(
        self,
        suite: Suite,
        recipe: Recipe,
        folder: Path | None,
        told: Told,
        open_backend: Callable[[str, Mapping[str, Any]], AnyBackend],
    ) -> None:
        self._suite, self._recipe, self._told, self._open = suite, recipe, told, open_backend
        self._folder = None if folder is None else Folder(folder)
        self._meter = Meter(recipe.limits)
        self._answers = self._rows = self._failed = 0
        self._system = ""

    def run(
        self, judge: EvaluationJudge | Callable[[Callable[[AnyBackend], Backend]], EvaluationJudge], *, fresh: bool
    ) -> Run:
        with ExitStack() as stack:
            if self._folder is not None:
                stack.enter_context(self._folder.held())
                if fresh:
                    self._folder.clear()
            models = self._models(stack)
            replies = self._folder.replies() if self._folder else Replies()
            stack.callback(replies.close)
            desk = self._desk(replies, list(models.values()))
            shared = {spec: desk.model(model) for spec, model in models.items()}
            scorer = judge if isinstance(judge, EvaluationJudge) else judge(desk.model)
            systems = [
                System(spec, self._suite, shared[spec.model or self._recipe.model], self._recipe.sampling)
                for spec in self._recipe.systems
            ]
            manifest = self._manifest(systems, scorer, desk)
            found: dict[tuple[str, str], ResultRow] = {}
            if self._folder is not None:
                manifest = self._folder.begin(manifest)
                found = {(row.system, row.item): row for row in self._folder.rows()}
            before = len(found)
            self._rows = before
            for system in systems:
                self._try(system, scorer, desk, found)
            order = [(system.spec.name, item.id) for system in systems for item in self._suite.items]
            rows = tuple(found[key] for key in order)
            if self._folder is not None:
                self._folder.finish(rows)
            return Run(manifest=manifest, rows=rows, found=before, meter=self._meter)

    def _models(self, stack: ExitStack) -> dict[str, AnyBackend]:
        """Each model once, with the adapters that any system asks of it."""
        wanted: dict[str, dict[str, str]] = {}
        for spec in self._recipe.systems:
            adapters = wanted.setdefault(spec.model or self._recipe.model, {})
            for path, _ in spec.adapters:
                known = adapters.setdefault(adapter_name(path), path)
                if known != path:
                    raise UsageError(
                        f"adapters {known!r} and {path!r} have one name, {adapter_name(path)!r}: rename one file"
                    )
        models: dict[str, AnyBackend] = {}
        for model_spec, adapters in wanted.items():
            options = dict(self._recipe.options)
            if adapters:
                options["adapters"] = adapters
            models[model_spec] = model = self._open(model_spec, options)
            close = getattr(model, "close", None)
            if callable(close):
                stack.callback(close)
        return models

    def _desk(self, replies: Replies, models: Sequence[AnyBackend]) -> Desk:
        if all(isinstance(model, Completer) for model in models) and self._recipe.concurrency is None:
            return Lockstep(replies, meter=self._meter, told=self._count)
        takes = [model.capabilities.parallel or AT_ONCE for model in models]
        return AtOnce(replies, concurrency=self._recipe.concurrency or max(takes), meter=self._meter, told=self._count)

    def _count(self, answers: int) -> None:
        self._answers += answers
        self._tell()

    def _tell(self) -> None:
        total = len(self._suite.items) * len(self._recipe.systems)
        self._told(Progress(rows=self._rows, total=total, answers=self._answers, system=self._system))

    def _try(self, system: System, judge: EvaluationJudge, desk: Desk, found: dict[tuple[str, str], ResultRow]) -> None:
        self._system = name = system.spec.name
        # Cut before rows that are there are left out: what is computed beside what must not depend on a crash.
        waves = [self._suite.items[at : at + WAVE] for at in range(0, len(self._suite.items), WAVE)]
        for wave in waves:
            items = [item for item in wave if (name, item.id) not in found]
            if not items:
                continue
            outcomes = desk.run([partial(self._row, system, judge, item) for item in items])
            rows = [_settled(system, item, one) for item, one in zip(items, outcomes, strict=True)]
            if self._folder is not None:
                self._folder.add(rows)
            found.update({(name, row.item): row for row in rows})
            self._rows += len(rows)
            self._tell()
            for row in rows:
                self._failed = self._failed + 1 if row.error else 0
                if self._failed >= _WRONG_IN_A_ROW:
                    raise BackendError(
                        f"{self._failed} rows in a row have no response, the last one because: {row.error} What was "
                        "answered is kept: mend it and run the same command again"
                    )

    def _row(self, system: System, judge: EvaluationJudge, item: Item) -> ResultRow:
        response = system.respond(item)
        row = judged(system.spec.name, self._suite, item, response, judge)
        return filtered(row, self._suite, judge) if system.spec.method == "cascade-oracle" else row

    def _manifest(self, systems: Sequence[System], judge: EvaluationJudge, desk: Desk) -> Manifest:
        facts = []
        for system in systems:
            why = circular(system, judge.models)
            spec = system.spec
            facts.append(
                SystemFacts(
                    name=spec.name,
                    method=f"{spec.method} over {spec.over}" if spec.method.startswith("cascade") else spec.method,
                    model=system.model_name,
                    adapters=tuple(f"{adapter_name(path)}:{scale:g}" for path, scale in spec.adapters),
                    guard=system.judges,
                    circular=bool(why),
                    why_circular=why,
                )
            )
        sampling = self._recipe.sampling
        return Manifest(
            suite=self._suite.name,
            suite_digest=self._suite.digest,
            suite_source=self._suite.source,
            items=len(self._suite.items),
            judge=judge.name,
            judge_facts=dict(judge.facts),
            systems=tuple(facts),
            sampling={
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_tokens,
                "stop": list(sampling.stop),
            },
            seed=sampling.seed or 0,
            exact=desk.exact,
            versions=_versions(),
            made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            settings={
                "model": self._recipe.model,
                "options": dict(self._recipe.options),
                "wave": WAVE,
            },
        )


def _settled(system: System, item: Item, outcome: ResultRow | CosaError) -> ResultRow:
    """The row; one without a response where the model or the judge failed. Errors of the run itself are raised."""
    if isinstance(outcome, ResultRow):
        return outcome
    if isinstance(outcome, BackendError | JudgeError | PromptTooLong):
        return replace(begun(system.spec.name, item), error=str(outcome))
    raise outcome


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
