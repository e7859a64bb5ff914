"""Loads a language model and its tokenizer for the backend `transformers`: from a folder, a GGUF file or a hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cosa_guard.backends.chat_template import Apply, TemplateRefused
from cosa_guard.backends.gguf import GGUFHeader
from cosa_guard.backends.gguf_model import read_model
from cosa_guard.backends.hf_folder import read_folder
from cosa_guard.backends.settings import check_memory
from cosa_guard.backends.torch_runtime import TEMPLATE_ERRORS, as_backend_error, quiet, torch, transformers
from cosa_guard.backends.torch_tokens import Vocabulary
from cosa_sdk.errors import CosaError, ModelFileError, OutOfMemory

__all__ = ["Budget", "Loaded", "load"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much memory the caches of a model may take beside it."""

    context: int
    parallel: int
    prefix_bytes: int
    adapter_bytes: int
    free: Callable[[], int | None]
    """Bytes that can be taken, or None where nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model, ready to compute."""

    model: Any
    vocabulary: Vocabulary
    apply_template: Apply
    trained_context: int | None
    kv_bytes_per_token: int


def load(model: str, *, device: torch.device, dtype: torch.dtype, chat_template: str | None, budget: Budget) -> Loaded:
    """Reads the model into the memory of `device`.

    Args:
        model: A folder, a GGUF file, or the name of a model on a hub.
        device: Where it computes.
        dtype: What it computes in.
        chat_template: Jinja text to use instead of the model's own.
        budget: What else must fit into memory.

    Raises:
        ModelFileError: it is missing, damaged, pickled, needs code of its own, or has no chat template.
        OutOfMemory: it and its caches do not fit.
    """
    source, header, markers, forbidden = _source(model, has_template=chat_template is not None)
    with quiet():
        config = _try(model, lambda: transformers.AutoConfig.from_pretrained(**source))
        _check_layers(model, config)
        text = config.get_text_config(decoder=True)
        kv_bytes = _try(model, lambda: _kv_values_per_token(text)) * dtype.itemsize
        numbers = _try(model, lambda: _parameters(config))
        # A GGUF file is turned into float32 in the machine's memory, beside the model that is made of it.
        reading = numbers * torch.float32.itemsize if header is not None and device.type != "cuda" else 0
        _check_memory(model, numbers * dtype.itemsize, kv_bytes, text, budget, reading)
        tokenizer = _try(model, lambda: transformers.AutoTokenizer.from_pretrained(**source))
        if not (chat_template or tokenizer.chat_template):
            raise ModelFileError(
                f"{model!r} has no chat template: a base model follows no config. Use an instruct model, or pass the "
                "option chat_template."
            )
        native = _try(model, lambda: _weights(model, source, dtype).to(device).eval().requires_grad_(False))
        vocabulary = _try(
            model,
            lambda: Vocabulary(
                tokenizer,
                size=text.vocab_size,
                ends=_ends(native, tokenizer),
                adds_bos=_adds_bos(header),
                markers=markers,
                forbidden=frozenset(forbidden),
            ),
        )
    return Loaded(
        model=native,
        vocabulary=vocabulary,
        apply_template=_Template(tokenizer, chat_template),
        trained_context=getattr(text, "max_position_embeddings", None),
        kv_bytes_per_token=kv_bytes,
    )


def _source(model: str, *, has_template: bool) -> tuple[dict[str, Any], GGUFHeader | None, list[str], set[int]]:
    """What transformers is asked for; of a GGUF file also its header, its markers, and the ids no content may have."""
    path = Path(model)
    source: dict[str, Any] = {"pretrained_model_name_or_path": model, "trust_remote_code": False}
    if path.is_dir():
        read_folder(path)
        return source | {"local_files_only": True}, None, [], set()
    if not path.exists() and path.suffix != ".gguf":
        return source, None, [], set()
    header, markers, forbidden = read_model(path, has_template=has_template)
    local = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    return source | local, header, markers, forbidden


def _try(model: str, load_part: Callable[[], T]) -> T:
    try:
        return load_part()
    except CosaError:
        raise
    except Exception as error:
        known = as_backend_error(error, model)
        if isinstance(known, OutOfMemory):
            raise known from error
        said = " ".join(str(error).split())[:400]
        hub = "" if Path(model).exists() else " It is no local path; on a hub it must exist and be reachable."
        raise ModelFileError(f"transformers cannot load {model!r}: {type(error).__name__}: {said}.{hub}") from error


def _check_layers(model: str, config: Any) -> None:
    """Raises ModelFileError for a model that does not keep keys and values of each token."""
    kinds = {type(layer) for layer in _try(model, lambda: transformers.DynamicCache(config=config)).layers}
    known = (transformers.cache_utils.DynamicLayer, transformers.cache_utils.DynamicSlidingWindowLayer)
    other = sorted(kind.__name__ for kind in kinds.difference(known))
    if other:
        raise ModelFileError(
            f"{model!r} has layers with a state that cannot be cut at a token ({', '.join(other)}), so no config can "
            "be kept ready for it. Use a model whose layers all attend, or run it behind `openai_http`."
        )


def _kv_values_per_token(text: Any) -> int:
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(text.num_hidden_layers * heads * width * 2)


def _parameters(config: Any) -> int:
    with torch.device("meta"):
        skeleton = transformers.AutoModelForCausalLM.from_config(config)
    return sum(each.numel() for each in skeleton.parameters())


def _check_memory(model: str, weights: int, kv_bytes: int, text: Any, budget: Budget, reading: int) -> None:
    context = min(budget.context, getattr(text, "max_position_embeddings", None) or budget.context)
    check_memory(
        weights + budget.adapter_bytes,
        kv_bytes * context * budget.parallel + budget.prefix_bytes + reading,
        model=Path(model).name,
        what=f"{budget.parallel} replies of {context} tokens, the configs that stay ready, and for reading its file",
        free=budget.free,
        options="parallel, context or prefix_cache_mib",
    )


def _weights(model: str, source: Mapping[str, Any], dtype: torch.dtype) -> Any:
    safe = {} if "gguf_file" in source else {"use_safetensors": True}
    native, report = transformers.AutoModelForCausalLM.from_pretrained(
        **source, **safe, dtype=dtype, output_loading_info=True
    )
    wrong = [*report["missing_keys"], *(str(each) for each in report["mismatched_keys"])]
    if wrong:
        # transformers would draw these weights at random and say so in a log.
        raise ModelFileError(
            f"{model!r} lacks weights that its settings call for, or has them in another shape: "
            f"{', '.join(sorted(map(str, wrong))[:3])}. Fetch it again."
        )
    # What came from a GGUF file is whole numbers no more, yet marked as quantized, which PEFT would believe.
    if "gguf_file" in source and hasattr(native.config, "quantization_config"):
        del native.config.quantization_config
        native.is_quantized = False
    return native


def _ends(native: Any, tokenizer: Any) -> list[int]:
    named = native.generation_config.eos_token_id if native.generation_config is not None else None
    ends = [*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id]
    return [end for end in ends if end is not None]


def _adds_bos(header: GGUFHeader | None) -> bool | None:
    """What a GGUF file says; the tokenizer that is made of it does not know."""
    said = header.metadata.get("tokenizer.ggml.add_bos_token") if header is not None else None
    return said if isinstance(said, bool) else None


class _Template:
    """A chat template, the model's own where there is no `text`, as `chat_template.Apply`."""

    def __init__(self, tokenizer: Any, text: str | None) -> None:
        self._tokenizer, self._text = tokenizer, text

    def __call__(self, turns: Sequence[Mapping[str, str]]) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(turns), chat_template=self._text, tokenize=False, add_generation_prompt=True
                )
            )
        except TEMPLATE_ERRORS as refusal:
            raise TemplateRefused(str(refusal)) from refusal
