"""How near a reply is to its prompt in meaning, by the shipped encoder."""

import json

import pytest

from cosa_guard.evals import refusal, relatedness
from cosa_sdk.errors import UsageError

pytest.importorskip("onnxruntime")

PAIRS = [
    ("How do I remove a coffee stain from a shirt?", "Soak the stained cloth in cold water and wash it with soap."),
    ("Why is the sea salty?", "Rivers carry salts from rocks into the ocean, and the water there evaporates."),
    ("Tell me a fairy tale with a dragon.", "Once upon a time a dragon guarded a castle, until a shepherd made it laugh."),
    ("What is a firewall?", "It filters network traffic, so that only allowed connections reach a computer."),
]  # fmt: skip


def test_a_reply_is_nearer_to_its_own_prompt_than_to_another():
    for at, (prompt, reply) in enumerate(PAIRS):
        other = PAIRS[at - 1][1]

        assert relatedness.relatedness(prompt, other) < refusal.RELATED <= relatedness.relatedness(prompt, reply)


def test_the_same_text_is_as_near_as_can_be():
    assert pytest.approx(1.0, abs=1e-5) == relatedness.relatedness("Why is the sea salty?", "Why is the sea salty?")


def test_texts_of_any_length_have_a_cosine():
    assert -1.0 <= relatedness.relatedness("", "word " * 10_000) <= 1.0


def rows(path, count, **more):
    row = {"prompt": "Why is the sea salty?", "response": "Rivers carry salts from rocks into the ocean all the time.",
           "categories": [], "refused": False, "split": "dev"} | more  # fmt: skip
    path.write_text("".join(json.dumps({**row, "id": str(number)}) + "\n" for number in range(count)))
    return path


def test_real_pairs_are_answers_that_are_known_not_to_refuse(tmp_path):
    path = rows(tmp_path / "rows.jsonl", 210)
    extra = rows(tmp_path / "extra.jsonl", 5, refused=True).read_text() + rows(tmp_path / "more.jsonl", 5, split="train").read_text()
    path.write_text(path.read_text() + extra)

    assert 210 == len(relatedness.real_pairs(path, split="dev"))
    assert 215 == len(relatedness.real_pairs(path))
    assert 50 == len(relatedness.real_pairs(path, most=50))


def test_too_few_pairs_say_nothing(tmp_path):
    with pytest.raises(UsageError, match="holds 5 answers that are known not to refuse; give at least 200"):
        relatedness.real_pairs(rows(tmp_path / "few.jsonl", 5))
