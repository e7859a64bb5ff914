"""Labelled rows: every schema, plain and gzipped, and errors that name file and line."""

from __future__ import annotations

import gzip
import json

import pytest

from cosa_guard.labelled import LabelledRow, labelled_row, read_rows
from cosa_sdk import taxonomy
from cosa_sdk.errors import UnknownName, UsageError

ANSWER = {"id": "a1", "source": "s", "split": "dev", "prompt": "q", "response": "r", "categories": ["V", "W"], "harmful": True,
          "refused": False, "prompt_categories": ["V"], "category_kind": "human"}


@pytest.fixture
def file(tmp_path):
    """A file of lines: dictionaries as JSON, strings as they are."""

    def write(*lines, name="rows.jsonl"):
        path = tmp_path / name
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


# --- schemas

def test_answers():
    assert LabelledRow(
        id="a1", kind="response", text="r", prompt="q", risks=frozenset({"violence", "weapons"}), harmful=True, refused=False,
        source="s", split="dev", category_kind="human",
    ) == labelled_row(ANSWER)


@pytest.mark.parametrize(("fields", "risks", "harmful"), [
    ({"categories": [], "harmful": False}, frozenset(), False),
    ({"categories": None, "harmful": True}, None, True),
    ({"categories": None, "harmful": None}, None, None),
    ({"categories": ["D"], "harmful": None}, frozenset({"discrimination"}), True),
    ({"categories": []}, frozenset(), False),
    ({"categories": ["O"], "harmful": False}, frozenset({"other"}), False),  # its own word goes before what follows
])
def test_harm_of_answers(fields, risks, harmful):
    row = labelled_row({"response": "r", **fields})

    assert (risks, harmful) == (row.risks, row.harmful)


@pytest.mark.parametrize(("field", "value"), [("refused", True), ("refused", None), ("addressed", False), ("addressed", None)])
def test_signs_of_answers(field, value):
    assert value is getattr(labelled_row({**ANSWER, field: value}), field)


def test_texts():
    row = labelled_row({"id": 7, "text": "t", "categories": ["P"], "safe": False, "policy": "x", "category_kind": "taxonomy"})

    assert LabelledRow(
        id="7", kind="text", text="t", risks=frozenset({"privacy"}), harmful=True, category_kind="taxonomy"
    ) == row


@pytest.mark.parametrize(("categories", "harmful"), [(None, None), ([], False), (["S"], True)])
def test_harm_of_texts(categories, harmful):
    assert harmful is labelled_row({"text": "t", "categories": categories}).harmful


@pytest.mark.parametrize(("given", "found"), [(0, "0"), (7, "7"), ("a", "a"), ("", ""), (None, "")])
@pytest.mark.parametrize("field", ["id", "source", "split", "category_kind"])
def test_names_of_rows(field, given, found):
    assert found == getattr(labelled_row({"text": "t", "categories": [], field: given}), field)


def test_prompts():
    row = labelled_row({"prompt": "p", "categories": ["R"], "floor": False, "category_kind": "keyword", "source": "s"})

    assert LabelledRow(
        id="", kind="prompt", text="p", risks=frozenset({"drugs"}), harmful=True, source="s", category_kind="keyword"
    ) == row


@pytest.mark.parametrize(("fields", "harmful", "floor"), [
    ({"categories": ["S"], "floor": True}, True, True),
    ({"categories": [], "floor": True}, True, True),  # the floor is harm, whatever the categories say
    ({"categories": None, "floor": True}, True, True),
    ({"categories": None, "floor": None}, None, False),
    ({"categories": []}, False, False),
])
def test_floor_of_prompts(fields, harmful, floor):
    row = labelled_row({"prompt": "p", **fields})

    assert (harmful, floor) == (row.harmful, row.floor)


@pytest.mark.parametrize("over_refusal", [True, False])
def test_harmless_prompts(over_refusal):
    row = labelled_row({"id": "b", "prompt": "p", "over_refusal": over_refusal})

    assert LabelledRow(id="b", kind="prompt", text="p", risks=frozenset(), harmful=False) == row


def test_codes_and_ids_may_be_mixed():
    ids = taxonomy.builtin().ids

    assert frozenset(ids) == labelled_row({"text": "t", "categories": list("DFRPSVWO")}).risks
    assert frozenset(ids) == labelled_row({"text": "t", "categories": list(ids)}).risks
    assert {"violence", "drugs"} == labelled_row({"text": "t", "categories": ["V", "violence", "drugs"]}).risks


# --- files

@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.txt"])
def test_files_plain_and_gzipped(file, name):
    path = file(ANSWER, "", {"text": "naïve \u4f60", "categories": []}, "   ", {"prompt": "p", "over_refusal": True}, name=name)

    for given in (path, str(path)):
        assert ["response", "text", "prompt"] == [row.kind for row in read_rows(given)]
    assert "naïve \u4f60" == list(read_rows(path))[1].text


def test_an_empty_file_has_no_rows(file):
    assert [] == list(read_rows(file()))


def test_rows_come_one_by_one(file):
    rows = read_rows(file(ANSWER, "broken"))

    assert "r" == next(rows).text
    with pytest.raises(UsageError):
        next(rows)


GOOD = {"text": "t", "categories": []}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
@pytest.mark.parametrize(("line", "says"), [
    ("{", "not JSON"),
    ("nonsense", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[1]", "a row is an object, not list"),
    ("null", "a row is an object, not NoneType"),
    ({}, "fields none fit no schema; give prompt and response"),
    ({"prompt": "p"}, "fields prompt fit no schema"),
    ({"question": "p", "answer": "a"}, "fields answer, question fit no schema"),
    ({"text": "t", "categories": "V"}, "categories is 'V'; give a list"),
    ({"text": "t", "categories": [1]}, r"categories is \[1\]; give a list"),
    ({"text": "t", "categories": ["Q"]}, "unknown category code 'Q'.*Choices: D, F, "),
    ({"text": "t", "categories": ["violense"]}, "unknown category code 'violense'"),
    ({"text": "", "categories": []}, "text is ''; give a text"),
    ({"text": " \n", "categories": []}, "give a text"),
    ({"text": None, "categories": []}, "text is None; give a text"),
    ({"prompt": 5, "categories": []}, "prompt is 5; give a text"),
    ({"prompt": ["p"], "over_refusal": True}, r"prompt is \['p'\]; give a text"),
    ({"prompt": "p", "response": ""}, "response is ''; give a text"),
    ({"prompt": "p", "response": "r", "harmful": "no"}, "harmful is 'no'; choices: true, false, null"),
    ({"prompt": "p", "response": "r", "harmful": 1}, "harmful is 1; choices"),
    ({"prompt": "p", "response": "r", "refused": "yes"}, "refused is 'yes'; choices"),
    ({"prompt": "p", "response": "r", "addressed": 0}, "addressed is 0; choices"),
    ({"prompt": "p", "categories": [], "floor": "X"}, "floor is 'X'; choices"),
])
def test_a_bad_row_is_named_by_file_and_line(file, name, line, says):
    path = file(GOOD, "", line, GOOD, name=name)

    with pytest.raises(UsageError, match=says) as caught:
        list(read_rows(path))

    assert str(caught.value).startswith(f"{path}:3: ")


def test_no_such_file(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(UsageError, match="no such file: .*give labelled rows as JSON lines"):
            list(read_rows(path))


@pytest.mark.parametrize("data", [
    gzip.compress(json.dumps(GOOD).encode() + b"\n", mtime=0)[:-12],  # cut off
    b"not gzipped at all",
    gzip.compress(b"x", mtime=0)[:10] + b"\xff" * 20,
], ids=["cut", "plain", "damaged"])
def test_a_damaged_archive_is_named(tmp_path, data):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(data)

    with pytest.raises(UsageError, match="unreadable after line") as caught:
        list(read_rows(path))

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_bytes_that_are_no_text_are_named(tmp_path, name):
    path = tmp_path / name
    data = b'{"text": "\xff", "categories": []}\n'
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    with pytest.raises(UsageError, match="unreadable after line 0.*utf-8"):
        list(read_rows(path))


def test_single_rows_name_no_file():
    with pytest.raises(UsageError, match="^text is None"):
        labelled_row({"text": None, "categories": []})
    with pytest.raises(UnknownName, match="unknown category code 'x'"):
        labelled_row({"text": "t", "categories": ["x"]})
