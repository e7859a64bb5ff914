"""`cosa models bench`: plugins that work, fail and crash, each in processes of its own."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec

import pytest
from tests.guard.backends.conftest import _absent

from cosa_guard.cli import bench

PLUGINS = """
import os, sys
from cosa_guard.testing import FakeBackend
from cosa_sdk.errors import BackendError

def good(argument):
    print("a library prints where it likes")
    return FakeBackend(["w "] * 20)

def poor(argument):
    raise BackendError("no \\x1b[2J graphics card")

def bad(argument):
    sys.stderr.write("assertion failed in native code\\n")
    sys.stderr.flush()
    os.abort()

def silent(argument):
    os._exit(3)
"""
NAMES = ("good", "poor", "bad", "silent")


@pytest.fixture(autouse=True)
def plugins(monkeypatch, tmp_path):
    """Backends that a package publishes, here and in child processes."""
    site = tmp_path / "site"
    (site / "benched-1.0.dist-info").mkdir(parents=True)
    (site / "benched.py").write_text(PLUGINS)
    (site / "benched-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: benched\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = benched:{name}" for name in NAMES)
    (site / "benched-1.0.dist-info" / "entry_points.txt").write_text(f"[cosa.backends]\n{lines}\n")
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(site))


@pytest.fixture
def model(tmp_path, write_gguf):
    return write_gguf(tmp_path / "tiny.gguf", {"general.architecture": "llama"})


def bench_json(cosa, *arguments):
    code, out, err = cosa("models", "bench", *arguments, "--json")
    return code, json.loads(out), err


def test_json_has_medians_for_each_backend_and_a_problem_for_each_that_failed(cosa, model):
    code, body, err = bench_json(cosa, model, "--rounds", 2, *(part for name in NAMES for part in ("-b", name)))
    good, poor, bad, silent = body["backends"]

    assert (0, str(model), 2) == (code, body["model"], body["rounds"])
    assert {"backend", "problem", "load_s", "prefill_tps", "generate_tps", "ttft_cold_ms", "ttft_warm_ms", "peak_mb", "prompt_tokens", "config_tokens", "counted"} == good.keys()
    assert (None, False) == (good["problem"], good["counted"])
    assert min(good["load_s"], good["prefill_tps"], good["generate_tps"], good["ttft_cold_ms"]) >= 0
    assert "no \\x1b[2J graphics card" == poor["problem"]
    assert "its process ended with SIGABRT" in bad["problem"]
    assert "assertion failed in native code" in bad["problem"]
    assert "exit code 3; the last it said: nothing" in silent["problem"]
    assert (None, None) == (bad["prefill_tps"], bad["peak_mb"])
    assert ["good: round 1 of 2", "good: round 2 of 2", "poor: round 1 of 2"] == err.splitlines()[:3]


def test_rounds_are_reported_by_their_median(cosa, model, monkeypatch):
    rounds = iter([1.0, 9.0, 2.0])

    def child(spec):
        value = next(rounds)
        return {"load_s": value, "prefill_tps": value, "generate_tps": value if value > 1 else None, "peak_mb": None, "counted": True}

    monkeypatch.setattr(bench, "_in_a_child", child)
    _, body, _ = bench_json(cosa, model, "-b", "good")
    (row,) = body["backends"]

    assert (2.0, 2.0, 5.5, None, None, True) == (row["load_s"], row["prefill_tps"], row["generate_tps"], row["peak_mb"], row["ttft_cold_ms"], row["counted"])


def test_memory_is_that_of_the_backends_process_alone(cosa, model):
    held = b"x" * 300_000_000
    _, body, _ = bench_json(cosa, model, "-b", "good", "--rounds", 1)
    peak = body["backends"][0]["peak_mb"]

    assert peak is None or 5 < peak < len(held) / 1e6


def test_a_table_and_bars_for_people(cosa, model, monkeypatch):
    speeds = {"good": 50.0, "poor": 100.0}
    monkeypatch.setattr(bench, "_in_a_child", lambda spec: {"generate_tps": speeds[spec.partition(":")[0]], "counted": True})
    code, out, _ = cosa("models", "bench", model, "-b", "good", "-b", "poor", "--rounds", 1)
    bars = {line.split()[0]: line.count("█") for line in out.splitlines() if "█" in line}

    assert 0 == code
    assert "writes, tokens/s (more is better)" in out
    assert {"good": 20, "poor": 40} == bars
    assert "load, s (less is better)" not in out


def test_nothing_measured_is_exit_code_one(cosa, model):
    code, out, _ = cosa("models", "bench", model, "-b", "poor")

    assert 1 == code
    assert "poor: no \\x1b[2J graphics card" in out
    assert "█" not in out


def test_what_is_not_installed_is_named_and_the_rest_is_measured(cosa, model, monkeypatch):
    monkeypatch.setattr("cosa_guard.backends.local.find_spec", lambda name: object() if name == "xllamacpp" else None)
    monkeypatch.setattr(bench, "_in_a_child", lambda spec: {"generate_tps": 1.0, "counted": True})
    code, body, _ = bench_json(cosa, model)
    problems = {row["backend"]: row["problem"] for row in body["backends"]}

    assert 0 == code
    assert {"llama-cpp": "not installed: pip install 'cosa[llama-cpp]'", "transformers": "not installed: pip install 'cosa[transformers]'", "xllamacpp": None} == problems


def test_a_folder_is_not_given_to_what_runs_files_only(cosa, tmp_path):
    if find_spec("xllamacpp") is None:
        _absent("xllamacpp is not installed: pip install 'cosa[local]'")
    (tmp_path / "m").mkdir()
    code, body, _ = bench_json(cosa, tmp_path / "m", "-b", "xllamacpp")

    assert (1, "runs GGUF files only, and this is a folder") == (code, body["backends"][0]["problem"])


@pytest.mark.parametrize(("arguments", "parts"), [
    (["-b", "godo"], ["godo", "did you mean 'good'?"]),
    (["-b", "good", "--rounds", "0"], ["rounds"]),
    (["-b", "good", "--plot", "a.jpg"], ["a.jpg", ".png or .svg"]),
    (["-b", "good", "--plot", "nowhere/a.png"], []),
])
def test_bad_arguments_are_found_before_anything_is_measured(cosa, model, monkeypatch, arguments, parts):
    monkeypatch.setattr(bench, "_in_a_child", lambda spec: pytest.fail("measured"))
    monkeypatch.chdir(model.parent)
    code, out, err = cosa("models", "bench", model, *arguments)

    assert (2, "") == (code, out)
    assert [] == [part for part in parts if part not in err]


def test_a_picture_without_matplotlib_names_the_extra(cosa, model, monkeypatch):
    monkeypatch.setattr("cosa_guard.cli.plot.find_spec", lambda name: None)
    code, _, err = cosa("models", "bench", model, "-b", "good", "--plot", model.parent / "a.png")

    assert 2 == code
    assert "pip install 'cosa[plot]'" in err
    assert not (model.parent / "a.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_a_picture_is_drawn(cosa, model, monkeypatch, name, start):
    if find_spec("matplotlib") is None:
        _absent("matplotlib is not installed: pip install 'cosa[plot]'")
    monkeypatch.setattr(bench, "_in_a_child", lambda spec: {"generate_tps": 3.0, "counted": True})
    code, _, err = cosa("models", "bench", model, "-b", "good", "--rounds", 1, "--plot", model.parent / name)

    assert 0 == code
    assert f"drawn in {model.parent / name}" in err
    assert (model.parent / name).read_bytes().startswith(start)


@pytest.mark.slow
def test_a_real_backend_is_measured(cosa, local_model, monkeypatch):
    monkeypatch.setenv("COSA_THREADS", "1")
    code, body, _ = bench_json(cosa, local_model, "-b", "xllamacpp", "--rounds", 1)
    (row,) = body["backends"]

    assert (0, None, True) == (code, row["problem"], row["counted"])
    assert 580 < row["prompt_tokens"] < 640
    assert row["generate_tps"] > 0
    # 98 MB of weights are mapped and read.
    assert row["peak_mb"] > 98
