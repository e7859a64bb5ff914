"""The engine, over a context that stands in for llama.cpp: what it 'computes' depends on every token a sequence holds.

So one token of another request, another config or another adapter anywhere in a sequence gives another reply.
"""

from __future__ import annotations

import gc
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosa_guard.backends.llama_engine import Engine, Job
from cosa_guard.backends.llama_places import Prompt
from cosa_guard.backends.prefix_store import PrefixStore, prefix_key
from cosa_sdk.errors import BackendError

END = 0


def says(tokens, adapters):
    """The token behind `tokens`, each computed through the adapters beside it."""
    digest = blake2b(repr((list(tokens), list(adapters))).encode(), digest_size=8).digest()
    return int.from_bytes(digest) % 40  # one in forty ends the reply


def expected(prompt, limit):
    tokens, reply = list(prompt.ids), []
    while len(reply) < limit:
        token = says(tokens, [prompt.adapters] * len(tokens))
        if token == END:
            return reply, "stop"
        reply.append(token)
        tokens.append(token)
    return reply, "length"


class Context:
    """Stands in for `NativeContext`."""

    def __init__(self, *, batch=16, trims=True, gate=None):
        self.batch, self.trims, self.gate = batch, trims, gate
        self.held, self.through, self.freed, self.computed, self.broken = {}, (), False, 0, 0
        self.shown = {}

    def apply(self, adapters):
        self.through = adapters

    def compute(self, inputs):
        if self.gate is not None:
            self.gate.wait()
        assert 0 < len(inputs) <= self.batch
        # llama.cpp computes them one after the other where they are not in order.
        assert sorted(one.sequence for one in inputs) == [one.sequence for one in inputs]
        if self.broken:
            self.broken -= 1
            raise BackendError("llama.cpp could not compute")
        self.shown = {}
        for index, one in enumerate(inputs):
            tokens = self.held.setdefault(one.sequence, [])
            assert one.position == len(tokens)
            tokens.append((one.token, self.through))
            self.computed += 1
            if one.wanted:
                self.shown[index] = says(*zip(*tokens, strict=True))

    def logits(self, index):
        return self.shown[index]

    def trim(self, sequence, length):
        if not self.trims:
            return False
        assert len(self.held.get(sequence, [])) >= length
        self.held[sequence] = self.held[sequence][:length]
        return True

    def clear(self, sequence):
        self.held[sequence] = []

    def save(self, sequence):
        return bytearray(json.dumps(self.held[sequence]).encode())

    def restore(self, sequence, state):
        self.held[sequence] = [(token, tuple(map(tuple, adapters))) for token, adapters in json.loads(bytes(state))]
        return True

    def free(self):
        self.freed = True


class Says:
    """Chooses what the context says."""

    def __init__(self, *, fails=False):
        self.fails = fails

    def choose(self, said):
        if self.fails:
            raise ValueError("this request only")
        return (None, True) if said == END else (said, False)


def prompt_of(config, question, *, adapters=(), scope=""):
    ids = [*config, *question]
    key = prefix_key("model", adapters, list(config)) if config else b""
    return Prompt(ids=ids, prefix=len(config), key=key, adapters=adapters, scope=scope)


def collect(job):
    items = list(job.read())
    return items[:-1], items[-1]


@pytest.fixture
def start():
    engines = []

    def make(context=None, *, sequences=2, ram=1 << 20):
        context = context or Context()
        engine = Engine(context, sequences, PrefixStore(ram), name="fake", free=lambda: None)
        engines.append((engine, context))
        return engine, context

    yield make
    for engine, context in engines:
        if context.gate is not None:
            context.gate.set()
        engine.stop()
        assert context.freed


def ask(engine, prompt, limit=12, chooser=None):
    job = Job(prompt, limit, chooser or Says())
    engine.submit(job)
    return job


CONFIGS = [tuple(range(100 * n, 100 * n + 20 + n)) for n in range(1, 6)]
ADAPTERS = [(), ((0, 1.0),), ((0, 0.5), (1, 1.0))]

requests = st.tuples(
    st.sampled_from([(), *CONFIGS]),
    st.lists(st.integers(1, 30), min_size=1, max_size=40).map(tuple),
    st.sampled_from(ADAPTERS),
    st.sampled_from(["", "a", "b"]),
    st.integers(1, 15),
    st.integers(0, 4),  # how many pieces are read before it is given up; 0: all
)


@settings(deadline=None, max_examples=60)
@given(st.lists(requests, min_size=1, max_size=12), st.integers(1, 4), st.sampled_from([0, 3000, 1 << 20]), st.booleans())
def test_whatever_the_neighbours_the_reply_is_the_one_of_the_prompt_alone(asked, sequences, ram, trims):
    context = Context(trims=trims)
    engine = Engine(context, sequences, PrefixStore(ram), name="fake", free=lambda: None)
    try:
        jobs = []
        for config, question, adapters, scope, limit, given_up in asked:
            prompt = prompt_of(config, question, adapters=adapters, scope=scope)
            jobs.append((ask(engine, prompt, limit), prompt, limit, given_up))
        for job, prompt, limit, given_up in jobs:
            if given_up:
                items = job.read()
                for place in range(given_up):
                    item = next(items, None)
                    if isinstance(item, str) or item is None:
                        break
                    assert item == expected(prompt, limit)[0][place]
                items.close()
            else:
                assert expected(prompt, limit) == collect(job)
        # One more of each, behind whatever is in the sequences now.
        for _, prompt, limit, _ in jobs:
            assert expected(prompt, limit) == collect(ask(engine, prompt, limit))
    finally:
        engine.stop()


def test_a_conversation_that_goes_on_is_not_computed_again_and_says_the_same(start):
    engine, context = start()
    first = prompt_of(CONFIGS[0], (1, 2, 3), scope="a")
    reply, _ = collect(ask(engine, first))
    before = context.computed
    onward = prompt_of(CONFIGS[0], (1, 2, 3, *reply, 7, 8), scope="a")

    assert expected(onward, 1) == collect(ask(engine, onward, 1))
    assert context.computed - before < 5


def test_a_conversation_of_another_scope_is_computed_afresh_behind_the_config(start):
    engine, context = start(sequences=1)
    reply, _ = collect(ask(engine, prompt_of(CONFIGS[0], (1, 2, 3), scope="a")))
    before = context.computed
    onward = prompt_of(CONFIGS[0], (1, 2, 3, *reply, 7, 8), scope="b")

    collect(ask(engine, onward, 1))

    assert len(onward.ids) - len(CONFIGS[0]) == context.computed - before


def test_the_same_question_again_is_computed_behind_the_config_so_that_it_says_the_same(start):
    engine, context = start(sequences=1)
    prompt = prompt_of(CONFIGS[0], (1, 2, 3))
    reply, _ = collect(ask(engine, prompt, 5))
    assert len(reply) > 1
    before = context.computed

    collect(ask(engine, prompt, 1))

    assert 3 == context.computed - before


def test_a_conversation_that_goes_on_through_other_adapters_is_computed_afresh(start):
    engine, _ = start(sequences=1)
    reply, _ = collect(ask(engine, prompt_of(CONFIGS[0], (1, 2, 3))))
    onward = prompt_of(CONFIGS[0], (1, 2, 3, *reply, 7, 8), adapters=ADAPTERS[1])

    assert expected(onward, 9) == collect(ask(engine, onward, 9))


def test_a_prompt_that_the_sequence_holds_whole_still_gets_its_last_token_computed(start):
    engine, _ = start(sequences=1)
    reply, _ = collect(ask(engine, prompt_of(CONFIGS[0], (1, 2, 3)), 6))
    again = prompt_of(CONFIGS[0], (1, 2, 3, *reply[:3]))

    assert expected(again, 9) == collect(ask(engine, again, 9))


def test_a_config_that_no_sequence_holds_any_more_comes_from_the_store(start):
    engine, context = start(sequences=1)
    for config in (*CONFIGS, CONFIGS[0]):
        before = context.computed
        collect(ask(engine, prompt_of(config, (1,)), 1))

    assert 1 == context.computed - before
    assert len(CONFIGS[0]) == engine.use.cached_tokens


def test_what_is_stored_is_the_config_and_nothing_behind_it(start):
    context = Context()
    store = PrefixStore(1 << 20)
    engine = Engine(context, 2, store, name="fake", free=lambda: None)
    prompts = [prompt_of(config, (7, 7, 7), scope="secret") for config in CONFIGS]
    for prompt in prompts:
        collect(ask(engine, prompt))
    engine.stop()

    for prompt, config in zip(prompts, CONFIGS, strict=True):
        held = json.loads(bytes(store.get(prompt.key)))
        assert list(config) == [token for token, _ in held]


def test_two_requests_under_a_new_config_compute_it_once(start):
    gate = threading.Event()
    engine, context = start(Context(gate=gate), sequences=4)
    jobs = [ask(engine, prompt_of(CONFIGS[0], (n,)), 1) for n in range(1, 5)]
    gate.set()
    for job in jobs:
        collect(job)

    assert len(CONFIGS[0]) + 4 == context.computed


def test_a_config_is_computed_apart_from_what_follows(start):
    sizes = []

    class Watched(Context):
        def compute(self, inputs):
            sizes.append(len(inputs))
            super().compute(inputs)

    engine, _ = start(Watched(batch=64), sequences=1)
    collect(ask(engine, prompt_of(CONFIGS[0], (1, 2, 3)), 1))
    collect(ask(engine, prompt_of(CONFIGS[0], (1, 2, 3)), 1))

    assert [len(CONFIGS[0]), 3, 3] == sizes


def test_replies_go_on_while_a_long_prompt_is_read(start):
    computed = []

    class Watched(Context):
        def compute(self, inputs):
            computed.append([one.sequence for one in inputs])
            super().compute(inputs)

    gate = threading.Event()
    engine, _ = start(Watched(batch=64, gate=gate), sequences=2)
    writing, reading = ask(engine, prompt_of((), (1,)), 40), ask(engine, prompt_of((), tuple(range(1, 300))), 1)
    gate.set()
    collect(writing)
    collect(reading)

    mixed = [turn for turn in computed if len(set(turn)) == 2]
    assert mixed and all(len(turn) <= 33 for turn in mixed[1:])


def test_other_adapters_take_turns(start):
    groups = []

    class Watched(Context):
        def compute(self, inputs):
            groups.append(self.through)
            super().compute(inputs)

    gate = threading.Event()
    engine, _ = start(Watched(gate=gate), sequences=3)
    prompts = [prompt_of(CONFIGS[0], (5, 5), adapters=adapters) for adapters in ADAPTERS]
    jobs = [ask(engine, prompt, 6) for prompt in prompts]
    gate.set()
    replies = [collect(job) for job in jobs]

    assert [expected(prompt, 6) for prompt in prompts] == replies
    assert set(groups[1:4]) == set(ADAPTERS)


def test_a_failed_batch_ends_its_requests_and_the_next_is_well(start):
    engine, context = start()
    prompt = prompt_of(CONFIGS[0], (1, 2))
    context.broken = 1

    with pytest.raises(BackendError, match="could not compute"):
        collect(ask(engine, prompt))
    assert expected(prompt, 12) == collect(ask(engine, prompt))
    assert engine.idle


def test_trouble_of_one_request_is_not_its_neighbours(start):
    gate = threading.Event()
    engine, _ = start(Context(gate=gate))
    good, bad = prompt_of(CONFIGS[0], (1, 2)), prompt_of(CONFIGS[1], (1, 2))
    jobs = ask(engine, good), ask(engine, bad, chooser=Says(fails=True))
    gate.set()

    assert expected(good, 12) == collect(jobs[0])
    with pytest.raises(ValueError, match="this request only"):
        collect(jobs[1])
    assert engine.idle


def test_trouble_of_the_engine_itself_reaches_everybody_and_later_callers(start):
    class Dead(Context):
        def compute(self, inputs):
            raise MemoryError("gone")

    gate = threading.Event()
    engine, _ = start(Dead(gate=gate), sequences=1)
    jobs = [ask(engine, prompt_of((), (n,))) for n in (1, 2, 3)]
    gate.set()

    for job in jobs:
        with pytest.raises(BackendError, match="stopped working: MemoryError"):
            collect(job)
    with pytest.raises(BackendError, match="closed"):
        ask(engine, prompt_of((), (1,)))


def test_stopping_ends_what_runs_and_what_waits(start):
    gate = threading.Event()
    engine, context = start(Context(gate=gate), sequences=1)
    jobs = [ask(engine, prompt_of((), (n,)), 10**6) for n in (1, 2, 3)]
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    gate.set()
    stopping.join()

    for job in jobs:
        with pytest.raises(BackendError, match="closed while it answered"):
            # A reply may have ended by itself before.
            assert collect(job)[1] == "never"
    assert context.freed
    engine.stop()


def test_a_request_that_is_given_up_frees_its_place_however_it_is_let_go(start):
    engine, _ = start(sequences=1)
    for let_go in ("close", "drop", "unread", "waiting"):
        job = ask(engine, prompt_of(CONFIGS[0], (1, 2, 3)), 10**6, chooser=Endless())
        if let_go == "unread":
            job.cancelled = True
            continue
        if let_go == "waiting":
            other = ask(engine, prompt_of(CONFIGS[0], (1,)), 1)
            other.cancelled = True
        items = job.read()
        next(items)
        if let_go == "close":
            items.close()
        del items
        gc.collect()
    last = prompt_of(CONFIGS[1], (4,))

    assert expected(last, 5) == collect(ask(engine, last, 5))


class Endless:
    def choose(self, said):
        return said, False


def test_random_traffic_from_many_threads(start):
    engine, context = start(Context(batch=32), sequences=3, ram=4000)
    lot = random.Random(5)
    asked = [
        (
            prompt_of(
                lot.choice(CONFIGS),
                tuple(lot.choices(range(1, 30), k=lot.randint(1, 20))),
                adapters=lot.choice(ADAPTERS),
                scope=lot.choice("ab"),
            ),
            lot.randint(1, 20),
            lot.random() < 0.3,
        )
        for _ in range(600)
    ]

    def one(case):
        prompt, limit, given_up = case
        job = ask(engine, prompt, limit)
        if not given_up:
            return expected(prompt, limit) == collect(job)
        items = job.read()
        next(items, None)
        items.close()
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, asked))
    collect(ask(engine, prompt_of((), (1,)), 1))
    assert engine.idle
    assert context.computed > 0


def test_a_forked_process_is_told_instead_of_waiting_for_ever(start, monkeypatch):
    engine, _ = start()
    monkeypatch.setattr("cosa_guard.backends.llama_engine.os.getpid", lambda: -1)

    with pytest.raises(BackendError, match="forked"):
        ask(engine, prompt_of((), (1,)))
    monkeypatch.undo()


# --- together ---------------------------------------------------------------------------------------------------------


def recorded(context):
    """The batches that were computed, as they were put together."""
    batches = []
    compute = context.compute

    def keep(inputs):
        batches.append([(one.token, one.position, one.sequence) for one in inputs])
        compute(inputs)

    context.compute = keep
    return batches


def warmed(engine, prompts):
    for prompt in {prompt.key: prompt for prompt in prompts if prompt.prefix}.values():
        head = prompt.ids[:prompt.prefix]
        collect(ask(engine, Prompt(ids=head, prefix=len(head), key=prompt.key, adapters=prompt.adapters), 0))


def together(engine, prompts, limits):
    warmed(engine, prompts)
    jobs = [Job(prompt, limit, Says()) for prompt, limit in zip(prompts, limits, strict=True)]
    engine.submit_together(jobs)
    return [collect(job) for job in jobs]


@settings(deadline=None, max_examples=60)
@given(st.lists(requests, max_size=6), st.lists(requests, min_size=1, max_size=8), st.integers(1, 4))
def test_what_is_asked_together_is_computed_in_the_same_batches_whatever_was_before(earlier, asked, sequences):
    prompts = [prompt_of(config, question, adapters=adapters, scope=scope) for config, question, adapters, scope, *_ in asked]
    limits = [one[4] for one in asked]
    seen = []
    for before in (earlier, []):
        context = Context()
        engine = Engine(context, sequences, PrefixStore(1 << 20), name="fake", free=lambda: None)
        try:
            for config, question, adapters, scope, limit, _ in before:
                collect(ask(engine, prompt_of(config, question, adapters=adapters, scope=scope), limit))
            warmed(engine, prompts)
            batches = recorded(context)
            found = together(engine, prompts, limits)
        finally:
            engine.stop()
        seen.append((found, batches))

    assert seen[0] == seen[1]
    assert [expected(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)] == seen[0][0]


def test_requests_together_wait_until_nothing_else_runs(start):
    gate = threading.Event()
    engine, context = start(Context(gate=gate))
    alone = ask(engine, prompt_of((), (1, 2, 3)), 5)
    jobs = [Job(prompt_of((), (4, n)), 5, Says()) for n in range(3)]
    engine.submit_together(jobs)
    gate.set()

    assert expected(alone.prompt, 5) == collect(alone)
    assert [expected(job.prompt, 5) for job in jobs] == [collect(job) for job in jobs]


def test_stopping_ends_requests_that_wait_together(start):
    gate = threading.Event()
    engine, context = start(Context(gate=gate))
    alone = ask(engine, prompt_of((), (1, 2, 3)), 5)
    jobs = [Job(prompt_of((), (4, n)), 5, Says()) for n in range(3)]
    engine.submit_together(jobs)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    while not engine._stopped:
        pass
    gate.set()
    stopping.join()

    for job in (alone, *jobs):
        with pytest.raises(BackendError):
            list(job.read())
    assert context.freed
