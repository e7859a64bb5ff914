"""Which backend `local` takes, and what it says when there is none."""

from __future__ import annotations

import pytest

from cosa_guard import backends
from cosa_guard.backends import local, models
from cosa_guard.testing import FakeBackend
from cosa_sdk.errors import MissingExtra, ModelFileError

ALL = {"llama_cpp", "xllamacpp", "transformers"}


@pytest.fixture
def installed(monkeypatch):
    """Only these packages are there; each backend of them says its name."""
    monkeypatch.setattr(backends._registry, "_added", {})
    for runtime in local.LOCAL:
        monkeypatch.setitem(backends._registry._added, runtime.name, lambda argument, name=runtime.name, **options: FakeBackend(name=f"{name}|{argument}|{options}"))

    def only(*packages):
        monkeypatch.setattr(local, "find_spec", lambda name: object() if name in packages else None)

    return only


@pytest.mark.parametrize(("packages", "name", "why"), [
    (ALL, "llama-cpp", "fastest"),
    ({"xllamacpp", "transformers"}, "xllamacpp", "without a compiler"),
    ({"llama_cpp"}, "llama-cpp", "stay resident"),
])
def test_the_best_that_is_installed_runs_a_file(installed, packages, name, why):
    installed(*packages)
    choice = local.choose("a.gguf")

    assert (name, choice) == (choice.name, local.choose())
    assert why in choice.why


def test_a_folder_goes_to_transformers(installed, tmp_path):
    installed(*ALL)

    assert "transformers" == local.choose(tmp_path).name
    assert "transformers" == local.choose(str(tmp_path)).name


@pytest.mark.parametrize(("packages", "folder", "extra"), [
    ((), False, "local"), (("transformers",), False, "local"), (("llama_cpp", "xllamacpp"), True, "transformers"), ((), True, "transformers"),
])
def test_what_is_missing_is_named(installed, tmp_path, packages, folder, extra):
    installed(*packages)

    with pytest.raises(MissingExtra) as caught:
        local.choose(tmp_path if folder else None)

    assert extra == caught.value.extra
    assert f"pip install 'cosa[{extra}]'" in str(caught.value)


def test_a_package_whose_backend_nobody_registered_does_not_count(installed, monkeypatch):
    installed(*ALL)
    monkeypatch.setattr(backends, "names", lambda: ("xllamacpp",))

    assert "xllamacpp" == local.choose().name


def test_local_hands_model_and_options_on(installed, tmp_path, write_gguf):
    installed(*ALL)
    path = write_gguf(tmp_path / "a.gguf", {"general.architecture": "llama"})

    assert f"llama-cpp|{path}|{{'context': 64}}" == backends.make(f"local:{path}", context=64).name
    assert f"transformers|{tmp_path}|{{}}" == backends.make(f"local:{tmp_path}").name


def test_a_missing_extra_comes_before_a_missing_model(installed, monkeypatch):
    monkeypatch.setattr(models, "find_default", lambda: None)
    monkeypatch.delenv("COSA_MODEL", raising=False)
    installed()
    with pytest.raises(MissingExtra):
        backends.make("local")
    installed("xllamacpp")
    with pytest.raises(ModelFileError, match="cosa models fetch"):
        backends.make("local")
