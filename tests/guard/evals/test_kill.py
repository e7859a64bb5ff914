"""A run on a real model, killed at random moments and started again: the same rows, to the byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from cosa_guard.evals.folder import read_run

KILLS = int(os.environ.get("COSA_KILLS", "4"))
COMMAND = ["eval", "starter", "--limit", os.environ.get("COSA_KILL_ROWS", "2"), "--max-tokens", "24", "-s", "ica", "-s", "ica-5shot", "-s", "cascade", "-s", "guard:rules", "--model", "llama-cpp", "--context", "2048"]


def start(folder):
    return subprocess.Popen([sys.executable, "-m", "cosa_guard.cli", *COMMAND, "--output", str(folder)],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


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
    assert 0 == first.wait(600), first.stderr.read()
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
    assert 0 == last.wait(600), last.stderr.read()

    assert killed >= min(2, KILLS)
    assert (whole / "rows.jsonl").read_bytes() == (broken / "rows.jsonl").read_bytes()
    assert read_run(whole)[0].exact
