from __future__ import annotations

import io
import json
import sys

import pytest
from tests.guard.evals.report_build import row, rows

from cosa_guard.evals.report import files
from cosa_guard.evals.rows import ResultRow
from cosa_sdk.errors import MissingExtra, UsageError

ODD = row(1, prompt="half \ud83d\n<b>", risks=None, tokens=None, helpful=None, safe=None, judged={"é": "[[1]]"}, judged_risks=("violence",), error="gone")


def test_json_lines_are_read_back():
    given = [*rows(n=3), ODD]
    lines = files.to_jsonl(given).splitlines()

    assert given == [ResultRow.from_json(json.loads(line)) for line in lines]


@pytest.mark.parametrize("name", ["rows.csv", "rows", "rows.parquet.gz"])
def test_other_files_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"ends in \.jsonl or \.parquet"):
        files.write_rows(tmp_path / name, [ODD])
    assert [] == list(tmp_path.iterdir())


def test_file_is_written_by_its_name(tmp_path):
    files.write_rows(tmp_path / "rows.JSONL", [ODD])

    assert files.to_jsonl([ODD]) == (tmp_path / "rows.JSONL").read_bytes()
    assert ["rows.JSONL"] == [one.name for one in tmp_path.iterdir()]


def test_file_that_cannot_be_written_whole_leaves_the_one_that_was_there(tmp_path, monkeypatch):
    def full(file, data):
        with file.open("wb") as half:
            half.write(data[:9])
        raise OSError(28, "No space left on device")

    (tmp_path / "rows.jsonl").write_text("before")
    monkeypatch.setattr(files.Path, "write_bytes", full)
    with pytest.raises(UsageError, match="No space left"):
        files.write_rows(tmp_path / "rows.jsonl", [ODD])

    assert "before" == (tmp_path / "rows.jsonl").read_text()
    assert ["rows.jsonl"] == [one.name for one in tmp_path.iterdir()]


def test_path_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UsageError, match="cannot write .*nowhere"):
        files.write_rows(tmp_path / "nowhere" / "rows.jsonl", [ODD])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(MissingExtra, match=r"JSON lines need none.*cosa\[eval\]"):
        files.write_rows(tmp_path / "rows.parquet", [ODD])
    assert [] == list(tmp_path.iterdir())


@pytest.mark.slow
def test_parquet_has_a_column_for_each_field():
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(files.to_parquet([row(0, safe=True, helpful=1.0), ODD])))

    assert list(ResultRow.__dataclass_fields__) == table.column_names
    assert [["violence"], None] == table["risks"].to_pylist() and [None, ["violence"]] == table["judged_risks"].to_pylist()
    assert [True, None] == table["safe"].to_pylist() and [1.0, None] == table["helpful"].to_pylist() and [7, None] == table["tokens"].to_pylist()
    assert ["prompt 0", "half ?\n<b>"] == table["prompt"].to_pylist()
    assert {"é": "[[1]]"} == json.loads(table["judged"].to_pylist()[1])


@pytest.mark.slow
def test_parquet_columns_have_one_type_whatever_the_rows():
    parquet = pytest.importorskip("pyarrow.parquet")
    schemas = [parquet.read_schema(io.BytesIO(files.to_parquet(given))) for given in ([], [ODD], rows())]

    assert schemas[0].equals(schemas[1]) and schemas[1].equals(schemas[2])
