"""Log-odds and adapters: what judges read, and what changes it."""

from __future__ import annotations

import math
from typing import Any, Final

from cosa_guard.messages import Adapter
from cosa_guard.testing.conformance.asking import NUMERICS, ask, distance, say, scorer, together, using
from cosa_guard.testing.conformance.subject import Setup, Subject, check, expect, raises
from cosa_sdk.errors import AdapterError, UsageError

__all__: list[str] = []

_QUESTION: Final = ask("Is the sea blue? Answer yes or no.", max_tokens=1)
_QUESTIONS: Final = (
    _QUESTION,
    ask("Name a colour.", max_tokens=1),
    ask("Write one sentence about a fox.", max_tokens=1),
)


# --- log-odds ---------------------------------------------------------------------------------------------------------


@check("log-odds")
def they_are_natural_logarithms_of_probabilities(subject: Subject) -> None:
    """None above 0; together at most 1, and most of it among the likeliest tokens."""
    backend = scorer(subject)
    for request in _QUESTIONS:
        found = backend.next_logprobs(request, top=200)
        expect(all(value <= 1e-6 for value in found.values()), f"log-probabilities above 0: {found!r}")
        mass = sum(map(math.exp, found.values()))
        expect(mass <= 1.001, f"the probabilities add up to {mass}")
        expect(mass > 0.3, f"the 200 likeliest tokens have {mass} of the probability: are these natural logarithms?")


@check("log-odds")
def the_likeliest_token_is_the_greedy_one(subject: Subject) -> None:
    """What is read off is what would be said."""
    backend = scorer(subject)
    for request in _QUESTIONS:
        found = backend.next_logprobs(request, top=20)
        best, *rest = sorted(found, key=lambda token: -found[token])
        text = say(backend, request).text
        near = [token for token in rest if math.exp(found[best]) - math.exp(found[token]) < NUMERICS]
        # A token may be half a character, of which nothing is said.
        fits = [token for token in (best, *near) if text == token or (text == "" and "\ufffd" in token)]
        expect(fits, f"the likeliest token is {best!r}, the greedy reply {text!r}")


@check("log-odds")
def top_is_respected(subject: Subject) -> None:
    """So many tokens, the likeliest ones."""
    backend = scorer(subject)
    wide = backend.next_logprobs(_QUESTION, top=40)
    for top in (1, 5):
        found = backend.next_logprobs(_QUESTION, top=top)
        expect(0 < len(found) <= top, f"top={top} gave {len(found)} tokens")
        likeliest = max(found.values()) - max(wide.values())
        expect(abs(likeliest) < 0.5, f"top={top} leaves the likeliest token out: {found!r} of {wide!r}")
    expect(len(wide) > 5, f"top=40 gave {len(wide)} tokens")


@check("log-odds")
def top_below_one_is_refused(subject: Subject) -> None:
    """There is nothing to give."""
    backend = scorer(subject)
    for top in (0, -1):
        raises(UsageError, lambda top=top: backend.next_logprobs(_QUESTION, top=top), f"top={top}")  # type: ignore[misc]


@check("log-odds")
def they_can_be_repeated(subject: Subject) -> None:
    """From the second time on to the last bit."""
    backend = scorer(subject)
    backend.next_logprobs(_QUESTION)
    first, second = backend.next_logprobs(_QUESTION), backend.next_logprobs(_QUESTION)
    expect(distance(first, second) < 1e-6, f"twice the same question, {distance(first, second)} apart")


@check("log-odds")
def sampling_does_not_bend_them(subject: Subject) -> None:
    """They are the model's, not the sampler's: temperature and top_p leave them as they are."""
    backend = scorer(subject)
    plain = backend.next_logprobs(_QUESTION)
    for sampling in ({"temperature": 2.0}, {"temperature": 1.0, "top_p": 0.1}, {"max_tokens": 50, "stop": ("e",)}):
        bent = backend.next_logprobs(ask(_QUESTION.messages[-1].content, **sampling))
        expect(distance(plain, bent) < NUMERICS, f"{sampling!r} moves {distance(plain, bent)} of the probability")


@check("log-odds")
def markup_has_no_text(subject: Subject) -> None:
    """Tokens that are markup, such as the end of a turn, count together as `''`."""
    backend = scorer(subject)
    for request in _QUESTIONS:
        found = backend.next_logprobs(request, top=200)
        shown = [marker for marker in subject.markup if marker in found]
        expect(not shown, f"the log-odds name the special tokens {shown!r}")


@check("log-odds")
def tokens_are_not_stripped(subject: Subject) -> None:
    """A word with a blank in front is another token than the word."""
    backend = scorer(subject)
    found = backend.next_logprobs(_QUESTION, top=4000)
    expect(any(token != token.strip() for token in found), "no token of 4,000 begins or ends with a blank")


@check("log-odds")
def scoring_and_generating_at_the_same_time(subject: Subject) -> None:
    """Neither touches the other."""
    backend = scorer(subject)
    alone = [backend.next_logprobs(request) for request in _QUESTIONS]
    calls: list[Any] = [lambda request=request: backend.next_logprobs(request) for request in _QUESTIONS]
    calls += [lambda number=number: say(backend, ask(f"Count from {number}.")) for number in range(3)]
    for request, one, other in zip(_QUESTIONS, alone, together(calls), strict=False):
        moved = distance(one, other)
        expect(moved < NUMERICS, f"beside others {moved} of the probability moves: {request.messages[-1].content!r}")


# --- adapters ---------------------------------------------------------------------------------------------------------


@check("adapters")
def loaded_adapters_are_named(subject: Subject) -> None:
    """In the capabilities."""
    backend, *names = subject.adapted()
    found = backend.capabilities.adapters
    expect({*names} <= {*found}, f"loaded were {names!r}, the capabilities name {found!r}")


@check("adapters")
def an_adapter_changes_what_is_said(subject: Subject) -> None:
    """Each its own way."""
    backend, one, other = subject.adapted()
    request = _QUESTIONS[2].replace(sampling=ask("", max_tokens=8).sampling)
    texts = [say(backend, each).text for each in (request, using(request, one), using(request, other))]
    expect(len({*texts}) == 3, f"without, with {one!r} and with {other!r} the replies are {texts!r}")


def _adapted(subject: Subject) -> tuple[Any, str, str]:
    subject.adapted()
    backend = scorer(subject, Setup(parallel=2, adapters=True))
    return backend, *subject.adapted()[1:]


@check("adapters")
def an_adapter_changes_the_log_odds(subject: Subject) -> None:
    """A judge may be an adapter."""
    backend, one, _ = _adapted(subject)
    moved = distance(backend.next_logprobs(_QUESTION), backend.next_logprobs(using(_QUESTION, one)))
    expect(moved > NUMERICS, f"the adapter {one!r} moves {moved} of the probability")


@check("adapters")
def an_unknown_adapter_is_refused(subject: Subject) -> None:
    """With the names that there are, in replies and in log-odds."""
    backend, one, _ = subject.adapted()
    request = using(_QUESTION, one + "s")
    error = raises(AdapterError, lambda: list(backend.stream(request)), "an unknown adapter")
    expect(one in str(error) and one + "s" in str(error), f"the error names no choices: {error}")
    if backend.capabilities.logprobs:
        scoring = scorer(subject, Setup(parallel=2, adapters=True))
        raises(AdapterError, lambda: scoring.next_logprobs(request), "an unknown adapter")


@check("adapters")
def a_backend_without_adapters_refuses_all(subject: Subject) -> None:
    """It does not answer as the base model would."""
    backend = subject.backend()
    expect(not backend.capabilities.adapters, f"none were loaded, the capabilities name {backend.capabilities!r}")
    raises((AdapterError, UsageError), lambda: list(backend.stream(using(_QUESTION, "none"))), "an unknown adapter")


@check("adapters")
def scale_0_is_the_base_model(subject: Subject) -> None:
    """And so is no adapter beside others that are loaded."""
    backend, one, other = _adapted(subject)
    base = scorer(subject)
    plain = base.next_logprobs(_QUESTION)
    for request in (_QUESTION, using(_QUESTION, one, 0.0), using(_QUESTION, other, 0.0)):
        moved = distance(plain, backend.next_logprobs(request))
        expect(moved < NUMERICS, f"{request.adapters!r} moves {moved} of the probability")


@check("adapters")
def a_scale_is_a_matter_of_degree(subject: Subject) -> None:
    """Two scales are two models."""
    backend, one, _ = _adapted(subject)
    half, whole = (backend.next_logprobs(using(_QUESTION, one, scale)) for scale in (0.5, 1.0))
    expect(distance(half, whole) > 0.01, "scale 0.5 and scale 1 give the same distribution")


@check("adapters")
def two_adapters_in_one_request(subject: Subject) -> None:
    """They apply together."""
    backend, one, other = _adapted(subject)
    both = _QUESTION.replace(adapters=(Adapter(name=one), Adapter(name=other)))
    found = backend.next_logprobs(both)
    for name in (one, other):
        moved = distance(found, backend.next_logprobs(using(_QUESTION, name)))
        expect(moved > 0.01, f"both adapters together are no other than {name!r} alone")


@check("adapters")
def the_order_of_adapters_does_not_matter(subject: Subject) -> None:
    """They are added up."""
    backend, one, other = _adapted(subject)
    pair = (Adapter(name=one), Adapter(name=other, scale=0.5))
    left, right = (backend.next_logprobs(_QUESTION.replace(adapters=order)) for order in (pair, pair[::-1]))
    expect(distance(left, right) < NUMERICS, f"the other order moves {distance(left, right)} of the probability")


@check("adapters")
def an_adapter_does_not_stay_for_the_next_request(subject: Subject) -> None:
    """Neither after a reply nor after one that was given up."""
    backend, one, _ = _adapted(subject)
    before = backend.next_logprobs(_QUESTION)
    say(backend, using(_QUESTION, one))
    given_up = iter(backend.stream(using(ask("Count from 1 to 500.", max_tokens=60), one)))
    next(given_up)
    given_up.close()
    moved = distance(before, backend.next_logprobs(_QUESTION))
    expect(moved < NUMERICS, f"after a request with {one!r} {moved} of the probability moved")


@check("adapters")
def requests_with_different_adapters_at_the_same_time(subject: Subject) -> None:
    """Each is answered by its own."""
    backend, one, other = _adapted(subject)
    requests = [_QUESTION, using(_QUESTION, one), using(_QUESTION, other), using(_QUESTION, one, 0.5)]
    alone = [backend.next_logprobs(request) for request in requests]
    calls: list[Any] = [lambda request=request: backend.next_logprobs(request) for request in requests]
    for request, expected, found in zip(requests, alone, together(calls), strict=True):
        moved = distance(expected, found)
        expect(moved < NUMERICS, f"beside others {request.adapters!r} moves {moved} of the probability")


@check("adapters")
def replies_with_different_adapters_at_the_same_time(subject: Subject) -> None:
    """A stream keeps its adapters while others begin."""
    backend, one, other = subject.adapted()
    plain = ask("Write one sentence about a fox.", max_tokens=6)
    requests = [plain, using(plain, one), using(plain, other)]
    alone = [say(backend, request).text for request in requests]
    calls: list[Any] = [lambda request=request: say(backend, request).text for request in requests]
    differ = [pair for pair in zip(alone, together(calls), strict=True) if pair[0] != pair[1]]
    expect(len(differ) <= 1, f"beside others replies changed: {differ!r}")
