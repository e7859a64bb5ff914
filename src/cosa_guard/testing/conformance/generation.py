"""Limits, seeds and streams: how much is said, what is drawn, and in which pieces it comes."""

from __future__ import annotations

import json
from typing import Any, Final

from cosa_guard.backends.base import Backend
from cosa_guard.guard import Guard
from cosa_guard.messages import Sampling
from cosa_guard.testing import ScriptedJudge
from cosa_guard.testing.conformance.asking import (
    FOX,
    ask,
    ask_json,
    drawn,
    expect_same_texts,
    filled,
    json_backend,
    say,
    scorer,
    together,
)
from cosa_guard.testing.conformance.subject import NotApplicable, Setup, Subject, check, expect
from cosa_sdk.config import SafetyConfig

__all__: list[str] = []

_LONG: Final = ("Count from 1 to 500.", "List all the letters and what they stand for.", "Tell me a long story.")
_SCRIPTS: Final = ("naïve café 🦊🚀", "привет мир", "你好，世界", "שלום 👩‍🚀", "한국어 ÷ ½")

# --- limits -----------------------------------------------------------------------------------------------------------


@check("limits")
def max_tokens_is_a_limit_and_length_says_that_it_was_reached(subject: Subject) -> None:
    """`length` means exactly so many tokens; a reply of fewer ended by itself."""
    backend = subject.backend()
    finishes = set()
    for question in _LONG:
        for most in (1, 7):
            reply = say(backend, ask(question, max_tokens=most))
            expect(reply.tokens <= most, f"{reply.tokens} tokens came, {most} were allowed")
            fits = reply.tokens == most if reply.finish == "length" else reply.finish == "stop"
            expect(fits, f"{reply.tokens} tokens of {most} have the finish {reply.finish!r}")
            finishes.add(reply.finish)
    expect("length" in finishes, "of three long answers none reached the limit")


@check("limits")
def a_reply_may_end_by_itself(subject: Subject) -> None:
    """With the finish `stop`."""
    backend = subject.backend()
    for question in ("Write one sentence about a fox.", "Say yes.", "What is 1 + 1?", "Hello."):
        reply = say(backend, ask(question, max_tokens=80))
        if reply.tokens < 80:
            expect(reply.finish == "stop", f"a reply of {reply.tokens} tokens of 80 has the finish {reply.finish!r}")
            return
    raise AssertionError("of four short answers none ended within 80 tokens")


@check("limits")
def a_longer_limit_goes_on_where_a_shorter_one_stopped(subject: Subject) -> None:
    """Greedily, the shorter reply is the beginning of the longer one."""
    backend = subject.backend()
    say(backend, ask(_LONG[0], max_tokens=1))
    short, long = (say(backend, ask(_LONG[0], max_tokens=most)).text for most in (5, 10))
    expect(long.startswith(short), f"5 tokens are {short!r}, 10 are {long!r}")


@check("limits")
def a_reply_ends_with_the_context(subject: Subject) -> None:
    """However much was asked for; prompt and reply together fit."""
    backend = scorer(subject, Setup(context=128, parallel=1))
    request = filled(backend, _LONG[0], 20, max_tokens=100_000)
    reply = say(backend, request)
    room = backend.capabilities.context - backend.count_tokens(request)
    expect(0 < reply.tokens <= room, f"{reply.tokens} tokens came where {room} fit")
    if reply.tokens == room:
        expect(reply.finish == "length", f"a full context has the finish {reply.finish!r}")


# --- seeds ------------------------------------------------------------------------------------------------------------


def _draw(backend: Backend, seed: int | None, **sampling: Any) -> str:
    told = {"temperature": 1.0, "max_tokens": 8, "seed": seed} | sampling
    return say(backend, ask("Tell me a story.", **told)).text


@check("seeds")
def a_seed_repeats_a_draw(subject: Subject) -> None:
    """Also after other draws, and for seeds of any size."""
    backend = subject.backend()
    _draw(backend, 1)
    for seed in (7, 0, -1, 2**31, 2**40):
        first = _draw(backend, seed)
        _draw(backend, seed + 1)
        again = _draw(backend, seed)
        expect(first == again, f"seed {seed} drew {first!r}, then {again!r}")


@check("seeds")
def another_seed_draws_differently(subject: Subject) -> None:
    """Among eight seeds there are several texts."""
    backend = subject.backend()
    drawn = {_draw(backend, seed) for seed in range(8)}
    expect(len(drawn) > 2, f"eight seeds drew {sorted(drawn)!r}")


@check("seeds")
def without_a_seed_draws_differ(subject: Subject) -> None:
    """A seed that nobody gave is not always the same one."""
    backend = subject.backend()
    drawn = {_draw(backend, None) for _ in range(8)}
    expect(len(drawn) > 2, f"eight draws gave {sorted(drawn)!r}")


@check("seeds")
def neighbours_do_not_touch_a_draw(subject: Subject) -> None:
    """What else is generated at the same time draws from seeds of its own."""
    backend = subject.backend()
    _draw(backend, 1)
    alone = [_draw(backend, seed) for seed in range(4)]
    crowd = together([lambda seed=seed: _draw(backend, seed) for seed in range(4)])  # type: ignore[misc]
    same = sum(one == other for one, other in zip(alone, crowd, strict=True))
    # Batches of other sizes add up differently, so a draw at the edge may fall the other way.
    expect(same >= 2, f"{4 - same} of 4 draws changed beside others: {alone!r} became {crowd!r}")


@check("seeds")
def greedy_takes_no_seed(subject: Subject) -> None:
    """Temperature 0 draws nothing."""
    backend = subject.backend()
    say(backend, drawn(FOX, max_tokens=1))
    texts = {say(backend, drawn(FOX, seed=seed)).text for seed in (None, 1, 2)}
    expect(len(texts) == 1, f"three seeds gave {sorted(texts)!r} at temperature 0")


@check("seeds")
def the_smallest_top_p_is_greedy(subject: Subject) -> None:
    """The likeliest token is always in it."""
    backend = subject.backend()
    say(backend, drawn(FOX, max_tokens=1))
    greedy = say(backend, FOX).text
    narrow = say(backend, drawn(FOX, temperature=1.0, top_p=1e-6, seed=3)).text
    expect(greedy == narrow, f"greedy is {greedy!r}, top_p=1e-6 is {narrow!r}")


@check("greedy")
def the_same_request_gets_the_same_text(subject: Subject) -> None:
    """From the second time on: the first one computes the prompt in other batches."""
    backend = subject.backend()
    say(backend, drawn(FOX, max_tokens=1))
    texts = {say(backend, FOX).text for _ in range(3)}
    expect(len(texts) == 1, f"three times the same request gave {sorted(texts)!r}")


@check("greedy")
def two_backends_say_the_same(subject: Subject) -> None:
    """Nothing depends on what a backend did before."""
    backend = subject.backend()
    with subject.fresh() as fresh:
        pairs = [
            (request, say(fresh, request).text, say(backend, request).text)
            for request in (FOX, *(ask(question) for question in _LONG))
        ]
    expect_same_texts(backend, "a new backend and one that was used", pairs)


# --- streams ----------------------------------------------------------------------------------------------------------


@check("streams")
def a_reply_comes_in_pieces(subject: Subject) -> None:
    """A reply of many tokens is not one piece."""
    backend = subject.backend()
    if not backend.capabilities.streaming:
        raise NotApplicable("capabilities.streaming is False")
    reply = say(backend, ask(_LONG[0], max_tokens=12))
    expect(sum(bool(piece.text) for piece in reply.deltas) > 2, f"12 tokens came as {reply.deltas!r}")
    expect(max(piece.tokens for piece in reply.deltas) < 12, f"12 tokens came as {reply.deltas!r}")


@check("streams")
def a_guarded_reply_is_what_was_streamed(subject: Subject) -> None:
    """Through the guard, whole and in pieces."""
    guard = Guard(SafetyConfig(name="kind", guideline="Be kind."), judge=ScriptedJudge(), backend=subject.backend())
    sampling = Sampling(max_tokens=8)
    list(guard.stream("Tell me of the sea.", sampling=Sampling(max_tokens=1)))
    whole = guard.reply("Tell me of the sea.", sampling=sampling).text
    pieces = "".join(piece.text for piece in guard.stream("Tell me of the sea.", sampling=sampling))
    expect(whole == pieces, f"whole it is {whole!r}, in pieces {pieces!r}")
    expect(whole, "the guarded reply is empty")


@check("streams")
def characters_of_several_tokens_come_whole(subject: Subject) -> None:
    """No piece holds half of one."""
    backend = json_backend(subject)
    for text in _SCRIPTS:
        reply = say(backend, ask_json({"const": text}))
        broken = [piece.text for piece in reply.deltas if "\ufffd" in piece.text or _unpaired(piece.text)]
        expect(not broken, f"{text!r} came in the pieces {broken!r}")
        expect(json.loads(reply.text) == text, f"{text!r} became {reply.text!r}")


@check("streams")
def a_character_cut_by_the_limit_is_left_out(subject: Subject) -> None:
    """The reply is well-formed wherever it ends."""
    backend = json_backend(subject)
    text = "🦊你ф" * 2
    for most in range(2, 10):
        reply = say(backend, ask_json({"const": text}, max_tokens=most))
        expect(json.dumps(text, ensure_ascii=False).startswith(reply.text), f"{most} tokens give {reply.text!r}")


def _unpaired(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
