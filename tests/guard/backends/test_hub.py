"""Models from a hub: the real client against a hub on this machine that breaks, lies and refuses."""

from __future__ import annotations

import errno
import json
import struct
from importlib.util import find_spec

import pytest
from tests.guard.backends.conftest import _absent
from tests.guard.backends.hub_server import COMMIT, Hub

from cosa_guard.backends import index, library, models
from cosa_sdk.errors import CosaError, MissingExtra, ModelFileError, UnknownName, UsageError

pytestmark = pytest.mark.slow  # the client is in the full environment alone

TINY = {"general.architecture": "llama", "llama.context_length": 64, "general.license": "mit"}
PIECE = 1000


@pytest.fixture(autouse=True)
def world(monkeypatch, tmp_path):
    """An empty library, a token, and a client that hands on small pieces."""
    if find_spec("huggingface_hub") is None:
        _absent("huggingface_hub is not installed: pip install 'cosa[hub]'")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(models, "find_default", lambda: None)
    monkeypatch.setenv("HF_TOKEN", "hf_token_of_a_test")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COSA_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def gguf(write_gguf, tmp_path):
    return write_gguf(tmp_path / "source.gguf", TINY, {"weight": ((32, 64), [0.5] * 2048)}).read_bytes()


def safetensors():
    head = json.dumps({"w": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(256)


FOLDER = {
    "config.json": b'{"model_type": "llama", "max_position_embeddings": 128}', "tokenizer.json": b"{}", "merges.txt": b"a b",
    "chat_template.jinja": b"{{ messages }}", "model.safetensors": safetensors(), "modeling.py": b"raise SystemExit",
    "pytorch_model.bin": b"\x80\x04", "README.md": b"# hello", "onnx/model.safetensors": safetensors(),
}


def add(hub, source="own/repo", **options):
    return library.add(source, endpoint=hub.url, **options)


def said(kind, call, *arguments, **options):
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    assert kind is type(caught.value)
    assert "hf_token_of_a_test" not in str(caught.value)
    return str(caught.value)


def left():
    """Names of the files that are left of a download."""
    return sorted(str(path.relative_to(index.cache_folder())) for path in index.cache_folder().rglob("*") if path.is_file() and not path.name.startswith("."))


# --- what is added

def test_a_gguf_is_downloaded_checked_listed_and_found(gguf):
    told, came = [], []
    with Hub(**{"small.Q4_1.gguf": gguf, "README.md": b"# hello"}) as hub:
        entry = add(hub, say=told.append, meter=lambda size: came.append(size) or came.append)
    (row,) = models.list_models()

    assert [f"own/repo:small.Q4_1.gguf@{COMMIT}: 1 file, 0 MB; licence: apache-2.0"] == told
    assert (len(gguf), len(gguf)) == (came[0], sum(came[1:]))
    assert gguf == entry.path.read_bytes()
    assert ("small.Q4_1", "apache-2.0", f"own/repo:small.Q4_1.gguf@{COMMIT}", None) == (row.name, row.licence, row.source, row.problem)
    assert entry.path == models.resolve_model("small.Q4_1")
    assert f"as added on {entry.added[:10]} (SHA-256 {entry.sha256})" in models.verify(entry.path)
    assert ["added/small.Q4_1/small.Q4_1.gguf", "models.json"] == left()


def test_the_licence_is_shown_before_anything_is_downloaded(gguf):
    with Hub(**{"small.gguf": gguf}) as hub:
        hub.card = {"license": "other", "license_name": "a-licence-of-ours"}
        hub.gated = "manual"
        before = []
        add(hub, say=lambda line: before.append((line, hub.ranges())))

    assert [(f"own/repo:small.gguf@{COMMIT}: 1 file, 0 MB; licence: a-licence-of-ours (gated)", [])] == before


def test_a_card_without_a_licence_leaves_the_file_to_speak(gguf):
    with Hub(**{"small.gguf": gguf}) as hub:
        hub.card = None

        assert "mit" == add(hub).licence


def test_a_folder_takes_weights_settings_and_vocabulary_and_nothing_that_runs():
    with Hub(**FOLDER) as hub:
        entry = add(hub)

    assert {"config.json", "tokenizer.json", "merges.txt", "chat_template.jinja", "model.safetensors"} == entry.files.keys()
    assert entry.files.keys() == {path.name for path in entry.path.iterdir()}
    assert "a model in safetensors (llama, 128 tokens), as added" in models.verify(models.resolve_model("repo"))


def test_one_of_several_ggufs_is_named(gguf):
    with Hub(**{"a.gguf": gguf, "more/b.gguf": gguf}) as hub:
        listed = said(UsageError, add, hub)
        unknown = said(UnknownName, add, hub, "own/repo:c.gguf")
        entry = add(hub, "own/repo:b.gguf@main", name="mine")

    assert "own/repo:a.gguf (0 MB)\n  own/repo:more/b.gguf (0 MB)" in listed
    assert "Choices: a.gguf, more/b.gguf" in unknown
    assert ("mine", "b.gguf", f"own/repo:more/b.gguf@{COMMIT}") == (entry.name, entry.path.name, entry.source)


def test_a_revision_is_asked_for_and_its_commit_is_what_is_fetched(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        add(hub, "own/repo@v1.0")

        assert ["/api/models/own/repo/revision/v1.0", f"/own/repo/resolve/{COMMIT}/a.gguf", "/a.gguf"] == [one.path for one in hub.asked]


def test_the_same_model_may_be_added_again_and_another_may_not_take_its_name(gguf, tmp_path):
    with Hub(**{"a.gguf": gguf}) as hub:
        add(hub)
        first = left()
        add(hub)

        assert first == left()
        assert "'a' is the name of 'own/repo:a.gguf' already" in said(UsageError, add, hub, "other/repo")
        assert "already" in said(UsageError, library.add, str(tmp_path / "source.gguf"), name="a")


def test_what_was_downloaded_is_deleted_when_it_is_removed(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        entry = add(hub)
    library.remove("a")

    assert not entry.path.exists()
    assert ["models.json"] == left()
    assert () == models.list_models()


# --- interruptions

def test_a_broken_connection_goes_on_where_it_broke(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        hub.cuts = [2 * PIECE + 10, 3 * PIECE]
        entry = add(hub)

        assert [None, f"bytes={2 * PIECE}-", f"bytes={5 * PIECE}-"] == hub.ranges()
    assert gguf == entry.path.read_bytes()


class Stop(KeyboardInterrupt):
    """Ctrl-C, when two pieces are on the disk."""


def stop(hub):
    came = []

    def third(count):
        came.append(count)
        if sum(came) == 3 * PIECE:
            raise Stop

    with pytest.raises(Stop):
        add(hub, meter=lambda size: third)


def test_a_command_that_was_stopped_goes_on_in_the_next_one(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        stop(hub)
        unlisted = models.list_models()
        entry = add(hub)

        assert [None, f"bytes={2 * PIECE}-"] == hub.ranges()
    assert () == unlisted
    assert gguf == entry.path.read_bytes()


def test_a_server_that_refuses_in_the_middle_leaves_what_came(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        hub.cuts = [4 * PIECE]
        real = hub.ranges

        class Then(dict):
            """Refuses the store's second request and each after it."""

            def items(self):
                return {"/a.gguf": (503, {})}.items() if len(real()) > 1 and hub.asked[-1].place == "store" else ()

        hub.refuse = Then()
        failed = said(ModelFileError, add, hub)
        hub.refuse = {}
        add(hub)

        assert "the hub fails (503)" in failed
        assert [None, f"bytes={4 * PIECE}-", f"bytes={4 * PIECE}-"] == hub.ranges()


def test_a_file_that_changed_meanwhile_is_begun_again(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        stop(hub)
        hub.files["a.gguf"] = gguf[:-4] + b"\1\1\1\1"
        entry = add(hub)

        assert [None, None] == hub.ranges()
    assert entry.path.read_bytes().endswith(b"\1\1\1\1")


def test_an_unfinished_file_that_is_too_long_is_begun_again(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        stop(hub)
        (part,) = (index.cache_folder() / "partial").iterdir()
        part.write_bytes(bytes(len(gguf) + 1))
        entry = add(hub)

    assert gguf == entry.path.read_bytes()


def test_files_are_not_asked_for_in_compressed_form(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        add(hub)

        assert {"identity"} == {one.encoding for one in hub.asked if one.place == "store"}


def test_a_server_without_ranges_sends_it_all_again(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        hub.cuts, hub.no_ranges = [2 * PIECE], True
        entry = add(hub)

    assert gguf == entry.path.read_bytes()


def test_a_folder_that_was_stopped_fetches_no_file_twice():
    with Hub(**FOLDER) as hub:
        hub.refuse = {"/model.safetensors": (503, {})}
        said(ModelFileError, add, hub)
        hub.refuse = {}
        unlisted = models.list_models()
        add(hub)
        fetched = [one.path for one in hub.asked if one.place == "store"]

    assert () == unlisted
    assert {"/config.json": 1, "/model.safetensors": 1} == {name: fetched.count(name) for name in ("/config.json", "/model.safetensors")}


def test_two_downloads_do_not_write_into_one_file(gguf):
    with Hub(**{"a.gguf": gguf}) as hub, index.locked("download"):
        assert "another download is running" in said(ModelFileError, add, hub)


# --- what is wrong with it

def test_a_wrong_checksum_is_deleted_and_said(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        hub.listed = {"a.gguf": {"lfs": {"size": len(gguf), "sha256": "0" * 64, "pointerSize": 130}}}

        assert f"the hub lists {'0' * 64}" in said(ModelFileError, add, hub)
    assert ([], ()) == (left(), models.list_models())


def test_small_files_are_checked_by_gits_checksum():
    with Hub(**FOLDER) as hub:
        hub.listed = {"config.json": {"blobId": "1" * 40}}

        assert "'config.json' of 'own/repo' came with the checksum" in said(ModelFileError, add, hub)


def test_a_server_that_never_ends_is_stopped(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        hub.endless = True

        assert "came with another length than the hub lists" in said(ModelFileError, add, hub)
    assert len(gguf) >= sum(path.stat().st_size for path in index.cache_folder().rglob("*") if path.is_file())


@pytest.mark.parametrize(("data", "part"), [
    (b"<html>sign in</html>", "web page"),
    (b"\x80\x04pickle", "pickle"),
    (b"GGUF\x03", "truncated"),
])
def test_a_file_that_is_no_model_is_deleted_again(data, part):
    with Hub(**{"a.gguf": data}) as hub:
        told = said(ModelFileError, add, hub)

    assert part in told
    assert ".draft" not in told
    assert ([], ()) == (left(), models.list_models())


def test_an_adapter_is_not_added_as_a_model(write_gguf, tmp_path):
    data = write_gguf(tmp_path / "l.gguf", TINY | {"general.type": "adapter"}).read_bytes()
    with Hub(**{"a.gguf": data}) as hub:
        assert "not a model but of kind 'adapter'" in said(ModelFileError, add, hub)


def test_a_repository_of_pickles_is_refused_before_anything_is_fetched():
    with Hub(**{"config.json": b"{}", "pytorch_model.bin": b"\x80\x04", "model.pt": b"\x80"}) as hub:
        assert "pickles can run code" in said(ModelFileError, add, hub)
        assert "is not a .gguf file" in said(UsageError, add, hub, "own/repo:pytorch_model.bin")
        assert [] == hub.ranges()


def test_a_part_of_a_split_model_is_refused(gguf):
    with Hub(**{"a-00001-of-00002.gguf": gguf}) as hub:
        assert "one part of a model that was split" in said(ModelFileError, add, hub)


@pytest.mark.parametrize("name", [
    "../a.gguf", "/etc/a.gguf", "b/../../a.gguf", "..\\a.gguf", "C:a.gguf", "//host/a.gguf", "a\n.gguf", " a.gguf", "./a.gguf", "b//a.gguf", "\x1b[2Ja.gguf",
])
def test_a_name_that_leads_out_of_the_folder_is_refused(gguf, name):
    with Hub(**{"a.gguf": gguf}) as hub:
        hub.named = {"a.gguf": name}

        assert "leads out of its folder" in said(ModelFileError, add, hub)
        assert [] == hub.ranges()
    assert [] == left()


@pytest.mark.parametrize("body", [
    b"<html>", b"[]", b"{}", b'{"id": "a"}', b'{"id": "a", "sha": "main"}', b'{"id": "a", "sha": 7, "siblings": [3]}', b"",
    json.dumps({"id": "a", "sha": COMMIT, "siblings": [{"rfilename": 3}]}).encode(),
    json.dumps({"id": "a", "sha": COMMIT, "siblings": [{"rfilename": "a.gguf", "size": "big"}]}).encode(),
    json.dumps({"id": "a", "sha": COMMIT, "cardData": "text"}).encode(),
    json.dumps({"id": "a", "sha": COMMIT, "siblings": [{"rfilename": "a.gguf", "lfs": {"size": 1, "sha256": "../x", "pointerSize": 1}}]}).encode(),
])
def test_what_is_no_hub_is_said_to_be_none(body):
    with Hub() as hub:
        hub.info = body

        assert "can be understood" in said(ModelFileError, add, hub)


# --- refusals

REFUSALS = {
    "gated": ("/a.gguf", 403, {"X-Error-Code": "GatedRepo"}, ["is gated", "HF_TOKEN"]),
    "unauthorized": ("/own/repo", 401, {}, ["nobody without the right token (401)", "HF_TOKEN"]),
    "forbidden": ("/own/repo", 403, {}, ["nobody without the right token (403)"]),
    "bad credentials": ("/own/repo", 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, ["(401)"]),
    "missing": ("/own/repo", 404, {"X-Error-Code": "RepoNotFound"}, ["the hub has no 'own/repo' (404)", "no such path is here"]),
    "no revision": ("/revision/v9", 404, {"X-Error-Code": "RevisionNotFound"}, ["has no revision 'v9'"]),
    "file gone": ("/a.gguf", 404, {"X-Error-Code": "EntryNotFound"}, ["404"]),
    "failing": ("/own/repo", 500, {}, ["the hub fails (500)"]),
    "teapot": ("/own/repo", 418, {}, ["with status 418"]),
}


@pytest.mark.parametrize(("path", "status", "headers", "parts"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refusal_says_what_to_do(gguf, path, status, headers, parts):
    with Hub(**{"a.gguf": gguf}) as hub:
        hub.refuse = {path: (status, headers)}
        told = said(ModelFileError, add, hub, "own/repo@v9" if "revision" in path else "own/repo")

        assert [] == [part for part in parts if part not in told]
        assert hub.url not in told
    assert () == models.list_models()


def test_a_redirect_takes_the_token_nowhere_else(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        add(hub)

        assert ({"Bearer hf_token_of_a_test"}, {None}) == (hub.tokens("hub"), hub.tokens("store"))


def test_a_redirect_of_the_listing_to_another_port_takes_no_token():
    with Hub() as hub:
        hub.refuse = {"/api/models/own/repo": (307, {"Location": f"{hub.store}/elsewhere"}), "/elsewhere": (404, {})}
        said(ModelFileError, add, hub)

        assert {None} == hub.tokens("store")


def test_nobody_answers():
    with Hub() as hub:
        pass

    assert "the connection to the hub failed" in said(ModelFileError, add, hub)


def test_offline_mode_is_named(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with Hub() as hub:
        assert "HF_HUB_OFFLINE is set" in said(ModelFileError, add, hub)
        assert [] == hub.asked


def test_a_disk_that_is_too_small_is_found_before_the_download(gguf):
    with Hub(**{"a.gguf": gguf}) as hub:
        hub.listed = {"a.gguf": {"size": 1 << 60}}

        assert "MB are free" in said(ModelFileError, add, hub)
        assert [] == hub.ranges()


def test_a_disk_that_fills_up_keeps_what_came(gguf):
    def full(count):
        if count:
            raise OSError(errno.ENOSPC, "No space left on device")

    with Hub(**{"a.gguf": gguf}) as hub:
        assert "the disk is full" in said(ModelFileError, add, hub, meter=lambda size: full)
        assert gguf == add(hub).path.read_bytes()


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("cosa_guard.backends.hub.find_spec", lambda name: None)

    assert "pip install 'cosa[hub]'" in said(MissingExtra, library.add, "own/repo")


@pytest.mark.parametrize("source", ["own/re..po", "own/-repo", "own/repo--x", "own/" + "r" * 97])
def test_names_that_no_hub_takes(source):
    with Hub() as hub, pytest.raises(CosaError, match="owner/repo|does not exist"):
        add(hub, source)
