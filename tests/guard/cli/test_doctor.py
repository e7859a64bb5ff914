"""`cosa doctor`: what is there, which backend `local` is, and how to get the rest."""

from __future__ import annotations

import json

import pytest

from cosa_guard.backends import local, models
from cosa_guard.cli import doctor as module


@pytest.fixture
def installed(monkeypatch, tmp_path, write_gguf):
    """Only these packages are there, and a model."""
    monkeypatch.setenv("COSA_MODEL", str(write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama"})))
    monkeypatch.setattr(module.importlib.metadata, "version", lambda name: "7.7")

    def only(*packages):
        for place in (local, module):
            monkeypatch.setattr(place, "find_spec", lambda name: object() if name in {"re2", *packages} else None)

    return only


def told(cosa):
    code, out, _ = cosa("doctor", "--json")
    body = json.loads(out)
    return code, body, {part["part"]: part for part in body["parts"]}


@pytest.mark.parametrize(("packages", "name"), [
    (("llama_cpp", "xllamacpp", "transformers"), "llama-cpp"), (("xllamacpp",), "xllamacpp"), (("llama_cpp",), "llama-cpp"),
])
def test_the_backend_that_local_takes_is_named_with_why(cosa, installed, packages, name):
    installed(*packages)
    code, body, parts = told(cosa)

    assert (0, True, name) == (code, body["ready"], body["local"]["name"])
    assert f"backend 'local' is {name}: {body['local']['why']}" == parts["local"]["what"]


def test_a_model_that_is_a_folder_needs_transformers(cosa, installed, monkeypatch, tmp_path):
    monkeypatch.setenv("COSA_MODEL", str(tmp_path))
    installed("llama_cpp", "xllamacpp", "transformers")
    with_it = told(cosa)[1]["local"]["name"]
    installed("llama_cpp", "xllamacpp")
    code, body, parts = told(cosa)

    assert "transformers" == with_it
    assert (1, None, "pip install 'cosa[transformers]'") == (code, body["local"], parts["local"]["get"])


def test_what_is_missing_has_the_command_that_gets_it(cosa, installed, monkeypatch):
    monkeypatch.delenv("COSA_MODEL")
    monkeypatch.setattr(models, "find_default", lambda: None)
    installed()
    code, body, parts = told(cosa)

    assert (1, False, None) == (code, body["ready"], body["local"])
    assert {
        "local": "pip install 'cosa[local]'", "model": "cosa models fetch", "llama-cpp": "pip install 'cosa[llama-cpp]'",
        "xllamacpp": "pip install 'cosa[local]'", "transformers": "pip install 'cosa[transformers]'", "hub": "pip install 'cosa[hub]'",
        "plot": "pip install 'cosa[plot]'", "embedded": "pip install 'cosa[embedded]'", "tokens": "pip install 'cosa[tokens]'",
    } == {name: part["get"] for name, part in parts.items() if not part["found"]}
    assert ["local", "model"] == [name for name, part in parts.items() if part["needed"] and not part["found"]]


def test_a_module_of_another_distribution_is_found_all_the_same(cosa, installed, monkeypatch):
    def version(name):
        if name == "llama-cpp-python":
            raise module.importlib.metadata.PackageNotFoundError(name)
        return "7.7"

    installed("llama_cpp")
    monkeypatch.setattr(module.importlib.metadata, "version", version)

    assert "llama-cpp-python of unknown version: " in told(cosa)[2]["llama-cpp"]["what"]


def test_the_table_has_a_row_for_each_part(cosa, installed, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    installed("xllamacpp")
    rows = [line.split()[:2] for line in cosa("doctor")[1].splitlines()[1:]]

    assert ["ok", "local"] in rows
    assert ["optional", "llama-cpp"] in rows
