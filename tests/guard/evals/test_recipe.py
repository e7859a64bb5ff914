"""Recipes: a run as one file, with errors that name the place."""

from __future__ import annotations

import json

import pytest

from cosa_guard.evals.recipe import read_recipe
from cosa_guard.evals.systems import SystemSpec
from cosa_sdk.errors import CosaError, UsageError

WHOLE = """
model: local:tiny.gguf
options: {context: 2048}
judge: rating:local
sampling: {max_tokens: 64, seed: 3}
concurrency: 4
limits: {requests_per_minute: 60, price_in: 0.15, price_out: 0.6, max_cost: 5}
systems:
  - plain
  - ica-5shot+guard
  - name: film
    method: cascade
    over: ica-5shot
    model: openai_http:http://127.0.0.1:8000/v1#m
    adapters: [film.gguf, {path: court.gguf, scale: 0.5}]
    guard: {judges: [rules], on_undecided: allow}
  - {name: open, guard: true}
  - {name: bare, guard: [rules, embedded]}
"""


def write(tmp_path, text, name="recipe.yaml"):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_a_whole_recipe(tmp_path):
    recipe = read_recipe(write(tmp_path, WHOLE))

    assert ("local:tiny.gguf", {"context": 2048}, "rating:local", 64, 3, 4, 60, 5) == (
        recipe.model, recipe.options, recipe.judge, recipe.sampling.max_tokens, recipe.sampling.seed, recipe.concurrency,
        recipe.limits.requests_per_minute, recipe.limits.max_cost)
    assert SystemSpec(name="film", method="cascade", over="ica-5shot", model="openai_http:http://127.0.0.1:8000/v1#m",
                      adapters=(("film.gguf", 1.0), ("court.gguf", 0.5)), guard=("rules",), on_undecided="allow") == recipe.systems[2]
    assert [None, (), ("rules",), (), ("rules", "embedded")] == [one.guard for one in recipe.systems]


def test_json_and_toml_are_read_too(tmp_path):
    tree = {"systems": ["plain"], "sampling": {"max_tokens": 5}}
    found = [read_recipe(write(tmp_path, json.dumps(tree), "a.json")), read_recipe(write(tmp_path, 'systems = ["plain"]\n[sampling]\nmax_tokens = 5\n', "a.toml"))]

    assert found[0] == found[1]


@pytest.mark.parametrize("text, message", [
    ("", "holds NoneType"),
    ("- plain", "holds list"),
    ("systems: []", r"systems is \[\]"),
    ("systems: plain", "systems is 'plain'"),
    ("system: [plain]", "unknown field 'system': did you mean 'systems'"),
    ("systems: [gaurd]", "gaurd"),
    ("systems: [1]", r"systems\[0\] is 1"),
    ("systems: [{method: ica}]", r"systems\[0\] is .* with a name"),
    ("systems: [{name: a, metod: ica}]", r"systems\[0\]: unknown field 'metod': did you mean 'method'"),
    ("systems: [{name: a, method: ika}]", r"systems\[0\].method is 'ika'; choices: plain"),
    ("systems: [{name: a, guard: rules}]", r"systems\[0\].guard is 'rules'"),
    ("systems: [{name: a, guard: {judge: [rules]}}]", r"systems\[0\].guard: unknown field 'judge': did you mean 'judges'"),
    ("systems: [{name: a, guard: {on_undecided: pass}}]", "on_undecided is 'pass'; choices: allow, block"),
    ("systems: [{name: a, model: 3}]", r"systems\[0\].model is 3"),
    ("systems: [{name: a, adapters: [3]}]", r"systems\[0\].adapters holds 3"),
    ("systems: [plain, plain]", "two systems are called 'plain'"),
    ("systems: [plain]\nsampling: {max_tokens: 0}", "sampling: .*max_tokens=0"),
    ("systems: [plain]\nsampling: {maxtokens: 5}", "sampling: unknown field 'maxtokens': did you mean 'max_tokens'"),
    ("systems: [plain]\nsampling: 5", "sampling is 5"),
    ("systems: [plain]\nlimits: {max_cost: 5}", "limits: .*needs prices"),
    ("systems: [plain]\nconcurrency: 0", "concurrency is 0"),
    ("systems: [plain]\njudge: [a]", r"judge is \['a'\]"),
    ("systems: [plain", "not YAML"),
    ("systems: [plain]\nmodel: ''", "model is ''"),
])
def test_faults_are_named_with_their_place(tmp_path, text, message):
    file = write(tmp_path, text)

    with pytest.raises(CosaError, match=message) as caught:
        read_recipe(file)
    assert isinstance(caught.value, UsageError)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "missing.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "bytes.yaml")
    with pytest.raises(UsageError, match="not toml"):
        read_recipe(write(tmp_path, "systems = [", "a.toml"))
