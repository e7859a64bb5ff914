"""`cosa judge`: how far a judge may be believed, how to fit it to one's own texts, and which words moved it."""

from __future__ import annotations

import json as json_format
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from cosa_guard import backends, judges
from cosa_guard.cli import options
from cosa_guard.evals import judge_report
from cosa_guard.evals.judging import FEWEST, Cell, Progress, Validation, forbid_all
from cosa_guard.evals.judging import validate as validate_judge
from cosa_guard.judges.base import AnyJudge, Judge, blocks
from cosa_guard.labelled import LabelledRow, read_rows
from cosa_guard.messages import Message
from cosa_guard.verdicts import Case
from cosa_sdk.errors import JudgeError, UsageError

__all__ = ["FEWEST_OWN", "app", "select"]

FEWEST_OWN = 50
"""Rows below which nothing is calibrated: the thresholds would be chance."""
_NOISY = ("keyword", "residual")
_SEED = 0

app = typer.Typer(help="Measure a judge, fit it to your own texts, and ask which words moved it.", no_args_is_help=True)

_File = Annotated[str, typer.Argument(metavar="FILE", help="Labelled rows as JSON lines, gzipped or not.")]
_Judge = Annotated[str, typer.Option("--judge", "-j", help="The judge, as NAME or NAME:ARGUMENT.")]


@app.command()
def validate(
    file: _File,
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
        _must_be_writable(report, force=True)
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
    if report is not None:
        _write(report, judge_report.render(result, made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"))
        options.say(f"report: {report}")
    if json:
        options.print_json(result.to_json())
    else:
        _print(result)


@app.command()
def calibrate(
    file: _File,
    judge: _Judge,
    output: Annotated[Path, typer.Option("--output", "-o", help="The calibration file to write, such as CAL.json.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    json: options.JsonOption = False,
) -> None:
    """Fit a judge's probabilities to 50 to 200 of your own labelled rows, and write them down as a file."""
    _must_be_writable(output, force=force)
    made = _make(judge)
    recalibrate = getattr(made, "recalibrate", None)
    if not callable(recalibrate):
        raise UsageError(f"judge {made.name!r} cannot be calibrated; judges that can: embedded")
    rows = _own_rows(file)
    fitted = recalibrate(rows, output.stem)
    if not isinstance(fitted, Mapping):
        raise JudgeError(f"judge {made.name!r} gave {type(fitted).__name__} as its calibration, not an object")
    try:
        text = json_format.dumps(dict(fitted), ensure_ascii=False, allow_nan=False, indent=1)
    except (TypeError, ValueError) as error:
        raise JudgeError(f"judge {made.name!r} gave a calibration that is not JSON: {error}") from error
    _must_be_writable(output, force=force)  # fitting took a while
    _write(output, text + "\n")
    use = f"{judge.partition(':')[0]}:{output}"
    if json:
        options.print_json({"output": str(output), "judge": use, "n": len(rows), "report": fitted.get("report")})
    else:
        _print_fit(fitted.get("report"), len(rows))
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
        why = ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count)
        raise UsageError(
            f"none of the {splits.total()} rows can be judged against a label ({why or 'the file is empty'}); "
            "give rows with categories, or take keyword and residual ones too with --noisy"
        )
    if limit is not None and limit < len(kept):
        drawn = random.Random(_SEED).sample(range(len(kept)), limit)  # noqa: S311  # a sample, not a secret
        kept = [kept[place] for place in sorted(drawn)]
    return kept, skipped


def _own_rows(file: str) -> list[LabelledRow]:
    """Rows whose harm is known, enough of them, and of both kinds."""
    read = list(read_rows(file))
    rows = [row for row in read if row.harmful is not None]
    if len(rows) < FEWEST_OWN:
        raise UsageError(
            f"{file} has {len(rows)} usable rows of {len(read)}; give at least {FEWEST_OWN}, harmful and harmless, "
            "with categories (an empty list: no risk)"
        )
    harmful = sum(bool(row.harmful) for row in rows)
    if harmful in {0, len(rows)}:
        kind, other = ("harmful", "harmless") if harmful else ("harmless", "harmful")
        raise UsageError(
            f"all {len(rows)} usable rows of {file} are {kind}; add {other} ones like those that you will see"
        )
    return rows


def _must_be_writable(path: Path, *, force: bool) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"cannot write {str(path)!r}: give a file in a folder that exists")
    if path.exists() and not force:
        raise UsageError(f"{str(path)!r} exists: give another --output, or replace it with --force")


def _write(path: Path, text: str) -> None:
    """Write a whole file or none: a run that is stopped leaves what was there before."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)  # temporary files are private; this one is the user's like any other
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _say_progress(at: Progress) -> None:
    failed = f", {at.errors} failed" if at.errors else ""
    minutes, seconds = divmod(round(at.eta), 60)
    options.say(f"judged {at.done} of {at.total}{failed}, {minutes}:{seconds:02} left")


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _line(name: str, cell: Cell) -> list[str]:
    area = "n/a" if cell.auroc is None or cell.ci is None else f"{cell.auroc:.3f} {cell.ci[0]:.2f}-{cell.ci[1]:.2f}"
    shares = [_share(value) for value in (cell.ap, cell.precision, cell.recall, cell.f1, cell.false_flag_rate)]
    return [escape(name), f"{cell.positives}/{cell.n}", area, *shares]


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
        console.print(line, markup=False)


def _facts(result: Validation) -> list[str]:
    cell, floor = result.any_risk, result.floor
    undecided = sum(one.undecided for one in result.judged)
    pace = f"{result.flag_rate:.1%} flagged, {undecided} undecided, {result.ms_per_text:.2f} ms a text"
    alarms = f"harmless rows flagged {_share(cell.false_flag_rate)}, calibration error {_share(cell.ece)}"
    lines = [
        f"{result.judge}: {len(result.judged)} rows, {pace}",
        f"{alarms}; floor: {floor['n']} rows, recall {_share(floor['recall'])}",
    ]
    left_out = [f"{count} {reason}" for reason, count in result.skipped.items() if count]
    if left_out:
        lines.append(f"left out: {', '.join(left_out)}")
    if result.errors:
        lines.append(f"the judge failed on {len(result.errors)} rows; the first time: {result.errors[0].error}")
    lines.append(
        "rows: positive/all; false: share of the negatives flagged; "
        f"n/a: fewer than {FEWEST} positive or negative rows, or nothing to measure"
    )
    return lines


def _print_fit(report: Any, rows: int) -> None:
    before, after = (report.get(key) for key in ("before", "after")) if isinstance(report, Mapping) else (None, None)
    console = options.Console(highlight=False)
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        console.print(f"fitted to {rows} rows; the judge does not say what that changed", markup=False)
        return
    table = Table(f"on {rows} rows, two-fold", "before", "after", box=None, header_style="bold", pad_edge=False)
    for key, name in (("ece", "calibration error"), ("flag_rate", "share flagged")):
        if key in before and key in after:
            table.add_row(name, _share(before[key]), _share(after[key]))
    console.print(table)


def _print_words(name: str, risks: Mapping[str, float], words: Sequence[Mapping[str, Any]]) -> None:
    console = options.Console(highlight=False)
    table = Table(f"risk, by {escape(name)}", "probability", box=None, header_style="bold", pad_edge=False)
    for risk, probability in sorted(risks.items(), key=lambda item: -item[1]):
        table.add_row(escape(risk), f"{probability:.3f}")
    console.print(table)
    if not words:
        console.print("no word moved them")
        return
    moved = Table("word", "change", "risk", box=None, header_style="bold", pad_edge=False)
    for word in sorted(words, key=lambda word: -abs(word["change"])):
        moved.add_row(escape(word["text"]), f"{word['change']:+.3f}", escape(word["risk"]))
    console.print(moved)
