"""llama.cpp's server inside this process, locked down, and the HTTP it is spoken to with.

Its port is open to every process of this machine, past the guard, so it listens on 127.0.0.1 only, asks for a key that
lives in this process, and has its optional endpoints off.

HTTP is the standard library's: a socket that can be shut from another thread is what makes `close` safe. Destroying the
server waits for its handlers *while holding the interpreter's lock*, so one answer still in flight would stop the whole
process for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import importlib
import json
import math
import secrets
import socket
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cosa_guard.backends.gguf import GGUFHeader
from cosa_sdk.errors import BackendError, MissingExtra, ModelFileError, PromptTooLong

__all__ = [
    "TEMPLATE_PATH",
    "LlamaServer",
    "ServerRefused",
    "ServerSettings",
]

TEMPLATE_PATH: Final = "/apply-template"
_TEMPLATE_S: Final = 30.0
"""A template that takes longer has no end. Ordinary ones take a millisecond."""
_HTTP_THREADS: Final = 64
"""One is taken by each request that runs or waits; they sleep otherwise."""


class ServerRefused(BackendError):
    """The server answered with an error; `reason` is its own words."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(f"llama.cpp refused the request: {reason} (HTTP {status}).")
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What the server is started with; every value is decided."""

    model: GGUFHeader
    context: int
    """Tokens of one request."""
    slots: int
    threads: int
    batch: int
    prefix_cache_mib: int
    adapters: tuple[Path, ...] = ()
    chat_template: str | None = None
    timeout_s: float = 600.0


@dataclass(slots=True)
class _Live:
    """The parts that outlive the server object until they are shut down."""

    native: Any
    sockets: set[socket.socket] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: bool = False
    stuck: bool = False
    """A thread of the server will never come back; its destructor would wait for it."""

    def adopt(self, own: socket.socket) -> bool:
        """Whether the socket may be used; it is shut when the server stops."""
        with self.lock:
            if not self.closed:
                self.sockets.add(own)
            return not self.closed

    def release(self, own: socket.socket) -> None:
        """Hangs up, which makes the server give the request up."""
        with self.lock:
            self.sockets.discard(own)
            with contextlib.suppress(OSError):  # the other side was quicker
                own.shutdown(socket.SHUT_RDWR)
            own.close()

    def shut_down(self) -> None:
        with self.lock:
            self.closed = True
            for own in self.sockets:
                with contextlib.suppress(OSError):
                    own.shutdown(socket.SHUT_RDWR)
            native, self.native = self.native, None
        if self.stuck and native is not None:
            # Never destroyed, not even at the interpreter's end, where that would hang the process.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))
        del native  # its destructor stops the server, and may wait for the batch that is being computed


class LlamaServer:
    """One model, loaded and answering. Many threads may use it."""

    def __init__(self, settings: ServerSettings) -> None:
        self._file = settings.model.path.name
        self._timeout_s = settings.timeout_s
        key = secrets.token_hex(32)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Connection": "close"}
        module = _load()
        try:
            native = module.Server(_params(module, settings, key))
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"llama.cpp cannot load {str(settings.model.path)!r} and gives no reason ({error}). The file may be "
                f"damaged, its architecture ({settings.model.architecture!r}) may be too new for this xllamacpp, or "
                "memory may be short."
            ) from error
        address = urlsplit(native.listening_address)
        self._address = (address.hostname or "127.0.0.1", address.port or 0)
        self._live = _Live(native)
        # Also at interpreter exit: a server destroyed with answers in flight crashes the process.
        self._stop = weakref.finalize(self, self._live.shut_down)

    @property
    def address(self) -> str:
        """Where it listens, for tests of what is closed."""
        return f"http://{self._address[0]}:{self._address[1]}"

    def close(self) -> None:
        """Stops the server; answers in flight end with a BackendError. May be called again."""
        self._stop()

    def call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One request, one JSON answer.

        Raises:
            ServerRefused: the server answered with an error.
            BackendError: it is closed, dead or silent.
        """
        with self._post(path, body) as response:
            answer: dict[str, Any] = json.loads(response.read())
        return answer

    @contextlib.contextmanager
    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
        """One request, many JSON events. Leaving the context makes the server stop."""
        with self._post(path, body) as response:
            yield _events(response)

    @contextlib.contextmanager
    def _post(self, path: str, body: Mapping[str, Any]) -> Iterator[http.client.HTTPResponse]:
        # A connection each: the server ends those that streamed, and a kept one holds one of its threads.
        patience = min(_TEMPLATE_S, self._timeout_s) if path == TEMPLATE_PATH else self._timeout_s
        connection = http.client.HTTPConnection(*self._address, timeout=patience)
        try:
            own = self._connect(connection)
            try:
                connection.request("POST", path, json.dumps(body).encode(), self._headers)
                with connection.getresponse() as response:
                    if response.status != http.client.OK:
                        raise _refusal(response.read(), response.status)
                    yield response
            finally:
                self._live.release(own)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, TimeoutError) and path == TEMPLATE_PATH:
                self._live.stuck = True
                raise ModelFileError(
                    f"the chat template of {self._file!r} did not come to an end within {patience:g} s: it is damaged, "
                    "or written to do harm. Pass one that you trust with the option chat_template."
                ) from error
            raise self._lost(error) from error

    def _connect(self, connection: http.client.HTTPConnection) -> socket.socket:
        if self._live.closed:
            raise self._closed()
        connection.connect()
        # http.client forgets its socket once the answer begins; shutting it down needs it.
        own: socket.socket = connection.sock
        if not self._live.adopt(own):
            own.close()
            raise self._closed()
        return own

    def _closed(self) -> BackendError:
        return BackendError(f"the model {self._file!r} was closed; make a new backend.")

    def _lost(self, error: Exception) -> BackendError:
        if self._live.closed:
            return BackendError(f"the model {self._file!r} was closed while it answered.")
        if isinstance(error, TimeoutError):
            return BackendError(
                f"the model {self._file!r} was silent for {self._timeout_s:g} s. The prompt may be too long for this "
                "machine: shorten it, or raise the option timeout_s."
            )
        return BackendError(f"the server of {self._file!r} does not answer any more ({error!r}). Make a new backend.")


def _load() -> Any:
    try:
        return importlib.import_module("xllamacpp")
    except ModuleNotFoundError as error:
        raise MissingExtra("the backend 'xllamacpp'", "local") from error
    except ImportError as error:
        hint = " On Debian and Ubuntu: apt-get install libgomp1." if "libgomp" in str(error) else ""
        raise BackendError(f"xllamacpp is installed but cannot be loaded: {error}.{hint}") from error


def _params(module: Any, settings: ServerSettings, key: str) -> Any:
    """The server's parameters: what was asked for, and everything closed that can be."""
    params = module.CommonParams()
    params.model.path = str(settings.model.path)
    params.n_parallel = settings.slots
    # Each slot has a cache of its own: one shared cache is cleared of idle prefixes with every new request.
    params.kv_unified = False
    params.n_ctx = settings.context * settings.slots
    # The server notices a hang-up between batches only, so a large one would delay every stop.
    params.n_batch = params.n_ubatch = settings.batch
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = settings.threads
    # The cache in RAM goes by tokens alone: it would hand the state of one adapter to another
    # (ggml-org/llama.cpp#26207; our own tests show it).
    params.cache_ram_mib = 0 if settings.adapters else settings.prefix_cache_mib
    params.lora_adapters = [_lora(module, path) for path in settings.adapters]
    params.chat_template = settings.chat_template or ""
    params.prefill_assistant = False
    params.warmup = False

    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.n_threads_http = _HTTP_THREADS
    params.timeout_read = params.timeout_write = math.ceil(settings.timeout_s)
    params.endpoint_props = params.endpoint_slots = params.endpoint_metrics = params.ui = False
    params.cors_origins, params.cors_credentials = "", False
    params.verbosity = -1
    return params


def _lora(module: Any, path: Path) -> Any:
    info = module.CommonAdapterLoraInfo()
    info.path, info.scale = str(path), 0.0
    return info


def _refusal(raw: bytes, status: int) -> BackendError | PromptTooLong:
    try:
        error = json.loads(raw)["error"]
    except (ValueError, KeyError, TypeError):
        error = {"message": raw[:200].decode("utf-8", errors="replace")}
    return _error(error, status)


def _error(error: Mapping[str, Any], status: int) -> BackendError | PromptTooLong:
    reason = str(error.get("message", "no reason"))
    if error.get("type") == "exceed_context_size_error":
        return PromptTooLong(reason, tokens=int(error.get("n_prompt_tokens", 0)), budget=int(error.get("n_ctx", 0)))
    return ServerRefused(reason, status)


def _events(lines: Sequence[bytes] | http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in lines:
        kind, _, payload = line.partition(b": ")
        if kind not in (b"data", b"error"):
            continue
        event = json.loads(payload)
        if kind == b"error" or "error" in event:
            error = event.get("error", event)
            raise _error(error, int(error.get("code", 500)))
        yield event
