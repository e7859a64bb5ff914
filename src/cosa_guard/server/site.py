"""What is served: the file made into guards and bindings. A reload makes a new site and leaves the old one as it is."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import cosa_sdk
from cosa_guard import judges as judges_registry
from cosa_guard.guard import Guard
from cosa_guard.judges.base import AnyJudge
from cosa_guard.judges.cache import Cached
from cosa_guard.pool import Pool
from cosa_guard.server import tenants
from cosa_guard.server.state import OwnTurns, TenantState
from cosa_guard.server.tenants import KeySource, Limits, Metrics, ServeFile, Tenant, Upstream
from cosa_guard.verdicts import Entry
from cosa_sdk import SafetyConfig, presets
from cosa_sdk.errors import CosaError, UnknownName, UsageError

__all__ = ["Binding", "Runtime", "Served", "Site", "build", "secret_of"]

LONGEST_KEY = 512
_SUFFIXES = {".yaml", ".yml", ".toml", ".json"}

Record = Callable[[Entry], "Future[None] | None"]


@dataclass(frozen=True, slots=True)
class Served:
    """An upstream and what it speaks."""

    settings: Upstream
    backend: Any
    """Has `stream(outgoing)` or `astream(outgoing)`."""

    def close(self) -> None:
        """Nothing new will be sent there; what is under way goes on."""
        close = getattr(self.backend, "close", None)
        if close is not None:
            close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What one key may do."""

    tenant: str
    label: str
    guards: Mapping[str, Guard]
    """By the names of configs that the key may choose; the first one is used otherwise."""
    models: Mapping[str, str]
    """What the tenant may ask for -> what the upstream calls it; the first one is used otherwise."""
    upstream: Served
    limits: Limits
    state: TenantState


@dataclass(slots=True)
class Runtime:
    """What outlives a reload: tenants' states, judges, upstreams, the pool of judge threads and the record."""

    make_upstream: Callable[[Upstream, str | None], Any]
    """From settings and the secret."""
    record: Record | None = None
    pool: Pool = field(default_factory=Pool)
    states: dict[str, TenantState] = field(default_factory=dict)
    _judges: dict[str, AnyJudge] = field(default_factory=dict)
    _upstreams: dict[tuple[Upstream, str | None], Served] = field(default_factory=dict)

    def state(self, tenant: str) -> TenantState:
        """The tenant's, made on first use."""
        return self.states.setdefault(tenant, TenantState())

    def judge(self, name: str, tenant: str) -> AnyJudge:
        """One judge for all tenants: it keeps nothing of what it reads. What it said is remembered for each alone."""
        if name not in self._judges:
            self._judges[name] = judges_registry.make(name)
        judge, remembered = self._judges[name], self.state(tenant).judges
        if judge.inline:  # quicker than remembering
            return judge
        if name not in remembered:
            remembered[name] = cast("AnyJudge", Cached(judge, tenant=tenant))
        return remembered[name]

    def upstream(self, settings: Upstream, secret: str | None) -> Served:
        """The same one as before where nothing about it changed: a local model stays loaded."""
        found = self._upstreams.get((settings, secret))
        if found is None:
            found = Served(settings, self.make_upstream(settings, secret))
            self._upstreams[settings, secret] = found
        return found

    def retain(self, site: Site) -> None:
        """Let go of upstreams that the site has no use for."""
        kept = {id(served) for served in site.upstreams}
        for key, served in [*self._upstreams.items()]:
            if id(served) not in kept:
                del self._upstreams[key]
                served.close()

    def close(self) -> None:
        """Let go of every upstream."""
        for served in self._upstreams.values():
            served.close()
        self._upstreams.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Everything that a request may be bound to. Immutable, so that a reload is one assignment."""

    upstreams: tuple[Served, ...]
    metrics: bool | str
    """Whether `/metrics` answers, or the hash of the token that it asks for."""
    watched: tuple[Path, ...]
    """Files whose change makes a new site."""
    _secret: bytes
    _bindings: Mapping[bytes, tuple[bytes, Binding]]

    def find(self, key: str) -> Binding | None:
        """The binding of a key.

        Looked up by a digest under a secret of this process, so the time of the look-up says nothing about stored
        hashes; then compared in constant time.
        """
        if not 0 < len(key) <= LONGEST_KEY:
            return None
        presented = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        found = self._bindings.get(_tag(self._secret, presented))
        if found is None or not hmac.compare_digest(found[0], presented):
            return None
        return found[1]


def _tag(secret: bytes, digest: bytes) -> bytes:
    return hashlib.blake2b(digest, key=secret, digest_size=16).digest()


def build(file: ServeFile, folder: Path, runtime: Runtime, *, watched: tuple[Path, ...] = ()) -> Site:
    """Make everything that the file says, or nothing.

    Args:
        folder: relative paths in the file start here.

    Raises:
        UsageError: a config, judge, secret or upstream cannot be made; names the tenant or upstream.
    """
    files = list(watched)
    upstreams: dict[str, Served] = {}
    for settings in file.upstreams:
        with _about(f"upstream {settings.name!r}"):
            upstreams[settings.name] = runtime.upstream(settings, _secret(settings.key, folder, files))
    secret = secrets.token_bytes(32)
    bindings: dict[bytes, tuple[bytes, Binding]] = {}
    for tenant in file.tenants:
        with _about(f"tenant {tenant.name!r}"):
            for stored, binding in _bound(tenant, upstreams[tenant.upstream], runtime, folder, files):
                digest = bytes.fromhex(stored.removeprefix("sha256:"))
                bindings[_tag(secret, digest)] = (digest, binding)
    metrics: bool | str = bool(file.metrics)
    if isinstance(file.metrics, Metrics):
        metrics = tenants.hashed(_secret(file.metrics.token, folder, files) or "")
    site = Site(
        upstreams=tuple(upstreams.values()), metrics=metrics, watched=tuple(dict.fromkeys(files)), _secret=secret,
        _bindings=bindings,
    )  # fmt: skip
    return site


class _about:  # noqa: N801  # reads as a word of the sentence
    """Says in an error whose it is."""

    def __init__(self, whose: str) -> None:
        self._whose = whose

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CosaError):
            raise UsageError(f"{self._whose}: {error}") from None


def _bound(
    tenant: Tenant, upstream: Served, runtime: Runtime, folder: Path, files: list[Path]
) -> list[tuple[str, Binding]]:
    """Each key of a tenant with its binding; the guards are shared between keys."""
    state = runtime.state(tenant.name)
    chosen = [runtime.judge(name, tenant.name) for name in tenant.judges or judges_registry.default()]
    sources = {config.name: _config(config.source, folder, files) for config in tenant.configs}
    guards = {
        name: Guard(
            config,
            judge=chosen,
            accept_unexamined=tenant.accept_unexamined,
            tenant=tenant.name,
            system_is_caller=True,
            recollection=OwnTurns(state.recollection, config.digest),
            record=runtime.record,
            judge_timeout=tenant.judge_seconds,
            pool=runtime.pool,
        )
        for name, config in sources.items()
    }
    models = {model.name: model.upstream or model.name for model in tenant.models}
    return [
        (
            key.hash,
            Binding(
                tenant=tenant.name,
                label=key.label or key.hash[7:15],
                guards={name: guards[name] for name in key.configs or (tenant.configs[0].name,)},
                models=models,
                upstream=upstream,
                limits=tenant.limits,
                state=state,
            ),
        )
        for key in tenant.keys
    ]


def _config(source: str, folder: Path, files: list[Path]) -> SafetyConfig:
    if source.startswith("text:"):
        return SafetyConfig.from_text(source.removeprefix("text:"))
    if source in presets.names():
        return presets.load(source)
    if Path(source).suffix in _SUFFIXES:
        path = folder / source
        files.append(path)
        return cosa_sdk.load(path)
    raise UnknownName("config", source, presets.names(), "Or give a .yaml, .toml or .json file, or text:<free text>.")


def _secret(source: KeySource | None, folder: Path, files: list[Path]) -> str | None:
    if source is not None and source.file is not None:
        files.append(folder / source.file)
    return None if source is None else secret_of(source, folder)


def secret_of(source: KeySource, folder: Path) -> str:
    """The secret that a source names.

    Raises:
        UsageError: it is not there, is empty, or cannot stand in a header.
    """
    if source.env is not None:
        value, where = os.environ.get(source.env, ""), f"the environment variable {source.env}"
    else:
        path = folder / str(source.file)
        where = f"the file {str(source.file)!r}"
        try:
            value = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{where} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    value = value.strip()
    if not value:
        raise UsageError(f"{where} is empty or not set: put the key there")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise UsageError(f"{where} holds something that is no key: one line of printable ASCII without spaces")
    return value
