"""The command line: what scripts read, exit codes, and errors without tracebacks."""

from __future__ import annotations

import json
import sys

import pytest

from cosa_guard import backends
from cosa_guard.testing import FakeBackend
from cosa_sdk import presets

SHOP = """
name: shop
default: allow
rules:
  - {id: rivals, stance: forbid, terms: ["Globex Books"], note: competitors}
enforcement: {input: warn, output: redact, on_undecided: allow}
"""


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "shop.yaml"
    path.write_text(SHOP, "utf-8")
    return str(path)


@pytest.fixture
def said(monkeypatch):
    """The local backend says this instead of loading a model."""
    backend = FakeBackend("We like Globex Books best. Come and see.")
    monkeypatch.setattr(backends, "make", lambda spec, **options: backend)
    return backend


def test_check_json_has_the_contract_keys(cosa, shop):
    code, out, _ = cosa("check", "--config", shop, "--json", "Is GLOBEX books open?")
    body = json.loads(out)

    assert 1 == code
    assert "violates" == body["decision"]
    assert ["rivals"] == body["rules"]
    assert [[3, 15]] == body["spans"]
    assert "rules/1" == body["judge"]
    assert {"decision", "prompt_type", "risks", "rules", "unexamined", "spans", "judge", "config"} <= body.keys()
    assert 64 == len(body["config"])


def test_check_output_stage_has_no_prompt_type(cosa, shop):
    _, out, _ = cosa("check", "--config", shop, "--stage", "output", "--json", "Hello")

    assert "prompt_type" not in json.loads(out)


@pytest.mark.parametrize(("text", "code"), [("Globex Books", 1), ("a quiet day", 3)])
def test_check_exit_code_answers(cosa, shop, text, code):
    assert code == cosa("check", "-c", shop, "--judge", "rules", text)[0]


def test_check_reads_standard_input(cosa, shop, monkeypatch, tmp_path):
    file = tmp_path / "in.txt"
    file.write_text("Globex Books", "utf-8")
    with file.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)

        assert 1 == cosa("check", "-c", shop, "-")[0]


def test_compare_json_has_the_contract_keys(cosa, shop, said):
    code, out, _ = cosa("compare", "Which shop?", "-c", shop, "-c", "text:Anything goes.", "--on-undecided", "allow", "--json")
    results = json.loads(out)["results"]

    assert 0 == code
    assert ["shop", "free-text"] == [entry["config"] for entry in results]
    assert {"config", "digest", "prompt_tokens", "reply", "act", "decision", "ttft_ms", "tokens"} == results[0].keys()
    assert "We like [redacted] best. Come and see." == results[0]["reply"]
    assert "redact" == results[0]["act"]


def test_compare_for_people_shows_each_config(cosa, shop, said):
    code, out, _ = cosa("compare", "Which shop?", "-c", shop, "-c", shop)

    assert 0 == code
    assert 2 == out.count("[redacted]")
    assert "rivals" in out


def test_chat_prompt_json_is_one_entry(cosa, shop, said):
    code, out, _ = cosa("chat", "--config", shop, "--prompt", "Which shop?", "--json")

    assert 0 == code
    assert "redact" == json.loads(out)["act"]


def test_chat_blocked_is_exit_code_one_and_says_the_next_step(cosa, said):
    code, out, err = cosa("chat", "customer-service", "--judge", "rules", "--prompt", "Which plan?")

    assert 1 == code
    assert presets.load("customer-service").refusal.message.strip() in out
    assert "--judge model" in err


@pytest.mark.parametrize("target", ["system", "cosalign", "judge"])
def test_config_compile_json(cosa, target):
    code, out, _ = cosa("config", "compile", "film-studio", "--target", target, "--json")

    assert 0 == code
    assert {"target", "version", "digest", "tokens", "counted", "text"} == json.loads(out).keys()


def test_config_compile_icl_gives_messages(cosa):
    _, out, _ = cosa("config", "compile", "film-studio", "--target", "icl", "--json")

    assert "system" == json.loads(out)["messages"][0]["role"]


def test_config_validate_json_names_the_place(cosa, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: x\nrules:\n  - stance: forbidd\n    risk: drugs\n", "utf-8")
    code, out, _ = cosa("config", "validate", str(bad), "film-studio", "--json")
    (finding,) = json.loads(out)["findings"]

    assert 1 == code
    assert (3, "choice") == (finding["line"], finding["code"])
    assert {"code", "severity", "file", "line", "column", "message", "fix"} <= finding.keys()


def test_config_show_can_be_loaded_again(cosa, tmp_path):
    _, out, _ = cosa("config", "show", "game-studio")
    copy = tmp_path / "copy.yaml"
    copy.write_text(out, "utf-8")
    import cosa_sdk

    assert presets.load("game-studio").digest == cosa_sdk.load(copy).digest


def test_config_list_names_every_preset(cosa):
    _, out, _ = cosa("config", "list", "--json")

    assert list(presets.names()) == [row["name"] for row in json.loads(out)["presets"]]


BAD = {
    "unknown preset": (["check", "-c", "film-studo", "x"], ["film-studo", "did you mean 'film-studio'?"]),
    "no such file": (["check", "-c", "nowhere.yaml", "x"], ["nowhere.yaml"]),
    "empty text config": (["check", "-c", "text:", "x"], ["guideline"]),
    "unknown target": (["config", "compile", "film-studio", "-t", "systm"], ["systm", "did you mean 'system'?"]),
    "budget too small": (["config", "compile", "film-studio", "--budget", "20"], ["budget is 20", "no rule is dropped"]),
    "unknown judge": (["check", "-c", "film-studio", "-j", "ruls", "x"], ["ruls", "did you mean 'rules'?"]),
    "judge with an argument": (["check", "-c", "film-studio", "-j", "rules:a", "x"], ["rules", "'a'"]),
    "no such model": (["chat", "film-studio", "-m", "no-such.gguf", "-p", "x"], ["no-such.gguf"]),
    "not a GGUF": (["chat", "film-studio", "-m", __file__, "-p", "x"], ["test_cli.py", "GGUF"]),
    "unknown stage": (["check", "-c", "film-studio", "--stage", "middle", "x"], ["middle", "input", "output"]),
    "zero tokens": (["compare", "x", "-c", "film-studio", "--max-tokens", "0"], ["max-tokens"]),
    "negative temperature": (["compare", "x", "-c", "film-studio", "--temperature", "-1"], ["temperature"]),
    "no config": (["check", "x"], ["config"]),
    "unknown command": (["chek"], ["chek"]),
}


@pytest.mark.parametrize(("arguments", "parts"), BAD.values(), ids=BAD.keys())
def test_bad_arguments_get_a_clear_error(cosa, arguments, parts):
    code, out, err = cosa(*arguments)

    assert 2 == code
    assert [] == [part for part in parts if part not in err]
    assert "Traceback" not in err
    assert "" == out


def test_doctor_says_what_to_do(cosa):
    code, out, _ = cosa("doctor", "--json")
    body = json.loads(out)

    assert (0 if body["ready"] else 1) == code
    assert all(part["found"] or part["get"] for part in body["parts"])


def test_completion_script_is_offered(cosa):
    _, out, _ = cosa("--help")

    assert "--install-completion" in out
