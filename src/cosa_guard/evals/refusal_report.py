"""How often the refusal parser agrees with a reader: `python -m cosa_guard.evals.refusal_report`.

The labelled replies that ship are read, those of a data set that does not ship where its file is named, and every
disagreement is printed. What the parser was written with and what it was not is told apart (`Part`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from cosa_guard.evals import metrics
from cosa_guard.evals.refusal import read_answer
from cosa_guard.evals.refusal_words import KEYWORDS
from cosa_guard.evals.relatedness import relatedness
from cosa_guard.evals.suite import prompt_key
from cosa_sdk.errors import MissingExtra, UsageError
from cosa_sdk.score import Answer

__all__ = [
    "ANSWERS",
    "Agreement",
    "LabelledReply",
    "Part",
    "Reader",
    "by_id",
    "keywords",
    "main",
    "measure",
    "others",
    "parser",
    "shipped",
    "starter",
]

Part = Literal["dev", "test", "fresh"]
"""`dev` was seen while the parser was written; `test` not before its first version was done, whose mistakes there then
led to changes; `fresh` was collected after them, and led to none."""
Reader = Callable[["LabelledReply"], Answer]
"""Says of a reply what it is."""
ANSWERS: tuple[Answer, ...] = ("refused", "partial", "answered", "degenerate")
DRAWS = 2_000
"""Of the bootstrap."""
_EVEN = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledReply:
    """A reply, and what a reader says it is."""

    id: str
    model: str
    setting: str
    """The preset in the system prompt, or `plain`: none."""
    part: Part
    prompt: str
    response: str
    answer: Answer
    again: Answer | None = None
    """A second reading's label, of the rows that were read twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a reader of replies does on labelled ones."""

    n: int
    f1: float | None
    """Of refused or not."""
    ci: metrics.Interval | None
    """95 % interval of `f1`: prompts drawn with replacement, with all replies to them."""
    precision: float | None
    recall: float | None
    macro: float | None
    """Mean F1 of the answers that occur among the labels."""
    table: dict[tuple[Answer, Answer], int]
    """Counts by label and reading."""
    errors: tuple[tuple[LabelledReply, Answer], ...]


def _folder(name: str) -> str:
    return resources.files("cosa_guard.evals").joinpath("labelled").joinpath(name).read_text(encoding="utf-8")


def starter() -> Path:
    """The labelled replies that ship, as a file for `cosa judge validate`."""
    return Path(str(resources.files("cosa_guard.evals").joinpath("labelled").joinpath("starter.jsonl")))


def shipped() -> list[LabelledReply]:
    """The labelled replies that ship."""
    return [_reply(json.loads(line)) for line in _folder("starter.jsonl").splitlines()]


def by_id(path: Path) -> list[LabelledReply]:
    """The labelled replies whose texts do not ship, with their texts from a file of answers.

    Args:
        path: gzipped JSON lines with `id`, `prompt` and `response`: do-not-answer, as the labels name its rows.

    Raises:
        UsageError: no such file, or it lacks one of the rows.
    """
    labels = {row["id"]: row for row in map(json.loads, _folder("by_id.jsonl").splitlines())}
    if not path.is_file():
        raise UsageError(f"no such file: {path}; give the gzipped JSON lines that hold the rows named in by_id.jsonl")
    found = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row.get("id") in labels:
                found[row["id"]] = _reply({**row, **labels[row["id"]]})
    if missing := sorted(labels.keys() - found.keys()):
        raise UsageError(f"{path} lacks {len(missing)} of {len(labels)} labelled rows, such as {missing[0]!r}")
    return [found[name] for name in labels]


def _reply(row: dict[str, Any]) -> LabelledReply:
    return LabelledReply(
        id=row["id"], model=row["source"], setting=row["setting"], part=row["part"], prompt=row["prompt"],
        response=row["response"], answer=row["answer"], again=row.get("again"),
    )  # fmt: skip


def parser(reply: LabelledReply) -> Answer:
    """The refusal parser."""
    return read_answer(reply.response, prompt=reply.prompt).answer


def keywords(reply: LabelledReply) -> Answer:
    """The baseline: a keyword of refusals anywhere in the reply."""
    lowered = reply.response.replace("’", "'").lower()
    return "refused" if any(word in lowered for word in KEYWORDS) else "answered"


def _opening(reply: LabelledReply) -> Answer:
    """The baseline that looks at the reply's beginning alone."""
    lowered = reply.response.replace("’", "'").lower().lstrip()
    return "refused" if lowered.startswith(KEYWORDS) else "answered"


def _embedded() -> Reader:
    from cosa_guard.judges import embedded  # noqa: PLC0415  # numpy and onnxruntime, only when used

    judge = embedded.make()

    def read(reply: LabelledReply) -> Answer:
        sign = judge.read(reply.response or " ", reply.prompt, head="response").refused
        return "refused" if sign >= _EVEN else "answered"

    return read


def _related(reply: LabelledReply) -> Answer:
    cosine = relatedness(reply.prompt, reply.response)
    return read_answer(reply.response, prompt=reply.prompt, cosine=cosine).answer


def others() -> dict[str, Reader]:
    """What the parser is compared with, by name; what needs the shipped classifier only where it is installed."""
    readers: dict[str, Reader] = {"keyword anywhere": keywords, "keyword first": _opening}
    with suppress(MissingExtra):
        readers["embedded, refused"] = _embedded()
        readers["parser and relatedness"] = _related
    return readers


def measure(replies: Sequence[LabelledReply], reader: Reader = parser, *, draws: int = DRAWS) -> Agreement:
    """Read replies and compare with their labels.

    Raises:
        UsageError: no replies.
    """
    if not replies:
        raise UsageError("no labelled replies: give at least one")
    read = [reader(reply) for reply in replies]
    pairs = [(reply.answer, answer) for reply, answer in zip(replies, read, strict=True)]
    rates = _rates(pairs, "refused")
    scores = [_rates(pairs, answer).f1 for answer in ANSWERS if any(label == answer for label, _ in pairs)]
    known = [score for score in scores if score is not None]
    return Agreement(
        n=len(replies),
        f1=rates.f1,
        ci=_interval(replies, pairs, draws),
        precision=rates.precision,
        recall=rates.recall,
        macro=fmean(known) if known else None,
        table=dict(Counter(pairs)),
        errors=tuple((reply, answer) for reply, answer in zip(replies, read, strict=True) if reply.answer != answer),
    )


def _rates(pairs: Iterable[tuple[Answer, Answer]], answer: Answer) -> metrics.Rates:
    counts = Counter((label == answer, read == answer) for label, read in pairs)
    return metrics.precision_recall_f1(
        hits=counts[True, True], false_alarms=counts[False, True], misses=counts[True, False]
    )


def _interval(
    replies: Sequence[LabelledReply], pairs: Sequence[tuple[Answer, Answer]], draws: int
) -> metrics.Interval | None:
    clusters: dict[str, list[tuple[Answer, Answer]]] = {}
    for reply, pair in zip(replies, pairs, strict=True):
        clusters.setdefault(prompt_key(reply.prompt), []).append(pair)
    groups = [
        (
            sum(label == read == "refused" for label, read in part),
            sum(label == "refused" for label, _ in part) + sum(read == "refused" for _, read in part),
        )
        for part in clusters.values()
    ]
    rng = random.Random(0)  # noqa: S311  # a bootstrap, no secret
    scores = []
    for _ in range(draws):
        drawn = rng.choices(groups, k=len(groups))
        if total := sum(either for _, either in drawn):
            scores.append(2 * sum(both for both, _ in drawn) / total)
    scores.sort()
    return (scores[int(0.025 * len(scores))], scores[int(0.975 * len(scores)) - 1]) if scores else None


def _line(name: str, found: Agreement) -> str:
    ci = f"[{found.ci[0]:.3f}, {found.ci[1]:.3f}]" if found.ci else "n/a"
    shares = "  ".join("  n/a" if one is None else f"{one:.3f}" for one in (found.precision, found.recall, found.macro))
    f1 = "n/a" if found.f1 is None else f"{found.f1:.3f}"
    return f"  {name:32} {found.n:4}  {f1} {ci:16}  {shares}  {len(found.errors):4}"


def _table(found: Agreement) -> list[str]:
    head = "  label \\ read  " + "".join(f"{name:>12}" for name in ANSWERS)
    rows = [
        f"  {label:14}" + "".join(f"{found.table.get((label, read), 0):12}" for read in ANSWERS) for label in ANSWERS
    ]
    return [head, *rows]


def _groups(replies: Sequence[LabelledReply]) -> dict[str, list[LabelledReply]]:
    groups: dict[str, list[LabelledReply]] = {"all": list(replies)}
    for reply in replies:
        groups.setdefault(f"model {reply.model.partition(' ')[0]}", []).append(reply)
        groups.setdefault("no template" if reply.setting == "plain" else "config in the prompt", []).append(reply)
    return groups


def _section(part: str, replies: Sequence[LabelledReply], *, compared: dict[str, Reader]) -> list[str]:
    whole = measure(replies)
    lines = [
        f"{part}: {len(replies)} replies",
        f"  {'':32}    n  F1 of refused, 95 %      prec.  recall  macro F1  errors",
        *(_line(name, measure(rows)) for name, rows in _groups(replies).items()),
        *(_line(f"beside it: {name}", measure(replies, reader)) for name, reader in compared.items()),
        *_table(whole),
    ]
    for reply, read in whole.errors:
        why = read_answer(reply.response, prompt=reply.prompt).why
        said = " ".join(reply.response.split())[:160]
        lines.append(
            f"  {reply.id}: label {reply.answer}, read {read} ({why})\n    to: {reply.prompt[:100]}\n    {said}"
        )
    return lines


def _twice(replies: Sequence[LabelledReply]) -> list[str]:
    pairs = [(reply.answer, reply.again) for reply in replies if reply.again is not None]
    if not pairs:
        return []
    same = sum(first == second for first, second in pairs)
    kappa = metrics.cohen_kappa([first for first, _ in pairs], [second for _, second in pairs])
    refused = sum((first == "refused") == (second == "refused") for first, second in pairs)
    told = "n/a" if kappa is None else f"{kappa:.3f}"
    return [f"Read twice: {len(pairs)}; same label {same}, same side of refused or not {refused}, kappa {told}."]


def main(argv: Sequence[str] | None = None) -> int:
    """Print how the parser does on the labelled replies.

    Raises:
        UsageError: the named file does not exist, or lacks labelled rows.
    """
    options = argparse.ArgumentParser(prog="python -m cosa_guard.evals.refusal_report", description=__doc__)
    options.add_argument("--part", choices=get_args(Part), help="one part alone")
    options.add_argument("--data", type=Path, help="gzipped JSON lines that hold the rows whose texts do not ship")
    options.add_argument("--alone", action="store_true", help="the parser without what it is compared with")
    given = options.parse_args(argv)
    replies = shipped() + (by_id(given.data) if given.data else [])
    compared = {} if given.alone else others()
    lines = []
    for part in (given.part,) if given.part else get_args(Part):
        lines += [*_section(part, [one for one in replies if one.part == part], compared=compared), ""]
    lines += _twice(replies)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
