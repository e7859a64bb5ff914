"""Reads the header of a GGUF file: what a model is, without loading it.

The `gguf` package is not used: it needs numpy and turns every token of the vocabulary into an array of its own (2 s for
a 135M model, 9 s for one with 152k tokens, against well under 0.2 s here). The bytes of tensors are never touched.

A file is hostile until proven otherwise: every count and length is checked against the bytes that are left in the file
before anything is allocated.
"""

from __future__ import annotations

import difflib
import mmap
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NoReturn

from cosa_sdk.errors import ModelFileError

__all__ = ["GGUFHeader", "Kind", "Value", "missing_file", "read_header"]

Value = bool | int | float | str | tuple["Value", ...]
Kind = Literal["model", "adapter", "other"]

_VERSIONS: Final = (2, 3)
_SCALARS: Final = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
# Limits far above any real file (33 keys, 5,000 tensors, 256k tokens) and far below what would hurt to walk.
_MAX_KEYS, _MAX_TENSORS, _MAX_ITEMS, _MAX_KEPT, _MAX_DIMENSIONS = 1 << 16, 1 << 17, 1 << 22, 1024, 8
_MAX_TEXT_BYTES: Final = 1 << 26
"""Of all strings and kept arrays together."""
_MIN_KEY_BYTES, _MIN_TENSOR_BYTES, _MIN_STRING_BYTES, _MAX_NESTING = 13, 32, 8, 3

# llama.cpp's `llama_ftype`; a number that is not here is shown as it is.
_FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
}  # fmt: skip

# First bytes of files that people take for a GGUF, and what to tell them.
_IMPOSTORS: Final = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself: run `git lfs pull` in that checkout"),
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint: convert it to GGUF, or unpack it"),
    (b"\x80", "a Python pickle, perhaps a PyTorch checkpoint: convert it to GGUF"),
    (b"<", "a web page, perhaps an error page saved by a download: fetch the file again"),
    (b"GGML", "an old GGML file: convert it to GGUF with llama.cpp"),
    (b"ggjt", "an old GGML file: convert it to GGUF with llama.cpp"),
    (b"lmgg", "an old GGML file: convert it to GGUF with llama.cpp"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFHeader:
    """What a GGUF file says about itself. Numbers that the file leaves out are None."""

    path: Path
    version: int
    size_bytes: int
    architecture: str
    """Such as `llama` or `qwen2`."""
    kind: Kind
    """`adapter` for a LoRA; `other` for what is neither, such as a vision projector."""
    name: str | None
    licence: str | None
    quantization: str | None
    """Such as `Q4_1`: the type of most tensors."""
    context_length: int | None
    """Tokens that the model was trained to read."""
    embedding_length: int | None
    block_count: int | None
    chat_template: str | None = field(repr=False)
    metadata: Mapping[str, Value] = field(repr=False)
    """All keys but arrays of more than 1,024 items, unless they were asked for."""
    tensors: Mapping[str, tuple[int, ...]] = field(repr=False)
    """Shape of each tensor, in GGUF's order: fastest dimension first."""

    def number(self, key: str) -> int | None:
        """An integer of this architecture, such as `attention.head_count`; per layer, the largest."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple):
            value = max((item for item in value if isinstance(item, int)), default=0)
        return value if isinstance(value, int) else None

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token of context takes in a 16-bit KV cache; 0 where the header does not tell."""
        heads, blocks, width = self.number("attention.head_count"), self.block_count, self.embedding_length
        if not heads or not blocks or not width:
            return 0
        per_layer = self.metadata.get(f"{self.architecture}.attention.head_count_kv", heads)
        if isinstance(per_layer, tuple):
            kv_heads = sum(item for item in per_layer if isinstance(item, int))
        else:
            kv_heads = blocks * int(per_layer)
        key = self.number("attention.key_length") or width // heads
        value = self.number("attention.value_length") or width // heads
        return kv_heads * (key + value) * 2


def read_header(path: str | Path, *, keep: Collection[str] = ()) -> GGUFHeader:
    """The header of the GGUF file at `path`.

    Args:
        path: The file.
        keep: Keys of large arrays to read as well, such as `tokenizer.ggml.token_type`.

    Raises:
        ModelFileError: missing, a directory, empty, not a GGUF, truncated, of a version we cannot read, or absurd.
    """
    path = Path(path)
    if path.is_dir():
        files = ", ".join(sorted(file.name for file in path.glob("*.gguf"))) or "none"
        raise ModelFileError(f"model file {str(path)!r} is a directory; name one .gguf file in it. Found: {files}.")
    try:
        size = path.stat().st_size
        if size == 0:
            raise ModelFileError(f"model file {str(path)!r} is empty: an interrupted download? Fetch it again.")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Reader(path, data, size), keep=frozenset(keep))
    except FileNotFoundError:
        raise missing_file(path) from None
    except OSError as error:
        raise ModelFileError(f"model file {str(path)!r} cannot be read: {error.strerror or error}.") from error


def missing_file(path: Path, what: str = "model file") -> ModelFileError:
    """The error for a file that is not there, with the nearest names in its folder."""
    folder = path.parent
    if not folder.is_dir():
        return ModelFileError(f"{what} {str(path)!r} does not exist: neither does its folder {str(folder)!r}.")
    names = sorted(file.name for file in folder.glob("*.gguf"))
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4) or names[:3]
    hint = f"Did you mean {' or '.join(repr(name) for name in near)}?" if near else "Its folder has no .gguf file."
    return ModelFileError(f"{what} {str(path)!r} does not exist. {hint}")


class _Reader:
    """A position in the file, and the only place that reads bytes."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size = path, data, size
        self.at = 0
        self.kept_bytes = 0

    def fail(self, problem: str) -> NoReturn:
        raise ModelFileError(f"model file {str(self.path)!r} {problem}")

    def need(self, count: int) -> int:
        """Moves past `count` bytes; gives where they begin."""
        start = self.at
        if count > self.size - start:
            self.fail(f"is truncated: its header goes on past byte {self.size:,}, where it ends. Fetch it again.")
        self.at = start + count
        return start

    def keep(self, count: int) -> int:
        """As `need`, for bytes that will be copied into memory."""
        self.kept_bytes += count
        if self.kept_bytes > _MAX_TEXT_BYTES:
            self.fail(f"is damaged: its header has more than {_MAX_TEXT_BYTES:,} bytes of text.")
        return self.need(count)

    def scalar(self, form: str) -> int | float | bool:
        value: int | float | bool = struct.unpack_from(form, self.data, self.need(struct.calcsize(form)))[0]
        return value

    def integer(self, form: str) -> int:
        return int(self.scalar(form))

    def string(self) -> str:
        length = self.integer("<Q")
        start = self.keep(length)
        return self.data[start : start + length].decode("utf-8", errors="replace")

    def count(self, what: str, *, most: int, least_bytes: int, number: int | None = None) -> int:
        """A number of things that still have to fit into the file."""
        number = self.integer("<Q") if number is None else number
        if number > most or number * least_bytes > self.size - self.at:
            self.fail(f"is damaged or truncated: it claims {number:,} {what}, with {self.size - self.at:,} bytes left.")
        return number

    def value(self, kind: int, *, keep: bool, depth: int = 0) -> Value | None:
        """One value; None for an array that is skipped."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY or depth > _MAX_NESTING:
            self.fail(f"is damaged: value type {kind} at byte {self.at:,}; GGUF has 0 to 12.")
        item = self.integer("<I")
        least = struct.calcsize(_SCALARS[item]) if item in _SCALARS else _MIN_STRING_BYTES
        number = self.count("items in an array", most=_MAX_ITEMS, least_bytes=least)
        if item in _SCALARS:
            if number > _MAX_KEPT and not keep:
                self.need(number * least)
                return None
            start = self.keep(number * least)
            return struct.unpack_from(f"<{number}{_SCALARS[item][1:]}", self.data, start)
        if number > _MAX_KEPT and not keep:
            self._skip(item, number, depth)
            return None
        items = (self.value(item, keep=keep, depth=depth + 1) for _ in range(number))
        return tuple(one for one in items if one is not None)

    def _skip(self, item: int, number: int, depth: int) -> None:
        if item != _STRING:
            for _ in range(number):
                self.value(item, keep=False, depth=depth + 1)
            return
        # Written out because it runs once per token of the vocabulary.
        at, data, size, read = self.at, self.data, self.size, struct.Struct("<Q").unpack_from
        for _ in range(number):
            if at + _MIN_STRING_BYTES > size:
                break
            at += _MIN_STRING_BYTES + int(read(data, at)[0])
        self.at = min(at, size)
        self.need(0 if at <= size else 1)


def _parse(reader: _Reader, *, keep: frozenset[str]) -> GGUFHeader:
    _check_magic(reader)
    tensor_count = reader.count("tensors", most=_MAX_TENSORS, least_bytes=_MIN_TENSOR_BYTES)
    key_count = reader.count("metadata keys", most=_MAX_KEYS, least_bytes=_MIN_KEY_BYTES)
    metadata: dict[str, Value] = {}
    for _ in range(key_count):
        key = reader.string()
        value = reader.value(reader.integer("<I"), keep=key in keep)
        if value is not None:
            metadata[key] = value
    tensors: dict[str, tuple[int, ...]] = {}
    last = -1
    for _ in range(tensor_count):
        name = reader.string()
        sides = reader.integer("<I")
        if sides > _MAX_DIMENSIONS:
            reader.fail(f"is damaged: tensor {name!r} has {sides:,} dimensions.")
        tensors[name] = tuple(reader.integer("<Q") for _ in range(sides))
        reader.need(4)  # its type
        last = max(last, reader.integer("<Q"))
    if reader.at + last >= reader.size:
        reader.fail(f"is truncated: its tensors go on past byte {reader.size:,}, where it ends. Fetch it again.")
    return _header(reader, metadata, tensors)


def _check_magic(reader: _Reader) -> None:
    start = bytes(reader.data[:64])
    if start[:4] != b"GGUF":
        looks = next((what for mark, what in _IMPOSTORS if start.startswith(mark)), None)
        # safetensors: eight bytes of header length, then JSON.
        if looks is None and start[8:9] == b"{":
            looks = "a safetensors file: convert it to GGUF, or name a .gguf file of the same model"
        hint = f"It looks like {looks}." if looks else "Name a .gguf file."
        reader.fail(f"is not a GGUF file: it begins with {start[:4]!r}, not b'GGUF'. {hint}")
    reader.need(4)
    version = reader.integer("<I")
    if version not in _VERSIONS:
        why = "big-endian" if version and version & 0xFFFF == 0 else f"version {version}"
        reader.fail(f"is a {why} GGUF; only little-endian versions {_VERSIONS} can be read. Convert it with llama.cpp.")
    reader.at = 8


def _header(reader: _Reader, metadata: dict[str, Value], tensors: dict[str, tuple[int, ...]]) -> GGUFHeader:
    def text(key: str) -> str | None:
        value = metadata.get(key)
        return value if isinstance(value, str) else None

    def number(key: str) -> int | None:
        value = metadata.get(f"{architecture}.{key}")
        return value if isinstance(value, int) else None

    architecture = text("general.architecture")
    if not architecture:
        reader.fail("is damaged: it does not name its architecture (key 'general.architecture').")
    declared = text("general.type") or "model"
    kind: Kind = "other"
    if declared == "adapter":
        kind = "adapter"
    elif declared == "model" and architecture != "clip":  # clip: a vision projector, by its old name
        kind = "model"
    file_type = metadata.get("general.file_type")
    return GGUFHeader(
        path=reader.path,
        version=struct.unpack_from("<I", reader.data, 4)[0],
        size_bytes=reader.size,
        architecture=architecture,
        kind=kind,
        name=text("general.name"),
        licence=text("general.license"),
        quantization=_FILE_TYPES.get(file_type, f"type {file_type}") if isinstance(file_type, int) else None,
        context_length=number("context_length"),
        embedding_length=number("embedding_length"),
        block_count=number("block_count"),
        chat_template=text("tokenizer.chat_template"),
        metadata=metadata,
        tensors=tensors,
    )
