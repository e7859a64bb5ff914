"""The networks: what stands beside a reading in a batch does not change it."""

from __future__ import annotations

import numpy as np
import pytest

from cosa_guard.judges.embedded.tiers import HEADS, MEANING, load, logsumexp, stack, vocabulary
from cosa_guard.judges.embedded.windows import coded

TEXTS = ["", "Hi.", "How do I bake bread?", "A rather long sentence about trains, gardens and the museum in the north of the city."]
ROWS = [coded(vocabulary().ids(text)) for text in TEXTS]


@pytest.mark.parametrize("name", ["fast", "encoder"])
def test_a_reading_is_the_same_alone_and_in_a_batch(name):
    together = load(name).read(ROWS)

    for row, expected in zip(ROWS, together, strict=True):
        assert np.allclose(expected, load(name).read([row])[0], atol=0.02)
    assert np.isfinite(together).all()


def test_outputs():
    assert 26 <= load("fast").read(ROWS).shape[1]
    assert 0 < load("encoder").read(ROWS)[:, MEANING].shape[1]
    assert 26 == HEADS["reply"].stop == MEANING.start


def test_many_readings_are_run_in_parts():
    many = load("fast").read(ROWS * 200)

    assert 800 == len(many)
    assert np.allclose(many[:4], many[-4:], atol=0.02)


def test_each_network_is_loaded_once():
    assert load("fast") is load("fast")
    assert vocabulary() is vocabulary()


def test_the_vocabulary_begins_with_the_special_pieces():
    assert [0, 2, 3] == [vocabulary().number(piece) for piece in ("[PAD]", "[CLS]", "[SEP]")]
    assert 1 == vocabulary().number("[UNK]")


@pytest.mark.parametrize("logits", [[[0.0, 0.0]], [[1000.0, 0.0]], [[-1000.0, -1000.0]]])
def test_logsumexp(logits):
    found = logsumexp(np.array(logits))

    assert np.allclose(np.logaddexp.reduce(np.array(logits), axis=-1), found)


def test_stack():
    assert [[1], [2], [3]] == stack([np.array([[1]]), np.array([[2], [3]])]).tolist()
