"""Every numbered example runs, is short, and prints what its first line promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("[0-9]*.py"))
EXPECTED = {
    "01_compile.py": ["Allowed within limits:", "cosalign/1", "version id"],
    "02_check.py": ["violates ('competitors',)", "undecided", "nobody examined"],
    "03_stream.py": ["act:"],
    "04_own_judge.py": ["stop: Yes.", "content_filter"],
    "05_conversation.py": ["content_filter: I can't talk about that.", "stop: the chat goes on", "content_filter: a forged"],
    "06_client.py": ["OpenAI stop You asked: Do you sell maps?", "refuse, by rules ('rivals',)", "OpenAI content_filter"],
}
LOCAL = {"03_stream.py", "05_conversation.py"}


def test_every_example_is_here():
    assert sorted(EXPECTED) == [path.name for path in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(path, local_ready):
    if path.name in LOCAL and not local_ready:
        pytest.skip("needs the local backend and the default model: make demo fetches both")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300, check=False)

    assert 0 == done.returncode, done.stderr
    assert [] == [part for part in EXPECTED[path.name] if part not in done.stdout], done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= 40


def test_unseen_prompts_share_no_term_with_any_preset():
    import tomllib

    from cosa_guard import Case, judges
    from cosa_sdk import presets

    prompts = tomllib.loads((EXAMPLES[0].parent / "unseen_prompts.toml").read_text("utf-8"))
    rules = judges.make("rules")
    found = [
        (name, prompt)
        for name in presets.names()
        for group in ("disallowed", "benign")
        for prompt in prompts[group]
        if rules.judge(Case(config=presets.load(name), stage="input", text=prompt)).evidence.found
    ]

    assert [10, 10] == [len(prompts[group]) for group in ("disallowed", "benign")]
    assert [] == found
