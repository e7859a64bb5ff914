"""A model as a folder in Hugging Face's layout: what it must hold, and what of it is ever read. Loads no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from cosa_sdk.errors import ModelFileError

__all__ = ["FolderFacts", "is_wanted", "read_folder"]

_WANTED: Final = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja", "*.txt")
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.pickle")
_MAX_JSON: Final = 64 << 20
_LENGTH: Final = 8
"""A safetensors file begins with the length of its header, in as many bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFacts:
    """What the files of a folder say about the model in it."""

    path: Path
    architecture: str | None
    """Such as `llama` or `qwen2`."""
    context: int | None
    bytes: int
    """Of the weights."""
    files: tuple[str, ...]
    """Names of what is read: weights, settings, vocabulary, chat template."""


def is_wanted(name: str) -> bool:
    """The file belongs to the model and cannot run anything: no pickles, no code, nothing from folders below."""
    return "/" not in name and any(fnmatchcase(name, pattern) for pattern in _WANTED)


def read_folder(path: Path) -> FolderFacts:
    """What a folder holds.

    Raises:
        ModelFileError: it holds no model in safetensors, or one that is not whole.
    """
    try:
        names = sorted(file.name for file in path.iterdir() if file.is_file())
    except OSError as error:
        raise ModelFileError(f"model folder {str(path)!r} cannot be read: {error.strerror}.") from error
    weights = [name for name in names if name.endswith(".safetensors")]
    if "config.json" not in names or not weights:
        raise ModelFileError(_what_is_missing(path, names))
    config = _object(path / "config.json")
    _check_shards(path, names)
    for name in weights:
        _check_weights(path / name)
    context = config.get("max_position_embeddings")
    return FolderFacts(
        path=path,
        architecture=str(config["model_type"]) if config.get("model_type") else None,
        context=context if isinstance(context, int) else None,
        bytes=sum((path / name).stat().st_size for name in weights),
        files=tuple(name for name in names if is_wanted(name)),
    )


def _what_is_missing(path: Path, names: list[str]) -> str:
    head = f"model folder {str(path)!r}"
    if "adapter_config.json" in names:
        return f"{head} holds a LoRA adapter, not a model: give the model, and the adapter beside it."
    ggufs = [name for name in names if name.endswith(".gguf")]
    if ggufs:
        return f"{head} holds GGUF files: name one of them. Found: {', '.join(ggufs)}."
    pickles = [name for name in names if any(fnmatchcase(name, pattern) for pattern in _PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        return (
            f"{head} has its weights in pickles ({', '.join(pickles[:3])}), which can run code and are never loaded. "
            "Get the model in safetensors or GGUF, or convert it where you trust it (`save_pretrained`)."
        )
    lacks = [name for name in ("config.json", "*.safetensors") if not any(fnmatchcase(one, name) for one in names)]
    return f"{head} is no model in Hugging Face's layout: it has no {' and no '.join(lacks)}."


def _object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ModelFileError(f"{str(path)!r} is larger than any settings file; fetch it again.")
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{str(path)!r} cannot be read as JSON ({type(error).__name__}). Fetch it again."
        ) from error
    if not isinstance(found, dict):
        raise ModelFileError(f"{str(path)!r} is not a JSON object. Fetch it again.")
    return found


def _check_shards(path: Path, names: list[str]) -> None:
    if "model.safetensors.index.json" not in names:
        return
    shards = _object(path / "model.safetensors.index.json").get("weight_map")
    needed = {str(shard) for shard in shards.values()} if isinstance(shards, dict) else set()
    gone = sorted(needed.difference(names))
    if gone or not needed:
        said = f"it lacks {', '.join(map(repr, gone[:3]))}" if gone else "its index of weights names none"
        raise ModelFileError(f"model folder {str(path)!r} is not whole: {said}. Fetch it again.")


def _check_weights(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        whole = size >= _LENGTH and length <= min(size - _LENGTH, _MAX_JSON)
        head = file.read(length) if whole else b""
    try:
        tensors = [value for key, value in json.loads(head).items() if key != "__metadata__"]
        whole = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0) == size - _LENGTH - length
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ModelFileError(
            f"weights {str(path)!r} are damaged or not whole: {size:,} bytes, and the header of a safetensors file "
            "says something else. Fetch them again."
        )
