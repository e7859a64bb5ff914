"""Inspect AI runs the same suites: the same responses give the same rows and the same score."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec

import pytest
from tests.guard.evals.build import CONFIGS, obedient, suite

from cosa_guard.evals import judges
from cosa_guard.evals.recipe import Recipe
from cosa_guard.evals.run import evaluate
from cosa_guard.evals.suites import load
from cosa_guard.evals.systems import parse_system
from cosa_guard.messages import Message, Request, Sampling
from cosa_guard.testing import FakeBackend
from cosa_sdk import score
from cosa_sdk.errors import UsageError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def inspect():
    if find_spec("inspect_ai") is None:
        assert not os.environ.get("CI"), "inspect_ai is not installed: make test-full"
        pytest.skip("inspect_ai is not installed: pip install 'cosa[inspect]'")
    return pytest.importorskip("inspect_ai")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.jsonl"
    rows = [
        {"id": one.id, "config": CONFIGS[one.config].model_dump(mode="json"), "prompt": one.prompt, "type": one.type, "risks": sorted(one.risks)}
        for one in suite().items
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(messages):
    return Request(messages=tuple(Message(one.role, one.text) for one in messages))


@pytest.mark.parametrize("system", ["plain", "ica"])
def test_the_same_responses_give_the_same_rows_and_the_same_score(inspect, file, tmp_path, system):
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    from cosa_guard.evals import inspect_tasks

    def say(messages, tools, choice, config):
        output = ModelOutput.from_content("mockllm/model", obedient(asked(messages)))
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)  # or it is counted, with a vocabulary from the network
        return output

    log, = inspect.eval(inspect_tasks.suite(str(file), system=system), model=get_model("mockllm/model", custom_outputs=say), log_dir=str(tmp_path), display="none")
    assert "success" == log.status
    theirs = {one.id: one.scores["cosa"].metadata["row"] for one in log.samples}
    recipe = Recipe(systems=(parse_system(system),), sampling=Sampling(max_tokens=128))
    ours = evaluate(load(file), recipe, judges.make("refusal"), open_backend=lambda spec, options: FakeBackend(obedient)).rows

    same = ("item", "config", "prompt", "type", "response", "answer", "answer_why", "helpful", "safe")
    assert [{name: getattr(row, name) for name in same} for row in ours] == [{name: theirs[row.item][name] for name in same} for row in ours]
    told = {one.name: one.value for one in log.results.scores[0].metrics.values()}
    rows = [row.scored() for row in ours]
    assert {"decision_score": pytest.approx(score.decision_score(rows)), "contrast_accuracy": pytest.approx(score.contrast_accuracy(rows))} == told


def test_guards_and_filters_are_sent_to_the_command(inspect, file):
    from cosa_guard.evals import inspect_tasks

    with pytest.raises(UsageError, match="cosa eval .* --system guard"):
        inspect_tasks.suite(str(file), system="guard")


def test_tasks_are_found_by_their_names(inspect):
    from importlib.metadata import entry_points

    assert ["cosa_guard.evals.inspect_tasks"] == [one.value for one in entry_points(group="inspect_ai") if one.name == "cosa"]
