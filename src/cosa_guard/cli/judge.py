"""`cosa judge`: how far a judge may be believed, how to fit it to one's own texts, and which words moved it."""

from __future__ import annotations

import hashlib
import json as json_format
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core
from rich.markup import escape
from rich.table import Table

from cosa_guard import backends, judges
from cosa_guard.cli import options
from cosa_guard.cli.writing import must_be_writable, plain, write_whole
from cosa_guard.evals import judge_report
from cosa_guard.evals.judging import FEWEST, Cell, Progress, Validation, forbid_all
from cosa_guard.evals.judging import validate as validate_judge
from cosa_guard.evals.refusal_report import starter
from cosa_guard.judges.base import AnyJudge, Judge, blocks
from cosa_guard.labelled import LabelledRow, read_rows
from cosa_guard.messages import Message
from cosa_guard.verdicts import Case
from cosa_sdk.errors import CosaError, JudgeError, UsageError

__all__ = ["FEWEST_OWN", "app", "select"]

FEWEST_OWN = 50
"""Rows below which nothing is calibrated: the corrected probabilities would be chance."""
_NOISY = ("keyword", "residual")
_SEED = 0
_DEFAULT_POINT = "balanced"
"""The operating point of a calibration file that is named without one."""


class _Group(typer.core.TyperGroup):
    """Commands whose errors quote texts, sources and judges: what is quoted must not steer the terminal."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CosaError as error:
            error.args = tuple(plain(part, keep="\n\t") if isinstance(part, str) else part for part in error.args)
            raise


app = typer.Typer(
    cls=_Group, help="Measure a judge, fit it to your own texts, and ask which words moved it.", no_args_is_help=True
)

_File = Annotated[str, typer.Argument(metavar="FILE", help="Labelled rows as JSON lines, gzipped or not.")]
_Judge = Annotated[str, typer.Option("--judge", "-j", help="The judge, as NAME or NAME:ARGUMENT.")]


@app.command()
def validate(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="Labelled rows as JSON lines, gzipped or not; `starter` ships with Cosa."),
    ],
    judge: _Judge,
    operating_point: Annotated[
        str | None, typer.Option(help="How readily the judge flags: the argument of a judge that has such points.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="What the model judge reads with, as NAME or NAME:ARGUMENT.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many rows, drawn from all with a fixed seed.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only rows of this split, such as dev.")] = None,
    noisy: Annotated[
        bool,
        typer.Option("--noisy", help="Take rows too whose categories came from keywords, or from no match of any."),
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write tables, plots and mistakes to this HTML file.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Measure a judge on labelled rows: AUROC, precision, recall and calibration, per risk, with intervals."""
    if report is not None:
        must_be_writable(report, force=True)
    if file == "starter" and not Path(file).exists():
        file = str(starter())
    made = _make(judge, operating_point, backend)
    rows, skipped = select(read_rows(file), noisy=noisy, split=split, limit=limit)
    point = operating_point or getattr(made, "operating_point", None)
    result = validate_judge(
        made,
        rows,
        file=Path(file).name,
        operating_point=point if isinstance(point, str) else None,
        skipped=skipped,
        progress=_say_progress,
    )
    try:  # what took an hour is shown before it is written, and written even if its reader went away (`| head`)
        if json:
            options.print_json(result.to_json())
        else:
            _print(result)
    finally:
        if report is not None:
            write_whole(report, judge_report.render(result, made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"))
            options.say(f"report: {report}")


@app.command()
def calibrate(
    file: _File,
    judge: _Judge,
    output: Annotated[Path, typer.Option("--output", "-o", help="The calibration file to write, such as CAL.json.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    json: options.JsonOption = False,
) -> None:
    """Fit a judge's probabilities to 50 to 200 of your own labelled rows, and write them down as a file."""
    must_be_writable(output, force=force)
    made = _make(judge)
    recalibrate = getattr(made, "recalibrate", None)
    if not callable(recalibrate):
        raise UsageError(f"judge {made.name!r} cannot be calibrated; judges that can: embedded")
    rows, left_out = _own_rows(file)
    fitted = recalibrate(rows, f"{output.stem}-{_digest(rows)}")
    if not isinstance(fitted, Mapping):
        raise JudgeError(f"judge {made.name!r} gave {type(fitted).__name__} as its calibration, not an object")
    try:
        text = json_format.dumps(dict(fitted), ensure_ascii=False, allow_nan=False, indent=1)
    except (TypeError, ValueError) as error:
        raise JudgeError(f"judge {made.name!r} gave a calibration that is not JSON: {error}") from error
    must_be_writable(output, force=force)  # fitting took a while
    write_whole(output, text + "\n")
    point = getattr(made, "operating_point", None)
    behind = f"#{point}" if isinstance(point, str) and point not in {"", _DEFAULT_POINT} else ""
    use = f"{judge.partition(':')[0]}:{output}{behind}"
    used = _counted(fitted.get("data"))
    left_out["passed over by the judge"] = 0 if used is None else len(rows) - used  # of a kind with too few
    if json:
        told = {"n": used, "left_out": left_out, "report": fitted.get("report")}
        options.print_json({"output": str(output), "judge": use, **told})
    else:
        _print_fit(fitted, len(rows), left_out)
        options.write(f"wrote {output}; use it with --judge {use}\n")


@app.command()
def explain(
    judge: _Judge,
    text: Annotated[str | None, typer.Argument(help="The text; - or nothing reads standard input.")] = None,
    prompt: Annotated[str | None, typer.Option(help="For a reply: the prompt that it answers.")] = None,
    stage: Annotated[
        Literal["input", "output"], typer.Option(help="What a user asks, or what a model answered.")
    ] = "input",
    json: options.JsonOption = False,
) -> None:
    """Show the probabilities that a judge gives a text, and the words that moved them."""
    if prompt is not None and stage != "output":
        raise UsageError("--prompt is what a reply answers: it needs --stage output")
    made = _make(judge)
    ask = getattr(made, "explain", None)
    if not callable(ask):
        raise UsageError(f"judge {made.name!r} cannot say which words moved it; judges that can: embedded")
    given = options.require_text(text)
    turns = () if prompt is None else (Message("user", prompt),)
    case = Case(config=forbid_all(), stage=stage, text=given, turns=turns)
    risks = dict(made.judge(case).risks)
    words = [
        {"start": start, "end": end, "text": given[start:end], "risk": risk, "change": round(float(change), 6)}
        for start, end, risk, change in ask(case)
    ]
    if json:
        options.print_json({"judge": made.name, "risks": risks, "words": words})
    else:
        _print_words(made.name, risks, words)


def _make(spec: str, point: str | None = None, backend: str | None = None) -> Judge:
    """The judge behind the command's words.

    Raises:
        UsageError: two arguments for one judge, a backend for a judge without a model, or one that can only be awaited.
    """
    name, _, argument = spec.partition(":")
    if point and argument:
        raise UsageError(
            f"--judge {spec!r} has an argument already: leave out --operating-point {point!r}, or {argument!r}"
        )
    if backend and (name != "model" or argument or point):
        raise UsageError(
            f"--backend {backend!r} is what the model judge reads with: it needs --judge model, not {spec!r}"
        )
    with options.console.status("loading the judge"):
        if backend:
            made: AnyJudge = judges.make(name, backend=backends.make(backend))
        else:
            made = judges.make(f"{name}:{point}" if point else spec)
    if not blocks(made):
        raise UsageError(f"judge {made.name!r} can only be awaited; give one with a blocking judge()")
    return made


def select(
    rows: Iterable[LabelledRow], *, noisy: bool = False, split: str | None = None, limit: int | None = None
) -> tuple[list[LabelledRow], dict[str, int]]:
    """The rows to judge, in the order of the file, and how many were left out and why.

    Args:
        noisy: take rows too whose categories came from keywords, or from no keyword's matching.
        split: only rows of this split; others are not counted as left out.
        limit: at most so many, drawn with a fixed seed: files come sorted by source, and the head is no sample.

    Raises:
        UsageError: nothing is left to judge.
    """
    kept: list[LabelledRow] = []
    skipped = {"unknown": 0, "keyword/residual": 0}
    splits: Counter[str] = Counter()
    for row in rows:
        splits[row.split or "none"] += 1
        if split is not None and row.split != split:
            continue
        if row.category_kind in _NOISY and not noisy:
            skipped["keyword/residual"] += 1
        elif row.risks is None and row.harmful is None and row.refused is None and row.addressed is None:
            skipped["unknown"] += 1
        else:
            kept.append(row)
    if split is not None and split not in splits:
        raise UsageError(f"no row is of split {split!r}; splits in the file: {', '.join(sorted(splits)) or 'none'}")
    if not kept:
        raise UsageError(
            f"none of the {splits.total()} rows can be judged against a label "
            f"({_listed(skipped) or 'the file is empty'}); "
            "give rows with categories, or take keyword and residual ones too with --noisy"
        )
    if limit is not None and limit < len(kept):
        drawn = random.Random(_SEED).sample(range(len(kept)), limit)  # noqa: S311  # a sample, not a secret
        kept = [kept[place] for place in sorted(drawn)]
    return kept, skipped


def _own_rows(file: str) -> tuple[list[LabelledRow], dict[str, int]]:
    """Rows whose harm is known and was not guessed, enough of them, and of both kinds; and how many were left out."""
    rows: list[LabelledRow] = []
    left_out = {"unknown": 0, "keyword/residual": 0}
    for row in read_rows(file):
        if row.category_kind in _NOISY:
            left_out["keyword/residual"] += 1
        elif row.harmful is None:
            left_out["unknown"] += 1
        else:
            rows.append(row)
    if len(rows) < FEWEST_OWN:
        why = f" ({_listed(left_out)})" if any(left_out.values()) else ""
        raise UsageError(
            f"{file} has {len(rows)} usable rows of {len(rows) + sum(left_out.values())}{why}; give at least "
            f"{FEWEST_OWN}, harmful and harmless, with categories (an empty list: no risk)"
        )
    harmful = sum(bool(row.harmful) for row in rows)
    if harmful in {0, len(rows)}:
        kind, other = ("harmful", "harmless") if harmful else ("harmless", "harmful")
        raise UsageError(
            f"all {len(rows)} usable rows of {file} are {kind}; add {other} ones like those that you will see"
        )
    return rows, left_out


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)


def _digest(rows: Iterable[LabelledRow]) -> str:
    """Six digits that tell these rows from others: a judge that was fitted to them is never named as the shipped one.

    Of what a fit reads alone: an id or a source changes no probability.
    """
    read = [(row.kind, row.prompt, row.text, row.harmful) for row in rows]
    return hashlib.sha256(json_format.dumps(read).encode("ascii")).hexdigest()[:6]


def _say_progress(at: Progress) -> None:
    failed = f", {at.errors} failed" if at.errors else ""
    minutes, seconds = divmod(round(at.eta), 60)
    options.say(f"judged {at.done} of {at.total}{failed}, {minutes}:{seconds:02} left")


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _line(name: str, cell: Cell) -> list[str]:
    area = "n/a" if cell.auroc is None or cell.ci is None else f"{cell.auroc:.3f} {cell.ci[0]:.2f}-{cell.ci[1]:.2f}"
    shares = [_share(value) for value in (cell.ap, cell.precision, cell.recall, cell.f1, cell.false_flag_rate)]
    return [escape(plain(name)), f"{cell.positives}/{cell.n}", area, *shares]


def _table(first: str) -> Table:
    table = Table(first, box=None, header_style="bold", pad_edge=False)
    for head in ("rows", "AUROC, 95 %", "AP", "prec.", "recall", "F1", "false"):
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _print(result: Validation) -> None:
    console = options.Console(highlight=False)  # the answer: on stdout
    table = _table("risk")
    for name, cell in (*result.risks.items(), ("any risk", result.any_risk), *result.signs.items()):
        table.add_row(*_line(name, cell))
    macro = [_share(result.macro[name]) for name in ("auroc", "ap", "f1")]
    table.add_row("macro", "", macro[0], macro[1], "", "", macro[2], "")
    console.print(table)
    if len(result.by_source) > 1:
        sources = _table("any risk, by source")
        for name, (_, cell) in result.by_source.items():
            sources.add_row(*_line(name, cell))
        console.print(sources)
    for line in _facts(result):
        console.print(plain(line), markup=False)


def _facts(result: Validation) -> list[str]:
    cell, floor = result.any_risk, result.floor
    undecided = sum(one.undecided for one in result.judged)
    pace = f"{result.flag_rate:.1%} flagged, {undecided} undecided, {result.ms_per_text:.2f} ms a text"
    alarms = f"harmless rows flagged {_share(cell.false_flag_rate)}, calibration error {_share(cell.ece)}"
    lines = [
        f"{result.judge}: {len(result.judged)} rows, {pace}",
        f"{alarms}; floor: {floor['n']} rows, recall {_share(floor['recall'])}",
    ]
    if any(result.skipped.values()):
        lines.append(f"left out: {_listed(result.skipped)}")
    if result.errors:
        lines.append(f"the judge failed on {len(result.errors)} rows; the first time: {result.errors[0].error}")
    lines.append(
        "rows: positive/all; false: share of the negatives flagged; "
        f"n/a: fewer than {FEWEST} positive or negative rows, or nothing to measure"
    )
    return lines


def _counted(data: Any) -> int | None:
    """How many rows a calibration says that it was fitted to (`50 rows for prompt, 30 rows for text`), if it does."""
    counts = re.findall(r"\b(\d+) rows\b", data) if isinstance(data, str) else []
    return sum(map(int, counts)) if counts else None


def _print_fit(fitted: Mapping[str, Any], given: int, left_out: Mapping[str, int]) -> None:
    data, report = fitted.get("data"), fitted.get("report")
    console = options.Console(highlight=False)
    told = plain(data) if isinstance(data, str) and data else f"at most {given} rows"
    why = f"; left out: {_listed(left_out)}" if any(left_out.values()) else ""
    console.print(f"fitted to {told}{why}", markup=False)
    before, after = (report.get(key) for key in ("before", "after")) if isinstance(report, Mapping) else (None, None)
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        console.print("the judge does not say what that changed")
        return
    table = Table("", "before", "after, two-fold", box=None, header_style="bold", pad_edge=False)
    for key, name in (("ece", "calibration error"), ("flag_rate", "harmless rows at 0.5 or more")):
        if key in before and key in after:
            table.add_row(name, _share(before[key]), _share(after[key]))
    console.print(table)


def _print_words(name: str, risks: Mapping[str, float], words: Sequence[Mapping[str, Any]]) -> None:
    console = options.Console(highlight=False)
    table = Table(f"risk, by {escape(plain(name))}", "probability", box=None, header_style="bold", pad_edge=False)
    for risk, probability in sorted(risks.items(), key=lambda item: -item[1]):
        table.add_row(escape(plain(risk)), f"{probability:.3f}")
    console.print(table)
    if not words:
        console.print("no word moved them")
        return
    moved = Table("word", "change", "risk", box=None, header_style="bold", pad_edge=False)
    for word in sorted(words, key=lambda word: -abs(word["change"])):
        moved.add_row(escape(plain(word["text"])), f"{word['change']:+.3f}", escape(plain(word["risk"])))
    console.print(moved)
