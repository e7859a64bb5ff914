"""What does `guard.wrap` cost a call? The same client with and without, in turns, against the same upstream.

    python benchmarks/client_overhead.py [rounds]

Prints milliseconds a call (median of pairs), calls a second at 32 tasks, and the exchange alone without any HTTP.
"""

from __future__ import annotations

import asyncio
import sys
import time

from _measure import added, interleaved, median, ratio, row
from _serving import EVENTS, REPLY, free_port, process, uvicorn
from openai import AsyncOpenAI, OpenAI

from cosa_guard import Guard
from cosa_guard.exchange import Exchange, Head
from cosa_guard.wire import protocols
from cosa_sdk import SafetyConfig

ASK = [{"role": "user", "content": "Please explain how tides work in two short sentences for a school leaflet."}]
CONFIG = SafetyConfig(
    name="bench",
    default="allow",
    rules=[{"id": "word", "stance": "forbid", "terms": ["zorkblat"]}],
    enforcement={"on_undecided": "allow"},
)


class InMemory:
    def __init__(self, kind, pieces):
        self.kind, self.pieces = kind, pieces

    def stream(self, request):
        yield Head(200, (("content-type", self.kind),))
        yield from self.pieces


def alone(guard):
    codec, ask = protocols["/chat/completions"], {"model": "stub", "messages": ASK}
    whole, events = InMemory("application/json", [REPLY]), InMemory("text/event-stream", EVENTS)
    arms = {
        "whole": lambda: [*Exchange(guard, codec, ask).stream(whole)],
        "stream": lambda: [*Exchange(guard, codec, {**ask, "stream": True}).stream(events)],
    }
    seconds = interleaved(arms, rounds=1000, warmup=50)
    row("exchange alone, whole reply", f"{median(seconds['whole']) * 1e6:.0f} µs")
    row("exchange alone, 60 events", f"{median(seconds['stream']) * 1e6:.0f} µs")


async def together(clients, calls=640, tasks=32):
    rates = {name: [] for name in clients}
    for _ in range(5):
        for name, client in clients.items():
            left = iter(range(calls))

            async def work(client=client, left=left):
                for _ in left:
                    await client.chat.completions.create(model="stub", messages=ASK)

            started = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(tasks)))
            rates[name].append(calls / (time.perf_counter() - started))
    for client in clients.values():
        await client.close()
    return rates


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    guard = Guard(CONFIG, judge="rules", accept_unexamined=True)
    alone(guard)
    port = free_port()
    with process(uvicorn("stub", port), port):
        url = f"http://127.0.0.1:{port}/v1"
        plain, wrapped = OpenAI(base_url=url, api_key="x"), guard.wrap(OpenAI(base_url=url, api_key="x"))
        for streamed in (False, True):
            arms = {
                name: lambda client=client, streamed=streamed: [
                    *client.chat.completions.create(model="stub", messages=ASK, stream=streamed)
                ]
                for name, client in {"plain": plain, "wrapped": wrapped}.items()
            }
            seconds = interleaved(arms, rounds=rounds, warmup=20)
            kind = "60 streamed tokens" if streamed else "a whole reply"
            extra = f"+{added(seconds, 'wrapped', 'plain') * 1e3:.2f} ms"
            times = f"× {ratio(seconds, 'wrapped', 'plain'):.2f}"
            row(f"openai client, {kind}", f"{median(seconds['plain']) * 1e3:.2f} ms", extra, times)
        one, other = AsyncOpenAI(base_url=url, api_key="x"), AsyncOpenAI(base_url=url, api_key="x")
        rates = asyncio.run(together({"plain": one, "wrapped": guard.wrap(other)}))
        times = f"× {ratio(rates, 'wrapped', 'plain'):.2f}"
        row("32 tasks, calls/s", f"{median(rates['plain']):.0f}", f"{median(rates['wrapped']):.0f}", times)


if __name__ == "__main__":
    main()
