"""A run on a real model, killed at random moments and started again: the same rows, to the byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from tests.guard.evals.build import CONFIGS, suite

from cosa_guard.evals.folder import read_run

KILLS = int(os.environ.get("COSA_KILLS", "4"))
SUITE = os.environ.get("COSA_KILL_SUITE", "")
"""By default a small one of two configs; `starter` computes six long ones anew after every kill."""
SYSTEMS = os.environ.get("COSA_KILL_SYSTEMS", "ica cascade guard:rules").split()


def rows():
    return "".join(
        json.dumps({"id": one.id, "config": CONFIGS[one.config].model_dump(mode="json"), "prompt": one.prompt, "type": one.type, "risks": sorted(one.risks)}) + "\n"
        for one in suite().items
    )


def start(folder):
    folder.mkdir(exist_ok=True)
    file = folder.parent / "small.jsonl"
    file.write_text(rows())
    command = ["eval", SUITE or str(file), "--max-tokens", "24", "--model", "llama-cpp", "--context", "2048", "--draws", "200"]
    command += [part for name in SYSTEMS for part in ("-s", name)]
    with (folder / "stderr.txt").open("a") as said:
        return subprocess.Popen([sys.executable, "-m", "cosa_guard.cli", *command, "--output", str(folder)],
                                stdout=subprocess.DEVNULL, stderr=said)


def said(folder):
    return (folder / "stderr.txt").read_text()


def size(folder):
    return sum(file.stat().st_size for file in folder.glob("*.jsonl"))


@pytest.mark.slow
@pytest.mark.local
def test_killed_at_random_moments_and_started_again_a_run_leaves_the_same_rows(tmp_path):
    if find_spec("llama_cpp") is None:
        assert not os.environ.get("CI"), "llama-cpp-python is not installed: make test-full"
        pytest.skip("llama-cpp-python is not installed: pip install 'cosa[llama-cpp]'")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    began = time.monotonic()
    first = start(whole)
    assert 0 == first.wait(600), said(whole)
    lasted = time.monotonic() - began

    kills = random.Random(5)
    killed = 0
    while killed < KILLS:
        running = start(broken)
        before = size(broken)
        time.sleep(kills.uniform(0.2, 1) * lasted / 3)
        if running.poll() is not None:
            break  # it came to its end before all kills were done
        running.send_signal(signal.SIGKILL)
        running.wait()
        killed += 1
        assert size(broken) >= 0 <= before
    last = start(broken)
    assert 0 == last.wait(600), said(broken)

    assert killed >= min(2, KILLS)
    assert (whole / "rows.jsonl").read_bytes() == (broken / "rows.jsonl").read_bytes()
    assert read_run(whole)[0].exact
