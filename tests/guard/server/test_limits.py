from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.guard.build import PATIENCE
from tests.guard.server.serving import FILM, film, serving, wait_until, write

from cosa_guard.server.errors import HttpError, Unavailable
from cosa_guard.server.limits import Bucket, Gate, check_request, estimated_tokens
from cosa_guard.server.tenants import Limits


class TestBucket:
    def test_a_minutes_worth_passes_at_once_and_then_a_share_of_it(self):
        bucket = Bucket("requests")
        for _ in range(60):
            bucket.take(1, 60, 100.0)
        with pytest.raises(Unavailable, match="60 requests a minute") as caught:
            bucket.take(1, 60, 100.0)

        assert (("retry-after", "2"),) == caught.value.headers
        bucket.take(1, 60, 101.0)

    def test_what_never_fits_is_not_to_be_tried_again(self):
        with pytest.raises(HttpError) as caught:
            Bucket("tokens").take(11, 10, 0.0)

        assert 413 == caught.value.status

    @given(st.lists(st.tuples(st.integers(1, 20), st.floats(0, 30)), max_size=60))
    def test_no_minute_sees_more_than_two_minutes_worth(self, calls):
        bucket, now, taken = Bucket("tokens"), 0.0, []
        for amount, wait in calls:
            now += wait
            try:
                bucket.take(amount, 20, now)
            except Unavailable:
                continue
            taken.append((now, amount))

        assert all(sum(amount for at, amount in taken if start <= at < start + 60) <= 40 for start, _ in taken)


class TestGate:
    def test_places_are_given_in_the_order_of_the_queue(self):
        async def run():
            gate, limits, order = Gate(), Limits(concurrency=1, queue=5), []
            assert gate.try_enter(limits)

            async def one(name):
                if not gate.try_enter(limits):
                    await gate.enter(limits)
                order.append(name)
                await asyncio.sleep(0)
                gate.leave(limits)

            tasks = [asyncio.create_task(one(name)) for name in "abc"]
            await asyncio.sleep(0)
            gate.leave(limits)
            await asyncio.gather(*tasks)
            return order, gate.running, gate.waiting

        assert (["a", "b", "c"], 0, 0) == asyncio.run(run())

    def test_a_full_queue_refuses_at_once(self):
        async def run():
            gate, limits = Gate(), Limits(concurrency=1, queue=0)
            gate.try_enter(limits)
            with pytest.raises(Unavailable) as caught:
                await gate.enter(limits)
            return caught.value.status, gate.waiting

        assert (429, 0) == asyncio.run(run())

    @pytest.mark.parametrize("given_in_the_same_moment", [False, True])
    def test_who_is_cancelled_in_the_queue_leaves_no_trace(self, given_in_the_same_moment):
        async def run():
            gate, limits = Gate(), Limits(concurrency=1)
            gate.try_enter(limits)
            task = asyncio.create_task(gate.enter(limits))
            await asyncio.sleep(0)
            if given_in_the_same_moment:
                gate.leave(limits)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if not given_in_the_same_moment:
                gate.leave(limits)
            return gate.running, gate.waiting

        assert (0, 0) == asyncio.run(run())

    @given(st.lists(st.sampled_from(["come", "go", "cancel"]), max_size=40), st.integers(1, 3))
    def test_never_more_run_than_may(self, steps, places):
        async def run():
            gate, limits, running, waiting = Gate(), Limits(concurrency=places, queue=100), 0, []
            for step in steps:
                if step == "come":
                    if gate.try_enter(limits):
                        running += 1
                    else:
                        waiting.append(asyncio.create_task(gate.enter(limits)))
                elif step == "go" and running:
                    gate.leave(limits)
                    running -= 1
                elif step == "cancel" and waiting:
                    waiting.pop().cancel()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                entered = [task for task in waiting if task.done() and not task.cancelled()]
                waiting = [task for task in waiting if not task.done()]
                running += len(entered)
                assert gate.running <= places
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return gate.running, running

        left, counted = asyncio.run(run())
        assert counted == left


class TestRequests:
    @pytest.mark.parametrize("value", [True, 0, -1, 1.0, "4", [1], 10**30])
    def test_a_number_that_is_none_is_refused(self, value):
        with pytest.raises(HttpError) as caught:
            check_request({"n": value}, Limits(n=8), turns="messages", cap="max_tokens")

        assert (400, "n") == (caught.value.status, caught.value.param)

    def test_a_number_that_no_library_could_hold_is_refused_without_any_limit(self):
        with pytest.raises(HttpError, match="from 1 to"):
            check_request({"max_tokens": 10**30}, Limits(), turns="messages", cap="max_tokens")

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
    def test_every_name_of_the_reply_limit_is_held_to_it(self, name):
        with pytest.raises(HttpError, match="allows 10"):
            check_request({name: 11}, Limits(max_tokens=10), turns="messages", cap="max_tokens")

    def test_a_request_that_names_no_number_gets_the_limit(self):
        body = {}
        check_request(body, Limits(max_tokens=10), turns="messages", cap="max_tokens")

        assert {"max_tokens": 10} == body

    def test_turns(self):
        with pytest.raises(HttpError) as caught:
            check_request({"input": [{}] * 3}, Limits(turns=2), turns="input", cap="max_output_tokens")

        assert "too_many_turns" == caught.value.code

    def test_tokens_are_guessed_from_bytes(self):
        assert (1, 26) == (estimated_tokens(0), estimated_tokens(100))


@pytest.mark.parametrize(("limits", "status", "code"), [
    ({"requests_per_minute": 2}, 429, "rate_limit_exceeded"), ({"tokens_per_minute": 50}, 429, "rate_limit_exceeded"),
])
def test_a_rate_answers_429_with_retry_after_and_outlives_a_reload(upstream, tmp_path, limits, status, code):
    with serving(write(tmp_path, upstream, tenants=[film(limits=limits)])) as proxy:
        first = [proxy.chat(key=FILM).status for _ in range(2)]
        assert asyncio.run_coroutine_threadsafe(proxy.app.reload(), proxy.loop).result(PATIENCE)
        answer = proxy.chat(key=FILM)

    assert ([200, 200], status, code) == (first, answer.status, answer.code)
    assert int(answer.headers["retry-after"]) >= 1


def test_more_than_may_run_wait_and_more_than_may_wait_get_429(upstream, tmp_path):
    release = threading.Event()

    async def hold(seen, line):
        while not release.is_set():
            await asyncio.sleep(0.01)
        await upstream.answer(seen, line)

    upstream.script = hold
    answers = []
    with serving(write(tmp_path, upstream, tenants=[film(limits={"concurrency": 1, "queue": 1})])) as proxy:
        gate = proxy.app.runtime.state("film").gate
        threads = [threading.Thread(target=lambda: answers.append(proxy.chat(key=FILM).status)) for _ in range(2)]
        threads[0].start()
        wait_until(lambda: gate.running == 1)
        threads[1].start()
        wait_until(lambda: gate.waiting == 1)
        refused = proxy.chat(key=FILM)
        release.set()
        for thread in threads:
            thread.join(PATIENCE)

    assert ([200, 200], 429, "too_many_requests") == (answers, refused.status, refused.code)


def test_no_more_bodies_are_taken_in_than_may_run_and_wait(upstream, tmp_path):
    """Whoever sends slowly would fill the memory with what never runs."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {FILM}\r\nContent-Length: 100\r\n\r\n{{"
    with serving(write(tmp_path, upstream, tenants=[film(limits={"concurrency": 1, "queue": 1})])) as proxy, contextlib.ExitStack() as slow:
        gate = proxy.app.runtime.state("film").gate
        for _ in range(2):
            line = slow.enter_context(socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE))
            line.sendall(head.encode())
        wait_until(lambda: gate.arriving == 2)
        refused = proxy.chat(key=FILM)
        slow.close()
        proxy.settle(upstream)
        served = proxy.chat(key=FILM)

    assert (429, "too_many_requests", 200) == (refused.status, refused.code, served.status)


def test_a_limit_on_the_body_is_the_keys_own(upstream, tmp_path):
    with serving(write(tmp_path, upstream, tenants=[film(limits={"body_bytes": 100})])) as proxy:
        answer = proxy.chat("a" * 200, key=FILM)

    assert (413, "request_too_large", []) == (answer.status, answer.code, upstream.seen)
