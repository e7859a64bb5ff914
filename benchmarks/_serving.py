"""Servers to measure against: an upstream that answers 60 tokens at once, and a proxy that does nothing else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOKENS = [f" word{at}" + ("." if at % 10 == 9 else "") for at in range(60)]
_UPSTREAM = os.environ.get("BENCH_UPSTREAM", "")
_session: list[Any] = []


def _reply() -> bytes:
    message = {"role": "assistant", "content": "".join(TOKENS), "refusal": None}
    choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}
    usage = {"prompt_tokens": 12, "completion_tokens": 60, "total_tokens": 72}
    body = {"id": "chatcmpl-stub", "object": "chat.completion", "created": 1, "model": "stub", "choices": [choice]}
    return json.dumps({**body, "usage": usage}).encode()


def _events() -> list[bytes]:
    def event(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "stub", "choices": [choice]}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    first = event({"role": "assistant", "content": ""})
    return [first, *(event({"content": token}) for token in TOKENS), event({}, "stop"), b"data: [DONE]\n\n"]


REPLY, EVENTS = _reply(), _events()


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _answer(send: Any, kind: bytes, pieces: list[bytes]) -> None:
    headers = [(b"content-type", kind)]
    if len(pieces) == 1:
        headers.append((b"content-length", str(len(pieces[0])).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def stub(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The upstream."""
    if scope["type"] == "lifespan":
        return await _lifespan(receive, send)
    streamed = b'"stream":true' in (await _body(receive)).replace(b": ", b":")
    return await _answer(send, *((b"text/event-stream", EVENTS) if streamed else (b"application/json", [REPLY])))


async def bare(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The floor of a proxy in Python: aiohttp, and nothing in between."""
    if scope["type"] == "lifespan":
        return await _lifespan(receive, send)
    import aiohttp

    if not _session:
        _session.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    body = await _body(receive)
    headers = {"content-type": "application/json"}
    async with _session[0].post(_UPSTREAM + scope["path"], data=body, headers=headers) as answer:
        kind = answer.headers["content-type"].encode()
        if b"event-stream" not in kind:
            return await _answer(send, kind, [await answer.read()])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        async for piece in answer.content.iter_any():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    return await send({"type": "http.response.body", "body": b""})


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def process(command: list[str], port: int, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A server in a process of its own, from when it listens until the block ends."""
    running = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(200):
            with socket.socket() as trying:
                if trying.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if running.poll() is not None:
                sys.exit(f"{command[:4]} ended with {running.returncode}")
            time.sleep(0.1)
        yield running
    finally:
        running.terminate()
        running.wait(30)


def uvicorn(app: str, port: int) -> list[str]:
    """The command that serves one of the above."""
    here = str(Path(__file__).parent)
    command = [sys.executable, "-m", "uvicorn", f"_serving:{app}", "--app-dir", here, "--port", str(port)]
    return [*command, "--log-level", "warning", "--no-access-log"]
