"""Time to first token under a 600-token config, cold and warm, against the same prompt without a config.

Baseline: the same question with no system prompt on the same model, taking turns. Cold means that the config was never
seen by the process; warm means that its prefix is in the backend's cache.
"""

from __future__ import annotations

import time

from _measure import median, row

from cosa_guard import backends
from cosa_guard.messages import Message, Request, Sampling

LINE = "- Rule {n}: talk of topic {n} is allowed in fiction and news, never as instructions for real use.\n"
ROUNDS = 7
SAMPLING = Sampling(max_tokens=4)


def config_text(backend: object, seed: int, tokens: int) -> str:
    """A config of about `tokens` tokens that no other seed shares a prefix with."""
    text = f"You are assistant number {seed}. Follow these rules.\n"
    n = 0
    while backend.count_tokens(Request(messages=(Message("system", text), Message("user", "")))) < tokens:  # type: ignore[attr-defined]
        n += 1
        text += LINE.format(n=seed * 1000 + n)
    return text


def first_token(backend: object, messages: tuple[Message, ...]) -> float:
    started = time.perf_counter()
    stream = backend.stream(Request(messages=messages, sampling=SAMPLING))  # type: ignore[attr-defined]
    next(stream)
    seconds = time.perf_counter() - started
    stream.close()
    return seconds


def main() -> None:
    backend = backends.make("local")
    user = [Message("user", f"Question {n}: what is a good name for a ship?") for n in range(3 * ROUNDS)]
    warm = Message("system", config_text(backend, 99, 600))
    first_token(backend, (warm, Message("user", "hello")))
    seconds: dict[str, list[float]] = {"no config": [], "cold": [], "warm": []}
    for n in range(ROUNDS):
        cold = Message("system", config_text(backend, n, 600))
        seconds["no config"].append(first_token(backend, (user[3 * n],)))
        seconds["cold"].append(first_token(backend, (cold, user[3 * n + 1])))
        seconds["warm"].append(first_token(backend, (warm, user[3 * n + 2])))
    size = backend.count_tokens(Request(messages=(warm, Message("user", ""))))  # type: ignore[attr-defined]
    print(f"{backend.name}, config of {size} tokens, {ROUNDS} rounds in turn")
    row("", "median ms", "÷ no config", "÷ warm")
    for name, values in seconds.items():
        ms = median(values) * 1e3
        row(
            name,
            f"{ms:.0f}",
            f"{ms / median(seconds['no config']) / 1e3:.2f}",
            f"{ms / median(seconds['warm']) / 1e3:.2f}",
        )


if __name__ == "__main__":
    main()
