"""What is compared: a model alone, under a config, with few-shot turns or an adapter, behind a cascade or a guard.

The names are the paper's (section 5): ICA is in-context alignment, a cascade has the model judge its own reply, and the
oracle cascade has the evaluation judge do it, so that it shows what a perfect filter would reach.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar, get_args

from cosa_guard import judges as judges_registry
from cosa_guard.backends.base import Backend
from cosa_guard.evals.suite import Item, Shot, Suite
from cosa_guard.guard import Guard
from cosa_guard.judges.base import AnyJudge
from cosa_guard.judges.model import ModelJudge
from cosa_guard.messages import Adapter, Delta, Finish, Message, Request, Sampling
from cosa_guard.pool import Pool
from cosa_guard.verdicts import Case
from cosa_sdk.compile import compile as compile_config
from cosa_sdk.config import SafetyConfig
from cosa_sdk.errors import UnknownName, UsageError

__all__ = [
    "METHODS",
    "Method",
    "Response",
    "System",
    "SystemSpec",
    "adapter_name",
    "circular",
    "declined",
    "parse_system",
]

T = TypeVar("T")

Method = Literal["plain", "ica", "ica-5shot", "cascade", "cascade-oracle"]
METHODS: tuple[Method, ...] = get_args(Method)
_MOST_SHOTS = 5
_FLAGGED = 0.5
"""Probability above which a cascade counts the reply as flagged: the likelier answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemSpec:
    """One system, in words."""

    name: str
    method: Method = "ica"
    over: Method = "ica"
    """What a cascade filters."""
    model: str | None = None
    """A backend's spec, such as `openai_http:http://127.0.0.1:8000/v1#model`; None: the run's model."""
    adapters: tuple[tuple[str, float], ...] = ()
    """LoRA adapters: a path or a served name, and a scale."""
    guard: tuple[str, ...] | None = None
    """Judges by name; empty: the default ones. None: no guard."""
    on_undecided: Literal["allow", "block"] | None = None
    """What the guard does where no judge could decide; None: as each config says."""


def parse_system(text: str) -> SystemSpec:
    """A system from its short form: a method, then what is added to it.

    `plain`, `ica`, `ica-5shot`, `cascade`, `cascade-oracle`; `guard` is `ica+guard`, `adapter:PATH` is
    `ica+adapter:PATH`; `ica-5shot+guard:rules,embedded`, `ica+adapter:film.gguf`.

    Raises:
        UnknownName: a part that is none of these.
        UsageError: a part stands twice.
    """
    spec = SystemSpec(name=text)
    seen: set[str] = set()
    for part in text.split("+"):
        word, _, argument = part.partition(":")
        kind = "method" if word in METHODS else word
        if kind in seen and kind != "adapter":
            raise UsageError(f"system {text!r} names {kind!r} twice: give one, such as 'ica-5shot+guard'")
        seen.add(kind)
        if word in METHODS and not argument:
            spec = replace(spec, method=word)
        elif word == "guard":
            spec = replace(spec, guard=tuple(name for name in argument.split(",") if name))
        elif word == "adapter" and argument:
            spec = replace(spec, adapters=(*spec.adapters, _scaled(argument)))
        elif word == "on" and argument in METHODS:
            spec = replace(spec, over=argument)
        else:
            raise UnknownName(
                "part of a system", part, (*METHODS, "guard", "guard:JUDGE,…", "adapter:FILE", "on:METHOD")
            )
    return spec


def _scaled(argument: str) -> tuple[str, float]:
    path, colon, scale = argument.rpartition(":")
    if colon and re.fullmatch(r"-?\d+(\.\d+)?", scale):
        return path, float(scale)
    return argument, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a user would have seen, and what was held back."""

    text: str
    finish: Finish = "stop"
    tokens: int = 0
    withheld: str | None = None
    act: str | None = None
    refused_by: str | None = None
    """`guard` or `cascade`: the text is the config's refusal, not the model's."""


class _Inline(Pool):
    """Judges run in the thread that waits for them: a run in lockstep knows its tasks by their threads."""

    def submit(self, call: Callable[[], T]) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001  # handed to whoever waits
            done.set_exception(error)
        return done


class System:
    """Answers items. Many threads may use it.

    Args:
        backend: the model; of a run, as its tasks may use it.
        sampling: how replies are drawn.

    Raises:
        UsageError: a method needs what the suite or the backend lacks.
    """

    def __init__(self, spec: SystemSpec, suite: Suite, backend: Backend, sampling: Sampling) -> None:
        self.spec, self._suite, self._backend, self._sampling = spec, suite, backend, sampling
        self._base: Method = spec.over if spec.method in {"cascade", "cascade-oracle"} else spec.method
        self._adapters = tuple(Adapter(name=adapter_name(path), scale=scale) for path, scale in spec.adapters)
        self._self_judge = ModelJudge(backend) if spec.method == "cascade" else None
        if self._base == "ica-5shot":
            for name, config in suite.configs.items():
                if not self._shots(name, config):
                    raise UsageError(
                        f"system {spec.name!r} needs few-shot turns, and config {name!r} of suite {suite.name!r} has "
                        "none: give the suite `shots`, or the config's rules examples"
                    )
        self.model_name = backend.name
        self.judges: tuple[str, ...] | None = None
        """Names of the guard's judges."""
        if spec.guard is not None:
            self.judges = tuple(judge.name for judge in self._guard(next(iter(suite.configs)), backend).judges)

    def prompt(self, item: Item) -> Request:
        """What the model is asked; behind a guard, what it would be asked without one."""
        messages: list[Message] = []
        shared = 0
        if self._base != "plain":
            config = self._suite.configs[item.config]
            messages.append(Message("system", self._system(item.config)))
            if self._base == "ica-5shot":
                for asked, answered in self._shots(item.config, config):
                    messages += [Message("user", asked), Message("assistant", answered)]
            shared = len(messages)
        return Request(
            messages=(*messages, Message("user", item.prompt)),
            sampling=self._sampling,
            adapters=self._adapters,
            shared=shared if shared > 1 else None,
        )

    def respond(self, item: Item) -> Response:
        """Answer an item.

        Raises:
            BackendError: the model failed.
            PromptTooLong: config, turns and prompt do not fit the model.
        """
        if self.spec.guard is not None:
            return self._guarded(item)
        response = self._answer(self.prompt(item))
        if self._self_judge is None:
            return response
        return self._cascaded(item, response, self._self_judge)

    def _answer(self, request: Request) -> Response:
        pieces = list(self._backend.stream(request))
        finish: Finish = next((piece.finish for piece in reversed(pieces) if piece.finish), "stop")
        text = "".join(piece.text for piece in pieces)
        return Response(text=text, finish=finish, tokens=sum(piece.tokens for piece in pieces))

    def _cascaded(self, item: Item, response: Response, judge: ModelJudge) -> Response:
        config = self._suite.configs[item.config]
        turns = (Message("user", item.prompt),)
        verdict = judge.judge(Case(config=config, stage="output", text=response.text or " ", turns=turns))
        if verdict.score is None or verdict.score <= _FLAGGED:
            return response
        return declined(config, response, "cascade")

    def _guarded(self, item: Item) -> Response:
        config = self._suite.configs[item.config]
        tapped = _Tapped(self._backend, self.prompt(item))
        guard = self._guard(item.config, tapped)
        reply = guard.reply(item.prompt, sampling=self._sampling)
        report = reply.report
        return Response(
            text=reply.text,
            finish=reply.finish,
            tokens=report.tokens,
            withheld=tapped.last if report.act != "pass" else None,
            act=report.act,
            refused_by="guard" if report.blocked and reply.text == config.refusal.message else None,
        )

    def _guard(self, name: str, backend: Backend) -> Guard:
        config = self._suite.configs[name]
        if self.spec.on_undecided:
            told = config.enforcement.model_dump() | {"on_undecided": self.spec.on_undecided}
            config = config.replace(enforcement=told)
        names = self.spec.guard or judges_registry.default()
        judges = [ModelJudge(self._backend) if one == "model" else _judge(one) for one in names]
        return Guard(
            config, judge=judges, backend=backend, accept_unexamined=True, adapters=self._adapters, pool=_Inline()
        )

    def _system(self, name: str) -> str:
        return _compiled(self._suite.configs[name], "cosalign" if name in self._suite.allow else "system")

    def _shots(self, name: str, config: SafetyConfig) -> tuple[Shot, ...]:
        if name in self._suite.shots:
            return self._suite.shots[name][:_MOST_SHOTS]
        turns = compile_config(config, "icl").turns
        return tuple((turns[at][1], turns[at + 1][1]) for at in range(0, len(turns), 2))[:_MOST_SHOTS]


class _Tapped:
    """The model behind a guard: it is asked as without the guard, and what it said is remembered.

    A guard writes its config into the first message. The system's own prompt takes its place, so that few-shot turns
    and category wordings are kept, and the guard is the only difference.
    """

    def __init__(self, backend: Backend, asked: Request) -> None:
        self._backend, self._asked = backend, asked
        self.name, self.capabilities = backend.name, backend.capabilities
        self.last: str | None = None
        self._first = True

    def stream(self, request: Request) -> Iterator[Delta]:
        if self._first:
            self._first = False
            request = self._asked
        text = []
        try:
            for delta in self._backend.stream(request):
                text.append(delta.text)
                yield delta
        finally:  # a guard closes the stream when it has seen enough
            self.last = "".join(text)


def declined(config: SafetyConfig, response: Response, by: str) -> Response:
    """The config's refusal in the place of a response."""
    text = config.refusal.message
    return replace(response, text=text, withheld=response.text, finish="content_filter", refused_by=by)


def adapter_name(path: str) -> str:
    """What requests call the adapter of a file, or of a server."""
    return Path(path).stem if Path(path).suffix in {".gguf", ".safetensors"} else Path(path).name


@lru_cache(maxsize=512)
def _compiled(config: SafetyConfig, target: str) -> str:
    return compile_config(config, target).text


@lru_cache(maxsize=16)
def _judge(name: str) -> AnyJudge:
    return judges_registry.make(name)


def circular(system: System, scored_by: frozenset[str]) -> str:
    """Why a figure of this system, scored by these models, may not be quoted; empty if nothing speaks against it.

    A filter or guard that shares a model or its sources with whoever scores is good at what is scored by construction.
    """
    if system.spec.method == "cascade-oracle":
        return "the evaluation judge itself filters: an upper bound, not a system"
    filters = {name.partition("/")[0].partition(":")[0] for name in system.judges or ()}
    if system.spec.method == "cascade" or "model" in filters:
        filters |= {system.model_name}
    shared = sorted(filters & scored_by)
    return f"{', '.join(shared)} both filters and scores" if shared else ""
