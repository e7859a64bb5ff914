"""`Guard`: a config, its judges and a model behind three verbs, each sync and async."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, get_args

from cosa_guard import backends as backends_registry
from cosa_guard import judges as judges_registry
from cosa_guard.backends.base import AnyBackend, AsyncBackend, Backend, blocks
from cosa_guard.conversation import Conversation, MessageLike, admit, as_messages
from cosa_guard.drivers import Outcome, Ports, adrive, drive
from cosa_guard.flow import converse
from cosa_guard.folding import whole_characters
from cosa_guard.judges.base import AnyJudge, AsyncJudge, Judge
from cosa_guard.messages import Adapter, Delta, Finish, Message, Reply, Sampling, Usage
from cosa_guard.pool import Pool
from cosa_guard.recollection import Recollection
from cosa_guard.screening import Mode, Policy, screen
from cosa_guard.steps import Flow
from cosa_guard.transport import wrap
from cosa_guard.verdicts import Case, Entry, Report, Ruling, Stage, Verdict
from cosa_sdk.compile import compile as compile_config
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import uncovered
from cosa_sdk.errors import Blocked, UnknownName, UsageError, nearest
from cosa_sdk.taxonomy import FLOOR

__all__ = ["AsyncGuardStream", "Guard", "GuardStream"]

WIDEST = 24_000
"""Most characters of a conversation that are judged and shown to the model: about 6,000 tokens."""
JUDGE_TIMEOUT = 60.0
_GREEDY = Sampling()

ClientT = TypeVar("ClientT")
JudgeLike = str | AnyJudge | Callable[[Case], Verdict]
Record = Callable[[Entry], "Future[None] | None"]


@dataclass(slots=True)
class _Function:
    """A plain function as a judge. Nobody knows what it looks for, so its own verdicts say."""

    function: Callable[[Case], Verdict]
    name: str
    inline = False

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        return config.elements

    def holdback(self, config: SafetyConfig) -> int:  # noqa: ARG002  # nobody can know
        return 0

    def judge(self, case: Case) -> Verdict:
        return self.function(case)


def _judge(judge: JudgeLike) -> AnyJudge:
    if isinstance(judge, str):
        return judges_registry.make(judge)
    if isinstance(judge, Judge | AsyncJudge):
        return judge
    if callable(judge):
        return _Function(judge, getattr(judge, "__name__", type(judge).__name__))
    missing = [part for part in ("name", "inline", "covers", "holdback", "judge") if not hasattr(judge, part)]
    lacks = f" (this one lacks {', '.join(missing)})" if hasattr(judge, "judge") else ""
    raise UsageError(
        f"{judge!r} is no judge: give a name ({', '.join(judges_registry.names())}), a function of a case, "
        f"or an object like cosa_guard.Judge{lacks}"
    )


def _covered(judge: AnyJudge, config: SafetyConfig) -> frozenset[str]:
    covered = judge.covers(config)
    for name in sorted(covered - config.elements):
        meant = nearest(name, config.elements)
        hint = f": did you mean {meant!r}?" if meant else f". It has {', '.join(sorted(config.elements))}"
        raise UsageError(f"judge {judge.name!r} covers {name!r}, which config {config.name!r} lacks{hint}")
    return covered


def _backend(backend: str | AnyBackend | None) -> AnyBackend | None:
    if isinstance(backend, str):
        return backends_registry.make(backend)
    if backend is None or (isinstance(backend, Backend | AsyncBackend) and not isinstance(backend, type)):
        return backend
    raise UsageError(
        f"{backend!r} is no backend: give a name ({', '.join(backends_registry.names())}) "
        "or an object with stream(request)"
    )


class Guard:
    """One config around one model: tells the model the rules, and enforces them on what goes in and comes out.

    A guard is immutable and safe to share between threads and tasks; each call owns its state.

    Args:
        config: what is safe.
        judge: who decides; several are asked in order, cheap ones first. By default `rules`, and `embedded` where its
            extra is installed.
        backend: the model, by name or object. Without one a guard can only `check`.
        accept_unexamined: build the guard although no judge covers some rules. Decisions about them are *undecided*,
            and the config's `on_undecided` says what happens then.
        adapters: LoRA adapters, loaded in the backend, to apply to every request.
        tenant: keeps conversations of different customers apart.
        system_is_caller: system messages come from outside and are judged; by default they are the application's own.
        recollection: shared memory of own replies; each guard has its own otherwise.
        record: called with every ruling before its text is released, such as `audit.JsonlRecord(path)`.
        judge_timeout: seconds for one verdict; then `on_error` rules.
        widest: most characters of a conversation that anybody reads.

    Raises:
        UsageError: no judge covers some rule (and it was not accepted), or an argument is of the wrong kind.
    """

    def __init__(
        self,
        config: SafetyConfig,
        *,
        judge: JudgeLike | Sequence[JudgeLike] | None = None,
        backend: str | AnyBackend | None = None,
        accept_unexamined: bool = False,
        adapters: Sequence[Adapter] = (),
        tenant: str = "",
        system_is_caller: bool = False,
        recollection: Recollection | None = None,
        record: Record | None = None,
        judge_timeout: float = JUDGE_TIMEOUT,
        pool: Pool | None = None,
        widest: int = WIDEST,
    ) -> None:
        if not isinstance(config, SafetyConfig):
            raise UsageError(f"{config!r} is no SafetyConfig: use cosa_sdk.load(path) or cosa_sdk.presets.load(name)")
        if judge is None:
            judge = judges_registry.default()
        given = [judge] if isinstance(judge, str) or not isinstance(judge, Sequence) else judge
        judges = tuple(_judge(one) for one in given)
        if not judges:
            raise UsageError("a guard needs at least one judge")
        covered = frozenset[str]().union(*(_covered(one, config) for one in judges))
        self.unexamined = uncovered(config, covered)
        """What no judge of this guard can settle: rules, floor ids, `default:<risk>`, `guideline`."""
        if self.unexamined and not accept_unexamined:
            raise UsageError(_uncovered_text(config, self.unexamined, judges))
        self.config = config
        self.judges = judges
        self.policy = Policy(
            config=config,
            judges=judges,
            holdback=max(one.holdback(config) for one in judges),
            system=compile_config(config).text,
            own=recollection or Recollection(),
            windowed=all(getattr(one, "windowed", False) for one in judges),
            tenant=tenant,
            adapters=tuple(adapters),
            recorded=record is not None,
        )
        self.backend = _backend(backend)
        self.ports = Ports(backend=self.backend, pool=pool or Pool(), timeout=judge_timeout, record=record)
        self._system_is_caller = system_is_caller
        self.widest = min([widest, *(reach for one in judges if (reach := getattr(one, "reach", None)))])

    def check(self, text: str, *, stage: Stage = "input", prompt: str | None = None) -> Ruling:
        """Judge a text without generating anything.

        Args:
            stage: `input` for what a user asks, `output` for what a model answered.
            prompt: for a reply, the prompt that it answers.
        """
        outcome: Outcome[Ruling] = Outcome()
        for _ in drive(screen(self.policy, self._case(text, stage, prompt)), self.ports, outcome):
            raise AssertionError("a check emits nothing")
        return outcome.value

    async def acheck(self, text: str, *, stage: Stage = "input", prompt: str | None = None) -> Ruling:
        """As `check`, awaiting."""
        outcome: Outcome[Ruling] = Outcome()
        async for _ in adrive(screen(self.policy, self._case(text, stage, prompt)), self.ports, outcome):
            raise AssertionError("a check emits nothing")
        return outcome.value

    def reply(
        self, messages: str | Iterable[MessageLike], *, sampling: Sampling | None = None, raise_on_block: bool = False
    ) -> Reply:
        """A whole reply, judged as a whole before any of it is returned.

        Raises:
            Blocked: the guard refused, and `raise_on_block` is set.
            BackendError: the model failed.
        """
        stream = self._stream(messages, sampling, "whole")
        pieces = list(stream)
        return self._reply(pieces, stream.report, raise_on_block=raise_on_block)

    async def areply(
        self, messages: str | Iterable[MessageLike], *, sampling: Sampling | None = None, raise_on_block: bool = False
    ) -> Reply:
        """As `reply`, awaiting."""
        stream = self._astream(messages, sampling, "whole")
        pieces = [piece async for piece in stream]
        return self._reply(pieces, stream.report, raise_on_block=raise_on_block)

    def stream(self, messages: str | Iterable[MessageLike], *, sampling: Sampling | None = None) -> GuardStream:
        """A reply as it is written, released as the config's `stream` says."""
        return self._stream(messages, sampling, self.config.enforcement.stream)

    def astream(self, messages: str | Iterable[MessageLike], *, sampling: Sampling | None = None) -> AsyncGuardStream:
        """As `stream`, awaiting."""
        return self._astream(messages, sampling, self.config.enforcement.stream)

    def wrap(
        self,
        client: ClientT,
        *,
        passthrough: Sequence[str] = (),
        on_report: Callable[[Report], None] | None = None,
    ) -> ClientT:
        """A client of the `openai` or `anthropic` package, guarded: the same class, the same HTTP settings.

        Args:
            passthrough: ends of paths that go through unguarded, such as `/embeddings`. Others that the guard does
                not understand are refused.
            on_report: called with the report of each call when it has ended.

        Raises:
            UsageError: it is not such a client.
        """
        return wrap(self, client, passthrough=passthrough, on_report=on_report)

    def _case(self, text: str, stage: Stage, prompt: str | None) -> Case:
        if not isinstance(text, str):
            raise UsageError(f"check takes text, not {type(text).__name__}")
        if stage not in get_args(Stage):
            raise UnknownName("stage", str(stage), get_args(Stage))
        turns = (Message("user", whole_characters(prompt)),) if prompt is not None else ()
        return Case(config=self.config, stage=stage, text=whole_characters(text), turns=turns)

    def _admit(self, messages: str | Iterable[MessageLike]) -> Conversation:
        return admit(
            as_messages(messages),
            own=self.policy.own,
            tenant=self.policy.tenant,
            widest=self.widest,
            system_is_caller=self._system_is_caller,
        )

    def _stream(self, messages: str | Iterable[MessageLike], sampling: Sampling | None, mode: Mode) -> GuardStream:
        if self.backend is not None and not blocks(self.backend):
            raise UsageError(f"backend {self.backend.name!r} can only be awaited: use areply or astream")
        flow, report = self._begin(messages, sampling, mode)
        return GuardStream(drive(flow, self.ports, Outcome()), report)

    def _astream(
        self, messages: str | Iterable[MessageLike], sampling: Sampling | None, mode: Mode
    ) -> AsyncGuardStream:
        flow, report = self._begin(messages, sampling, mode)
        return AsyncGuardStream(adrive(flow, self.ports, Outcome()), report)

    def _begin(
        self, messages: str | Iterable[MessageLike], sampling: Sampling | None, mode: Mode
    ) -> tuple[Flow[Report], Report]:
        if sampling is not None and not isinstance(sampling, Sampling):
            raise UsageError(f"sampling={sampling!r}: give a cosa_guard.Sampling(…)")
        report = Report(config=self.config.digest)
        return converse(self.policy, self._admit(messages), sampling or _GREEDY, mode, report), report

    @staticmethod
    def _reply(pieces: list[Delta], report: Report, *, raise_on_block: bool) -> Reply:
        if report.blocked and raise_on_block:
            raise Blocked("the guard refused", report)
        finish: Finish = pieces[-1].finish or "stop"
        text = "".join(piece.text for piece in pieces)
        return Reply(text=text, finish=finish, report=report, usage=Usage(completion_tokens=report.tokens))


def _uncovered_text(config: SafetyConfig, missing: tuple[str, ...], judges: tuple[AnyJudge, ...]) -> str:
    have = ", ".join(judge.name for judge in judges)
    return (
        f"config {config.name!r} has rules that no judge of this guard can examine: {', '.join(missing)}. "
        f"Judges given: {have}. {_embedded_hint(missing)}"
        "A judge that reads text covers them: judge=['rules', model] with "
        "model = cosa_guard.judges.make('model', backend=backend). "
        "Or pass accept_unexamined=True: such texts are then 'undecided', "
        f"and this config's on_undecided: {config.enforcement.on_undecided} applies."
    )


def _embedded_hint(missing: tuple[str, ...]) -> str:
    """Said where nothing reads the floor: `rules` cannot, the embedded judge does."""
    if not {*FLOOR} & {*missing}:
        return ""
    if "embedded" in judges_registry.default():
        return "The embedded judge covers risks and the floor: judge=['rules', 'embedded']. "
    return "The embedded judge, which covers risks and the floor, is not installed: pip install 'cosa[embedded]'. "


class _Reported:
    _report: Report
    _ended: bool

    @property
    def report(self) -> Report:
        """What the guard did; there once the stream has ended or was closed.

        Raises:
            UsageError: the stream goes on.
        """
        if not self._ended:
            raise UsageError("the report is there when the stream has ended: read the stream first, or close it")
        return self._report


class GuardStream(_Reported):
    """Iterates over released pieces; the last one has `finish`. Closing it stops the model."""

    def __init__(self, pieces: Iterator[Delta], report: Report) -> None:
        self._pieces: Any = pieces
        self._report = report
        self._ended = False

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        try:
            piece: Delta = next(self._pieces)
        except BaseException:
            self._ended = True
            raise
        return piece

    def close(self) -> None:
        """Stop: nothing more is generated or released."""
        self._ended = True
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncGuardStream(_Reported):
    """As `GuardStream`, awaiting."""

    def __init__(self, pieces: AsyncIterator[Delta], report: Report) -> None:
        self._pieces: Any = pieces
        self._report = report
        self._ended = False

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        try:
            piece: Delta = await anext(self._pieces)
        except BaseException:
            self._ended = True
            raise
        return piece

    async def aclose(self) -> None:
        """Stop: nothing more is generated or released."""
        self._ended = True
        await self._pieces.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
