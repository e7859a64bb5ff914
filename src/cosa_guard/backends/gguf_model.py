"""What a GGUF model and its adapters must be, and which of its tokens text must never become."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from cosa_guard.backends.gguf import GGUFHeader, missing_file, read_header
from cosa_sdk.errors import AdapterError, ModelFileError

__all__ = ["check_adapter", "check_model", "read_model"]

_TOKENS, _TOKEN_TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_CONTROL, _USER_DEFINED = 3, 4
_MATRIX: Final = 2
_BLANKS: Final = " \t\r\n\u2581"


def read_model(path: Path, *, has_template: bool) -> tuple[GGUFHeader, list[str], set[int]]:
    """The header without its big arrays, the texts of tokens that are always parsed, and ids no content may have."""
    if not path.exists():
        raise missing_file(path)
    header = read_header(path, keep=(_TOKENS, _TOKEN_TYPES))
    check_model(header)
    if header.chat_template is None and not has_template:
        raise ModelFileError(
            f"{str(path)!r} has no chat template: a base model follows no config. Use an instruct model, or pass the "
            "option chat_template."
        )
    metadata = dict(header.metadata)
    texts, types = metadata.pop(_TOKENS, ()), metadata.pop(_TOKEN_TYPES, ())
    markers: list[str] = []
    special: set[int] = set()
    if isinstance(texts, tuple) and isinstance(types, tuple):
        for token, (text, kind) in enumerate(zip(texts, types, strict=False)):
            # Runs of blanks are user-defined in some vocabularies; they are text.
            marker = kind == _USER_DEFINED and len(str(text)) > 1 and bool(str(text).strip(_BLANKS))
            if marker:
                markers.append(str(text))
            if marker or kind == _CONTROL:
                special.add(token)
    return replace(header, metadata=metadata), markers, special


def check_model(header: GGUFHeader) -> None:
    """Raises ModelFileError unless the file is a whole language model."""
    if header.kind != "model":
        raise ModelFileError(
            f"{str(header.path)!r} is not a model but of kind {header.kind!r}. Name the model's own GGUF file; "
            "an adapter goes into the option adapters."
        )


def check_adapter(name: str, path: Path, base: GGUFHeader) -> None:
    """Raises AdapterError unless `path` is a LoRA for `base`; llama.cpp's own refusal has no reason in it."""
    try:
        header = read_header(path)
    except ModelFileError as error:
        raise AdapterError(f"adapter {name!r}: {error}") from error
    if header.kind != "adapter":
        raise AdapterError(f"adapter {name!r}: {str(path)!r} is not an adapter but of kind {header.kind!r}.")
    if header.architecture != base.architecture:
        raise AdapterError(
            f"adapter {name!r} was made for the architecture {header.architecture!r}; the model {base.path.name!r} is "
            f"{base.architecture!r}. Use an adapter that was trained on this model."
        )
    if not header.tensors:
        raise AdapterError(f"adapter {name!r}: {str(path)!r} changes nothing: it has no tensors. Export it again.")
    for tensor, shape in header.tensors.items():
        target, _, part = tensor.rpartition(".lora_")
        expected = base.tensors.get(target)
        if part not in ("a", "b") or expected is None:
            raise AdapterError(f"adapter {name!r} changes {tensor!r}, which {base.path.name!r} does not have.")
        # GGUF's order: A is (inputs, rank), B is (rank, outputs), the weight itself (inputs, outputs).
        side = 0 if part == "a" else 1
        if len(shape) != _MATRIX or len(expected) != _MATRIX or shape[side] != expected[side]:
            raise AdapterError(
                f"adapter {name!r} does not fit the model {base.path.name!r}: {tensor!r} has the shape {shape!r} for a "
                f"weight of {expected!r}. Use an adapter that was trained on this model."
            )
