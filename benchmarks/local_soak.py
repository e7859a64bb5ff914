"""Random traffic on a local backend: is memory flat, does every request end, is every place free at the end?

Baseline: the memory that the process has after the first tenth of the time. 16 clients ask under 24 configs, stop at
random moments (a third of them before the end), ask for JSON and for log-odds, and send prompts that are too long.

Usage: local_soak.py [BACKEND], llama-cpp by default. BENCH_SOAK: seconds, 60; BENCH_MODEL: the default model.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from _measure import row
from local_runtime import config_text, open_backend, request

from cosa_guard.backends.models import resolve_model
from cosa_guard.messages import Request, Sampling
from cosa_sdk.errors import PromptTooLong

SECONDS = float(os.environ.get("BENCH_SOAK", "60"))
CLIENTS, CONFIGS = 16, 24
SCHEMA = '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}'


def memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def asked(draw: random.Random, configs: list[str]) -> Request:
    sampling = Sampling(
        max_tokens=draw.randint(1, 32),
        temperature=draw.choice([0.0, 1.0]),
        seed=draw.randint(0, 9),
        json_schema=SCHEMA if draw.random() < 0.1 else None,
        stop=("\n\n",) if draw.random() < 0.2 else (),
    )
    return request(draw.choice(configs), f"Question {draw.randint(0, 999)}: what is {draw.random()}?").replace(
        sampling=sampling, scope=draw.choice("abcd")
    )


def one(backend: Any, draw: random.Random, configs: list[str]) -> str:
    chance = draw.random()
    if chance < 0.05:
        try:
            list(backend.stream(request("x", "word " * 5000)))
        except PromptTooLong:
            return "too long"
    if chance < 0.15:
        assert backend.next_logprobs(asked(draw, configs))
        return "log-odds"
    stream = backend.stream(asked(draw, configs))
    if chance < 0.45:
        for _ in range(draw.randint(0, 6)):
            if next(stream, None) is None:
                break
        stream.close()
        return "given up"
    assert list(stream)[-1].finish in ("stop", "length")
    return "whole"


def main() -> None:
    backend = open_backend(
        sys.argv[1] if sys.argv[1:] else "llama-cpp", resolve_model(os.environ.get("BENCH_MODEL")), parallel=4
    )
    configs = [config_text(number, lines=2) for number in range(CONFIGS)]
    done: Counter[str] = Counter()
    until = time.monotonic() + SECONDS

    def client(number: int) -> None:
        draw = random.Random(number)
        while time.monotonic() < until:
            done[one(backend, draw, configs)] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    print(f"{backend.name}, {CLIENTS} clients, {CONFIGS} configs, {SECONDS:.0f} s")
    row("seconds", "requests", "MiB")
    first = None
    for step in range(1, 11):
        time.sleep(max(0.0, until - SECONDS * (1 - step / 10) - time.monotonic()))
        first = first or memory_mib()
        row(f"{step * SECONDS / 10:.0f}", sum(done.values()), f"{memory_mib():.0f}")
    for thread in threads:
        thread.join()
    list(backend.stream(request("x", "One more.")))  # what was given up last is noticed with the next batch
    print(
        f"memory {memory_mib() / (first or 1):.3f} × that after a tenth; {dict(done)}; "
        f"idle: {getattr(backend, 'idle', 'it does not say')}"
    )
    backend.close()
    print("threads left:", [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()])


if __name__ == "__main__":
    main()
