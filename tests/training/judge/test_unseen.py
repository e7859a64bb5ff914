"""The demo's prompts stay unseen: nothing that was written for training reads like one of them."""

import gzip
import json
import tomllib
from pathlib import Path

from cosa_training.judge import sources

ROOT = Path(__file__).parents[3]


def shingles(text):
    words = "".join(char if char.isalnum() else " " for char in text.lower()).split()
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


def test_no_written_row_reads_like_a_prompt_of_the_demo():
    table = tomllib.loads((ROOT / "examples" / "unseen_prompts.toml").read_text("utf-8"))
    prompts = {prompt: shingles(prompt) for group in table.values() for prompt in group}
    near = []
    for path in (Path(sources.__file__).parent / "data").glob("*.jsonl.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for raw in map(json.loads, lines):
                for text in (raw.get("prompt"), raw.get("text")):
                    mine = shingles(text) if text else set()
                    near += [(raw["id"], text, prompt) for prompt, theirs in prompts.items()
                             if len(mine & theirs) / len(mine | theirs) >= 0.5]
    assert not near
