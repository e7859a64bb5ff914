"""Running the proxy in one process: uvicorn, signals, draining. Only this and `listener` import uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosa_guard.server import listener, site, tenants
from cosa_guard.server.app import App
from cosa_guard.server.log import RequestLog
from cosa_guard.server.site import Runtime, Site
from cosa_guard.server.tenants import Audit, ServeFile, Upstream
from cosa_guard.server.upstream import Client, HttpUpstream
from cosa_sdk.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Settings", "check", "listening", "make_app", "run", "server_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to serve; what to serve is in the file."""

    file: Path | None
    given: ServeFile | None = None
    """Instead of a file."""
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    grace: int = 30
    """Seconds that running requests have to end in after SIGTERM."""
    log_requests: bool = True


def make_app(settings: Settings) -> App:
    """The application, with everything that the file says built.

    Raises:
        UsageError: the file or something that it names is not valid.
    """
    client = Client()
    runtime = Runtime(make_upstream=partial(_upstream, client))
    first = _read(settings)
    if first.audit is not None:
        runtime.record = _record(first.audit, _folder(settings))
    return App(
        _build(settings, runtime, first),
        runtime,
        client,
        reload=lambda: _build(settings, runtime, _read(settings)),
        workers=settings.workers,
        log=RequestLog(requests=settings.log_requests),
    )


def _read(settings: Settings) -> ServeFile:
    if settings.given is not None:
        return settings.given
    assert settings.file is not None
    return tenants.load(settings.file)


def _folder(settings: Settings) -> Path:
    return settings.file.parent if settings.file else Path()


def _build(settings: Settings, runtime: Runtime, file: ServeFile) -> Site:
    watched = (settings.file,) if settings.file else ()
    return site.build(file, _folder(settings), runtime, watched=watched)


def _upstream(client: Client, settings: Upstream, secret: str | None) -> Any:
    if settings.kind != "local":
        return HttpUpstream(settings, secret, client)
    from cosa_guard import backends  # noqa: PLC0415  # loads a model
    from cosa_guard.backends.base import blocks  # noqa: PLC0415
    from cosa_guard.server.local import LocalUpstream  # noqa: PLC0415

    backend = backends.make(f"local:{settings.model}" if settings.model else "local")
    if not blocks(backend):
        raise UsageError(f"backend {backend.name!r} can only be awaited; a local upstream needs a blocking one")
    return LocalUpstream(backend)


def _record(audit: Audit, folder: Path) -> Any:
    from cosa_guard.audit import AuditLog  # noqa: PLC0415  # only where an audit is kept

    return AuditLog(
        folder / audit.folder,
        key=folder / audit.key if audit.key else None,
        text=audit.text,
        text_key=folder / audit.text_key if audit.text_key else None,
        durability=audit.durability,
        every=audit.every,
        seconds=audit.seconds,
    )


def check(settings: Settings) -> None:
    """Build what the file says but for models and the audit.

    Raises:
        UsageError: the file or something that it names is not valid.
    """
    _build(settings, Runtime(make_upstream=lambda *_: None), _read(settings))


def listening(settings: Settings, *, shared: bool = False) -> socket.socket:
    """A socket at the address.

    Args:
        shared: other processes may listen at the same port; the system spreads connections over them.

    Raises:
        UsageError: the port is taken, or cannot be shared here.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    if shared and not hasattr(socket, "SO_REUSEPORT"):
        raise UsageError("several workers need SO_REUSEPORT, which this system lacks: use --workers 1")
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((settings.host, settings.port))
    except OSError as error:
        sock.close()
        said = f"cannot listen on {settings.host}:{settings.port}: {error.strerror}"
        raise UsageError(f"{said}; choose another --port") from None
    return sock


def run(settings: Settings, sock: socket.socket, started: Callable[[], None]) -> None:
    """Serve in this process until SIGTERM or SIGINT, then drain.

    Args:
        started: called when requests are accepted.

    Raises:
        UsageError: the file is not valid.
        MissingExtra: uvicorn or aiohttp is not installed.
    """
    app = make_app(settings)
    closing: Callable[[], None] | None = getattr(app.runtime.record, "close", None)
    try:
        server = server_of(app, settings, started)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_served(app, server, sock))
    finally:
        if closing is not None:
            closing()


def server_of(app: App, settings: Settings, started: Callable[[], None]) -> uvicorn.Server:
    """A server that leaves signals to who runs it.

    Raises:
        MissingExtra: uvicorn is not installed.
    """
    try:
        import uvicorn  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtra("the proxy", "serve") from None

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:  # its own would end the process by the signal, not with 0
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if not self.should_exit:
                started()

    return Server(
        uvicorn.Config(
            app,
            http=listener.protocol(),
            interface="asgi3",
            lifespan="on",
            ws="none",
            log_config=None,
            log_level="critical",  # its tracebacks could quote a conversation; the app logs what failed
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=settings.grace,
        )
    )


async def _served(app: App, server: uvicorn.Server, sock: socket.socket) -> None:
    loop, reloads = asyncio.get_running_loop(), set[asyncio.Task[bool]]()

    def stop() -> None:
        app.drain()
        server.should_exit = True

    def interrupt() -> None:
        server.force_exit = server.should_exit  # the second Ctrl-C waits for nobody
        stop()

    def reload() -> None:
        task = loop.create_task(app.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for name, act in (("SIGTERM", stop), ("SIGINT", interrupt), ("SIGHUP", reload)):
        with contextlib.suppress(NotImplementedError, AttributeError, ValueError, RuntimeError):  # Windows, threads
            loop.add_signal_handler(getattr(signal, name), act)
    parent = multiprocessing.parent_process()
    if parent is not None:
        loop.add_reader(parent.sentinel, stop)  # a supervisor that was killed cannot say so
    try:
        await server.serve(sockets=[sock])
    finally:
        await app.close()  # a second Ctrl-C leaves out what the application does at its end


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  # not on Windows
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
