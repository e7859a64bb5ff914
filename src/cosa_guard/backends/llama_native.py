"""llama.cpp through llama-cpp-python's low-level functions, typed. The only module that imports llama_cpp.

The sequences of a context are kept apart (`kv_unified` off): each has its own cells, and a token is compared with those
of its own sequence only. In one cache for all, each token is masked against every cell that any sequence uses: with 8
configs of 600 tokens in it, a token took 2.1 times as long on a CPU (1.2 times with flash attention).
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cosa_sdk.errors import AdapterError, BackendError, MissingExtra, ModelFileError, OutOfMemory

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "ContextSettings",
    "Input",
    "NativeContext",
    "NativeModel",
    "library_version",
    "load_library",
    "requantize",
    "use_plain_kernels",
]

_Q8_0: Final = 7
_FLASH_OFF, _FLASH_AUTO = 0, -1
_PIECE_BYTES: Final = 256
_once = threading.Lock()
_loaded: list[Any] = []
_plain = threading.Event()


def use_plain_kernels() -> None:
    """Load models from now on without rearranging their weights for this processor.

    Slower, for where the faster kernels crash: so do those for Intel's AMX in some builds
    (github.com/ggml-org/llama.cpp/pull/26954).
    """
    _plain.set()


def load_library() -> Any:
    """The module `llama_cpp`, silenced and ready.

    Raises:
        MissingExtra: it is not installed.
        BackendError: it is installed, and cannot be loaded.
    """
    with _once:
        if not _loaded:
            try:
                module = importlib.import_module("llama_cpp")
            except ModuleNotFoundError as error:
                raise MissingExtra("the backend 'llama-cpp'", "llama-cpp") from error
            except (ImportError, OSError, RuntimeError) as error:
                raise BackendError(
                    f"llama-cpp-python is installed but cannot be loaded: {error}. Install it again: "
                    "pip install --force-reinstall --no-cache-dir llama-cpp-python"
                ) from error
            # It writes to stderr, prompts' tokens among it at some levels.
            silence = module.llama_log_callback(lambda level, text, data: None)  # noqa: ARG005  # C calls it so
            module.llama_log_set(silence, ctypes.c_void_p(0))
            module.llama_backend_init()
            _loaded[:] = [module, silence]  # the callback must outlive every call
        return _loaded[0]


def library_version() -> str:
    """What computes: its version and the instructions of the processor that it uses."""
    module = load_library()
    return f"{module.__version__} {module.llama_print_system_info().decode(errors='replace')}"


def requantize(source: Path, target: Path, threads: int) -> None:
    """Writes `source` as Q8_0 to `target`.

    Raises:
        BackendError: llama.cpp refused.
    """
    module = load_library()
    params = module.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = _Q8_0, threads, True
    failed = module.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params))
    if failed:
        raise BackendError(f"llama.cpp could not write {str(source)!r} as Q8_0 (code {failed}).")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextSettings:
    """The memory and the speed of one context."""

    context: int
    """Tokens of each sequence."""
    sequences: int
    threads: int
    batch: int
    """Tokens computed at once."""


class Input(NamedTuple):
    """One token to compute."""

    token: int
    position: int
    sequence: int
    wanted: bool
    """Whether the distribution behind it is asked for."""


class NativeModel:
    """A loaded model and its adapters. Its vocabulary may be asked from many threads.

    Raises (on construction):
        ModelFileError: llama.cpp cannot load the file.
        AdapterError: llama.cpp cannot load an adapter.
    """

    def __init__(self, path: Path, *, adapters: Sequence[tuple[str, Path]] = (), gpu_layers: int = 0) -> None:
        self._c = load_library()
        params = self._c.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.use_extra_bufts = not _plain.is_set()
        self.plain = _plain.is_set()
        """Whether it is computed with plain kernels."""
        self._model = self._c.llama_model_load_from_file(bytes(path), params)
        if not self._model:
            raise ModelFileError(
                f"llama.cpp cannot load {str(path)!r} and gives no reason. The file may be damaged, or its "
                f"architecture too new for llama-cpp-python {self._c.__version__}: try to update that."
            )
        self._vocabulary = self._c.llama_model_get_vocab(self._model)
        self.size: int = self._c.llama_vocab_n_tokens(self._vocabulary)
        """Tokens of the vocabulary."""
        adds_bos = self._c.llama_vocab_get_add_bos(self._vocabulary)
        self.bos: int | None = self._c.llama_vocab_bos(self._vocabulary) if adds_bos else None
        self.adapters: list[Any] = []
        for name, file in adapters:
            adapter = self._c.llama_adapter_lora_init(self._model, bytes(file))
            if not adapter:
                self.free()
                raise AdapterError(f"adapter {name!r}: llama.cpp cannot load {str(file)!r}, and gives no reason.")
            self.adapters.append(adapter)
        self._pieces: dict[int, bytes] = {}

    def free(self) -> None:
        """Frees the model; nothing may be called after it, and no context may be left."""
        self._c.llama_model_free(self._model)  # its adapters too

    def tokenize(self, texts: Sequence[str], special: bool) -> list[int]:
        """Token ids of texts that are tokenised apart, without BOS. See `chat_template.Tokenize`."""
        found: list[int] = []
        for text in texts:
            raw = text.encode()
            size = len(raw) + 8
            for _ in range(2):
                ids = (ctypes.c_int32 * size)()
                count = self._c.llama_tokenize(self._vocabulary, raw, len(raw), ids, size, False, special)
                if count >= 0:
                    found += ids[:count]
                    break
                size = -count
            else:
                raise BackendError(f"llama.cpp could not tokenise a text of {len(raw)} bytes.")
        return found

    def piece(self, token: int) -> bytes:
        """The bytes of a token; none for markup, such as the end of a turn."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._piece(token)
        return known

    def ends(self, token: int) -> bool:
        """Whether the token ends a reply."""
        return bool(self._c.llama_vocab_is_eog(self._vocabulary, token))

    def special_text(self, token: int) -> str:
        """A token's text, markup spelled out, as templates want BOS and EOS."""
        return self._piece(token, special=True).decode(errors="replace") if token >= 0 else ""

    @property
    def bos_text(self) -> str:
        """What templates write as `bos_token`."""
        return self.special_text(self._c.llama_vocab_bos(self._vocabulary))

    @property
    def eos_text(self) -> str:
        """What templates write as `eos_token`."""
        return self.special_text(self._c.llama_vocab_eos(self._vocabulary))

    def _piece(self, token: int, *, special: bool = False) -> bytes:
        size = _PIECE_BYTES
        for _ in range(2):
            buffer = ctypes.create_string_buffer(size)
            count = self._c.llama_token_to_piece(self._vocabulary, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count
        return b""

    def context(self, settings: ContextSettings) -> NativeContext:
        """Memory to compute in.

        Raises:
            OutOfMemory: it could not be had.
        """
        return NativeContext(self._c, self._model, self, settings)


class NativeContext:
    """Sequences of tokens and what was computed of them. One thread at a time may use it."""

    def __init__(self, module: Any, model: Any, owner: NativeModel, settings: ContextSettings) -> None:
        self._c, self._owner, self._size = module, owner, owner.size
        self.batch, self.threads = settings.batch, settings.threads
        params = module.llama_context_default_params()
        params.n_ctx = settings.context * settings.sequences
        params.n_seq_max = settings.sequences
        params.n_batch = params.n_ubatch = settings.batch
        params.n_threads = params.n_threads_batch = settings.threads
        params.kv_unified, params.no_perf = False, True
        # On a CPU, flash attention made the first token under a config of 600 tokens 1.3 times as slow.
        params.flash_attn_type = _FLASH_AUTO if module.llama_supports_gpu_offload() else _FLASH_OFF
        self._context = module.llama_init_from_model(model, params)
        if not self._context:
            raise OutOfMemory(
                f"llama.cpp could not get memory for {settings.sequences} sequences of {settings.context} tokens. "
                "Lower the options sequences or context."
            )
        self._memory = module.llama_get_memory(self._context)
        self._inputs = module.llama_batch_init(settings.batch, 0, 1)
        self._applied: tuple[tuple[int, float], ...] = ()

    def free(self) -> None:
        """Frees its memory; nothing may be called after it."""
        self._c.llama_batch_free(self._inputs)
        self._c.llama_free(self._context)

    def apply(self, adapters: tuple[tuple[int, float], ...]) -> None:
        """Which adapters, by number, at which scales, what is computed next goes through."""
        if adapters == self._applied:
            return
        count = len(adapters)
        chosen = (self._c.llama_adapter_lora_p_ctypes * max(count, 1))(*(self._owner.adapters[i] for i, _ in adapters))
        scales = (ctypes.c_float * max(count, 1))(*(scale for _, scale in adapters))
        if self._c.llama_set_adapters_lora(self._context, chosen, count, scales):
            raise BackendError("llama.cpp could not apply the adapters of this request.")
        self._applied = adapters

    def compute(self, inputs: Sequence[Input]) -> None:
        """Computes at most `batch` tokens.

        Raises:
            BackendError: llama.cpp failed; what the sequences hold is unknown then.
        """
        batch = self._inputs
        batch.n_tokens = len(inputs)
        tokens, positions, wanted = batch.token, batch.pos, batch.logits
        counts, sequences = batch.n_seq_id, batch.seq_id
        for index, one in enumerate(inputs):
            tokens[index], positions[index], wanted[index] = one.token, one.position, one.wanted
            counts[index], sequences[index][0] = 1, one.sequence
        failed = self._c.llama_decode(self._context, batch)
        if failed:
            raise BackendError(f"llama.cpp could not compute {len(inputs)} tokens (code {failed}).")

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """What the last `compute` says of the token behind input `index`: a view, valid until the next."""
        pointer = self._c.llama_get_logits_ith(self._context, index)
        if not pointer:
            raise BackendError("llama.cpp computed a token and shows no logits of it.")
        import numpy as np  # noqa: PLC0415  # comes with llama-cpp-python

        return np.ctypeslib.as_array(pointer, shape=(self._size,))

    def trim(self, sequence: int, length: int) -> bool:
        """Forgets what a sequence holds behind its first `length` tokens; False where the model cannot."""
        return bool(self._c.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def clear(self, sequence: int) -> None:
        """Forgets all that a sequence holds."""
        self._c.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def save(self, sequence: int) -> bytearray:
        """All that was computed of a sequence."""
        size = self._c.llama_state_seq_get_size(self._context, sequence)
        state = bytearray(size)
        if self._c.llama_state_seq_get_data(self._context, _bytes_of(state), size, sequence) != size:
            raise BackendError("llama.cpp did not give the state of a sequence.")
        return state

    def restore(self, sequence: int, state: bytearray) -> bool:
        """Puts back what `save` gave, in place of what the sequence holds; False, and empty, where it does not fit."""
        self.clear(sequence)
        if self._c.llama_state_seq_set_data(self._context, _bytes_of(state), len(state), sequence) == len(state):
            return True
        self.clear(sequence)
        return False


def _bytes_of(state: bytearray) -> Any:
    return (ctypes.c_uint8 * len(state)).from_buffer(state)
