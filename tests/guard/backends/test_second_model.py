"""A second, stronger model behaves the same way: any GGUF works. COSA_SECOND_MODEL names its file."""

from __future__ import annotations

import os

import pytest

from cosa_guard import Guard, Sampling
from cosa_guard.backends.xllamacpp import XLlamaCpp
from cosa_guard.judges.model import ModelJudge
from cosa_sdk import SafetyConfig

PATH = os.environ.get("COSA_SECOND_MODEL", "")
pytestmark = pytest.mark.skipif(not PATH, reason="COSA_SECOND_MODEL names no GGUF file")


@pytest.fixture(scope="module")
def second():
    with XLlamaCpp(PATH) as backend:
        yield backend


def test_it_answers_under_a_config(second):
    config = SafetyConfig(name="open", default="allow", enforcement={"on_undecided": "allow"})
    guard = Guard(config, judge="rules", backend=second, accept_unexamined=True)
    reply = guard.reply("Say hello in one word.", sampling=Sampling(max_tokens=12))

    assert "pass" == reply.report.act
    assert reply.text.strip()


def test_it_judges_by_log_odds(second):
    judge = ModelJudge(second)
    guard = Guard(SafetyConfig(name="strict"), judge=judge)
    ruling = guard.check("What is a good name for a ship?")

    assert 0.0 <= ruling.verdicts[0].score <= 1.0
    assert "AUROC" in ruling.verdicts[0].reason or "not measured" in ruling.verdicts[0].reason
