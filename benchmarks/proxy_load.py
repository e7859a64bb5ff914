"""What does the proxy cost? `cosa serve` with `rules`, audit off and on, beside a proxy that does nothing, in turns.

    python benchmarks/proxy_load.py [NAME=URL …]     other proxies to load in the same rounds
    BENCH_SOAK=600 python benchmarks/proxy_load.py   ten minutes at half load: errors, and memory at its start and end

Prints, for whole replies over 32 connections and for one, calls a second and the median call; then streams.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlparse

from _measure import row
from _serving import free_port, process, uvicorn

ASK = "Please explain how tides work in two short sentences for a school leaflet."
BODY = {"model": "stub", "messages": [{"role": "user", "content": ASK}]}
CONFIG = (
    "name: bench\ndefault: allow\nrules: [{id: w, stance: forbid, terms: [zorkblat]}]\n"
    "enforcement: {on_undecided: allow}\n"
)


class Target:
    """One proxy, over raw sockets, so that the generator costs little next to what it measures."""

    def __init__(self, url, key="x"):
        parts = urlparse(url)
        self.host, self.port, self.path, self.key = parts.hostname, parts.port, parts.path, key
        assert self.host in {"127.0.0.1", "localhost"}, "loopback only"

    def request(self, stream):
        body = json.dumps({**BODY, "stream": stream}).encode()
        head = [
            f"POST {self.path}/chat/completions HTTP/1.1",
            "Host: x",
            "Content-Type: application/json",
            f"Authorization: Bearer {self.key}",
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join([*head, "", ""]).encode() + body


async def call(reader, writer, request):
    """Seconds to the first text and to the end, and whether it was a 200."""
    started, first = time.perf_counter(), None
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"content-length:" in head:
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    else:
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            piece = await reader.readexactly(size + 2)
            if first is None and b" word" in piece:
                first = time.perf_counter() - started
        await reader.readexactly(2)
    return first, time.perf_counter() - started, b" 200 " in head[:14]


async def load(target, calls, connections, stream=False, pause=0.0):
    request, left, seen = target.request(stream), iter(range(calls)), []

    async def work():
        reader, writer = await asyncio.open_connection(target.host, target.port, limit=2**20)
        for _ in left:
            seen.append(await call(reader, writer, request))
            if pause:
                await asyncio.sleep(pause)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    return calls / (time.perf_counter() - started), seen


async def compare(title, targets, calls, connections, stream=False, rounds=5):
    rates = {name: [] for name in targets}
    medians = {name: [] for name in targets}
    for target in targets.values():
        await load(target, 64, min(8, connections), stream)
    for _ in range(rounds):
        for name, target in targets.items():
            rate, seen = await load(target, calls, connections, stream)
            assert all(fine for _, _, fine in seen), f"{name} answered with an error"
            rates[name].append(rate)
            medians[name].append(statistics.median((first if stream else whole) * 1e3 for first, whole, _ in seen))
    row(title, "calls/s", "÷ bare", "first text ms" if stream else "median ms")
    for name in targets:
        pairs = zip(rates[name], rates["bare aiohttp"], strict=True)
        share = statistics.median(ours / bare for ours, bare in pairs)
        rate, middle = statistics.median(rates[name]), statistics.median(medians[name])
        row(f"  {name}", f"{rate:.0f}", f"{share:.2f}", f"{middle:.2f}")


def memory(process_):
    status = Path(f"/proc/{process_.pid}/status").read_text("utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def soak(target, running, seconds):
    """Half load for so long; errors, and memory at the beginning and the end."""
    rate, _ = await load(target, 1000, 8)
    pause, connections = 16 / rate, 8
    begun, errors, calls, marks = time.monotonic(), 0, 0, []
    while time.monotonic() - begun < seconds:
        _, seen = await load(target, 500, connections, stream=len(marks) % 2 == 1, pause=pause)
        errors, calls = errors + sum(not fine for _, _, fine in seen), calls + len(seen)
        marks.append(memory(running))
        passed = time.monotonic() - begun
        print(f"  {passed:4.0f} s  {calls} calls  {errors} errors  {marks[-1]:.0f} MiB", file=sys.stderr)
    quarter = max(1, len(marks) // 4)
    early, late = statistics.median(marks[:quarter]), statistics.median(marks[-quarter:])
    row("soak", f"{calls} calls", f"{errors} errors", f"{early:.0f} → {late:.0f} MiB")


def main():
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "bench.yaml")
        config.write_text(CONFIG, "utf-8")
        stub, bare = free_port(), free_port()
        stack.enter_context(process(uvicorn("stub", stub), stub))
        upstream = f"http://127.0.0.1:{stub}"
        stack.enter_context(process(uvicorn("bare", bare), bare, BENCH_UPSTREAM=upstream))
        targets = {"bare aiohttp": Target(f"http://127.0.0.1:{bare}/v1")}
        for name, options in {"cosa serve": [], "cosa serve, audit on": ["--audit", f"{folder}/audit"]}.items():
            port = free_port()
            command = [str(Path(sys.executable).with_name("cosa")), "serve", "-c", str(config), "-j", "rules"]
            command += ["--upstream", f"{upstream}/v1", "-m", "stub", "--port", str(port), "--no-request-log", *options]
            running = stack.enter_context(process(command, port))
            key = running.stdout.readline().strip()
            targets[name] = Target(f"http://127.0.0.1:{port}/v1", key)
        for other in sys.argv[1:]:
            name, _, url = other.partition("=")
            targets[name] = Target(url)
        if os.environ.get("BENCH_SOAK"):
            asyncio.run(soak(targets["cosa serve, audit on"], running, float(os.environ["BENCH_SOAK"])))
            return
        asyncio.run(compare("whole replies, 32 connections", targets, 600, 32))
        asyncio.run(compare("whole replies, one connection", targets, 150, 1))
        asyncio.run(compare("60 streamed tokens, 8 connections", targets, 100, 8, stream=True))


if __name__ == "__main__":
    main()
