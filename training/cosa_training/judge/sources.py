"""Training rows of the embedded judge, from every source in one shape.

Rows of the shared data are read by path and never copied; what the project adds lies beside this file: corrections
(ids and codes only) in `data/*.tsv.gz`, and rows written for the project in `data/*.jsonl.gz`. How rows were labelled:
`data/README.md`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cosa_guard.labelled import LabelledRow, read_rows
from cosa_sdk import taxonomy

__all__ = ["CODES", "HERE", "RISKS", "Row", "last_question", "load", "question_key", "read_codes"]

CODES = "DFPVRSWO"
"""Order of the risks in every head."""
RISKS = tuple(taxonomy.by_code(code) for code in CODES)
HERE = Path(__file__).parent / "data"
"""What the project adds."""

_NOT_TRAINED = frozenset({"dolly"})
"""Share-alike licences: measured on, never trained on, so that the weights stay under a permissive one."""
_PAIRS = {"hh-rlhf": "hh-rlhf", "coconot": "coconot-pairs"}
"""Sources of pairs whose sides are read as responses, and what they are called here."""
_KEYWORD_WEIGHT = 0.3
_DOUBTFUL_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """One text for training or measuring."""

    id: str
    source: str
    head: str
    """prompt, text or response"""
    text: str
    prompt: str = ""
    risks: frozenset[str] | None = None
    """None masks the risk head."""
    refused: bool | None = None
    addressed: bool | None = None
    weight: float = 1.0
    split: str = "train"
    group: str = ""
    """Rows of one group never stand on both sides of a split."""
    clean: bool = True
    """Fit for validation and calibration: labels neither by keyword nor by default, and not doubtful."""
    floor: str = ""
    """m (minors), x (mass harm)"""

    @property
    def any_risk(self) -> bool | None:
        """Shows a risk, or belongs on the floor."""
        return None if self.risks is None else bool(self.risks) or bool(self.floor)


def _side(key: str) -> str:
    return "dev" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10 == 0 else "train"


def read_codes(field: str) -> tuple[frozenset[str], str, bool]:
    """`FP?` -> ids, floor marks, doubtful."""
    risks = frozenset(taxonomy.by_code(code) for code in field if code in CODES)
    floor = "".join(mark for mark in "mx" if mark in field)
    return risks, floor, "?" in field


def _corrections(name: str) -> dict[str, list[str]]:
    with gzip.open(HERE / name, "rt", encoding="utf-8", newline="") as lines:
        return {fields[0]: fields[1:] for fields in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)}


def question_key(text: str) -> str:
    """Texts with one key are one question: letters' case and spaces do not tell them apart."""
    return " ".join(text.lower().split())[:200]


def last_question(dialogue: str) -> str:
    """What was asked last in a dialogue of HH-RLHF."""
    return dialogue.rsplit("Human:", maxsplit=1)[-1].replace("Assistant:", "").strip()


def _from(row: LabelledRow) -> Row:
    doubtful = row.category_kind in {"keyword", "residual"}
    return Row(
        id=row.id,
        source=row.source,
        head=row.kind,
        text=row.text,
        prompt=row.prompt,
        risks=row.risks,
        refused=row.refused,
        addressed=row.addressed,
        weight=_KEYWORD_WEIGHT if row.category_kind == "keyword" else 1.0,
        split=row.split or _side(question_key(row.prompt or row.text)),
        group=question_key(row.prompt or row.text),
        clean=not doubtful,
        floor="m" if row.floor else "",
    )


def _prompts(data: Path) -> Iterable[Row]:
    corrected = _corrections("prompt_corrections.tsv.gz")
    for row in read_rows(data / "prompts_labelled.jsonl.gz"):
        fix = corrected.get(row.id)
        if fix is None:
            if row.category_kind == "residual":
                continue  # O for want of a keyword teaches nothing
            yield _from(row)
            continue
        risks, floor, doubt = read_codes(fix[0])
        yield replace(
            _from(row), risks=risks, floor=floor or ("m" if row.floor else ""), clean=not doubt,
            weight=_DOUBTFUL_WEIGHT if doubt else 1.0,
        )  # fmt: skip
    for row in read_rows(data / "prompts_benign.jsonl.gz"):
        fix = corrected.get(row.id)
        risks, floor, doubt = read_codes(fix[0]) if fix else (frozenset(), "", False)
        if risks or floor or doubt:
            yield replace(_from(row), risks=risks, floor=floor, clean=False, weight=_DOUBTFUL_WEIGHT)
        else:
            yield _from(row)


def _labelled_by_us(data: Path) -> Iterable[Row]:
    labels = _corrections("wildguard_labels.tsv.gz")
    with gzip.open(data / "prompts_unlabelled.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            raw = json.loads(line)
            fix = labels.get(raw["id"].removeprefix("wg-"))
            if fix is None:
                continue
            risks, floor, doubt = read_codes(fix[0])
            yield Row(
                id=raw["id"], source="wildguard", head="prompt", text=raw["prompt"], risks=risks, floor=floor,
                split=_side(question_key(raw["prompt"])), group=question_key(raw["prompt"]), clean=not doubt,
                weight=_DOUBTFUL_WEIGHT if doubt else 1.0,
            )  # fmt: skip


def _responses(data: Path) -> Iterable[Row]:
    labels = _corrections("response_labels.tsv.gz")

    def fixed(row: Row) -> Row:
        fix = labels.get(row.id)
        if fix is None:
            unread = row.source == "do-not-answer" and row.refused is False
            return replace(row, refused=None) if unread else row
        risks, floor, doubt = read_codes(fix[1])
        # What a person said about harm stays; what nobody had said is added. Do-Not-Answer counts a reply that declines
        # and then advises among its answers, so that of refusals only our own reading has one meaning in all sources.
        return replace(
            row, risks=risks if row.risks is None else row.risks, floor=floor, clean=row.clean and not doubt,
            refused=fix[2] == "y", addressed=fix[3] == "y",
        )  # fmt: skip

    for answered in read_rows(data / "qa_labelled.jsonl.gz"):
        yield fixed(_from(answered))
    with gzip.open(data / "preference_pairs.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            raw = json.loads(line)
            if raw["source"] not in _PAIRS:
                continue
            prompt = last_question(raw["prompt"]) if raw["source"] == "hh-rlhf" else raw["prompt"]
            for side in ("chosen", "rejected"):
                row = Row(
                    id=f"{raw['id']}:{side}", source=_PAIRS[raw["source"]], head="response", text=raw[side],
                    prompt=prompt, split=raw["split"], group=question_key(prompt),
                )  # fmt: skip
                if raw["source"] == "coconot":
                    # Chosen answers what was asked. Rejected is a refusal only sometimes: only what was read counts.
                    row = replace(row, weight=0.5)
                    if side == "chosen":
                        row = replace(row, risks=frozenset(), refused=False, addressed=True, clean=False)
                if row.id in labels or row.refused is not None:
                    yield fixed(row)


def _texts(data: Path, rng: random.Random, pairs: int) -> Iterable[Row]:
    rows = [row for row in read_rows(data / "texts_labelled.jsonl.gz") if row.risks is not None]
    rng.shuffle(rows)
    for row in rows[:pairs]:
        yield _from(row)


def _written(data: Path) -> Iterable[Row]:
    # Prompts of the shared data that replies were written to stay there.
    with gzip.open(data / "prompts_unlabelled.jsonl.gz", "rt", encoding="utf-8") as lines:
        asked = {raw["id"]: raw["prompt"] for raw in map(json.loads, lines)}
    for path in sorted(HERE.glob("*.jsonl.gz")):
        name = path.name.removesuffix(".jsonl.gz")
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                raw = json.loads(line)
                prompt = asked[raw["prompt_id"]] if "prompt_id" in raw else raw.get("prompt", "")
                group = question_key(prompt) if "prompt_id" in raw else f"{name}/{raw['group']}"
                text = raw.get("response") or raw.get("text") or prompt
                head = "response" if "response" in raw else "text" if "text" in raw else "prompt"
                yield Row(
                    id=f"{name}/{raw['id']}", source=f"cosa-{name}", head=head, text=text,
                    prompt=prompt if head == "response" else "",
                    risks=frozenset(taxonomy.by_code(code) for code in raw["codes"]), refused=raw.get("refused"),
                    addressed=None if raw.get("refused") and raw.get("addressed") else raw.get("addressed"),
                    split=_side(group), group=group,
                )  # fmt: skip


def load(data: Path, *, seed: int = 0, texts: int = 9_000) -> list[Row]:
    """Every usable row, in a fixed order for a seed. Prompts of different sources that read the same share a group.

    Args:
        data: folder of the shared data.
        seed: which texts are drawn.
        texts: how many free-standing texts to draw: more of the same kind does not help.
    """
    rng = random.Random(seed)  # noqa: S311  # a reproducible draw
    rows = [*_prompts(data), *_labelled_by_us(data), *_responses(data), *_texts(data, rng, texts), *_written(data)]
    dev = {row.group for row in rows if row.split == "dev"}
    return [replace(row, split="dev") if row.group in dev or row.source in _NOT_TRAINED else row for row in rows]
