"""Desks: tasks are plain code; what they ask of models is put together, or at once."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosa_guard.backends.base import Backend, Capabilities, Completer, Scorer
from cosa_guard.evals.asking import AtOnce, Lockstep
from cosa_guard.evals.limits import Limits, Meter
from cosa_guard.evals.replies import Replies, Said
from cosa_guard.messages import Delta, Message, Request
from cosa_guard.testing import AsyncFakeBackend, FakeBackend
from cosa_sdk.errors import BackendError, UsageError


class Together(FakeBackend):
    """Computes many at once, and remembers which."""

    def __init__(self, script, name="together"):
        super().__init__(script, name=name)
        self.waves = []

    def complete(self, requests):
        self.waves.append([one.messages[-1].content for one in requests])
        return [self.stream(one) for one in requests]

    def next_logprobs(self, request, *, top=64):
        self.waves.append([f"?{request.messages[-1].content}"])
        return {"yes": -0.25, "no": -1.5}

    def count_tokens(self, request):
        return len(request.messages[-1].content)


def asked(text):
    return Request(messages=(Message("user", text),))


def ask(model, text):
    return "".join(piece.text for piece in model.stream(asked(text)))


def echo(request):
    return f"<{request.messages[-1].content}>"


def talk(model, order, turns):
    """A task that asks as often as it was told, each time about the answer before."""

    def task():
        said = str(order)
        for _ in range(turns):
            said = ask(model, said)
        return said

    return task


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_in_lockstep_waves_depend_on_the_tasks_alone(turns):
    backend = Together(echo)
    desk = Lockstep(Replies())
    model = desk.model(backend)

    found = desk.run([talk(model, order, count) for order, count in enumerate(turns)])

    assert [f"{'<' * count}{order}{'>' * count}" for order, count in enumerate(turns)] == found
    expected = [
        [f"{'<' * wave}{order}{'>' * wave}" for order, count in enumerate(turns) if count > wave]
        for wave in range(max(turns))
    ]
    assert expected == backend.waves


def test_one_question_is_put_once():
    backend = Together(echo)
    desk = Lockstep(Replies())
    model = desk.model(backend)

    found = desk.run([lambda: ask(model, "same")] * 5 + [lambda: ask(model, "other")])
    again = desk.run([lambda: ask(model, "same")])

    assert (["<same>"] * 5 + ["<other>"], ["<same>"]) == (found, again)
    assert [["same", "other"]] == backend.waves


def test_distributions_are_asked_for_one_by_one_before_replies_are_written():
    backend = Together(echo)
    desk = Lockstep(Replies())
    model = desk.model(backend)

    def weigh(text):
        return lambda: model.next_logprobs(asked(text), top=3)

    found = desk.run([lambda: ask(model, "a"), weigh("b"), weigh("c"), lambda: ask(model, "d")])

    assert ["<a>", {"yes": -0.25, "no": -1.5}, {"yes": -0.25, "no": -1.5}, "<d>"] == found
    assert [["?b"], ["?c"], ["a", "d"]] == backend.waves


def test_models_take_turns_in_the_order_of_the_tasks():
    first, second = Together(echo, "first"), Together(echo, "second")
    desk = Lockstep(Replies())
    models = [desk.model(second), desk.model(first)]

    desk.run([lambda: ask(models[0], "a"), lambda: ask(models[1], "b"), lambda: ask(models[0], "c")])

    assert ([["b"]], [["a", "c"]]) == (first.waves, second.waves)


def test_a_backend_that_computes_one_at_a_time_is_asked_in_order():
    backend = FakeBackend(echo, capabilities=Capabilities(parallel=1))
    desk = Lockstep(Replies())
    model = desk.model(backend)

    desk.run([lambda number=number: ask(model, str(number)) for number in range(9)])

    assert [str(number) for number in range(9)] == [one.messages[-1].content for one in backend.requests]


def test_a_judge_behind_a_server_is_asked_several_questions_at_a_time_and_ends_exactness():
    both = threading.Barrier(2, timeout=10)

    def script(request):
        both.wait()
        return "judged"

    desk = Lockstep(Replies())
    answers, judge = desk.model(Together(echo)), desk.model(FakeBackend(script, name="judge"))

    assert ["judged"] * 2 == desk.run([lambda text=text: ask(judge, ask(answers, text)) for text in ("a", "b")])
    assert not desk.exact and Lockstep(Replies()).exact


def test_a_judge_behind_a_server_is_tried_again_and_paid_for():
    left = [1]

    def script(request):
        if left:
            left.pop()
            raise BackendError("busy")
        return "judged"

    meter = Meter(Limits(retries=1), sleep=lambda seconds: None)
    desk = Lockstep(Replies(), meter=meter)
    judge = desk.model(FakeBackend(script))

    assert (["judged"], 1) == (desk.run([lambda: ask(judge, "a")]), meter.calls)


def failing(request):
    if request.messages[-1].content == "bad":
        raise BackendError("no answer")
    return "fine"


@pytest.mark.parametrize("desk", [lambda: Lockstep(Replies(), meter=Meter(Limits(retries=0))), lambda: AtOnce(Replies(), concurrency=3, meter=Meter(Limits(retries=0)))])
@pytest.mark.parametrize("kind", [Together, FakeBackend])
def test_an_error_is_its_tasks_own(desk, kind):
    desk = desk()
    model = desk.model(kind(failing))

    found = desk.run([lambda text=text: ask(model, text) for text in ("a", "bad", "b", "bad")])

    assert ["fine", "BackendError('no answer')", "fine", "BackendError('no answer')"] == [one if isinstance(one, str) else repr(one) for one in found]


def test_an_error_is_not_kept_as_an_answer():
    backend = FakeBackend(failing)
    desk = Lockstep(Replies(), meter=Meter(Limits(retries=0)))
    model = desk.model(backend)

    for _ in range(2):
        desk.run([lambda: ask(model, "bad")])

    assert 2 == len(backend.requests)


@pytest.mark.parametrize("desk", [lambda: Lockstep(Replies()), lambda: AtOnce(Replies(), concurrency=3)])
def test_what_is_no_error_of_cosas_is_raised(desk):
    def broken():
        raise ZeroDivisionError("a bug")

    desk = desk()
    model = desk.model(FakeBackend(echo))

    with pytest.raises(ZeroDivisionError):
        desk.run([lambda: ask(model, "a"), broken, lambda: ask(model, "b")])


def test_a_question_from_a_thread_that_is_no_tasks_is_refused_instead_of_waiting_for_ever():
    desk = Lockstep(Replies())
    model = desk.model(FakeBackend(echo))

    with pytest.raises(UsageError, match="a thread that is no task's"):
        ask(model, "a")
    with ThreadPoolExecutor(1) as pool:
        found = desk.run([lambda: pool.submit(ask, model, "a").result()])
    assert "a thread that is no task's" in str(found[0])


def test_when_the_model_breaks_down_no_task_waits_for_ever():
    class Broken(Together):
        def complete(self, requests):
            raise RuntimeError("native code")

    ended = Counter()

    def task():
        try:
            return ask(model, "a")
        finally:
            ended["tasks"] += 1

    desk = Lockstep(Replies())
    model = desk.model(Broken(echo))
    before = threading.active_count()

    with pytest.raises(RuntimeError):
        desk.run([task] * 4)
    for thread in threading.enumerate():
        if thread.name.startswith("cosa eval"):
            thread.join(10)
    assert (before, 4) == (threading.active_count(), ended["tasks"])


def test_answers_are_told_as_they_come():
    told = []
    desk = Lockstep(Replies(), told=told.append)
    model = desk.model(Together(echo))

    desk.run([lambda: ask(model, "a"), lambda: ask(model, "b"), lambda: ask(model, "a")])

    assert [1, 1] == told


def test_a_shared_model_is_a_backend_and_a_scorer():
    desk = Lockstep(Replies())
    model = desk.model(Together(echo))

    assert isinstance(model, Backend) and isinstance(model, Scorer) and not isinstance(model, Completer)
    assert 5 == model.count_tokens(asked("Hello"))
    with pytest.raises(UsageError, match="counts no tokens"):
        desk.model(FakeBackend()).count_tokens(asked("Hello"))


def test_a_distribution_needs_a_backend_that_shows_it():
    desk = Lockstep(Replies())
    model = desk.model(FakeBackend())

    found = desk.run([lambda: model.next_logprobs(asked("a"))])

    assert "shows no next-token probabilities" in str(found[0])


@pytest.mark.parametrize("desk", [lambda: Lockstep(Replies()), lambda: AtOnce(Replies(), concurrency=2)])
def test_a_backend_that_can_only_be_awaited(desk):
    desk = desk()
    model = desk.model(AsyncFakeBackend(echo))

    assert ["<a>", "<b>"] == desk.run([lambda: ask(model, "a"), lambda: ask(model, "b")])


def test_at_once_asks_as_many_as_are_allowed():
    here, most, now = threading.Lock(), 0, 0
    full = threading.Semaphore(0)
    gate = threading.Event()

    class Counting(FakeBackend):
        def stream(self, request):
            nonlocal most, now
            with here:
                now += 1
                most = max(most, now)
            full.release()
            gate.wait(10)
            with here:
                now -= 1
            yield Delta(echo(request), finish="stop")

    desk = AtOnce(Replies(), concurrency=3)
    model = desk.model(Counting(echo))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(desk.run, [lambda number=number: ask(model, str(number)) for number in range(9)])
        for _ in range(3):
            assert full.acquire(timeout=10)
        gate.set()

        assert [f"<{number}>" for number in range(9)] == running.result()
    assert 3 == most


def test_at_once_too_one_question_is_put_once():
    backend = FakeBackend(echo)
    desk = AtOnce(Replies(), concurrency=8)
    model = desk.model(backend)

    assert ["<a>"] * 20 == desk.run([lambda: ask(model, "a")] * 20)
    assert 1 == len(backend.requests)


def test_what_was_answered_before_is_not_asked_again(tmp_path):
    for count in (1, 0):
        backend = Together(echo)
        replies = Replies(tmp_path / "replies.jsonl")
        desk = Lockstep(replies)
        assert ["<a>"] == desk.run([lambda desk=desk, backend=backend: ask(desk.model(backend), "a")])
        replies.close()
        assert count == len(backend.waves)


def test_an_empty_reply_is_an_answer_too():
    backend = FakeBackend("")
    desk = Lockstep(Replies())
    model = desk.model(backend)

    for _ in range(2):
        assert [""] == desk.run([lambda: ask(model, "a")])
    assert 1 == len(backend.requests)
    assert not bool(Said("").text)
