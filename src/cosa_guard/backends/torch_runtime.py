"""What the backend `transformers` stands on: torch, transformers, peft, safetensors, jinja2. Only this imports them."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from cosa_sdk.errors import BackendError, MissingExtra, OutOfMemory, UsageError

try:
    import jinja2
    import torch
    import transformers
    from safetensors.torch import load_file
    from transformers.utils import logging as transformers_logging
except ImportError as error:  # pragma: no cover  # `make test` runs without them
    raise MissingExtra("the backend 'transformers'", "transformers") from error

__all__ = [
    "TEMPLATE_ERRORS",
    "as_backend_error",
    "choose_device",
    "choose_dtype",
    "free_on",
    "load_file",
    "peft",
    "quiet",
    "torch",
    "transformers",
]

TEMPLATE_ERRORS = (jinja2.TemplateError, TypeError, ValueError)
"""What a chat template raises, on purpose or by adding what cannot be added."""

_LOADING = threading.Lock()
"""What `quiet` changes is there once."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def peft() -> Any:
    """The package `peft`, which only adapters need.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import peft as found  # noqa: PLC0415  # seconds to import
    except ImportError as error:
        raise MissingExtra("an adapter", "transformers") from error
    return found


def choose_device(asked: str) -> torch.device:
    """`auto` is a CUDA device, else Apple's, else the processor.

    Raises:
        UsageError: there is no such device.
    """
    there = [
        name for name, is_there in (("cuda", torch.cuda.is_available()), ("mps", torch.mps.is_available())) if is_there
    ]
    if asked == "auto":
        return torch.device((*there, "cpu")[0])
    try:
        device = torch.device(asked)
    except RuntimeError:
        device = torch.device("meta")
    known = device.type in (*there, "cpu")
    if not known or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"device={asked!r} is not there. Choices: auto, {', '.join((*there, 'cpu'))}.")
    return device


def choose_dtype(asked: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA, else float32.

    Raises:
        UsageError: an unknown one.
    """
    if asked == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if asked not in _DTYPES:
        raise UsageError(f"option dtype={asked!r} of 'transformers': choices are auto, {', '.join(_DTYPES)}.")
    return _DTYPES[asked]


def free_on(device: torch.device, host: Callable[[], int | None]) -> Callable[[], int | None]:
    """Tells the bytes of memory that can be taken where a device computes; `host` tells those of the machine."""
    return (lambda: int(torch.cuda.mem_get_info(device)[0])) if device.type == "cuda" else host


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers on standard error; both as before afterwards."""
    with _LOADING:
        yield from _quietly()


def _quietly() -> Iterator[None]:
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    # The reader of GGUF files has a bar that obeys nobody.
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    its_bar = reader.tqdm
    reader.tqdm = partial(its_bar, disable=True)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        reader.tqdm = its_bar
        if bars:
            transformers_logging.enable_progress_bar()


def as_backend_error(error: Exception, model: str) -> BackendError:
    """What a caller is told of an error that torch or a model's code raised."""
    if isinstance(error, BackendError):
        return type(error)(*error.args)
    said = " ".join(str(error).split())[:300]
    # The processor's allocator has no type of its own for it.
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in said:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return OutOfMemory(
            f"{model!r} ran out of memory while it computed: {said}. Lower the options parallel, context or "
            "prefix_cache_mib, or use a smaller model."
        )
    return BackendError(f"{model!r} failed while it computed: {type(error).__name__}: {said}")
