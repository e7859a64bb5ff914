"""The file of `cosa serve`: upstreams, tenants, their keys and what each key is bound to. Data only."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from cosa_sdk.errors import ConfigError, Finding
from cosa_sdk.model import Line, Model, Name
from cosa_sdk.sources import READERS, Fault, Format, Marks, bounded, checked, decoded, line_column
from cosa_sdk.validation import fault

__all__ = [
    "PROTOCOLS",
    "Audit",
    "Config",
    "Key",
    "KeySource",
    "Limits",
    "Metrics",
    "ModelName",
    "ServeFile",
    "Tenant",
    "Upstream",
    "hashed",
    "load",
    "new_key",
]

_FORMATS: dict[str, Format] = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
_START = "start with `upstreams:` and `tenants:`"


def _fits(pattern: str, what: str) -> AfterValidator:
    """Text of a form that is said in words where it does not fit. The value is not: it may be a secret out of place."""
    form = re.compile(pattern)

    def check(value: str) -> str:
        if not form.fullmatch(value):
            raise fault("form", f"is not {what}")
        return value

    return AfterValidator(check)


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise fault("empty", "is empty: list at least one")
    return values


Hash = Annotated[str, _fits(r"sha256:[0-9a-f]{64}", "the hash of a key: `cosa serve keys new TENANT` prints it")]
ModelId = Annotated[str, _fits(r"[!-~]{1,200}", "a model's name: up to 200 printable ASCII characters without spaces")]
Url = Annotated[
    str, _fits(r"https?://[^\s/?#@]{1,250}(/[^\s?#]{0,250})?", "a base URL such as http://127.0.0.1:8000/v1")
]
Variable = Annotated[str, _fits(r"[A-Za-z_][A-Za-z0-9_]{0,99}", "the name of an environment variable")]
Count = Annotated[int, Field(ge=1, le=10**9)]
Protocol = Literal["chat", "responses", "messages"]
PROTOCOLS: dict[str, tuple[Protocol, ...]] = {
    "openai": ("chat", "responses"),
    "anthropic": ("messages",),
    "local": ("chat",),
}
"""What each kind of upstream speaks, unless the file says otherwise."""


def new_key() -> str:
    """A fresh API key of 256 random bits."""
    return f"cosa-{secrets.token_urlsafe(32)}"


def hashed(key: str) -> str:
    """A key as the file stores it. Plain SHA-256 is enough: keys are random, so there is nothing to guess."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def _named(value: Any) -> Any:
    """`film-studio` for `{name: film-studio}`."""
    return {"name": value} if isinstance(value, str) else value


def _source(value: Any) -> Any:
    if isinstance(value, str):
        raise fault("key-source", "is not a key but where one is: {env: NAME} or {file: NAME}")
    return value


def _config(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return {"name": Path(value).stem.lower() if Path(value).suffix in _FORMATS else value, "source": value}


class KeySource(Model):
    """Where a secret is: the file itself never holds one."""

    env: Variable | None = None
    """Name of an environment variable."""
    file: Line | None = None
    """A file that holds the secret and nothing else."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise fault("key-source", "is exactly one of env and file")
        return self


class Upstream(Model):
    """A model server, a vendor, or a model in this process."""

    name: Name
    kind: Literal["openai", "anthropic", "local"] = "openai"
    url: Url | None = None
    """Base URL, such as `http://127.0.0.1:8000/v1`."""
    key: Annotated[KeySource | None, BeforeValidator(_source)] = None
    serves: tuple[Protocol, ...] = ()
    """Protocols that it speaks; by default those of its kind."""
    model: Line | None = None
    """`kind: local`: the model file; the default model when left out."""
    connect_seconds: Count = 10
    read_seconds: Count = 300
    """Longest silence between two pieces of an answer."""
    answer_bytes: Count = 8 * 1024 * 1024
    """Largest answer. A stream, most of which is wrapping, may have sixteen times as much."""

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind == "local" and (self.url or self.key):
            raise fault("upstream", "kind: local runs in this process and takes neither url nor key")
        if self.kind != "local" and not self.url:
            raise fault("upstream", f"kind: {self.kind} needs a url, such as http://127.0.0.1:8000/v1")
        if self.kind != "local" and self.model:
            raise fault("upstream", f"kind: {self.kind} takes no model here: list it under the tenant's models")
        return self

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """What it speaks."""
        return self.serves or PROTOCOLS[self.kind]


class Config(Model):
    """A safety config that a tenant may use, under a name that its keys are bound to."""

    name: Name
    source: Line
    """A preset's name, a file relative to this one, or `text:<free text>`."""


class Key(Model):
    """An API key and what it is bound to."""

    hash: Hash
    label: Name | None = None
    """For logs: the key itself is nowhere."""
    configs: tuple[Name, ...] = ()
    """Configs that this key may choose by `x-cosa-use`; the first one is used otherwise. By default the tenant's first
    config and no other."""


class ModelName(Model):
    """A model that a tenant may ask for."""

    name: ModelId
    upstream: ModelId | None = None
    """What the upstream calls it; the same by default."""


class Limits(Model):
    """What one tenant may use, in each worker process."""

    concurrency: Count = 64
    """Requests that run at the same time."""
    queue: Annotated[int, Field(ge=0, le=10**6)] = 64
    """Requests that wait for a turn; the next one gets 429."""
    queue_seconds: Count = 10
    seconds: Count = 600
    """Longest time that one request may take."""
    body_bytes: Count = 4 * 1024 * 1024
    turns: Count = 500
    n: Count = 8
    max_tokens: Count | None = None
    """Most tokens of a reply; also what is asked for when a request names no number."""
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    """Estimated input tokens: a quarter of the body's bytes."""
    stored_responses: Count = 1000
    """Answers kept for `previous_response_id`."""


class Tenant(Model):
    """A customer: keys, configs, models, judges and limits of its own."""

    name: Name
    keys: tuple[
        Annotated[Key, BeforeValidator(lambda value: {"hash": value} if isinstance(value, str) else value)], ...
    ]
    configs: Annotated[tuple[Annotated[Config, BeforeValidator(_config)], ...], AfterValidator(_some)]
    upstream: Name
    models: Annotated[tuple[Annotated[ModelName, BeforeValidator(_named)], ...], AfterValidator(_some)]
    """The first one is used when a request names none."""
    judges: tuple[Line, ...] = ()
    """Names, asked in order; `rules`, and `embedded` where it is installed, by default."""
    judge_seconds: Count = 60
    accept_unexamined: bool = False
    """Serve although no judge covers some rules; what is then undecided follows the config's `on_undecided`."""
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = _unique(self.configs, "configs")
        _unique(self.models, "models")
        for place, key in enumerate(self.keys):
            for name in key.configs:
                if name not in known:
                    said = f"unknown config {name!r}; this tenant has {', '.join(sorted(known))}"
                    raise fault("unknown-config", said, at=f"keys[{place}].configs")
        return self


class Audit(Model):
    """Where decisions are recorded; see `cosa_guard.audit.AuditLog`."""

    folder: Line
    key: Line | None = None
    """File of the Ed25519 private key that signs."""
    text: Literal["hmac", "redacted", "full"] = "hmac"
    text_key: Line | None = None
    """File with at least 32 secret bytes."""
    durability: Literal["process", "power"] = "process"
    every: Count = 1000
    seconds: Count = 10


class Metrics(Model):
    """Who may read `/metrics`."""

    token: Annotated[KeySource, BeforeValidator(_source)]
    """Asked for as `Authorization: Bearer TOKEN`."""


class ServeFile(Model):
    """Everything that `cosa serve` is told."""

    upstreams: Annotated[tuple[Upstream, ...], AfterValidator(_some)]
    tenants: Annotated[tuple[Tenant, ...], AfterValidator(_some)]
    audit: Audit | None = None
    metrics: Annotated[
        Annotated[bool, Tag("off")] | Annotated[Metrics, Tag("on")],
        Discriminator(lambda value: "on" if isinstance(value, dict | Metrics) else "off"),
    ] = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        upstreams = _unique(self.upstreams, "upstreams")
        _unique(self.tenants, "tenants")
        owners: dict[str, str] = {}
        for place, tenant in enumerate(self.tenants):
            if tenant.upstream not in upstreams:
                said = f"unknown upstream {tenant.upstream!r}; there are {', '.join(sorted(upstreams))}"
                raise fault("unknown-upstream", said, at=f"tenants[{place}].upstream")
            for number, key in enumerate(tenant.keys):
                if key.hash in owners:
                    said = f"the same key as one of tenant {owners[key.hash]!r}"
                    fix = "make another: cosa serve keys new"
                    raise fault("key-twice", said, fix=fix, at=f"tenants[{place}].keys[{number}]")
                owners[key.hash] = tenant.name
        return self


def _unique(things: tuple[Any, ...], where: str) -> set[str]:
    names: set[str] = set()
    for place, thing in enumerate(things):
        if thing.name in names:
            raise fault("name-twice", f"a second entry named {thing.name!r}", fix="rename one", at=f"{where}[{place}]")
        names.add(thing.name)
    return names


def load(path: str | Path) -> ServeFile:
    """Read the file.

    Raises:
        ConfigError: it cannot be read or is not valid; findings have lines where the format gives them.
    """
    path, text = Path(path), ""
    try:
        text = bounded(decoded(_read(path)))
        tree, marks = READERS[_format(path)](text)
        checked(tree, marks)
    except Fault as problem:
        line, column = line_column(text, problem.at)
        fix = _START if problem.code in {"empty", "top-level"} else problem.fix
        place = Finding(
            code=problem.code, message=problem.message, where=problem.where, file=str(path), line=line, column=column,
            fix=fix,
        )  # fmt: skip
        raise ConfigError([place]) from None
    try:
        return ServeFile(**tree)
    except ConfigError as error:
        raise ConfigError([_located(finding, text, marks, str(path)) for finding in error.findings]) from None


def _format(path: Path) -> Format:
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        known = ", ".join(_FORMATS)
        raise Fault(
            "suffix", f"unknown suffix {path.suffix!r}; known: {known}", fix="name it after its format"
        ) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Fault("file", f"cannot be read: {error.strerror or error}") from None


def _located(finding: Finding, text: str, marks: Marks, file: str) -> Finding:
    """The finding with the line of what it is about, or of the nearest thing around it that the file has."""
    place = finding.where
    while place and place not in marks:
        place = place[: max(place.rfind("."), place.rfind("["), 0)]
    line, column = line_column(text, marks.get(place, (0, 0))[1])
    return Finding(
        code=finding.code, message=finding.message, where=finding.where, file=file, line=line, column=column,
        fix=finding.fix,
    )  # fmt: skip
