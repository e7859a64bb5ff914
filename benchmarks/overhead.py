"""What does the guard itself cost, over the bare backend, with the `rules` judge?

Baseline: the same FakeBackend, drained without a guard, in the same process and taking turns. Aims: under 100 µs a
call and under 5 µs a streamed token.
"""

from __future__ import annotations

import asyncio

from _measure import added, interleaved, row

from cosa_guard import Guard
from cosa_guard.messages import Message, Request
from cosa_guard.testing import FakeBackend, chunked
from cosa_sdk import presets

SENTENCE = "The crew meets at the harbour, and the plan is drawn on a napkin. "
TOKENS = chunked(SENTENCE * 60, [4] * 10_000)
REQUEST = Request(messages=(Message("user", "Write a scene."),))
CALLS = 200


def main() -> None:
    row("config", "µs a call", "µs a token", "async µs a call", "async µs a token")
    for name in ("customer-service", "childrens-learning"):
        config = presets.load(name)
        config = config.replace(enforcement={**config.enforcement.model_dump(), "on_undecided": "allow"})
        short, long = FakeBackend("A short reply."), FakeBackend(TOKENS)
        call = Guard(config, backend=short, accept_unexamined=True)
        stream = Guard(config, backend=long, accept_unexamined=True)

        async def areplies(call: Guard = call) -> None:
            for _ in range(CALLS):
                await call.areply("Write a scene.")

        async def astream(stream: Guard = stream) -> None:
            async for _ in stream.astream("Write a scene."):
                pass

        seconds = interleaved(
            {
                "bare call": lambda: [list(FakeBackend("A short reply.").stream(REQUEST)) for _ in range(CALLS)],
                "guarded call": lambda call=call: [call.reply("Write a scene.") for _ in range(CALLS)],
                "async call": lambda run=areplies: asyncio.run(run()),
                "bare stream": lambda: list(FakeBackend(TOKENS).stream(REQUEST)),
                "guarded stream": lambda stream=stream: list(stream.stream("Write a scene.")),
                "async stream": lambda run=astream: asyncio.run(run()),
            },
            rounds=15,
        )
        row(
            name,
            f"{added(seconds, 'guarded call', 'bare call') / CALLS * 1e6:.0f}",
            f"{added(seconds, 'guarded stream', 'bare stream') / len(TOKENS) * 1e6:.2f}",
            f"{added(seconds, 'async call', 'bare call') / CALLS * 1e6:.0f}",
            f"{added(seconds, 'async stream', 'bare stream') / len(TOKENS) * 1e6:.2f}",
        )
    print("async: the FakeBackend blocks, so each token crosses to a worker thread and back")


if __name__ == "__main__":
    main()
