"""What local backends cost over the libraries they stand on, and what switching configs and adapters costs.

Baselines, each in the same run and taking turns: the raw library on the same token ids (`llama_cpp.Llama.generate`,
xllamacpp's `Server.handle_completions`, transformers' `generate`); the same question without a config; the same 8
requests one after the other. Through the guard: `Guard.stream` with the `rules` judge.

Usage: local_runtime.py [BACKEND …], of llama-cpp, transformers, xllamacpp; all that are installed by default. Threads:
COSA_THREADS, else 1. BENCH_ROUNDS, 5. BENCH_CONFIGS,
8,64: among how many is switched. BENCH_MODEL, the default model, as Q8_0 where llama-cpp is installed.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _measure import median, ratio, row

from cosa_guard import Guard
from cosa_guard.backends.models import resolve_model
from cosa_guard.messages import Adapter, Delta, Message, Request, Sampling
from cosa_guard.testing import FakeBackend
from cosa_sdk import SafetyConfig

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
THREADS = int(os.environ.get("COSA_THREADS", "1"))
CONFIGS = [int(count) for count in os.environ.get("BENCH_CONFIGS", "8,64").split(",")]
CONTEXT, WRITTEN = 2048, 48
CONFIG = SafetyConfig(
    name="bench",
    purpose="A plain assistant.",
    enforcement={"on_undecided": "allow"},
)
WORDS = ["ship", "harbour", "lantern", "river", "copper", "meadow", "winter", "letter", "garden", "engine", "violin"]
PACKAGES = {"llama-cpp": "llama_cpp", "transformers": "transformers", "xllamacpp": "xllamacpp"}


def words(count: int, seed: object) -> str:
    return " ".join(random.Random(str(seed)).choices(WORDS, k=count))


def config_text(number: int, lines: int = 26) -> str:
    """About 600 tokens that no other number shares a beginning with."""
    return f"You are assistant number {number}.\n" + "\n".join(
        f"- Rule {number * 100 + line}: {words(6, (number, line))} is allowed in fiction." for line in range(lines)
    )


def request(system: str | None, user: str, tokens: int = 1, adapter: str | None = None) -> Request:
    messages = (*([Message("system", system)] if system else []), Message("user", user))
    adapters = (Adapter(name=adapter),) if adapter else ()
    return Request(messages=messages, sampling=Sampling(max_tokens=tokens), adapters=adapters)


def timed(call: Callable[[], object]) -> tuple[float, Any]:
    gc.collect()
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def first_token(backend: Any, asked: Request) -> float:
    stream = backend.stream(asked)
    seconds, _ = timed(lambda: next(stream))
    stream.close()
    return seconds


def drain(backend: Any, asked: Request) -> int:
    return sum(delta.tokens for delta in backend.stream(asked))


# Raw libraries: ids and a number of tokens in; seconds to the first token, and seconds of each further one, out.
Rate = tuple[float, float]


def rate(started: float, times: list[float]) -> Rate:
    return times[0] - started, (times[-1] - times[0]) / max(len(times) - 1, 1)


def raw_llama_cpp(model: Path) -> Callable[[list[int], int], Rate]:
    import llama_cpp

    llama = llama_cpp.Llama(str(model), n_ctx=CONTEXT, n_threads=THREADS, n_threads_batch=THREADS, verbose=False)

    def run(ids: list[int], tokens: int) -> Rate:
        llama.reset()
        started, times = time.perf_counter(), []
        for _ in llama.generate(ids, temp=0.0, top_k=1, reset=True):
            times.append(time.perf_counter())
            if len(times) == tokens:
                break
        return rate(started, times)

    return run


def raw_xllamacpp(model: Path) -> Callable[[list[int], int], Rate]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.verbosity = str(model), CONTEXT, 1, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    server = xllamacpp.Server(params)
    told = {"temperature": 0.0, "top_k": 1, "cache_prompt": False}

    def run(ids: list[int], tokens: int) -> Rate:
        # By its own clock, which counts computing only.
        spent = server.handle_completions({"prompt": ids, "n_predict": tokens, **told})["timings"]
        return spent["prompt_ms"] / 1e3, spent["predicted_ms"] / 1e3 / max(spent["predicted_n"] - 1, 1)

    return run


def raw_transformers(model: Path) -> Callable[[list[int], int], Rate]:
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    where = {"gguf_file": model.name} if model.is_file() else {}
    folder = model.parent if model.is_file() else model
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where).eval()

    class Clock:
        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: object) -> None:
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def run(ids: list[int], tokens: int) -> Rate:
        given, clock = torch.tensor([ids]), Clock()
        told = {"attention_mask": torch.ones_like(given), "max_new_tokens": tokens, "do_sample": False}
        with torch.inference_mode():
            loaded.generate(given, streamer=clock, **told)
        return rate(clock.times[0], clock.times[1:])  # the first is the prompt

    return run


class Timed:
    """A backend that notes when its tokens are pulled."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.name, self.capabilities = inner, inner.name, inner.capabilities
        self.times: list[float] = []

    def stream(self, asked: Request) -> Iterator[Delta]:
        self.times = []
        for delta in self.inner.stream(asked):
            self.times.extend([time.perf_counter()] * delta.tokens)
            yield delta


RAW = {"llama-cpp": raw_llama_cpp, "xllamacpp": raw_xllamacpp, "transformers": raw_transformers}


def open_backend(kind: str, model: Path, *, parallel: int, adapters: dict[str, Path] | None = None) -> Any:
    told = {"context": CONTEXT, "threads": THREADS, "adapters": adapters or {}}
    if kind == "llama-cpp":
        from cosa_guard.backends.llama_cpp import LlamaCpp, LlamaCppOptions

        return LlamaCpp(
            model, options=LlamaCppOptions(sequences=parallel, requantize=False, prefix_ram_mib=1024, **told)
        )
    if kind == "xllamacpp":
        from cosa_guard.backends.xllamacpp import XLlamaCpp, XLlamaCppOptions

        return XLlamaCpp(model, options=XLlamaCppOptions(slots=parallel, prefix_cache_mib=1024, **told))
    from cosa_guard.backends.transformers import Transformers, TransformersOptions

    return Transformers(model, options=TransformersOptions(parallel=parallel, prefix_cache_mib=1024, **told))


def as_guarded(user: str) -> Request:
    """The request that the guard makes of a question."""
    seen = FakeBackend("Fine.")
    list(Guard(CONFIG, judge="rules", backend=seen, accept_unexamined=True).stream(user))
    return seen.requests[0]


def against_raw(kind: str, backend: Any, raw: Callable[[list[int], int], Rate]) -> None:
    """Prefill and generation, through the guard and without, ÷ raw."""
    timed_backend = Timed(backend)
    guard = Guard(CONFIG, judge="rules", backend=timed_backend, accept_unexamined=True)

    def guarded(user: str, tokens: int) -> Rate:
        started = time.perf_counter()
        for _ in guard.stream(user, sampling=Sampling(max_tokens=tokens)):
            pass
        return rate(started, timed_backend.times)

    def bare(user: str, tokens: int) -> Rate:
        asked = as_guarded(user).replace(sampling=Sampling(max_tokens=tokens))
        started = time.perf_counter()
        for _ in timed_backend.stream(asked):
            pass
        return rate(started, timed_backend.times)

    arms: dict[str, Callable[[str, int], Rate]] = {
        "raw": lambda user, tokens: raw(backend.render(as_guarded(user)), tokens),
        "backend": bare,
        "guard": guarded,
    }
    reading: dict[str, list[float]] = {name: [] for name in arms}
    writing: dict[str, list[float]] = {name: [] for name in arms}
    size = 0
    for turn in range(ROUNDS):
        # Another prompt for each arm, so that nobody finds it computed; those of one round are as long.
        for place, (name, arm) in enumerate(arms.items()):
            arm(f"Warm up {turn}.", 4)  # the model that ran before drove this one out of the caches
            long = f"Tell a long story of {turn}{place}: {words(450, (turn, place))}."
            size = len(backend.render(as_guarded(long)))
            before = backend.prefix_use.cached_tokens
            seconds_to_first = arm(long, 2)[0]
            # The guard's own config is in the cache by now; the raw library computes it each time.
            reading[name].append(seconds_to_first / (size - (backend.prefix_use.cached_tokens - before)))
            writing[name].append(arm(f"Tell me a long story of a fox, a crow and {words(5, turn)}.", WRITTEN)[1])
    for title, seconds in ((f"reads tokens/s ({size})", reading), ("writes tokens/s", writing)):
        best = {name: f"{1 / median(values):.0f}" for name, values in seconds.items()}
        ratios = [f"{1 / ratio(seconds, name, 'raw'):.3f}" for name in ("backend", "guard")]
        row(f"{kind}: {title}", *best.values(), *ratios)


def under_a_config(kind: str, backend: Any) -> None:
    """The first token under a warm config ÷ without one."""
    warm = config_text(9000)
    first_token(backend, request(warm, "Hello."))
    seconds: dict[str, list[float]] = {"none": [], "cold": [], "warm": []}
    for turn in range(ROUNDS):
        ask = [f"Question {turn}{place}: what is a good name for a ship?" for place in range(3)]
        seconds["none"].append(first_token(backend, request(None, ask[0])))
        seconds["cold"].append(first_token(backend, request(config_text(9100 + turn), ask[1])))
        seconds["warm"].append(first_token(backend, request(warm, ask[2])))
    size = backend.count_tokens(request(warm, ""))
    row(f"{kind}: config of {size} tokens, ms",
        *(f"{median(values) * 1e3:.1f}" for values in seconds.values()),
        f"{ratio(seconds, 'warm', 'none'):.2f}")  # fmt: skip


def switching(kind: str, model: Path) -> None:
    """Going to another warm config ÷ staying with one: what the first token takes longer, and the switch alone."""
    backend = open_backend(kind, model, parallel=8)
    for count in CONFIGS:
        texts = [config_text(number) for number in range(count)]
        for text in texts:
            backend.warm(text)
        order = [text for turn in range(max(2, 3 * ROUNDS // count)) for text in shuffled(texts, turn)]
        stay = [first_token(backend, request(texts[0], f"Question {turn}?")) for turn in range(8)]
        move = [first_token(backend, request(text, f"Question {turn}?")) for turn, text in enumerate(order)]
        alone = [timed(lambda text=text: backend.warm(text))[0] for text in order]
        same = [timed(lambda text=texts[0]: backend.warm(text))[0] for _ in order]
        cells = [f"{median(seconds) * 1e3:.2f}" for seconds in (stay, move, alone, same)]
        row(f"{kind}: {count} configs", *cells, state_bytes(backend))
    backend.close()


def shuffled(texts: list[str], seed: int) -> list[str]:
    return random.Random(seed).sample(texts, len(texts))


def state_bytes(backend: Any) -> str:
    use = getattr(backend, "store_use", None)
    return f"{use.bytes / use.held / 1e6:.1f}" if use is not None and use.held else "-"


def together(kind: str, model: Path) -> None:
    """8 requests with 8 configs at once ÷ one after the other, the configs warm."""
    backend = open_backend(kind, model, parallel=8)
    texts = [config_text(number) for number in range(8)]
    for text in texts:
        backend.warm(text)
    seconds: dict[str, list[float]] = {"row": [], "together": []}
    counts: dict[str, int] = {}

    def answer(asked: Request) -> int:
        return drain(backend, asked)

    with ThreadPoolExecutor(8) as pool:
        for turn in range(ROUNDS):
            asked = [request(text, f"Tell a long story of number {turn}.", WRITTEN) for text in texts]
            for name, run in (("row", map), ("together", pool.map)):
                spent, tokens = timed(lambda run=run, asked=asked: sum(run(answer, asked)))
                seconds[name].append(spent)
                counts[name] = tokens
    row(f"{kind}: 8 requests, 8 configs, s", *(f"{median(seconds[name]):.2f}" for name in seconds),
        f"{1 / ratio(seconds, 'together', 'row'):.2f}", f"{counts['row']} / {counts['together']}")  # fmt: skip
    backend.close()


def adapter_switch(kind: str, model: Path) -> None:
    """Another adapter with each request ÷ the same one, each config warm under each."""
    import numpy as np
    from gguf import GGUFReader

    reader = GGUFReader(str(model))
    fits = [tensor for tensor in reader.tensors if tensor.name.endswith("attn_v.weight")]
    shapes = {tensor.name: tuple(int(side) for side in tensor.shape) for tensor in fits}
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: write_adapter(kind, Path(folder) / name, shapes, draw) for name in ("one", "two")}
        backend = open_backend(kind, model, parallel=4, adapters=files)
        warm = config_text(1)
        for name in files:
            first_token(backend, request(warm, "Hello.", adapter=name))
        stay = [first_token(backend, request(warm, f"Question {turn}?", adapter="one")) for turn in range(4 * ROUNDS)]
        move = [
            first_token(backend, request(warm, f"Question {turn}?", adapter=("one", "two")[turn % 2]))
            for turn in range(4 * ROUNDS)
        ]
        row(f"{kind}: adapter switch", f"{median(stay) * 1e3:.1f}", f"{median(move) * 1e3:.1f}",
            f"{(median(move) - median(stay)) * 1e3:+.2f}")  # fmt: skip
        backend.close()


def write_adapter(kind: str, path: Path, shapes: dict[str, tuple[int, ...]], draw: Any) -> Path:
    """A LoRA of rank 8 on the values of all layers, of random numbers."""
    import json

    pairs = {
        name: (draw.normal(0, 0.02, (8, sides[0])), draw.normal(0, 0.02, (sides[1], 8)))
        for name, sides in shapes.items()
    }
    if kind == "transformers":
        from safetensors.numpy import save_file

        path.mkdir()
        told = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["v_proj"], "task_type": "CAUSAL_LM"}
        (path / "adapter_config.json").write_text(json.dumps(told))
        tensors = {}
        for name, pair in pairs.items():
            start = f"base_model.model.model.layers.{name.split('.')[1]}.self_attn.v_proj.lora_"
            tensors |= {
                f"{start}{part}.weight": matrix.astype("float32") for part, matrix in zip("AB", pair, strict=True)
            }
        save_file(tensors, path / "adapter_model.safetensors")
        return path
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    for name, pair in pairs.items():
        for part, matrix in zip("ab", pair, strict=True):
            writer.add_tensor(f"{name}.lora_{part}", matrix.astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def each(kinds: Iterable[str], title: str, *columns: str) -> Iterator[str]:
    print()
    row(title, *columns)
    yield from kinds


def the_model() -> Path:
    """BENCH_MODEL, else the default model; its Q8_0 copy where llama-cpp is installed, which uses that by itself."""
    model = resolve_model(os.environ.get("BENCH_MODEL"))
    if find_spec("llama_cpp") is None or os.environ.get("BENCH_MODEL"):
        return model
    from cosa_guard.backends.llama_cpp import LlamaCpp, LlamaCppOptions

    with LlamaCpp(model, options=LlamaCppOptions(context=256, threads=THREADS, requantize=True)) as backend:
        return backend.running.file


def main() -> None:
    installed = [kind for kind, package in PACKAGES.items() if find_spec(package) is not None]
    kinds = sys.argv[1:] or installed
    model = the_model()
    print(f"{model.name}, {THREADS} thread(s), {ROUNDS} rounds in turn, medians; ratios are medians over rounds")
    for kind in each(kinds, "against the raw library", "raw", "backend", "guard", "backend ÷ raw", "guard ÷ raw"):
        backend = open_backend(kind, model, parallel=1)
        against_raw(kind, backend, RAW[kind](model))
        backend.close()
    for kind in each(kinds, "one config", "no config", "cold", "warm", "warm ÷ none"):
        backend = open_backend(kind, model, parallel=4)
        under_a_config(kind, backend)
        backend.close()
    for kind in each(kinds, "switching", "stay ms", "move ms", "switch alone ms", "no switch ms", "MB a config"):
        switching(kind, model)
    for kind in each(kinds, "continuous batching", "in a row", "together", "row ÷ together", "tokens"):
        together(kind, model)
    for kind in each(kinds, "adapters, first token", "stay ms", "move ms", "added ms"):
        adapter_switch(kind, model)


if __name__ == "__main__":
    main()
