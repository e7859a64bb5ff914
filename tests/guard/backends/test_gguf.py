"""The header reader: what a file says, and what is said of a file that is none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosa_guard.backends.gguf import read_header
from cosa_sdk.errors import ModelFileError

MODEL = {
    "general.architecture": "llama",
    "general.type": "model",
    "general.name": "Tiny",
    "general.license": "apache-2.0",
    "general.file_type": 15,
    "llama.context_length": 2048,
    "llama.embedding_length": 576,
    "llama.block_count": 30,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.rope.freq_base": 1000.0,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{{ messages }}",
    "tokenizer.ggml.tokens": [f"t{n}" for n in range(2000)],
    "tokenizer.ggml.token_type": [1] * 2000,
    "tokenizer.ggml.merges": ["a b", "ä ö"],
}
TENSORS = {"blk.0.attn_q.weight": ((4, 2), [0.5] * 8), "output.weight": ((4,), [1.0] * 4)}


def test_reads_what_a_model_is(write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", MODEL, TENSORS)

    header = read_header(path)

    assert ("llama", "model", "Tiny", "apache-2.0") == (header.architecture, header.kind, header.name, header.licence)
    assert ("Q4_K_M", 2048, 576, 30) == (
        header.quantization,
        header.context_length,
        header.embedding_length,
        header.block_count,
    )
    assert "{{ messages }}" == header.chat_template
    assert path.stat().st_size == header.size_bytes
    assert header.metadata["tokenizer.ggml.add_bos_token"] is False
    assert 1000.0 == header.metadata["llama.rope.freq_base"]
    assert ("a b", "ä ö") == header.metadata["tokenizer.ggml.merges"]
    assert {"blk.0.attn_q.weight": (4, 2), "output.weight": (4,)} == header.tensors


def test_big_arrays_are_read_on_demand_only(write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", MODEL, TENSORS)

    plain = read_header(path)
    kept = read_header(path, keep=("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"))

    assert "tokenizer.ggml.tokens" not in plain.metadata
    assert "t1999" == kept.metadata["tokenizer.ggml.tokens"][-1]
    assert (1,) * 2000 == kept.metadata["tokenizer.ggml.token_type"]


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions(write_gguf, tmp_path, version):
    assert version == read_header(write_gguf(tmp_path / "m.gguf", MODEL, version=version)).version


def test_kinds(write_gguf, tmp_path):
    kinds = {"adapter": "adapter", "model": "model", "mmproj": "other"}
    for declared, kind in kinds.items():
        path = write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama", "general.type": declared})
        assert kind == read_header(path).kind
    assert "other" == read_header(write_gguf(tmp_path / "m.gguf", {"general.architecture": "clip"})).kind


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 30 * 3 * (64 + 64) * 2),
        ({"llama.attention.head_count_kv": [1, 2, 0]}, 3 * (64 + 64) * 2),
        ({"llama.attention.key_length": 128, "llama.attention.value_length": 32}, 30 * 3 * (128 + 32) * 2),
        ({"llama.block_count": 0}, 0),
    ],
)
def test_cache_size_of_a_token(write_gguf, tmp_path, changes, expected):
    assert expected == read_header(write_gguf(tmp_path / "m.gguf", MODEL | changes)).kv_bytes_per_token


def test_real_model(local_model):
    header = read_header(local_model, keep=("tokenizer.ggml.token_type",))

    assert ("llama", "apache-2.0", "Q4_1", 8192) == (
        header.architecture,
        header.licence,
        header.quantization,
        header.context_length,
    )
    assert 49152 == len(header.metadata["tokenizer.ggml.token_type"])
    assert (576, 576) == header.tensors["blk.0.attn_q.weight"]
    assert 23_040 == header.kv_bytes_per_token


def message(path, **options):
    with pytest.raises(ModelFileError) as caught:
        read_header(path, **options)
    return str(caught.value)


def test_missing_file_names_its_neighbours(write_gguf, tmp_path):
    write_gguf(tmp_path / "qwen-1.5b.gguf", MODEL)

    assert "Did you mean 'qwen-1.5b.gguf'?" in message(tmp_path / "qwen-1b.gguf")
    assert "neither does its folder" in message(tmp_path / "nowhere" / "m.gguf")


def test_folder_without_models(tmp_path):
    assert "has no .gguf file" in message(tmp_path / "m.gguf")


def test_directory_lists_what_is_in_it(write_gguf, tmp_path):
    write_gguf(tmp_path / "a.gguf", MODEL)

    assert "is a directory; name one .gguf file in it. Found: a.gguf." in message(tmp_path)


@pytest.mark.parametrize(
    ("start", "hint"),
    [
        (b"", "is empty"),
        (b"hell", "begins with b'hell', not b'GGUF'. Name a .gguf file."),
        (struct.pack("<Q", 40) + b'{"__metadata__":{}}', "safetensors"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x80\x02}q\x00", "pickle"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"ggjt\x03\x00\x00\x00", "old GGML"),
        (b"GG", "begins with b'GG'"),
        (b"GGUF\x03", "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1 GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9 GGUF"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), f"claims {2**60:,} tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), f"claims {2**63:,} metadata keys"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62) + bytes(99), "more than"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**20) + bytes(99), "truncated"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77) + bytes(99), "value type 77"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**50) + bytes(99), f"claims {2**50:,} items"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "does not name its architecture"),
    ],
)
def test_impostors_and_damage(tmp_path, start, hint):
    path = tmp_path / "m.gguf"
    path.write_bytes(start)

    assert hint in message(path)


def test_arrays_nested_for_ever_are_refused(tmp_path):
    nested = struct.pack("<IQ", 9, 1) * 5000
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 9) + nested)

    assert "damaged" in message(path)


def test_text_beyond_any_real_header_is_refused(tmp_path):
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQQ1sIQ", 3, 0, 1, 1, b"k", 8, 1 << 27))
        file.truncate(1 << 28)  # a hole: no disk is used

    assert "more than 67,108,864 bytes of text" in message(path)


def test_string_array_that_leaves_the_file(tmp_path):
    items = struct.pack("<Q", 5) + b"hello"
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2000) + items * 1230)

    assert "truncated" in message(path)


def test_truncated_tensors_are_noticed(write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", MODEL, TENSORS)
    path.write_bytes(path.read_bytes()[:-64])

    assert "its tensors go on past byte" in message(path)


def test_tensor_with_absurd_dimensions(write_gguf, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", MODEL, {"t": ((1,) * 9, [0.0])})

    assert "tensor 't' has 9 dimensions" in message(path)


@given(data=st.data())
def test_no_damage_raises_anything_else(write_gguf, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    raw = bytearray(write_gguf(path, MODEL | {"tokenizer.ggml.tokens": ["a"] * 30}, TENSORS).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])

    try:
        header = read_header(path)
    except ModelFileError as error:
        assert str(path) in str(error)
    else:
        assert header.architecture
