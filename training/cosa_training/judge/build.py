"""One command from rows to the files that ship.

    python -m cosa_training.judge.build --data FOLDER --to FOLDER

Trains the encoder on every training row, the static tier on the encoder's answers, and writes `encoder.onnx`,
`fast.onnx`, `vocabulary.txt` and
`calibration.json`. The calibration is computed from out-of-fold answers (`measure.py`),
which take six trainings; `--answers` names where they lie, and without it the ones kept in the repository are used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cosa_training.judge.calibrate import answers_of, calibrate
from cosa_training.judge.export import export, write_vocabulary
from cosa_training.judge.sources import load
from cosa_training.judge.train import ENCODER, FAST, all_about, start, train_encoder, train_fast, unlabelled
from cosa_training.judge.vocabulary import read

__all__ = ["build", "main"]


def build(
    data: Path, to: Path, answers: Path, *, epochs: float | None = None, seed: int = 0, cache: Path | None = None,
    reuse: bool = False,
) -> None:  # fmt: skip
    """Train, export, calibrate.

    Args:
        data: folder of the labelled data.
        to: where the four files and `manifest.json` go.
        answers: folder of out-of-fold answers.
        epochs: shorter runs for a test.
        seed: of everything that is drawn.
        cache: folder for what runs can share.
        reuse: take the encoder whose weights lie in `to`, and train only the static tier.
    """
    began = time.monotonic()
    to.mkdir(parents=True, exist_ok=True)
    print("build: reading rows, pruning the vocabulary (a minute)", file=sys.stderr)
    rows = load(data, seed=seed)
    begin = start(rows)
    train = [row for row in rows if row.split == "train"]
    recipe = replace(ENCODER, seed=seed, epochs=ENCODER.epochs if epochs is None else epochs)
    static = replace(FAST, seed=seed)
    answers_of(rows, answers)  # what is missing shows before the training
    if reuse:
        begin = begin.over(read((to / "vocabulary.txt").read_text("utf-8")))
        encoder = begin.encoder()
        encoder.load_state_dict(load_file(to / "encoder.safetensors"))
    else:
        place = {id(row): number for number, row in enumerate(rows)}
        print("build: what each row is about, by MiniLM itself (three minutes)", file=sys.stderr)
        about = all_about(begin, rows, cache)[[place[id(row)] for row in train]]
        encoder = train_encoder(begin, train, about, recipe)
        save_file(encoder.state_dict(), to / "encoder.safetensors")
    known = frozenset(row.id for row in rows)
    fast = train_fast(begin, encoder, train, unlabelled(data, but=known), static)
    write_vocabulary(begin.pieces, to / "vocabulary.txt")
    export(encoder, to / "encoder.onnx")
    export(fast, to / "fast.onnx")
    raw = calibrate(rows, answers, begin, encoder, data)
    (to / "calibration.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    files = ["encoder.onnx", "fast.onnx", "vocabulary.txt", "calibration.json"]
    manifest = {
        "rows": len(train),
        "recipe": asdict(recipe),
        "fast": asdict(static),
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - began),
        "sha256": {name: hashlib.sha256((to / name).read_bytes()).hexdigest() for name in files},
        "bytes": {name: (to / name).stat().st_size for name in files},
    }
    (to / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    print(f"built in {manifest['seconds']} s: {sum(manifest['bytes'].values()) / 1e6:.1f} MB in {to}", file=sys.stderr)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the labelled data")
    parser.add_argument("--to", type=Path, required=True, help="folder for the files")
    parser.add_argument("--answers", type=Path, default=Path(__file__).parent / "data" / "answers")
    parser.add_argument("--epochs", type=float, help="of the encoder; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, help="folder for what runs can share")
    parser.add_argument("--reuse", action="store_true", help="the encoder that lies there")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    build(chosen.data, chosen.to, chosen.answers, epochs=chosen.epochs, seed=chosen.seed,
          cache=chosen.cache, reuse=chosen.reuse)  # fmt: skip


if __name__ == "__main__":
    main()
