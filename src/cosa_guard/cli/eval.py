"""`cosa eval`: is a model controllable, by how much, and can the number be believed?"""

from __future__ import annotations

import hashlib
import json as json_format
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cosa_guard import backends
from cosa_guard.backends.base import AnyBackend, Backend
from cosa_guard.backends.local import choose
from cosa_guard.cli import options
from cosa_guard.cli.writing import must_be_writable, plain, write_whole
from cosa_guard.evals import judges, suites
from cosa_guard.evals.folder import read_run
from cosa_guard.evals.limits import Limits
from cosa_guard.evals.recipe import Recipe, read_recipe
from cosa_guard.evals.report import comparing, files, html, junit, table
from cosa_guard.evals.report.thresholds import Threshold, check, read_thresholds
from cosa_guard.evals.report.view import View
from cosa_guard.evals.rows import Manifest, ResultRow
from cosa_guard.evals.run import Progress as Told
from cosa_guard.evals.run import Run, evaluate
from cosa_guard.evals.scoring import EvaluationJudge
from cosa_guard.evals.suite import Suite
from cosa_guard.evals.systems import parse_system
from cosa_guard.messages import Sampling
from cosa_sdk.errors import CosaError, UnknownName, UsageError
from cosa_sdk.score import Comparison, summarise
from cosa_sdk.score import compare as compare_rows

__all__ = ["app"]

_USUAL = ("plain", "ica", "guard")
_CONTEXT = 4096
_SEQUENCES = 8
"""Requests that a local model computes together: more fill a batch better, and each takes a context of memory."""


class _Group(typer.core.TyperGroup):
    """`cosa eval SUITE` is `cosa eval run SUITE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CosaError as error:  # what is quoted must not steer the terminal
            error.args = tuple(plain(part, keep="\n\t") if isinstance(part, str) else part for part in error.args)
            raise


app = typer.Typer(
    cls=_Group, help="Measure how well models keep safety configs, and compare systems.", no_args_is_help=True
)


_Systems = Annotated[
    list[str] | None,
    typer.Option(
        "--system",
        "-s",
        help="plain, ica, ica-5shot, cascade, cascade-oracle, guard, adapter:FILE, or several joined by +, such as "
        "ica-5shot+guard:rules. Repeatable. Default: plain, ica and guard.",
    ),
]
_Judge = Annotated[
    str,
    typer.Option(
        "--judge",
        "-j",
        help="Who scores: refusal (decision score only, no model), rating:BACKEND, logodds:BACKEND or embedded.",
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="The run's folder. Default: one under cosa-eval/ that is named after what is run."
    ),
]
_Report = Annotated[
    Path | None, typer.Option(help="Where the HTML report goes. Default: report.html in the run's folder.")
]
_Draws = Annotated[int, typer.Option(min=100, help="Draws of the bootstrap for intervals.")]


_Parquet = Annotated[Path | None, typer.Option(help="Write the rows to this file too: .parquet or .jsonl.")]
_Thresholds = Annotated[Path | None, typer.Option(help="A file of bounds; exit code 1 if one is not kept.")]
_Junit = Annotated[Path | None, typer.Option(help="Write what the thresholds say as JUnit XML.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outputs:
    """What is written of a run."""

    draws: int
    report: Path | None
    rows: Path | None
    thresholds: Sequence[Threshold] | None
    junit: Path | None
    json: bool


def _outputs(
    *, draws: int, report: Path | None, rows: Path | None, thresholds: Path | None, junit: Path | None, json: bool
) -> _Outputs:
    """Found out before a long run, what cannot be written or read after it."""
    for file in (report, rows, junit):
        if file is not None:
            must_be_writable(file, force=True)
    if rows is not None:
        files.check_rows(rows)
    bounds = None if thresholds is None else read_thresholds(thresholds)
    return _Outputs(draws=draws, report=report, rows=rows, thresholds=bounds, junit=junit, json=json)


@app.command()
def run(
    suite: Annotated[
        str, typer.Argument(help="starter, cosapien[:PATH], cosalign-test[:PATH], or a file of your own.")
    ],
    system: _Systems = None,
    judge: _Judge = "refusal",
    model: Annotated[
        str, typer.Option("--model", "-m", help="A backend, such as local, local:FILE or openai_http:URL#NAME.")
    ] = "local",
    recipe: Annotated[
        Path | None, typer.Option(help="A file that says all of this: model, systems, judge, sampling, limits.")
    ] = None,
    output: _Output = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the run that the folder holds, and start afresh.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many prompts of each config, of each type in turn.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 128,
    temperature: options.TemperatureOption = 0.0,
    seed: options.SeedOption = 0,
    context: options.ContextOption = _CONTEXT,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Questions at a time. Default: what the model takes.")
    ] = None,
    requests_per_minute: Annotated[float | None, typer.Option("--rpm", help="Most requests a minute.")] = None,
    tokens_per_minute: Annotated[float | None, typer.Option("--tpm", help="Most tokens a minute.")] = None,
    price_in: Annotated[float | None, typer.Option(help="Of a million prompt tokens.")] = None,
    price_out: Annotated[float | None, typer.Option(help="Of a million tokens of replies.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Stop when the run has cost so much; needs prices.")] = None,
    draws: _Draws = 10_000,
    report: _Report = None,
    rows: _Parquet = None,
    thresholds: _Thresholds = None,
    junit: _Junit = None,
    json: options.JsonOption = False,
) -> None:
    """Try systems on a suite, score them, and write a report. The same command again goes on where it was stopped."""
    outputs = _outputs(draws=draws, report=report, rows=rows, thresholds=thresholds, junit=junit, json=json)
    told = _recipe(
        recipe, system, judge=judge, model=model, concurrency=concurrency,
        sampling=Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed),
        limits=Limits(
            requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, price_in=price_in,
            price_out=price_out, max_cost=max_cost,
        ),
    )  # fmt: skip
    found = suites.load(suite)
    if limit is not None:
        found = _first(found, limit)
    folder = output or Path("cosa-eval") / _named(found, told, context)
    done = _evaluate(found, told, folder, context=context, fresh=fresh)
    _tell(done.manifest, done.rows, folder, outputs)


@app.command(name="report")
def report_(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
    report: _Report = None,
    rows: _Parquet = None,
    draws: _Draws = 10_000,
    thresholds: _Thresholds = None,
    junit: _Junit = None,
    json: options.JsonOption = False,
) -> None:
    """Score a run again and write its report, without asking any model."""
    outputs = _outputs(draws=draws, report=report, rows=rows, thresholds=thresholds, junit=junit, json=json)
    manifest, found = read_run(folder)
    _tell(manifest, found, folder, outputs)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The folder of a run.")],
    second: Annotated[Path | None, typer.Argument(metavar="[B]", help="Another run's; default: the same one.")] = None,
    system: Annotated[
        list[str] | None,
        typer.Option("--system", "-s", help="Which systems: one of A, then one of B. Default: all of one name."),
    ] = None,
    draws: _Draws = 10_000,
    report: Annotated[Path | None, typer.Option(help="Write the comparison to this HTML file.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Say which differences between two runs, or two systems of a run, are real. Exit code 1 if that cannot be said."""
    if report is not None:
        must_be_writable(report, force=True)
    runs = [(path, *read_run(path)) for path in (first, second or first)]
    found: list[tuple[Comparison, comparing.Side, comparing.Side]] = []
    known = [[one.name for one in manifest.systems] for _, manifest, _ in runs]
    for names in _pairs(known, system or [], alone=second is None):
        one, other = (
            comparing.Side(run=path.name if second else "", manifest=manifest, system=name)
            for (path, manifest, _), name in zip(runs, names, strict=True)
        )
        comparing.must_match(one, other)
        ours, theirs = (
            [row.scored() for row in rows if row.system == name] for (_, _, rows), name in zip(runs, names, strict=True)
        )
        found.append((compare_rows(ours, theirs, draws=draws), one, other))
    if json:
        options.print_json(
            {"comparisons": [{"first": a.name, "second": b.name, **one.to_json()} for one, a, b in found]}
        )
    else:
        options.write("\n\n".join("\n".join(comparing.lines(*one)) for one in found) + "\n")
    if report is not None:
        write_whole(report, comparing.render_all(found))
        options.say(f"report: {report}")
    if any(one.inconclusive for one, _, _ in found):
        raise typer.Exit(1)


def _pairs(names: Sequence[Sequence[str]], asked: Sequence[str], *, alone: bool) -> list[tuple[str, str]]:
    """Which system of the first run is compared with which of the second; of a run alone, all with its first.

    Raises:
        UsageError: more than two were asked for, or nothing can be compared.
        UnknownName: a run has no such system.
    """
    if len(asked) > 2 or (alone and len(asked) == 1):  # noqa: PLR2004  # a comparison has two sides
        raise UsageError(f"--system was given {len(asked)} times; name two systems, or of two runs one that both have")
    if asked:
        pair = (asked[0], asked[-1])
        for name, known in zip(pair, names, strict=True):
            if name not in known:
                raise UnknownName("system of the run", name, known)
        return [pair]
    first, second = names
    found = [(name, first[0]) for name in first[1:]] if alone else [(name, name) for name in first if name in second]
    if not found:
        raise UsageError(
            f"nothing to compare: the first run has {', '.join(first)}, the second {', '.join(second)}; say which "
            "with --system, twice"
        )
    return found


def _recipe(
    file: Path | None,
    systems: Sequence[str] | None,
    *,
    judge: str,
    model: str,
    concurrency: int | None,
    sampling: Sampling,
    limits: Limits,
) -> Recipe:
    if file is not None:
        read = read_recipe(file)
        return replace(read, systems=tuple(parse_system(one) for one in systems)) if systems else read
    names = list(dict.fromkeys(systems or _USUAL))
    return Recipe(
        systems=tuple(parse_system(name) for name in names),
        model=model,
        judge=judge,
        sampling=sampling,
        limits=limits,
        concurrency=concurrency,
    )


def _first(suite: Suite, limit: int) -> Suite:
    """The first prompts of each config, the types in turn: a part of a suite asks what the whole asks."""
    turns: dict[str, dict[str, list[str]]] = {}
    for item in suite.items:
        turns.setdefault(item.config, {}).setdefault(item.type, []).append(item.id)
    kept = {
        name for types in turns.values() for name in list(filter(None, chain(*zip_longest(*types.values()))))[:limit]
    }
    items = [item for item in suite.items if item.id in kept]
    whole = {name for name, count in Counter(item.twin for item in items).items() if count > 1}
    items = [item if item.twin in whole else replace(item, twin=None) for item in items]
    return replace(suite, items=tuple(items))


def _named(suite: Suite, recipe: Recipe, context: int) -> str:
    about = json_format.dumps([suite.digest, repr(recipe), context])
    return f"{suite.name}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"


def _evaluate(suite: Suite, recipe: Recipe, folder: Path, *, context: int, fresh: bool) -> Run:
    def opened(spec: str, wanted: Any) -> AnyBackend:
        return open_model(spec, {"context": context, **wanted})

    def judged(share: Callable[[AnyBackend], Backend]) -> EvaluationJudge:
        return judges.make(recipe.judge, share=share)

    systems, items = len(recipe.systems), len(suite.items)
    options.say(
        f"{suite.name}: {items} prompts under {len(suite.configs)} configs, {systems} systems; kept in {folder}"
    )
    with _shown(systems * items) as told:
        try:
            return evaluate(suite, recipe, judged, folder=folder, fresh=fresh, told=told, open_backend=opened)
        except KeyboardInterrupt:
            options.say("stopped: what was answered is kept, and the same command goes on from there")
            raise


def open_model(spec: str, wanted: Any) -> AnyBackend:
    """A backend for a run: a local one with as many places as a wave fills well."""
    name = spec.partition(":")[0]
    if name == "local":
        name = choose(spec.partition(":")[2] or None).name
    known = {"llama-cpp": {"sequences": _SEQUENCES}, "xllamacpp": {"slots": _SEQUENCES // 2}}
    local = name in {"llama-cpp", "xllamacpp", "transformers"}
    told = {key: value for key, value in wanted.items() if local or key != "context"}
    return backends.make(spec, **(known.get(name, {}) | told))


@contextmanager
def _shown(total: int) -> Iterator[Callable[[Told], None]]:
    """Progress on stderr: a bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        said = [0]

        def line(told: Told) -> None:
            if told.rows * 10 // total > said[0]:
                said[0] = told.rows * 10 // total
                options.say(f"{told.rows} of {told.total} rows, {told.system}")

        yield line
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("ends in"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=options.console) as progress:
        bar = progress.add_task("starting", total=total)

        def move(told: Told) -> None:
            progress.update(bar, completed=told.rows, description=f"{told.system}: {told.answers} answers")

        yield move


def _tell(manifest: Manifest, rows: Sequence[ResultRow], folder: Path, outputs: _Outputs) -> None:
    """Scores, and everything that is written of them."""
    summaries = {
        facts.name: summarise(
            [row.scored() for row in rows if row.system == facts.name], draws=outputs.draws, circular=facts.circular
        )
        for facts in manifest.systems
    }
    results = [] if outputs.thresholds is None else check(outputs.thresholds, summaries)
    try:
        if outputs.json:
            systems = {name: summary.to_json() for name, summary in summaries.items()}
            options.print_json({"suite": manifest.suite, "judge": manifest.judge, "systems": systems})
        else:
            table.show(manifest, summaries, options.Console(highlight=False))
    finally:
        page = outputs.report or folder / "report.html"
        write_whole(page, html.render(manifest, rows, summaries))
        options.say(f"report: {page}")
        if outputs.rows is not None:
            files.write_rows(outputs.rows, rows)
        if outputs.junit is not None:
            write_whole(outputs.junit, junit.render(View(manifest=manifest, rows=rows, summaries=summaries), results))
    for one in results:
        options.say(f"{'kept' if one.passed else 'NOT KEPT'}: {one.why}")
    if not all(one.passed for one in results):
        raise typer.Exit(1)
