"""A scriptable upstream, the proxy in front of it under a real uvicorn, and clients that send exactly what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass

import yaml
from tests.guard.build import PATIENCE

from cosa_guard.server.run import Settings, listening, make_app, server_of
from cosa_guard.server.tenants import hashed


def wait_until(true, what="it"):
    """Poll until `true()`; fails after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.01)


@dataclass
class Seen:
    """A request as the upstream got it."""

    method: str
    path: str
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        """Everything that came, for looking for what must not."""
        return f"{self.method} {self.path} {self.headers} {self.body.decode()}"


class Line:
    """The upstream's end of a connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status=200, kind="application/json", length=None, more=""):
        framing = f"content-length: {length}" if length is not None else "transfer-encoding: chunked"
        await self.send(f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{framing}\r\n{more}\r\n".encode())

    async def chunk(self, data):
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self):
        await self.send(b"0\r\n\r\n")

    async def whole(self, body, status=200, kind="application/json", more=""):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.head(status, kind, len(data), more)
        await self.send(data)

    def reset(self):
        self.writer.transport.abort()

    async def gone(self):
        """Wait until the proxy closes the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


class Loop:
    """An event loop on a thread of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def stop(self):
        async def cancel():
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.do(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()


class Upstream:
    """Answers the three protocols with `said`, or as `script(seen, line)` does; remembers what it saw."""

    def __init__(self):
        self.said = "The library opens at nine. It closes at five."
        self.script = None
        self.seen = []
        self.ended = 0
        """Answers whose connection the proxy closed before they were over, or that ended."""
        self.open, self.used = set(), set()
        """The proxy's ends of connections: those that are open, and those that a request came through."""
        self._loop = Loop()
        self._server = self._loop.do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def reset(self):
        self.script, self.said, self.ended = None, "The library opens at nine. It closes at five.", 0
        self.seen.clear()
        self.used.clear()

    def stop(self):
        async def close():  # on its own thread: connections that end there would close it at the same time
            self._server.close()

        self._loop.do(close())
        self._loop.stop()

    async def _serve(self, reader, writer):
        line = Line(reader, writer)
        port = writer.get_extra_info("peername")[1]
        self.open.add(port)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in head[1:-2])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                seen = Seen(method, path, headers, body)
                self.seen.append(seen)
                self.used.add(port)
                try:
                    await (self.script or self.answer)(seen, line)
                finally:
                    self.ended += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()
        finally:
            self.open.discard(port)
            writer.close()

    async def answer(self, seen, line):
        """What a well-behaved upstream says."""
        if seen.method == "GET":
            await line.whole({"object": "list", "data": [{"id": "big-7b"}]})
            return
        body, kind = seen.json, seen.path.rpartition("/v1")[2]
        make = {"/chat/completions": chat, "/responses": response, "/messages": message}[kind]
        whole, events = make(self.said, body.get("model", "none"), body.get("n") or 1)
        if not body.get("stream"):
            await line.whole(whole)
            return
        await line.head(kind="text/event-stream")
        for event in events:
            await line.chunk(event)
        await line.end()


def event(data, name=None):
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def words(text):
    pieces = text.split(" ")
    return [piece if not place else f" {piece}" for place, piece in enumerate(pieces)]


def chat(text, model, n=1):
    head = {"id": "chatcmpl-1", "created": 1, "model": model}
    choices = [{"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for i in range(n)]
    usage = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    whole = {**head, "object": "chat.completion", "choices": choices, "usage": usage}

    def chunk(delta, finish=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return event({**head, "object": "chat.completion.chunk", "choices": [choice]})

    events = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in words(text))]
    return whole, [*events, chunk({}, "stop"), event("[DONE]")]


_COUNT = iter(range(10**9))


def response(text, model, n=1):
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    name = f"resp_{next(_COUNT)}"
    whole = {"id": name, "object": "response", "created_at": 1, "model": model, "status": "completed", "output": [item],
             "error": None, "incomplete_details": None,
             "usage": {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12}}
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    rows = [
        ("response.created", {"response": begun}),
        ("response.output_item.added", {"output_index": 0, "item": {**item, "status": "in_progress", "content": []}}),
        ("response.content_part.added", {**at, "part": {**part, "text": ""}}),
        *(("response.output_text.delta", {**at, "delta": word}) for word in words(text)),
        ("response.output_text.done", {**at, "text": text}),
        ("response.content_part.done", {**at, "part": part}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
        ("response.completed", {"response": whole}),
    ]
    return whole, [event({"type": name, "sequence_number": at, **body}, name) for at, (name, body) in enumerate(rows)]


def message(text, model, n=1):
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": model}
    usage = {"input_tokens": 3, "output_tokens": 9}
    whole = {**head, "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}
    rows = [
        ("message_start", {"message": {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        *(("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}}) for word in words(text)),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 9}}),
        ("message_stop", {}),
    ]
    return whole, [event({"type": name, **body}, name) for name, body in rows]


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        """Of the error object, OpenAI's or Anthropic's."""
        return self.json["error"]["code"]

    @property
    def events(self):
        rows = [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]
        return [json.loads(row) for row in rows if row != "[DONE]"]

    @property
    def text(self):
        """What a chat client shows."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return "".join(e["choices"][0]["delta"].get("content") or "" for e in self.events if e.get("choices"))
        return self.json["choices"][0]["message"]["content"]


@dataclass
class Proxy:
    """The proxy under uvicorn, on a thread."""

    app: object
    port: int
    server: object
    thread: threading.Thread
    tasks: int = 0
    """That run while nobody asks for anything."""

    def ask(self, path="/v1/chat/completions", body=None, *, key=None, method="POST", headers=(), raw=None):
        """One request on a connection of its own."""
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.putrequest(method, path, skip_host=False, skip_accept_encoding=True)
            given = dict(headers)
            if key is not None:
                given["Authorization"] = f"Bearer {key}"
            if data is not None:
                given = {"Content-Type": "application/json", "Content-Length": str(len(data)), **given}
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders(data)
            answer = connection.getresponse()
            return Answer(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def chat(self, text="When does the library open?", *, key, **fields):
        headers = fields.pop("headers", ())
        body = {"messages": [{"role": "user", "content": text}], **fields}
        return self.ask(body=body, key=key, headers=headers)

    def opened(self, body, *, key):
        """A connection with a request on it whose answer nobody has read."""
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        line = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        line.sendall(head.encode() + data)
        return line

    def raw(self, data, *, until_closed=True):
        """Bytes as they are; everything that comes back until the proxy closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as line:
            line.sendall(data)
            out = b""
            with contextlib.suppress(ConnectionError):
                while piece := line.recv(65536):
                    out += piece
            return out

    @property
    def loop(self):
        return self.server.servers[0].get_loop()

    def resting(self):
        """Ends of connections to upstreams that wait for the next request."""
        transports = [one._transport for served in self.app.site.upstreams for one in getattr(served.backend, "_idle", ())]
        pooled = self.app._client.session.connector._conns.values()
        return {one.get_extra_info("sockname")[1] for one in [*transports, *(row[0].transport for rows in pooled for row in rows)]}

    def settle(self, upstream):
        """Wait until nothing is left of any request: no task, no place at the gate, no connection in use at either end."""
        states = self.app.runtime.states.values()
        wait_until(lambda: not any(state.gate.running or state.gate.waiting for state in states), "a free gate")
        wait_until(lambda: len(asyncio.all_tasks(self.loop)) <= self.tasks, "the end of all tasks")
        wait_until(lambda: not (upstream.used & upstream.open) - self.resting(), "the end of all connections upstream")
        wait_until(lambda: not any(line.cycle and not line.cycle.response_complete for line in [*self.server.server_state.connections]), "answered clients")

    def stop(self):
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def start(path, **options):
    """Serve a file."""
    settings = Settings(file=path, port=0, log_requests=options.pop("log_requests", False), **options)
    app = make_app(settings)
    ready = threading.Event()
    server = server_of(app, settings, ready.set)
    sock = listening(settings)

    async def serve():
        await server.serve(sockets=[sock])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    one = Proxy(app, sock.getsockname()[1], server, thread)
    one.tasks = len(asyncio.all_tasks(one.loop))
    return one


@contextlib.contextmanager
def serving(path, **options):
    proxy = start(path, **options)
    try:
        yield proxy
    finally:
        proxy.stop()


FILM, CLINIC, BOTH = "cosa-film", "cosa-clinic", "cosa-film-both"


def write(folder, upstream, *, tenants=None, name="serve.yaml", **top):
    """A file with two tenants: film (also a key for two configs) and clinic, each with models of its own."""
    (folder / "strict.yaml").write_text(config_text("strict", "zorkblat", "film-word"))
    (folder / "mild.yaml").write_text(config_text("mild", "zorkblat"))
    (folder / "clinic.yaml").write_text(config_text("clinic", "zorkblat", "clinic-word"))
    file = {
        "upstreams": [
            {"name": "main", "url": upstream.url, "serves": ["chat", "responses"], "key": {"file": "upstream.key"}},
            {"name": "claude", "kind": "anthropic", "url": upstream.url, "key": {"file": "upstream.key"}},
        ],
        "tenants": tenants or [film(), clinic()],
        **top,
    }
    (folder / "upstream.key").write_text("upstream-secret\n")
    path = folder / name
    path.write_text(yaml.safe_dump(file))
    return path


def film(**changes):
    return {
        "name": "film",
        "keys": [hashed(FILM), {"hash": hashed(BOTH), "label": "both", "configs": ["strict", "mild"]}],
        "configs": ["strict.yaml", "mild.yaml"],
        "upstream": "main",
        "models": ["small", {"name": "big", "upstream": "big-7b"}],
        "judges": ["rules"],
        "accept_unexamined": True,
        **changes,
    }


def clinic(**changes):
    return {
        "name": "clinic", "keys": [hashed(CLINIC)], "configs": ["clinic.yaml"], "upstream": "claude",
        "models": ["claude-x"], "judges": ["rules"], "accept_unexamined": True, **changes,
    }


def config_text(name, *terms):
    rules = "".join(f"  - {{id: w{at}, stance: forbid, terms: [{term}], note: a word}}\n" for at, term in enumerate(terms))
    return f"name: {name}\ndefault: allow\nrules:\n{rules}enforcement: {{on_undecided: allow}}\n"
