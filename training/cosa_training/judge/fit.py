"""Fine-tuning the encoder: rows in, trained weights out."""

from __future__ import annotations

import math
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cosa_guard.judges.embedded.windows import PROMPT_ROOM, ROOM, Coded, coded, ends
from cosa_guard.judges.embedded.wordpiece import PAD, WordPiece
from cosa_training.judge.augment import noisy, padded
from cosa_training.judge.encoder import HEADS, MEANING, Encoder, Fast
from cosa_training.judge.sources import RISKS, Row

__all__ = ["Lesson", "Recipe", "encode", "fit", "lessons", "logits", "meanings", "slices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a run is made of."""

    epochs: float = 2.0
    rate: float = 1e-4
    head_rate: float = 1e-3
    batch_pieces: int = 3072
    noise: float = 0.15
    padding: float = 0.1
    """Share of prompts that are read among harmless ones."""
    most_of_a_source: int = 3_000
    """Rows of one source in one epoch."""
    any_risk: float = 0.5
    """Weight of the loss on 'any risk', the log-sum-exp of a head's logits."""
    smoothing: float = 0.02
    meaning: float = 0.0
    """Weight of the loss on what a text is about."""
    teacher: float = 0.0
    """Weight of the loss on a teacher's answers."""
    seed: int = 0


_SHARES = {"prompt": 1, "text": 6, "response": 4}
"""Texts and responses are longer and more alike: a source gives fewer of them to one epoch."""
_REPLY = 4.0
"""Weight of refused? and addressed?: two outputs among twenty-six, and few rows know them."""
_PROMPT_DROPPED = 0.05
"""Share of responses that are read without their prompt."""


def slices() -> dict[str, slice]:
    """Where each head's outputs stand."""
    found, start = {}, 0
    for name, width in HEADS.items():
        found[name] = slice(start, start + width)
        start += width
    return found


def encode(tokenizer: WordPiece, text: str, prompt: str = "") -> Coded:
    """One reading. Of a long text the beginning and the end; of a long prompt the end."""
    body = tokenizer.ids(text if len(text) < ROOM * 60 else f"{text[: ROOM * 40]} {text[-ROOM * 20 :]}")
    return coded(ends(body), tokenizer.ids(prompt[-PROMPT_ROOM * 20 :]) if prompt else None)


def _pad(rows: Sequence[Coded]) -> tuple[Tensor, Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), length), PAD)
    segments, mask = torch.zeros_like(ids), torch.zeros(len(rows), length)
    for number, (row, where) in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        segments[number, : len(row)] = torch.tensor(where)
        mask[number, : len(row)] = 1.0
    return ids, segments, mask


def _batches(lengths: Sequence[int], pieces: int, rng: random.Random) -> Iterator[list[int]]:
    """Rows of like length together, in random order."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] + rng.random() * 6)
    batches: list[list[int]] = [[]]
    for number in order:
        if batches[-1] and (len(batches[-1]) + 1) * lengths[number] > pieces:
            batches.append([])
        batches[-1].append(number)
    rng.shuffle(batches)
    yield from batches


def _targets(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """What each output should say, and how much it counts."""
    at = slices()
    wide = sum(HEADS.values())
    target, weight = torch.zeros(len(rows), wide), torch.zeros(len(rows), wide)
    for number, row in enumerate(rows):
        if row.risks is not None:
            here = at[row.head]
            target[number, here] = torch.tensor([float(risk in row.risks) for risk in RISKS])
            weight[number, here] = row.weight
        for place, value in enumerate((row.refused, row.addressed)):
            if value is not None:
                target[number, at["reply"].start + place] = float(value)
                weight[number, at["reply"].start + place] = _REPLY
    return target, weight


def _loss(out: Tensor, target: Tensor, weight: Tensor, recipe: Recipe, scale: Tensor) -> Tensor:
    soft = target * (1 - 2 * recipe.smoothing) + recipe.smoothing
    each = functional.binary_cross_entropy_with_logits(out, soft, reduction="none", pos_weight=scale)
    loss = (each * weight).sum() / weight.sum().clamp(min=1)
    at = slices()
    for head in ("prompt", "text", "response"):
        here = at[head]
        seen = weight[:, here.start] > 0
        if seen.any():
            whole = torch.logsumexp(out[seen, here], dim=1)
            gold = target[seen, here].amax(1)
            risk = functional.binary_cross_entropy_with_logits(
                whole, gold * (1 - 2 * recipe.smoothing) + recipe.smoothing, weight=weight[seen, here.start]
            )
            loss = loss + recipe.any_risk * risk * seen.float().mean()
    return loss


def _scale(rows: Sequence[Row]) -> Tensor:
    """Weight of positives: rare risks count a little more, never over four times."""
    target, weight = _targets(rows)
    positive = (target * weight).sum(0)
    negative = ((1 - target) * weight).sum(0)
    return (negative / positive.clamp(min=1)).sqrt().clamp(1.0, 4.0)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A row with what it should be told beyond its labels."""

    row: Row
    logits: np.ndarray | None = None
    """Of a teacher: learnt instead of labels in the heads that the row has none for, and beside them in the others."""
    meaning: np.ndarray | None = None


def lessons(rows: Sequence[Row], meaning: np.ndarray | None = None, teacher: np.ndarray | None = None) -> list[Lesson]:
    """Rows with the vectors that stand beside them."""
    return [
        Lesson(row, None if teacher is None else teacher[i], None if meaning is None else meaning[i])
        for i, row in enumerate(rows)
    ]


def _draw(given: Sequence[Lesson], most: int, share: float, rng: random.Random) -> list[Lesson]:
    """One epoch: all rows, but no more than `most` of a source and head."""
    by_source: dict[tuple[str, str], list[Lesson]] = defaultdict(list)
    for lesson in given:
        by_source[lesson.row.source, lesson.row.head].append(lesson)
    drawn: list[Lesson] = []
    for (_, head), group in by_source.items():
        limit = most // _SHARES[head]
        drawn += rng.sample(group, math.ceil(min(len(group), limit) * share))
    return drawn


def _distilled(out: Tensor, batch: Sequence[Lesson]) -> Tensor:
    """Distance from the teacher's answers, in the head that each row is read by."""
    at, total, count = slices(), out.new_zeros(()), 0
    for head in ("prompt", "text", "response"):
        mine = [i for i, lesson in enumerate(batch) if lesson.logits is not None and lesson.row.head == head]
        if mine:
            told = torch.from_numpy(np.stack([batch[i].logits for i in mine])[:, at[head]])
            total = total + functional.binary_cross_entropy_with_logits(out[mine][:, at[head]], told.sigmoid()) * len(
                mine
            )
            count += len(mine)
    return total / max(1, count)


def _planned(
    given: Sequence[Lesson], tokenizer: WordPiece, recipe: Recipe, rng: random.Random
) -> list[list[tuple[Lesson, Coded]]]:
    """Every batch of a run, noise and padding in place."""
    epochs = [1.0] * int(recipe.epochs) + ([recipe.epochs % 1] if recipe.epochs % 1 else [])
    harmless = [lesson.row.text for lesson in given if lesson.row.head == "prompt" and lesson.row.any_risk is False]
    plan: list[list[tuple[Lesson, Coded]]] = []
    for share in epochs:
        items = []
        for lesson in _draw(given, recipe.most_of_a_source, share, rng):
            row = lesson.row
            text = noisy(row.text, rng) if rng.random() < recipe.noise else row.text
            if row.head == "prompt" and harmless and rng.random() < recipe.padding:
                text = padded(text, harmless, rng)
            prompt = "" if row.head == "response" and rng.random() < _PROMPT_DROPPED else row.prompt
            items.append((lesson, encode(tokenizer, text, prompt)))
        drawn = _batches([len(ids) for _, (ids, _) in items], recipe.batch_pieces, rng)
        plan += [[items[i] for i in numbers] for numbers in drawn]
    return plan


def fit(  # one loop, read from top to bottom
    model: Encoder | Fast, tokenizer: WordPiece, given: Sequence[Lesson], recipe: Recipe, *, name: str = "fit"
) -> None:
    """Train in place on every row that is given; what is left out must be left out before.

    Args:
        model: start weights.
        tokenizer: over the model's vocabulary.
        given: training rows.
        recipe: constants.
        name: what progress lines begin with.
    """
    rng = random.Random(recipe.seed)  # noqa: S311
    torch.manual_seed(recipe.seed)
    static = isinstance(model, Fast)
    if not static:
        model.words.weight.requires_grad_(False)  # words that no row has must keep their meaning
    heads = [] if static else [*model.heads.parameters(), *model.meaning.parameters()]
    apart = {id(p) for p in heads}
    body = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
    optimizer = torch.optim.AdamW(
        [{"params": body, "lr": recipe.rate}, {"params": heads, "lr": recipe.head_rate}], weight_decay=0.01, fused=True
    )
    scale = _scale([lesson.row for lesson in given])
    plan = _planned(given, tokenizer, recipe, rng)
    steps = len(plan)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min(1.0, (n + 1) / warm) * max(0.02, (steps - n) / steps)
    )
    wide = sum(HEADS.values())
    began, running = time.monotonic(), 0.0
    model.train()
    for number, batch in enumerate(plan):
        ids, segments, mask = _pad([coded for _, coded in batch])
        taught = [lesson for lesson, _ in batch]
        target, weight = _targets([lesson.row for lesson in taught])
        with torch.autocast("cpu", torch.bfloat16, enabled=not static):
            out = model(ids, segments, mask).float()
        loss = _loss(out[:, :wide], target, weight, recipe, scale)
        if recipe.meaning and taught[0].meaning is not None:
            about = torch.from_numpy(np.stack([lesson.meaning for lesson in taught]))
            apartness = 1 - functional.cosine_similarity(out[:, wide:], about)
            loss = loss + recipe.meaning * (apartness * about.any(dim=1)).mean()
        if recipe.teacher:
            loss = loss + recipe.teacher * _distilled(out, taught)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*body, *heads], 1.0)
        optimizer.step()
        schedule.step()
        running = 0.98 * running + 0.02 * loss.item() if number else loss.item()
        if (number + 1) % 100 == 0 or number + 1 == steps:
            gone = time.monotonic() - began
            left = gone / (number + 1) * (steps - number - 1)
            print(
                f"{name}: step {number + 1}/{steps} loss {running:.3f} {gone:.0f} s, {left:.0f} s left", file=sys.stderr
            )
    model.eval()


@torch.inference_mode()
def logits(model: Encoder | Fast, tokenizer: WordPiece, rows: Sequence[Row], *, pieces: int = 8192) -> np.ndarray:
    """Outputs for every row, (rows, outputs)."""
    readings = [encode(tokenizer, row.text, row.prompt) for row in rows]
    wide = sum(HEADS.values()) + (MEANING if isinstance(model, Encoder) else 0)
    out: np.ndarray = np.zeros((len(rows), wide), dtype=np.float32)
    model.eval()
    for batch in _batches([len(ids) for ids, _ in readings], pieces, random.Random(0)):  # noqa: S311
        with torch.autocast("cpu", torch.bfloat16, enabled=isinstance(model, Encoder)):
            out[batch] = model(*_pad([readings[i] for i in batch])).float().numpy()
    return out


@torch.inference_mode()
def meanings(model: Encoder, tokenizer: WordPiece, texts: Sequence[str], *, pieces: int = 8192) -> np.ndarray:
    """Mean-pooled sentence vectors of an untrained MiniLM, (texts, 384), unit length."""
    readings = [encode(tokenizer, text) for text in texts]
    width = model.words.weight.shape[1]
    out: np.ndarray = np.zeros((len(texts), width), dtype=np.float32)
    model.eval()
    for batch in _batches([len(ids) for ids, _ in readings], pieces, random.Random(0)):  # noqa: S311
        with torch.autocast("cpu", torch.bfloat16):
            out[batch] = model.embed(*_pad([readings[i] for i in batch]))[:, :width].float().numpy()
    return out / np.linalg.norm(out, axis=1, keepdims=True)
