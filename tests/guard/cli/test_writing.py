"""What commands leave behind: whole files or none, under the path that was given, and words that steer no terminal."""

from __future__ import annotations

import errno
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosa_guard.cli.writing import must_be_writable, plain, write_whole
from cosa_sdk.errors import UsageError


def failing(code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code), "/somewhere/.cosa-12345678")

    return fail


# --- words

@given(st.text())
def test_what_is_shown_steers_nothing_and_the_rest_stays(text):
    shown = plain(text)
    steering = {"Cc", "Cf", "Cs", "Zl", "Zp"}

    assert not [char for char in shown if unicodedata.category(char) in steering and char not in "\u200c\u200d"]
    assert [char for char in text if unicodedata.category(char) not in steering] == [
        char for one in text for char in plain(one) if unicodedata.category(one) not in steering
    ]
    assert shown == "".join(map(plain, text))
    shown.encode("utf-8")


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"), ("\x9b2J", r"\x9b2J"), ("a\u202eb", r"a\u202eb"), ("\ud800", r"\ud800"),
    ("two\nlines", r"two\nlines"), ("señor, 👩\u200d🔬, क्\u200dष", "señor, 👩\u200d🔬, क्\u200dष"), (r"\x1b", r"\x1b"), ("", ""),
])
def test_characters_are_spelt_out(text, shown):
    assert shown == plain(text)


def test_what_is_kept_stays():
    assert "a\n\tb\\x1b" == plain("a\n\tb\x1b", keep="\n\t")


# --- files

def test_a_file_is_written_whole_and_is_the_users_like_any_other(tmp_path):
    path, other = tmp_path / "out.html", tmp_path / "other"
    other.write_text("", "utf-8")
    write_whole(path, "half \ud800\n")

    assert "half \\ud800\n" == path.read_text("utf-8")
    assert other.stat().st_mode == path.stat().st_mode
    assert {"out.html", "other"} == {one.name for one in tmp_path.iterdir()}


@pytest.mark.parametrize("step", ["replace", "chmod"])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, step):
    path = tmp_path / "out.html"
    path.write_text("old", "utf-8")
    monkeypatch.setattr(Path, step, failing(errno.ENOSPC))
    with pytest.raises(UsageError) as caught:
        write_whole(path, "new")

    assert f"cannot write {str(path)!r}: {os.strerror(errno.ENOSPC)}" == str(caught.value)
    assert ("old", [path]) == (path.read_text("utf-8"), list(tmp_path.iterdir()))


def test_stopping_leaves_what_was_there(tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "out.html", "new")

    assert [] == list(tmp_path.iterdir())


def test_a_folder_is_tried_and_left_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "out.html"
    must_be_writable(path, force=False)

    assert [] == list(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.mkstemp", failing(errno.EROFS))
    with pytest.raises(UsageError) as caught:
        must_be_writable(path, force=True)
    assert f"cannot write {str(path)!r}: {os.strerror(errno.EROFS)}" == str(caught.value)


def test_what_exists_is_replaced_only_when_told(tmp_path):
    path = tmp_path / "out.html"
    path.write_text("precious", "utf-8")
    must_be_writable(path, force=True)

    with pytest.raises(UsageError, match="exists: give another --output, or replace it with --force"):
        must_be_writable(path, force=False)
    assert "precious" == path.read_text("utf-8")


@pytest.mark.parametrize("name", ["", "none/out.html", "pipe", "file/out.html", "x" * 300])
def test_paths_that_take_no_file(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")  # replacing it would take it from who reads it; so would /dev/null
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught:
        must_be_writable(tmp_path / name, force=True)

    assert f"cannot write {str(tmp_path / name)!r}: " in str(caught.value)
    assert {"pipe", "file"} == {one.name for one in tmp_path.iterdir()}


def test_a_name_as_long_as_any_is_written(tmp_path):
    path = tmp_path / ("x" * 250 + ".html")
    must_be_writable(path, force=False)
    write_whole(path, "new")

    assert [path] == list(tmp_path.iterdir())


def test_a_link_stays_a_link_and_a_file_keeps_its_permissions(tmp_path):
    there = tmp_path / "there.txt"
    there.write_text("old", "utf-8")
    there.chmod(0o600)
    (tmp_path / "link.txt").symlink_to(there)
    write_whole(tmp_path / "link.txt", "new")

    assert (tmp_path / "link.txt").is_symlink()
    assert there.read_text("utf-8") == "new"
    assert there.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/null", "/proc/self/fd/1", "/dev/new", "a\0b"])
def test_what_is_no_file_is_never_replaced(name):
    for run in (lambda: must_be_writable(Path(name), force=True), lambda: write_whole(Path(name), "text")):
        with pytest.raises(UsageError, match="cannot write"):
            run()
