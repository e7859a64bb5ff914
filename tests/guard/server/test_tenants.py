from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.guard.server.serving import BOTH, CLINIC, FILM, clinic, config_text, film

from cosa_guard.server import site, tenants
from cosa_guard.server.site import Runtime
from cosa_guard.server.tenants import hashed, load, new_key
from cosa_sdk.errors import ConfigError, CosaError, UsageError

UPSTREAM = {"name": "main", "url": "http://127.0.0.1:8000/v1"}


def written(folder, file, name="serve.yaml"):
    for config, *terms in (("strict", "a"), ("mild", "b"), ("clinic", "c")):
        (folder / f"{config}.yaml").write_text(config_text(config, *terms))
    path = folder / name
    path.write_text(file if isinstance(file, str) else yaml.safe_dump(file, sort_keys=False))
    return path


def built(folder, file):
    path = written(folder, file)
    return site.build(load(path), folder, Runtime(make_upstream=lambda *_: object()))


def test_a_key_finds_its_binding_and_nothing_else_does(tmp_path):
    found = built(tmp_path, {"upstreams": [UPSTREAM], "tenants": [film(), clinic(upstream="main")]})

    assert ["film", "film", "clinic"] == [found.find(key).tenant for key in (FILM, BOTH, CLINIC)]
    assert ["both"] == [found.find(BOTH).label]
    assert [["strict"], ["strict", "mild"], ["clinic"]] == [list(found.find(key).guards) for key in (FILM, BOTH, CLINIC)]
    assert not any(found.find(key) for key in ("", "x", hashed(FILM), FILM + "\0", "\ud800", "a" * 10_000))


@given(st.text(max_size=600))
def test_no_text_is_a_key_by_accident(text):
    served = site.Site(upstreams=(), metrics=False, watched=(), _secret=b"s", _bindings={})

    assert served.find(text) is None


def test_keys_are_random_and_their_hashes_fit_the_file(tmp_path):
    made = {new_key() for _ in range(100)}

    assert 100 == len(made)
    assert all(len(key) > 40 for key in made)
    built(tmp_path, {"upstreams": [UPSTREAM], "tenants": [film(keys=[hashed(key) for key in made])]})


@pytest.mark.parametrize(("change", "said"), [
    ({"tenants": [film(upstream="other")]}, "unknown upstream 'other'; there are main"),
    ({"tenants": [film(), film(keys=[])]}, "a second entry named 'film'"),
    ({"tenants": [film(), film(name="b")]}, "the same key as one of tenant 'film'"),
    ({"tenants": [film(keys=["plain-key"])]}, "keys[0].hash"),
    ({"tenants": [film(keys=[{"hash": hashed("a"), "configs": ["other"]}])]}, "unknown config 'other'; this tenant has mild, strict"),
    ({"tenants": [film(models=[])]}, "models"),
    ({"tenants": [film(configs=[])]}, "configs"),
    ({"tenants": [film(limits={"concurency": 1})]}, "did you mean 'concurrency'"),
    ({"tenants": [film(limits={"concurrency": 0})]}, "limits.concurrency"),
    ({"tenants": []}, "tenants"),
    ({"upstreams": [{**UPSTREAM, "url": "ftp://x"}]}, "upstreams[0].url"),
    ({"upstreams": [{**UPSTREAM, "url": "http://user:pw@x/v1"}]}, "upstreams[0].url"),
    ({"upstreams": [{"name": "main"}]}, "needs a url"),
    ({"upstreams": [{**UPSTREAM, "kind": "local"}]}, "takes neither url nor key"),
    ({"upstreams": [{**UPSTREAM, "key": {"env": "A", "file": "b"}}]}, "exactly one of env and file"),
    ({"upstreams": [{**UPSTREAM, "key": "sk-secret"}]}, "upstreams[0].key: is not a key but where one is: {env: NAME} or {file: NAME}"),
    ({"upstreams": [{**UPSTREAM, "key": {"env": "sk-secret"}}]}, "upstreams[0].key.env: is not the name of an environment variable"),
    ({"upstreams": [{**UPSTREAM, "url": "127.0.0.1:8000"}]}, "upstreams[0].url: is not a base URL such as http://127.0.0.1:8000/v1"),
    ({"metrics": {"token": "sk-secret"}}, "token: is not a key but where one is"),
    ({"tenants": [film(keys=["sk-secret"])]}, "keys[0].hash: is not the hash of a key: `cosa serve keys new TENANT` prints it"),
    ({"tenants": [film(models=["my model"])]}, "models[0].name: is not a model's name"),
    ({"more": 1}, "unknown key 'more'; known here: upstreams, tenants, audit, metrics"),
])
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path, change, said):
    path = written(tmp_path, {"upstreams": [UPSTREAM], "tenants": [film()], **change})
    with pytest.raises(ConfigError) as caught:
        load(path)

    assert said in str(caught.value)
    assert f"{path}:" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "after validation" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a", "a: &b 1", "a: 1\na: 2", "tenants: [", "\0", "a: 2020-01-01", "x: 1.5"])
def test_a_text_that_is_no_file_is_said_with_its_place(tmp_path, text):
    with pytest.raises(ConfigError, match=r"serve\.yaml"):
        load(written(tmp_path, text))


@pytest.mark.parametrize("name", ["serve.ini", "serve", "nothing.yaml"])
def test_a_file_that_cannot_be_read(tmp_path, name):
    if name != "nothing.yaml":
        (tmp_path / name).write_text("a: 1")
    with pytest.raises(ConfigError):
        load(tmp_path / name)


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["upstreams", "tenants", "name", "keys", "kind", "url", "models", "configs", "limits", "x"]), inner, max_size=4), max_leaves=12))
def test_no_tree_makes_anything_but_a_config_error(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("tree") / "serve.json"
    import json

    path.write_text(json.dumps(tree))
    with pytest.raises(ConfigError):
        load(path)


@pytest.mark.parametrize(("change", "said"), [
    ({"configs": ["nothing-such"]}, "tenant 'film': unknown config 'nothing-such'"),
    ({"configs": ["gone.yaml"]}, "tenant 'film'"),
    ({"judges": ["nothing-such"]}, "tenant 'film': unknown judge 'nothing-such'"),
    ({"accept_unexamined": False}, "tenant 'film'"),
])
def test_what_cannot_be_built_names_its_tenant(tmp_path, change, said):
    given = film(**change, **({} if "configs" not in change else {"keys": [hashed(FILM)]}))
    with pytest.raises(UsageError) as caught:
        built(tmp_path, {"upstreams": [UPSTREAM], "tenants": [given]})

    assert said in str(caught.value)


class TestSecrets:
    def test_come_from_the_environment_or_a_file(self, tmp_path, monkeypatch):
        monkeypatch.setenv("UP_KEY", "from-env")
        (tmp_path / "key").write_text("from-file\n")

        assert "from-env" == site.secret_of(tenants.KeySource(env="UP_KEY"), tmp_path)
        assert "from-file" == site.secret_of(tenants.KeySource(file="key"), tmp_path)

    @pytest.mark.parametrize("value", ["", "  \n", "two lines\nhere", "ключ", "a b", "a\x07"])
    def test_that_are_none_are_refused_and_not_shown(self, tmp_path, value):
        (tmp_path / "key").write_text(value)
        with pytest.raises(UsageError) as caught:
            site.secret_of(tenants.KeySource(file="key"), tmp_path)

        assert "the file 'key'" in str(caught.value)
        assert value.strip() not in str(caught.value) or not value.strip()

    def test_that_are_missing_name_where_they_should_be(self, tmp_path, monkeypatch):
        monkeypatch.delenv("NO_SUCH_KEY", raising=False)
        with pytest.raises(CosaError, match="upstream 'main': the environment variable NO_SUCH_KEY"):
            built(tmp_path, {"upstreams": [{**UPSTREAM, "key": {"env": "NO_SUCH_KEY"}}], "tenants": [film()]})


def test_judges_and_unchanged_upstreams_are_made_once(tmp_path):
    made = []
    runtime = Runtime(make_upstream=lambda settings, secret: made.append(settings.name) or object())
    file = load(written(tmp_path, {"upstreams": [UPSTREAM], "tenants": [film(), clinic(upstream="main")]}))
    first, second = (site.build(file, tmp_path, runtime) for _ in range(2))

    assert ["main"] == made
    assert first.find(FILM).state is second.find(FILM).state
    assert first.find(FILM).state is not first.find(CLINIC).state
