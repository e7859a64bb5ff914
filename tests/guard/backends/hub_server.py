"""A hub on this machine, with a store of its files on another port, so that the real client can be tried against both."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
JUNK = "x" * 10_000_000


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    place: str
    path: str
    range: str | None
    token: str | None
    encoding: str | None


class Hub:
    """Serves `files` of any repository. What goes wrong is set by the tests, as attributes."""

    def __init__(self, **files):
        self.files = files
        self.card = {"license": "apache-2.0"}
        self.gated = False
        self.asked: list[Asked] = []
        self.listed = {}
        """What the listing says of a file, in place of the truth."""
        self.named = {}
        """Names in the listing that stand for other files: hostile ones."""
        self.refuse = {}
        """A status and headers for each path that ends like this, instead of the answer."""
        self.info = None
        """A body instead of the listing."""
        self.cuts = []
        """Bytes after which the connection breaks, of each download in turn."""
        self.no_ranges = False
        self.endless = False
        self._stack = ExitStack()

    def __enter__(self):
        self.store = self._stack.enter_context(_serving(self, "store"))
        self.url = self._stack.enter_context(_serving(self, "hub"))
        return self

    def __exit__(self, *_):
        self._stack.close()

    def ranges(self):
        """The ranges that the store was asked for."""
        return [one.range for one in self.asked if one.place == "store"]

    def tokens(self, place):
        """The tokens that came with the requests to a place."""
        return {one.token for one in self.asked if one.place == place}

    def listing(self):
        siblings = []
        for name, data in self.files.items():
            large = name.endswith((".gguf", ".safetensors", ".bin"))
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            one = {"rfilename": self.named.get(name, name), "size": len(data), "blobId": blob}
            if large:
                one["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
            siblings.append(one | self.listed.get(name, {}))
        return {"id": "own/repo", "sha": COMMIT, "gated": self.gated, "cardData": self.card, "siblings": siblings}


@contextmanager
def _serving(hub, place):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            token = self.headers.get("authorization")
            hub.asked.append(Asked(place, path, self.headers.get("range"), token, self.headers.get("accept-encoding")))
            refusal = next((answer for end, answer in hub.refuse.items() if path.endswith(end)), None)
            if refusal:
                self.answer(refusal[0], b"", **refusal[1])
            elif place == "store":
                self.give(hub.files[path.lstrip("/")])
            elif path.startswith("/api/models/"):
                self.answer(200, json.dumps(hub.listing()).encode() if hub.info is None else hub.info)
            else:
                resolved = re.fullmatch(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", path)
                self.answer(302, b"", Location=f"{hub.store}/{resolved[1]}") if resolved else self.answer(404, b"")

        def give(self, data):
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or "bytes=0-")
            first = 0 if hub.no_ranges else int(start[1])
            body, total = data[first:], len(data)
            ranged = {"Content-Range": f"bytes {first}-{total - 1}/{total}"} if first else {}
            if hub.endless:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(data + JUNK.encode())
                self.close_connection = True
                return
            cut = hub.cuts.pop(0) if hub.cuts else None
            self.answer(206 if first else 200, body[:cut], length=len(body), **ranged)
            self.close_connection = cut is not None

        def answer(self, status, body, length=None, **headers):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
