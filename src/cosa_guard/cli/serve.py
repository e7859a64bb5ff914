"""`cosa serve`: the guarded proxy, and the keys that open it."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cosa_guard.cli import options
from cosa_sdk.errors import MissingExtra, UsageError

__all__ = ["app"]


class _RunUnlessNamed(TyperGroup):
    """`cosa serve FILE` is `cosa serve run FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, "--help", "-h"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunUnlessNamed,
    help="Serve guarded models to tenants: OpenAI's and Anthropic's routes, one key a config. "
    "`cosa serve FILE`, or `cosa serve --config C --upstream URL` for one tenant; "
    "`cosa serve run --help` lists the options.",
)
keys = typer.Typer(help="API keys of the proxy.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.command("new")
def new_key(
    tenant: Annotated[str, typer.Argument(help="Whose key it will be: a tenant of the file.")],
    json: options.JsonOption = False,
) -> None:
    """Make an API key. It is printed once and stored nowhere; the file gets its hash."""
    from cosa_guard.server import tenants  # noqa: PLC0415  # for this command only

    key = tenants.new_key()
    if json:
        options.print_json({"tenant": tenant, "key": key, "hash": tenants.hashed(key)})
        return
    options.write(f"{key}\n")
    options.say(f"Give the key to {tenant}; it is shown only now. Into the file, under the tenant's keys:")
    options.say(f"  - {tenants.hashed(key)}")


@app.command("run")
def run(
    file: Annotated[Path | None, typer.Argument(help="Upstreams and tenants: .yaml, .toml or .json.")] = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Without a file: a preset's name, a file, or text:<free text>.")
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(help="Without a file: the upstream's base URL, or `local` for a model in this process."),
    ] = None,
    kind: Annotated[str, typer.Option(help="Without a file: openai or anthropic.")] = "openai",
    upstream_key_env: Annotated[
        str | None, typer.Option(help="Without a file: environment variable with the upstream's API key.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Without a file: a model that may be asked for. Repeatable."),
    ] = None,
    judge: options.JudgeOption = None,
    audit: Annotated[str | None, typer.Option(help="Without a file: folder of the audit log.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes behind the port.")] = 1,
    grace: Annotated[int, typer.Option(min=0, help="Seconds that requests have to end in after SIGTERM.")] = 30,
    request_log: Annotated[bool, typer.Option(help="One line for each request on stderr, without texts.")] = True,
) -> None:
    """Serve a file of tenants, or one tenant. SIGHUP reloads, SIGTERM drains; exit code 0 when drained."""
    if any(find_spec(name) is None for name in ("uvicorn", "aiohttp")):
        raise MissingExtra("the proxy", "serve")
    from cosa_guard.server import tenants  # noqa: PLC0415
    from cosa_guard.server.run import Settings  # noqa: PLC0415  # needs the extra
    from cosa_guard.server.workers import serve  # noqa: PLC0415

    key = given = None
    if file is None:
        key = tenants.new_key()
        given = _single(key, config, upstream, kind, upstream_key_env, model or [], judge or [], audit)
    elif config or upstream or model or judge or audit or upstream_key_env:
        raise UsageError("a file says everything about tenants: leave --config, --upstream and the like out")
    settings = Settings(
        file=file, given=given, host=host, port=port, workers=workers, grace=grace, log_requests=request_log
    )

    def started(url: str) -> None:
        options.say(f"cosa serve: listening on {url}")
        if key is not None and given is not None:  # not before everything else is in order
            options.write(f"{key}\n")
            models = ", ".join(model.name for model in given.tenants[0].models[:10])
            options.say(f"The key above opens this proxy until it ends. Models: {models}.")

    serve(settings, started=started)


def _single(
    key: str,
    config: str | None,
    upstream: str | None,
    kind: str,
    key_env: str | None,
    models: list[str],
    judges: list[str],
    audit: str | None,
) -> Any:
    """The file of one tenant with one key."""
    from cosa_guard.server import tenants  # noqa: PLC0415
    from cosa_guard.server.upstream import listed  # noqa: PLC0415  # needs the extra

    if not config or not upstream:
        raise UsageError("give a file of tenants, or both --config and --upstream")
    local = upstream == "local"
    source: dict[str, Any] = {"name": "upstream", "kind": "local"}
    if not local:
        source = {"name": "upstream", "kind": kind, "url": upstream, "key": {"env": key_env} if key_env else None}
    if not models:
        settings = tenants.Upstream(**source)
        names = ("local",) if local else asyncio.run(listed(settings, os.environ.get(key_env) if key_env else None))
        models = list(names)
    tenant = {
        "name": "default",
        "keys": [tenants.hashed(key)],
        "configs": [{"name": "default", "source": config}],
        "upstream": "upstream",
        "models": models,
        "judges": judges,
        "accept_unexamined": True,  # as on the rest of the command line: what nobody examined is undecided
    }
    whole: dict[str, Any] = {"upstreams": [source], "tenants": [tenant], "audit": {"folder": audit} if audit else None}
    return tenants.ServeFile(**whole)
