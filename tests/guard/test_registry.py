"""Names of backends and judges: built-in ones, plugins, and what is said of unknown ones."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest
from tests.guard.build import OwnJudge

from cosa_guard import backends, judges
from cosa_guard import registry as module
from cosa_guard.registry import Registry
from cosa_guard.testing import ScriptedJudge
from cosa_sdk.errors import MissingExtra, UnknownName, UsageError


def made(argument=None, **options):
    """A factory."""
    return ("made", argument, options)


@pytest.fixture
def registry(monkeypatch):
    points = [EntryPoint("plug", f"{__name__}:made", "cosa.things"), EntryPoint("hidden", "no_such_module:made", "cosa.things")]
    monkeypatch.setitem(sys.modules, __name__, sys.modules[made.__module__])
    monkeypatch.setattr(module, "entry_points", lambda group: [point for point in points if point.group == group])
    return Registry("thing", "cosa.things", {"paths": "os.path:join", "built": f"{__name__}:made"})


def test_names_come_from_everywhere(registry):
    registry.register("own", made)

    assert ("built", "hidden", "own", "paths", "plug") == registry.names()


@pytest.mark.parametrize(
    ("spec", "argument"),
    [("built", None), ("plug", None), ("own", None), ("own:", None), ("own:x", "x"), ("plug:/a/b:c.gguf", "/a/b:c.gguf"), ("own:C:\\m", "C:\\m")],
)
def test_make(registry, spec, argument):
    registry.register("own", made)

    assert ("made", argument, {"size": 3}) == registry.make(spec, size=3)


def test_nothing_is_loaded_before_it_is_asked_for(registry):
    assert "hidden" in registry.names()
    with pytest.raises(ModuleNotFoundError):
        registry.make("hidden")


def test_built_in_names_are_imported_by_path(registry):
    assert "a" == registry.make("paths:a")


@pytest.mark.parametrize(("name", "said"), [("", "must not be empty"), ("a:b", "hold a colon"), ("built", "registered already"), ("own", "registered already")])
def test_names_that_cannot_be_taken(registry, name, said):
    registry.register("own", made)

    with pytest.raises(UsageError, match=said):
        registry.register(name, made)


def test_an_own_factory_does_not_give_way_to_a_plugin(registry):
    registry.register("plug", lambda argument: "mine")

    assert "mine" == registry.make("plug")


@pytest.mark.parametrize(("spec", "said"), [("biult", "did you mean 'built'"), ("zzz", "unknown thing 'zzz'. Choices: built, hidden, paths, plug"), ("", "unknown thing ''"), (":x", "unknown thing ''")])
def test_unknown_names(registry, spec, said):
    with pytest.raises(UnknownName, match=said) as caught:
        registry.make(spec)

    assert ("built", "hidden", "paths", "plug") == caught.value.choices


def test_the_two_registries():
    assert {"rules", "model"} <= set(judges.names())
    assert {"local", "xllamacpp"} <= set(backends.names())
    assert "rules/1" == judges.make("rules").name
    with pytest.raises(UsageError, match="takes no argument"):
        judges.make("rules:strict")


def test_own_judges_have_names(monkeypatch):
    monkeypatch.setattr(judges._registry, "_added", {})
    judges.register("own", lambda argument: OwnJudge(name=f"own/{argument}"))
    judges.register("scripted", lambda argument: ScriptedJudge())

    assert ("own/9", "scripted/1") == (judges.make("own:9").name, judges.make("scripted").name)


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr("cosa_guard.backends.local.find_spec", lambda name: None)

    with pytest.raises(MissingExtra, match=r"pip install 'cosa\[local\]'"):
        backends.make("local")
