"""A scriptable OpenAI-compatible server on this machine: plain asyncio, so that it can break the protocol anywhere."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass

from tests.guard.build import PATIENCE


@dataclass
class Seen:
    """One request as it came."""

    path: str
    headers: dict
    body: dict


class Exchange:
    """One request and the way to answer it, for the scripts."""

    def __init__(self, seen, reader, writer, upstream):
        self.seen, self._reader, self._writer, self._upstream = seen, reader, writer, upstream
        self.keep = True

    async def head(self, status=200, content_type="text/event-stream", **headers):
        lines = [f"HTTP/1.1 {status} -"] + ([f"content-type: {content_type}"] if content_type else [])
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if "content_length" not in headers:
            lines.append("transfer-encoding: chunked")
        await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def raw(self, data):
        self._writer.write(data)
        await self._writer.drain()

    async def send(self, data):
        """One chunk."""
        data = data.encode() if isinstance(data, str) else data
        if data:
            await self.raw(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def event(self, value):
        await self.send(f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n")

    async def end(self):
        await self.raw(b"0\r\n\r\n")

    def reset(self):
        """Break the connection so that the other side gets ECONNRESET."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()
        self.keep = False

    async def hang(self):
        """Wait until the other side leaves."""
        self._upstream.hanging.set()
        with suppress(ConnectionError):
            await self._reader.read(1)
        self.keep = False
        self._upstream.left.set()

    def drop(self):
        """Close the connection without ending the body."""
        self.keep = False


def chunk(text=None, finish=None, **delta):
    """One chunk of a chat completion."""
    delta = ({"content": text} if text is not None else {}) | delta
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def says(*pieces, finish="stop", tokens=None, done=True):
    """Streams a reply."""

    async def answer(exchange):
        await exchange.head()
        await exchange.event(chunk("", role="assistant"))
        for piece in pieces:
            await exchange.event(chunk(piece))
        if finish:
            await exchange.event(chunk(finish=finish))
        if tokens is not None:
            await exchange.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens}})
        if done:
            await exchange.event("[DONE]")
        await exchange.end()

    return answer


def sends(*data, then="end", status=200, content_type="text/event-stream", **headers):
    """Sends these chunks as they are, and then does this: `end`, `drop`, `reset` or `hang`."""

    async def answer(exchange):
        await exchange.head(status, content_type, **headers)
        for one in data:
            await exchange.send(one)
        ending = getattr(exchange, then)()
        if ending is not None:
            await ending

    return answer


def refuses(status, message="", *, error=None, **headers):
    """Answers with an error object."""
    body = {"error": {"message": message, **(error or {})}}
    return sends(json.dumps(body), status=status, content_type="application/json", **headers)


def gives(body):
    """Answers with JSON."""
    return sends(json.dumps(body), content_type="application/json")


def scored(**logprobs):
    """One token with its alternatives."""
    top = [{"token": token, "bytes": list(token.encode()), "logprob": value} for token, value in logprobs.items()]
    choice = {"index": 0, "message": {"content": top[0]["token"]}, "logprobs": {"content": [{"top_logprobs": top}]}}
    return gives({"choices": [choice], "usage": {"prompt_tokens": 42, "completion_tokens": 1}})


class Upstream:
    """Answers requests by scripts, in turn; the last one goes on for ever. Use it in a `with` statement."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._ready = threading.Event()
        self._change = threading.Condition()
        self.requests = []
        self.connections = 0
        """Made so far."""
        self.open = 0
        """Connections now."""
        self.hanging, self.left = threading.Event(), threading.Event()

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *problem):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def wait_for_open(self, number):
        """Whether there come to be so many connections."""
        with self._change:
            return self._change.wait_for(lambda: self.open == number, PATIENCE)

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=256)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._tasks = set()
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _count(self, by):
        with self._change:
            self.connections += max(0, by)
            self.open += by
            self._change.notify_all()

    async def _connected(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        self._count(1)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        except asyncio.CancelledError:  # the server stops
            pass
        finally:
            self._count(-1)
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"null")
        seen = Seen(first.split()[1], headers, body)
        self.requests.append(seen)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        exchange = Exchange(seen, reader, writer, self)
        await answer(exchange)
        return exchange.keep


def refused_url():
    """An address where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
