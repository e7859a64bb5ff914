"""Loads files in a child process before this one does: llama.cpp aborts, crashes or hangs on some damaged ones.

What passed is remembered, so a file pays once. The child sees the vocabulary, every tensor, the chat template and one
small computation with the adapters applied. A file that is written to fool this check can still harm: it protects from
damage and from crude attacks, and is no sandbox.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from cosa_guard.backends.models import DEFAULT_MODEL, cache_folder
from cosa_sdk.errors import AdapterError, BackendError, ModelFileError

__all__ = ["Kernels", "Library", "check_loads"]

Library = Literal["llama_cpp", "xllamacpp"]
Kernels = Literal["all", "plain"]
"""What computes without a crash: all that the library was built with, or only what needs no rearranged weights."""

_DISTRIBUTIONS: Final = {"llama_cpp": "llama-cpp-python", "xllamacpp": "xllamacpp"}
_REMEMBERED: Final = 512
_LEAST_S: Final = 60.0
_BYTES_PER_S: Final = 20_000_000
"""Reading from a slow disk."""
_SPARE_BYTES: Final = 4 << 30
"""Address space beside the files: libraries, stacks, what is computed."""
_LONGEST_WORDS: Final = 300
_NO_LIBRARY: Final = 3
_STAGE, _DONE, _COMPUTING = "stage: ", "done", "computing"
_ENDED: Final = "it was ended by"
_KERNELS: Final[tuple[Kernels, ...]] = ("all", "plain")
_MARKS: Final = {"all": "", "plain": " plain"}
_REASONS: Final = (
    "GGML_ASSERT",
    "gguf_init",
    "error loading model",
    "failed to apply lora",
    " E ",
    "failed",
    "terminate",
    "Error",
)
"""What lines that give a reason have in them, the most telling first."""

_BEGIN: Final = """
import json, os, sys
told = json.load(sys.stdin)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (told["bytes"], told["bytes"]))
except (ImportError, OSError, ValueError):
    pass
sys.path[:0] = told["folders"]
TEXT = "Hello, world! 1234 \\u00e9 \\U0001f98a <|im_end|>"
ROLES = (["user"], ["system", "user"], ["system", "user", "assistant", "user"])
def now(stage):
    print("stage:", stage, flush=True)
"""
_END: Final = """
now("done")
os._exit(0)
"""
_XLLAMACPP: Final = """
try:
    import xllamacpp as x
except ImportError:
    sys.exit(3)
import http.client
now("loading")
p = x.CommonParams()
p.model.path, p.chat_template = told["model"], told["template"] or ""
p.n_parallel, p.n_ctx, p.n_batch, p.n_ubatch, p.warmup, p.verbosity = 1, 128, 64, 64, False, 1
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.hostnames, p.port, p.api_keys, p.n_threads_http, p.ui = ["127.0.0.1"], 0, [told["key"]], 2, False
adapters = []
for path in told["adapters"]:
    a = x.CommonAdapterLoraInfo()
    a.path, a.scale = path, 0.0
    adapters.append(a)
p.lora_adapters = adapters
server = x.Server(p)
def post(path, body):
    c = http.client.HTTPConnection(server.listening_address.split("//")[-1].rstrip("/"))
    c.request("POST", path, json.dumps(body), {"Authorization": "Bearer " + told["key"]})
    return json.loads(c.getresponse().read())
now("rendering its chat template")
for roles in ROLES:
    post("/apply-template", {"messages": [{"role": role, "content": "c0123456789abcdef"} for role in roles]})
now("computing")
lora = [{"id": n, "scale": 1.0} for n in range(len(adapters))]
answer = post("/completion", {"prompt": TEXT, "n_predict": 2, "temperature": 0.0, "n_probs": 5, "lora": lora})
if "error" in answer:
    sys.exit(str(answer["error"]))
found = [one["logprob"] for token in answer["completion_probabilities"] for one in token["top_logprobs"]]
if not all(isinstance(one, (int, float)) and one > -1e30 for one in found):
    sys.exit("what it computes are no numbers")
"""
_LLAMA_CPP: Final = """
try:
    import ctypes, llama_cpp as c
except (ImportError, RuntimeError, OSError):
    sys.exit(3)
now("loading")
params = c.llama_model_default_params()
params.n_gpu_layers, params.use_extra_bufts = 0, not told["plain"]
model = c.llama_model_load_from_file(told["model"].encode(), params)
if not model:
    sys.exit("cannot load the model")
adapters = [c.llama_adapter_lora_init(model, path.encode()) for path in told["adapters"]]
if not all(adapters):
    sys.exit("cannot load the adapter")
settings = c.llama_context_default_params()
settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_threads, settings.n_threads_batch = 128, 64, 64, 1, 1
context = c.llama_init_from_model(model, settings)
if not context:
    sys.exit("cannot make a context")
now("rendering its chat template")
found = c.llama_model_chat_template(model, None)
text = told["template"] or (found or b"").decode(errors="replace")
import jinja2, jinja2.ext, jinja2.sandbox
def refuse(message):
    raise jinja2.TemplateError(message)
rooms = jinja2.sandbox.ImmutableSandboxedEnvironment(extensions=[jinja2.ext.loopcontrols])
rooms.globals.update(raise_exception=refuse, strftime_now=lambda form: "")
for roles in ROLES:
    turns = [{"role": role, "content": "c0123456789abcdef"} for role in roles]
    try:
        rooms.from_string(text).render(messages=turns, add_generation_prompt=True, bos_token="", eos_token="")
    except MemoryError:
        raise
    except Exception:
        pass  # it refuses the roles, or is no template: the backend says so
now("computing")
vocabulary = c.llama_model_get_vocab(model)
raw = TEXT.encode()
ids = (ctypes.c_int32 * 64)()
count = c.llama_tokenize(vocabulary, raw, len(raw), ids, 64, True, True)
if count <= 0 or not all(0 <= ids[n] < c.llama_vocab_n_tokens(vocabulary) for n in range(count)):
    sys.exit("its vocabulary gives no tokens for a text")
if adapters:
    kind = type(adapters[0])
    handles = (c.llama_adapter_lora_p_ctypes * len(adapters))(*adapters)
    c.llama_set_adapters_lora(context, handles, len(adapters), (ctypes.c_float * len(adapters))(*[1.0] * len(adapters)))
if c.llama_decode(context, c.llama_batch_get_one(ids, count)):
    sys.exit("cannot compute")
logits = c.llama_get_logits_ith(context, -1)
if not all(-1e30 < logits[n] < 1e30 for n in range(c.llama_vocab_n_tokens(vocabulary))):
    sys.exit("what it computes are no numbers")
piece = ctypes.create_string_buffer(4096)
for token in range(c.llama_vocab_n_tokens(vocabulary)):
    c.llama_token_to_piece(vocabulary, token, piece, 4096, 0, True)
"""
_SCRIPTS: Final = {"llama_cpp": _BEGIN + _LLAMA_CPP + _END, "xllamacpp": _BEGIN + _XLLAMACPP + _END}

_log = logging.getLogger(__name__)
_passed: set[str] = set()
_lock = threading.Lock()


def check_loads(
    library: Library,
    model: Path,
    adapters: Sequence[Path] = (),
    *,
    chat_template: str | None = None,
    timeout_s: float | None = None,
) -> Kernels:
    """Loads a model and its adapters in a child process, unless they passed before; says what it computes with.

    Does nothing where the library is not installed, or where no child process can be had. llama-cpp-python is compiled
    for the processor that it is built on, and crashes on some: then the child tries again with plain kernels.

    Args:
        library: What shall load them.
        model: A GGUF model.
        adapters: GGUF LoRA files for it.
        chat_template: Jinja text that is used instead of the model's own.
        timeout_s: Seconds for one child; None: a minute and more for large files.

    Raises:
        ModelFileError: the model cannot be loaded, or the child died, hung or took all memory.
        AdapterError: the same, of an adapter.
    """
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.origin or not sys.executable or getattr(sys, "frozen", False):
        return "all"
    built = Path(spec.origin).stat() if library == "llama_cpp" else None
    key = _key(library, (model, *adapters), chat_template, _facts(built) if built else ())
    for known in _KERNELS:
        if _known(f"{key}{_MARKS[known]}"):
            return known
    kernels: Kernels = "all"
    if built or adapters or not _published(model):
        child = _Child(library, [str(Path(spec.origin).parents[1])], chat_template, timeout_s)
        fault = child.fault(model, adapters)
        crashed = built and fault is not None and _ENDED in fault and _COMPUTING in fault
        if crashed and child.fault(model, adapters, plain=True) is None:
            _log.warning(
                "%s %s crashes on this processor with the kernels it was built with (%s); plain ones are used, which "
                "are slower. docs/howto-local.md says how to build it again.",
                _DISTRIBUTIONS[library], _version(library), fault,
            )  # fmt: skip
            kernels = "plain"
        elif fault is not None:
            raise _blamed(child, model, adapters, fault)
    _remember(f"{key}{_MARKS[kernels]}")
    return kernels


def _blamed(child: _Child, model: Path, adapters: Sequence[Path], fault: str) -> BackendError:
    alone = child.fault(model) if adapters else fault
    again = "It is damaged, or written to do harm: fetch it again, from a source that you trust"
    if alone is not None:
        return ModelFileError(
            f"{child.name} cannot load the model {str(model)!r}: {alone}. {again}; or it is too new for "
            f"{_DISTRIBUTIONS[child.library]} {_version(child.library)}: update that."
        )
    for adapter in adapters if len(adapters) > 1 else ():
        found = child.fault(model, [adapter])
        if found is not None:
            return _adapter_fault(child, model, [adapter], found, again)
    return _adapter_fault(child, model, adapters, fault, again)


def _adapter_fault(child: _Child, model: Path, adapters: Sequence[Path], fault: str, again: str) -> AdapterError:
    names = ", ".join(repr(str(adapter)) for adapter in adapters)
    return AdapterError(f"{child.name} cannot apply the adapter {names} to {model.name!r}: {fault}. {again}.")


class _Child:
    """Loads files apart from this process."""

    def __init__(self, library: Library, folders: list[str], template: str | None, timeout_s: float | None) -> None:
        self.library: Library = library
        self.name = "llama.cpp"
        self._folders, self._template, self._timeout_s = folders, template, timeout_s

    def fault(self, model: Path, adapters: Sequence[Path] = (), *, plain: bool = False) -> str | None:
        """What went wrong, in words, or None."""
        size = sum(path.stat().st_size for path in (model, *adapters))
        timeout_s = self._timeout_s or _LEAST_S + size / _BYTES_PER_S
        told: dict[str, Any] = {
            "model": str(model.resolve()),
            "adapters": [str(path.resolve()) for path in adapters],
            "template": self._template,
            "plain": plain,
            "folders": self._folders,
            "bytes": 3 * size + _SPARE_BYTES,
            "key": os.urandom(16).hex(),
        }
        # In files, not pipes: what the child leaves running must not keep this process waiting.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as asked:
            asked.write(json.dumps(told).encode())
            asked.seek(0)
            try:
                done = subprocess.run(  # noqa: S603  # our own interpreter and script
                    [sys.executable, "-I", "-c", _SCRIPTS[self.library]],
                    stdin=asked,
                    stdout=out,
                    stderr=err,
                    # Where it aborts, llama.cpp would start a debugger to show where.
                    env=os.environ | {"GGML_NO_BACKTRACE": "1"},
                    timeout=timeout_s,
                    check=False,
                )
                code: int | None = done.returncode
            except subprocess.TimeoutExpired:
                code = None
            except OSError:  # no processes here, as in some sandboxes: the file is loaded as it would be without us
                return None
            stages = [line.removeprefix(_STAGE) for line in _lines(out) if line.startswith(_STAGE)]
            stage = (stages or ["beginning"])[-1]
            return _said(code, stage, _words(_lines(err)), timeout_s)


def _lines(file: Any) -> list[str]:
    file.seek(0)
    text = file.read(1 << 20).decode("utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _words(lines: list[str]) -> str:
    """The line that gives a reason, else the last one; without llama.cpp's clock and level."""
    line = next((line for mark in _REASONS for line in lines if mark in line), (lines or [""])[-1])
    # Where an assertion stands in the file of whoever compiled it tells nobody anything.
    words = line[line.index("GGML_ASSERT") :] if "GGML_ASSERT" in line else line.partition(" E ")[2].strip() or line
    return words[:_LONGEST_WORDS]


def _said(code: int | None, stage: str, words: str, timeout_s: float) -> str | None:
    if code == _NO_LIBRARY or (code == 0 and stage == _DONE):
        return None
    last = f"; its last words: {words}" if words else ""
    if code is None:
        return f"it did not come to an end within {timeout_s:g} s of {stage}"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"{_ENDED} {signal.Signals(-code).name} while {stage}{last}"
    if code > 0 and words:
        return f"{words} (while {stage})"
    return f"it ended with code {code} while {stage}{last}"


def _published(model: Path) -> bool:
    """It is the default model, bit by bit, which is known to load; hashing is quicker than a child."""
    if model.stat().st_size != DEFAULT_MODEL.bytes:
        return False
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == DEFAULT_MODEL.sha256


def _version(library: Library) -> str:
    try:
        return importlib.metadata.version(_DISTRIBUTIONS[library])
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _key(library: Library, files: Sequence[Path], template: str | None, built: Sequence[int]) -> str:
    facts = [(str(path.resolve()), *_facts(path.stat())) for path in files]
    about = json.dumps([library, _version(library), _SCRIPTS[library], facts, template, [*built], _processor()])
    return hashlib.blake2b(about.encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=1)
def _processor() -> str:
    """What the machine computes with, where the system tells: a home folder may be used on several machines."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                return line.partition(":")[2].strip()
    return platform.processor()


def _facts(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_dev


def _memory_file() -> Path:
    return cache_folder().parent / "checked.json"


def _read() -> list[str]:
    """What passed earlier, oldest first. A memory that is damaged or not there is empty."""
    try:
        found = json.loads(_memory_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _known(key: str) -> bool:
    with _lock:
        if key not in _passed and key in _read():
            _passed.add(key)
        return key in _passed


def _remember(key: str) -> None:
    with _lock:
        _passed.add(key)
        file = _memory_file()
        fresh = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="ascii") as written:
                fresh = Path(written.name)
                json.dump([*_read(), key][-_REMEMBERED:], written)
            fresh.replace(file)
        except OSError:  # no place to remember: each process pays once
            if fresh is not None:
                fresh.unlink(missing_ok=True)
