"""What models said is kept: by question, whole lines only."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosa_guard.evals.replies import Replies, Said, key_of, whole_lines
from cosa_guard.messages import Adapter, Message, Request, Sampling
from cosa_sdk.errors import UsageError

ASKED = Request(messages=(Message("system", "Be kind."), Message("user", "Hello.")), sampling=Sampling(max_tokens=8))

OTHER = [
    ASKED.replace(messages=(Message("system", "Be kind"), Message("user", ".Hello."))),
    ASKED.replace(messages=(Message("user", "Be kind."), Message("user", "Hello."))),
    ASKED.replace(sampling=Sampling(max_tokens=9)),
    ASKED.replace(sampling=Sampling(max_tokens=8, seed=1)),
    ASKED.replace(sampling=Sampling(max_tokens=8, temperature=0.5)),
    ASKED.replace(sampling=Sampling(max_tokens=8, top_p=0.5)),
    ASKED.replace(sampling=Sampling(max_tokens=8, stop=("a", "b"))),
    ASKED.replace(sampling=Sampling(max_tokens=8, json_schema="{}")),
    ASKED.replace(adapters=(Adapter(name="film"),)),
    ASKED.replace(adapters=(Adapter(name="film", scale=0.5),)),
]


def test_another_question_has_another_key():
    keys = [key_of("m", one) for one in (ASKED, *OTHER)]
    keys += [key_of("n", ASKED), key_of("m", ASKED, top=5), key_of("m", ASKED, top=6)]

    assert len(keys) == len({*keys})


def test_what_changes_no_answer_changes_no_key():
    assert key_of("m", ASKED) == key_of("m", ASKED.replace(shared=2, scope="tenant"))


SAID = st.one_of(
    st.builds(Said, st.text(), st.sampled_from(["stop", "length"]), st.integers(0, 500)),
    st.dictionaries(st.text(max_size=5), st.floats(max_value=0, allow_nan=False, allow_infinity=False), min_size=1).map(lambda found: Said(logprobs=found)),
)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.tuples(st.text(min_size=1, max_size=8), SAID), max_size=4), max_size=5), st.integers(0, 400))
def test_a_crash_loses_what_was_computed_together_whole(tmp_path_factory, waves, cut):
    file = tmp_path_factory.mktemp("replies") / "replies.jsonl"
    replies = Replies(file)
    states = [{}]
    ends = [0]
    for wave in waves:
        replies.add(wave)
        states.append(states[-1] | dict(wave))
        ends.append(file.stat().st_size)
    replies.close()
    kept = max(0, ends[-1] - cut)
    with file.open("r+b") as written:
        written.truncate(kept)

    found = Replies(file)

    expected = states[max(number for number, end in enumerate(ends) if end <= kept)]
    assert expected == {key: found.get(key) for key in states[-1] if found.get(key) is not None}
    found.add([("later", Said("more"))])
    found.close()
    again = Replies(file)
    assert Said("more") == again.get("later")
    again.close()


@pytest.mark.parametrize("line", ["[", "{}", "[1]", '[["a", {}]]', '[["a", {"text": 1, "finish": "stop"}]]', "null"])
def test_a_file_that_holds_something_else_is_named(tmp_path, line):
    file = tmp_path / "replies.jsonl"
    file.write_text(f"[]\n{line}\n")

    with pytest.raises(UsageError, match=r"replies.jsonl:2 is no line of a run's replies"):
        Replies(file)


def test_lines_that_are_no_text_are_refused(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"[]\n\xff\xfe\n")

    with pytest.raises(UsageError, match="byte 3 is not UTF-8"):
        whole_lines(file)


def test_half_a_line_is_cut_off_the_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n{"a": ')

    assert ['{"a": 1}'] == whole_lines(file)
    assert '{"a": 1}\n' == file.read_text()


def test_nothing_is_kept_on_disk_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replies = Replies()
    replies.add([("a", Said("b"))])
    replies.close()

    assert ("b", []) == (replies.get("a").text, list(tmp_path.iterdir()))


def test_the_file_is_the_owners(tmp_path):
    Replies(tmp_path / "replies.jsonl").close()

    assert 0o600 == (tmp_path / "replies.jsonl").stat().st_mode & 0o777


def test_a_line_is_one_wave(tmp_path):
    file = tmp_path / "replies.jsonl"
    replies = Replies(file)
    replies.add([("a", Said("one\ntwo")), ("b", Said(logprobs={"yes": -0.5}))])
    replies.add([])
    replies.close()

    assert [["a", "b"]] == [[key for key, _ in json.loads(line)] for line in file.read_text().splitlines()]
