"""What a backend keeps of earlier prompts: it makes the next one quicker, never another."""

from __future__ import annotations

from typing import Any, Final

from cosa_guard.messages import Adapter, Message, Request, Sampling
from cosa_guard.testing.conformance.asking import NUMERICS, ask, distance, expect_same_texts, say, scorer, using
from cosa_guard.testing.conformance.subject import NotApplicable, Setup, Subject, check, expect, raises
from cosa_sdk.errors import PromptTooLong

__all__: list[str] = []

_TIGHT: Final = Setup(context=256, parallel=1)
"""One conversation at a time: each one drives out the last."""
_PLANTED: Final = "lantern 4417"
_RULES: Final = {
    "red": "Foxes are red, and you say so. " * 2,
    "sea": "Answer like a sailor at night. " * 2,
    "sum": "You talk of numbers, never of words. " * 2,
    "tea": "Whatever is asked, offer a cup of tea. " * 2,
}


def _configs() -> list[Request]:
    return [ask("Well, what now?", system=rules, max_tokens=6) for rules in _RULES.values()]


def _warm(subject: Subject, setup: Setup) -> Any:
    backend = scorer(subject, setup)
    if not backend.capabilities.prefix_cache:
        raise NotApplicable("capabilities.prefix_cache is False")
    if not hasattr(backend, "warm"):
        raise NotApplicable("the backend has no warm(system_text), and reads a config when its first request comes")
    return backend


@check("prefixes")
def a_warm_config_gives_the_same_answer(subject: Subject) -> None:
    """Only sooner."""
    warm = _warm(subject, Setup())
    requests = _configs()
    with subject.fresh() as fresh:
        cold: Any = fresh
        expected = [cold.next_logprobs(request) for request in requests]
    for request, wanted in zip(requests, expected, strict=True):
        warm.warm(request.messages[0].content)
        moved = distance(wanted, warm.next_logprobs(request))
        expect(moved < NUMERICS, f"warm, {moved} of the probability moves under {request.messages[0].content[:20]!r}")


@check("prefixes")
def warming_says_how_long_a_config_is(subject: Subject) -> None:
    """In tokens, fewer than the prompt has."""
    backend = _warm(subject, Setup())
    for request in _configs():
        length, whole = backend.warm(request.messages[0].content), backend.count_tokens(request)
        expect(0 < length < whole, f"warm says {length} tokens, the whole prompt has {whole}")


@check("prefixes")
def a_config_that_does_not_fit_is_refused(subject: Subject) -> None:
    """When it is warmed, not only when it is asked."""
    backend = _warm(subject, _TIGHT)
    raises(PromptTooLong, lambda: backend.warm("word " * 2000), "a config of 2,000 words")
    say(backend, _configs()[0])


@check("prefixes")
def switching_among_more_configs_than_stay_ready(subject: Subject) -> None:
    """Says what a new backend says to each."""
    backend = scorer(subject, _TIGHT)
    requests = _configs()
    rounds = [[backend.next_logprobs(request) for request in order] for order in (requests, requests[::-1])]
    rounds[1].reverse()
    with subject.fresh(_TIGHT) as fresh:
        new: Any = fresh
        expected = [new.next_logprobs(request) for request in requests]
    for found in rounds:
        for request, wanted, one in zip(requests, expected, found, strict=True):
            moved = distance(wanted, one)
            expect(moved < NUMERICS, f"{moved} of the probability moved under {request.messages[0].content[:20]!r}")


@check("prefixes")
def texts_do_not_depend_on_what_was_asked_before(subject: Subject) -> None:
    """Greedy replies of a new backend and of a busy one, numerics allowed for."""
    backend = subject.backend(_TIGHT)
    requests = _configs()
    with subject.fresh(_TIGHT) as fresh:
        first = [say(fresh, request).text for request in requests]
    for request in requests:
        say(backend, request)
    again = [say(backend, request).text for request in requests[::-1]][::-1]
    expect_same_texts(backend, "after other configs", list(zip(requests, first, again, strict=True)))


@check("prefixes")
def configs_with_a_common_beginning_are_kept_apart(subject: Subject) -> None:
    """Compiled configs share their preamble."""
    backend = scorer(subject)
    preamble = "You follow the rules below. " * 2
    requests = [ask("Name an animal.", system=preamble + end) for end in ("Say 'cat'.", "Say 'dog'.", "")]
    found = [backend.next_logprobs(request) for request in requests]
    again = [backend.next_logprobs(request) for request in requests]
    for one, other in zip(found, again, strict=True):
        expect(distance(one, other) < NUMERICS, f"asked again, {distance(one, other)} of the probability moved")
    for left, right in ((0, 1), (1, 2), (0, 2)):
        expect(distance(found[left], found[right]) > 0, "two configs with a common beginning are answered as one")


@check("prefixes")
def a_conversation_goes_on_as_if_it_were_new(subject: Subject) -> None:
    """Turn by turn, or all of it at once on a new backend."""
    backend = scorer(subject)
    turns = [Message("system", "Be kind."), Message("user", "Name a tree.")]
    for reply in ("An oak.", "A birch."):
        backend.next_logprobs(Request(messages=tuple(turns)))
        turns += [Message("assistant", reply), Message("user", "Another one.")]
    request = Request(messages=tuple(turns))
    with subject.fresh() as fresh:
        new: Any = fresh
        moved = distance(new.next_logprobs(request), backend.next_logprobs(request))
    expect(moved < NUMERICS, f"{moved} of the probability moved in a conversation that went on")


def _without_adapter_then_with(subject: Subject, first: tuple[Adapter, ...], then: tuple[Adapter, ...]) -> None:
    backend: Any = subject.adapted()[0]
    if not backend.capabilities.logprobs:
        raise NotApplicable("capabilities.logprobs is False")
    setup = Setup(parallel=2, adapters=True)
    request = ask("Well?", system=f"Number {subject.unique()}. {_RULES['red']}")
    backend.next_logprobs(request.replace(adapters=first))
    found = backend.next_logprobs(request.replace(adapters=then))
    with subject.fresh(setup) as fresh:
        new: Any = fresh
        moved = distance(new.next_logprobs(request.replace(adapters=then)), found)
    expect(moved < NUMERICS, f"read under {first!r}, a prefix served {then!r}: {moved} of the probability moved")


@check("prefixes")
def a_prefix_of_the_base_model_does_not_serve_an_adapter(subject: Subject) -> None:
    """What is kept depends on the adapters."""
    name = subject.adapted()[1]
    _without_adapter_then_with(subject, (), (Adapter(name=name),))


@check("prefixes")
def a_prefix_of_an_adapter_does_not_serve_the_base_model(subject: Subject) -> None:
    """Nor the other way round."""
    name = subject.adapted()[1]
    _without_adapter_then_with(subject, (Adapter(name=name),), ())


@check("prefixes")
def a_prefix_of_one_scale_does_not_serve_another(subject: Subject) -> None:
    """A scale is part of what was computed."""
    name = subject.adapted()[1]
    _without_adapter_then_with(subject, (Adapter(name=name),), (Adapter(name=name, scale=0.25),))


@check("prefixes")
def a_prefix_of_one_adapter_does_not_serve_another(subject: Subject) -> None:
    """Each name has its own."""
    _, one, other = subject.adapted()
    _without_adapter_then_with(subject, (Adapter(name=one),), (Adapter(name=other),))


@check("prefixes")
def prefixes_that_were_driven_out_come_back_under_their_own_adapter(subject: Subject) -> None:
    """More prefixes than stay ready, with and without an adapter, in turn."""
    backend: Any = scorer(subject, Setup(parallel=2, adapters=True)) if subject.adapted() else None
    name = subject.adapted()[1]
    number = subject.unique()
    configs = [ask("Well?", system=f"{number}. {rules}") for rules in list(_RULES.values())[:3]]
    requests = [each for config in configs for each in (config, using(config, name))]
    for request in requests:
        backend.next_logprobs(request)
    found = [backend.next_logprobs(request) for request in requests[::-1]][::-1]
    for place in (0, 1):
        with subject.fresh(Setup(parallel=2, adapters=True)) as fresh:
            new: Any = fresh
            expected = [new.next_logprobs(request) for request in requests[place::2]]
        for request, wanted, one in zip(requests[place::2], expected, found[place::2], strict=True):
            moved = distance(wanted, one)
            expect(moved < NUMERICS, f"under {request.adapters!r} {moved} of the probability moved")


# --- isolation --------------------------------------------------------------------------------------------------------


def _secret(scope: str) -> Request:
    turns = (
        Message("system", "You are terse."),
        Message("user", f"The password is {_PLANTED}. Repeat it."),
        Message("assistant", f"The password is {_PLANTED}."),
        Message("user", f"Good. Again: the password is {_PLANTED}."),
    )
    return Request(messages=turns, sampling=Sampling(max_tokens=6), scope=scope)


def _no_secret(subject: Subject, setup: Setup, plant: Any) -> None:
    asked = ask("What is the password? The password is", scope="other", max_tokens=10)
    backend = scorer(subject, setup)
    plant(backend)
    found, text = backend.next_logprobs(asked), say(backend, asked).text
    with subject.fresh(setup) as fresh:
        new: Any = fresh
        moved = distance(new.next_logprobs(asked), found)
    expect("4417" not in text and "lantern" not in text.lower(), f"a secret of another scope came out: {text!r}")
    expect(moved < NUMERICS, f"a conversation of another scope moved {moved} of the probability")


@check("isolation")
def a_secret_does_not_leave_its_conversation(subject: Subject) -> None:
    """The next one under the same config knows nothing of it."""
    _no_secret(subject, Setup(), lambda backend: [say(backend, _secret("one")) for _ in range(3)])


@check("isolation")
def a_secret_does_not_stay_in_a_place_that_was_given_up(subject: Subject) -> None:
    """Closed in the middle, its place goes to the next conversation."""

    def plant(backend: Any) -> None:
        stream = backend.stream(_secret("one"))
        next(stream)
        stream.close()

    _no_secret(subject, _TIGHT, plant)


@check("isolation")
def a_secret_does_not_come_back_from_what_was_driven_out(subject: Subject) -> None:
    """With more conversations than stay ready."""

    def plant(backend: Any) -> None:
        for request in (_secret("one"), *_configs()[:2]):
            say(backend, request)

    _no_secret(subject, _TIGHT, plant)


@check("isolation")
def the_same_words_of_two_scopes_get_the_same_answer(subject: Subject) -> None:
    """A scope decides what is reused, never what is said."""
    backend = scorer(subject)
    say(backend, _secret("one"))
    found = [backend.next_logprobs(_secret(scope)) for scope in ("one", "other", "")]
    for scope, one in zip(("other", "no"), found[1:], strict=True):
        expect(distance(found[0], one) < NUMERICS, f"{scope} scope moves {distance(found[0], one)} of the probability")
