"""The backend llama-cpp, against the real library: what the conformance suite does not ask of every backend."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from importlib.util import find_spec
from typing import ClassVar

import pytest
from tests.guard.backends import tiny
from tests.guard.backends.conftest import _absent as absent

from cosa_guard.backends import llama_core, llama_cpp, llama_native, llama_tuning
from cosa_guard.backends.base import Backend, Completer, Scorer
from cosa_guard.backends.choosing import Sampler
from cosa_guard.backends.llama_cpp import LlamaCpp, LlamaCppOptions, make
from cosa_guard.backends.llama_native import NativeModel
from cosa_guard.messages import Message, Request, Sampling
from cosa_sdk.errors import BackendError, CosaError, MissingExtra, ModelFileError, OutOfMemory, UnknownName, UsageError

SMALL = {"context": 512, "sequences": 2, "threads": 1}
CONFIG = "Answer in one short sentence. Be kind. Talk of ships and harbours only, and of nothing else at all."


def request(question, config=CONFIG, **sampling):
    return Request(messages=(Message("system", config), Message("user", question)), sampling=Sampling(**{"max_tokens": 8, **sampling}))


def text(backend, asked):
    return "".join(delta.text for delta in backend.stream(asked))


@pytest.fixture(scope="module")
def installed():
    if find_spec("llama_cpp") is None:
        absent("llama-cpp-python is not installed: pip install 'cosa[llama-cpp]'")


@pytest.fixture(scope="module")
def model(installed, write_gguf, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", tiny.metadata(), tiny.tensors(1))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# Options and what is missing: no library needed.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context": 8}, "context=8.*from 64 on"),
        ({"sequences": 0}, "sequences=0"),
        ({"threads": 0}, "threads=0"),
        ({"threads": True}, "threads=True"),
        ({"batch": 8}, "batch=8.*from 32 on"),
        ({"prefix_ram_mib": -1}, "prefix_ram_mib=-1"),
        ({"prefix_disk_mib": 1.5}, "prefix_disk_mib=1.5"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(UsageError, match=said):
        LlamaCppOptions(**options)


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (ModuleNotFoundError("No module named 'llama_cpp'"), MissingExtra, r"pip install 'cosa\[llama-cpp\]'"),
        (RuntimeError("Failed to load shared library"), BackendError, "--force-reinstall"),
    ],
)
def test_a_library_that_is_missing_or_broken(monkeypatch, error, raised, said):
    def fail(name):
        raise error

    monkeypatch.setattr(llama_native, "_loaded", [])
    monkeypatch.setattr(llama_native.importlib, "import_module", fail)

    with pytest.raises(raised, match=said):
        llama_native.load_library()


# The rest is the real thing.


@pytest.mark.slow
def test_is_a_backend_and_a_scorer_that_says_what_it_can(model):
    with LlamaCpp(model, options=LlamaCppOptions(**SMALL)) as backend:
        assert isinstance(backend, Completer) and isinstance(backend, Backend)
        assert isinstance(backend, Scorer)
        can = backend.capabilities
        assert (True, True, True, 512, 2, 2) == (can.logprobs, can.json_schema, can.prefix_cache, can.context, can.parallel, can.resident)
        assert (1, 128, False, model) == (backend.running.threads, backend.running.batch, backend.running.measured, backend.running.file)


@pytest.mark.slow
def test_a_config_from_the_cache_gives_the_very_same_numbers(model):
    asked = [request(f"Question {number}?", f"{CONFIG} Rule {number % 5}.") for number in range(20)]
    with LlamaCpp(model, options=LlamaCppOptions(**SMALL)) as backend:
        warm = [backend.next_logprobs(one) for _ in range(2) for one in asked]
        assert backend.prefix_use.cached_tokens > 0
    for one, found in zip(asked * 2, warm, strict=True):
        with LlamaCpp(model, options=LlamaCppOptions(**SMALL)) as fresh:
            assert fresh.next_logprobs(one) == found


@pytest.mark.slow
def test_a_config_on_disk_outlives_the_process_and_says_the_same(model, tmp_path):
    options = LlamaCppOptions(prefix_disk_mib=8, prefix_folder=tmp_path / "disk", **SMALL)
    with LlamaCpp(model, options=options) as first:
        said = text(first, request("Hello?"))
        assert 0 == first.prefix_use.cached_tokens
    with LlamaCpp(model, options=options) as second:
        assert said == text(second, request("Hello?"))
        assert second.prefix_use.cached_tokens > 16
        assert 1 == second.store_use.disk_hits


@pytest.mark.slow
def test_a_config_on_disk_is_not_used_by_another_model_or_adapter(model, write_gguf, tmp_path):
    from tests.guard.backends.adapters import GGUF_LORA

    from cosa_guard.messages import Adapter

    other = write_gguf(tmp_path / "other.gguf", tiny.metadata(), tiny.tensors(2))
    loud = write_gguf(tmp_path / "loud.gguf", GGUF_LORA, tiny.lora())
    options = LlamaCppOptions(prefix_disk_mib=8, prefix_folder=tmp_path / "disk", adapters={"loud": loud}, **SMALL)
    with LlamaCpp(model, options=options) as first:
        text(first, request("Hello?"))
    with LlamaCpp(other, options=options) as second:
        text(second, request("Hello?"))
    with LlamaCpp(model, options=options) as third:
        text(third, request("Hello?").replace(adapters=(Adapter(name="loud", scale=0.5),)))
        assert (0, 0) == (second.store_use.disk_hits, third.store_use.disk_hits)


@pytest.mark.slow
def test_a_state_that_llama_cpp_does_not_take_is_computed_again(model, tmp_path):
    folder = tmp_path / "disk"
    options = LlamaCppOptions(prefix_disk_mib=8, prefix_folder=folder, prefix_ram_mib=0, **SMALL | {"sequences": 1})
    with LlamaCpp(model, options=options) as first:
        said = text(first, request("Hello?"))
        text(first, request("Hello?", "Another config, long enough to be kept as well."))
        # Whole by its digest, and nothing that llama.cpp wrote.
        disk = first._store._disk
        for file in folder.glob("*.kv"):
            key = bytes.fromhex(file.stem)
            disk.drop(key)
            disk.put(key, bytearray(b"no state at all" * 100))

        assert said == text(first, request("Hello?"))
        assert 0 == first.prefix_use.cached_tokens


@pytest.mark.slow
def test_more_configs_than_sequences_come_back_from_memory(model):
    configs = [f"{CONFIG} This is config {number}." for number in range(6)]
    with LlamaCpp(model, options=LlamaCppOptions(**SMALL)) as backend:
        for config in configs:
            backend.warm(config)
        before = backend.prefix_use
        lengths = [backend.warm(config) for config in configs]
        after = backend.prefix_use

        assert sum(lengths) == after.cached_tokens - before.cached_tokens
        assert backend.store_use.hits >= 4


@pytest.mark.slow
def test_a_template_that_is_none_and_one_of_ones_own(model):
    with pytest.raises(ModelFileError, match="option chat_template is not a template"):
        LlamaCpp(model, options=LlamaCppOptions(chat_template="{% for %}", **SMALL))
    own = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    with LlamaCpp(model, options=LlamaCppOptions(chat_template=own, **SMALL)) as backend:
        assert "".join(chr(token - 3) if token > 2 else "|" for token in backend.render(request("x"))).count("|") == 0


@pytest.mark.slow
def test_too_little_memory_is_said_with_numbers(model):
    with pytest.raises(OutOfMemory, match=r"2 sequences of 512 tokens and 512 MiB of prefixes.*Lower the options sequences"):
        LlamaCpp(model, options=LlamaCppOptions(**SMALL), free_memory=lambda: 1 << 20)


@pytest.mark.slow
def test_make_refuses_unknown_options(model):
    with pytest.raises(UnknownName, match="did you mean 'sequences'"):
        make(str(model), sequence=3)


@pytest.mark.slow
def test_after_close(model):
    backend = LlamaCpp(model, options=LlamaCppOptions(**SMALL))
    stream = backend.stream(request("Go on for long.", max_tokens=400))
    next(stream)
    backend.close()
    backend.close()

    with pytest.raises(BackendError, match="closed"):
        list(stream)
    for call in (
        lambda: list(backend.stream(request("x"))),
        lambda: backend.next_logprobs(request("x")),
        lambda: backend.count_tokens(request("x")),
        lambda: backend.warm("x"),
    ):
        with pytest.raises(BackendError, match="closed; make a new"):
            call()


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["", "del backend", "del backend, stream", "raise SystemExit", "import os; backend.close()"])
def test_leaving_with_a_stream_open_ends_the_process(model, leave):
    script = f"""
    from cosa_guard.backends.llama_cpp import LlamaCpp, LlamaCppOptions
    from cosa_guard.messages import Message, Request, Sampling
    backend = LlamaCpp({str(model)!r}, options=LlamaCppOptions(context=512, threads=1))
    stream = backend.stream(Request(messages=(Message("user", "x"),), sampling=Sampling(max_tokens=400)))
    next(stream)
    print("said")
    {leave}
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False)

    assert (0, "said\n", "") == (done.returncode, done.stdout, done.stderr)


# What is measured on a machine.


@pytest.mark.slow
def test_threads_and_batch_are_measured_once_and_remembered(model, monkeypatch):
    for name in ("CI", "COSA_THREADS"):
        monkeypatch.delenv(name, raising=False)
    options = LlamaCppOptions(context=512, sequences=1)
    with LlamaCpp(model, options=options) as first:
        assert first.running.measured
        assert 1 <= first.running.threads <= llama_tuning.cores()
        assert first.running.batch in (64, 128, 256)
        found = first.running

    def never(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(llama_core, "tune", never)
    with LlamaCpp(model, options=options) as second:
        assert found == second.running
    with LlamaCpp(model, options=LlamaCppOptions(context=512, sequences=1, threads=2, batch=32)) as third:
        assert (2, 32, False) == (third.running.threads, third.running.batch, third.running.measured)
    monkeypatch.setenv("COSA_THREADS", "1")
    with LlamaCpp(model, options=options) as fourth:
        assert (1, False) == (fourth.running.threads, fourth.running.measured)


@pytest.mark.slow
def test_many_threads_that_wait_for_each_other_are_dropped_at_once(model):
    class Clock:
        """Time passes a thousand times as fast where two threads compute."""

        now = 0.0

        def __call__(self):
            return self.now

    clock = Clock()
    native = NativeModel(model)
    calls = []
    compute = llama_native.NativeContext.compute

    def slow(self, inputs):
        calls.append((self.threads, len(inputs)))
        clock.now += len(inputs) * (10.0 if self.threads > 1 else 0.01)
        compute(self, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llama_native.NativeContext, "compute", slow)
        patch.setattr(llama_tuning, "cores", lambda: 4)
        assert 1 == llama_tuning._threads(native, clock)
    native.free()

    # One token each was enough to see it.
    assert all(count == 1 for threads, count in calls if threads > 1)
    assert 3 == sum(threads > 1 for threads, _ in calls)


@pytest.mark.slow
def test_the_default_model_is_copied_to_q8_0_once_and_says_nearly_the_same(installed, local_model, monkeypatch):
    options = LlamaCppOptions(requantize=True, **SMALL)
    with LlamaCpp(local_model, options=options) as first:
        copy = first.running.file
        assert copy != local_model
        assert "Q8_0" in copy.name
        assert "The capital of France is Paris." in text(first, request("What is the capital of France?", "Answer in one sentence."))
    note = llama_tuning._read(copy.with_suffix(".json"))
    assert 0 <= note["divergence"] <= note["limit"]

    def never(*_):
        raise AssertionError("copied again")

    monkeypatch.setattr(llama_tuning, "requantize", never)
    with LlamaCpp(local_model, options=options) as second:
        assert copy == second.running.file


@pytest.mark.slow
def test_a_copy_that_says_something_else_is_not_used_and_not_tried_again(model, monkeypatch, caplog):
    monkeypatch.setattr(llama_tuning, "_DIVERGENCE", -1.0)
    options = LlamaCppOptions(requantize=True, **SMALL)
    with LlamaCpp(model, options=options) as backend:
        assert model == backend.running.file
    assert "is not used" in caplog.text
    monkeypatch.setattr(llama_tuning, "requantize", lambda *_: pytest.fail("tried again"))
    with LlamaCpp(model, options=options) as backend:
        assert model == backend.running.file


@pytest.mark.slow
def test_a_copy_that_cannot_be_written_is_said_where_it_was_asked_for(model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    with pytest.raises(BackendError, match="no Q8_0 copy of 'tiny.gguf' can be made"):
        LlamaCpp(model, options=LlamaCppOptions(requantize=True, **SMALL))


# Together: what an evaluation needs to be repeated to the last bit.


def crowd(count=21):
    """Requests of three configs, of many lengths, some under a temperature, one that does not fit."""
    configs = [f"{CONFIG} You are number {number}. " + "Mind the tide. " * number for number in range(3)]
    asked = [request("Tell me of the sea. " * (1 + number % 5), configs[number % 3], max_tokens=6 + number % 7, seed=number, temperature=0.9 * (number % 2)) for number in range(count)]
    return [*asked, request("word " * 1100)]


def told(backend, requests):
    found = []
    for deltas in backend.complete(requests):
        try:
            found.append([(delta.text, delta.finish) for delta in deltas])
        except CosaError as error:
            found.append(type(error).__name__)
    return found


class Weighed(Sampler):
    """Keeps every distribution that was drawn from."""

    seen: ClassVar = []

    def choose(self, logits):
        self.seen.append(logits.tobytes())
        return super().choose(logits)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_requests_together_are_computed_to_the_last_bit_as_before(local_model, installed, monkeypatch, threads):
    monkeypatch.setattr(llama_cpp, "Sampler", Weighed)
    options = LlamaCppOptions(context=1024, sequences=4, threads=threads, requantize=False)
    runs = []
    for before in ([], crowd(7)[:7], crowd(5)[:5]):
        with LlamaCpp(local_model, options=options) as backend:
            for one in before:
                text(backend, one)
            Weighed.seen = []
            found = told(backend, crowd())
            runs.append((found, sorted(Weighed.seen)))

    assert "PromptTooLong" == runs[0][0][-1] and all(isinstance(one, list) for one in runs[0][0][:-1])
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.slow
def test_requests_together_stop_at_their_words(model):
    with LlamaCpp(model, options=LlamaCppOptions(**SMALL)) as backend:
        whole = "".join(piece for piece, _ in told(backend, [request("Tell me.", max_tokens=30)])[0])
        word = whole[len(whole) // 2:][:2]
        cut = told(backend, [request("Tell me.", max_tokens=30, stop=(word,)), request("Tell me.", max_tokens=30)])

    assert whole[:whole.index(word)] == "".join(piece for piece, _ in cut[0]) and "stop" == cut[0][-1][1]
    assert whole == "".join(piece for piece, _ in cut[1])


@pytest.mark.slow
def test_few_shot_turns_that_are_shared_are_computed_once(model):
    turns = (Message("system", CONFIG), Message("user", "Which ship? " * 9), Message("assistant", "That one. " * 9))
    with LlamaCpp(model, options=LlamaCppOptions(**SMALL)) as backend:
        for shared in (None, 3):
            for question in ("Where to?", "When does it leave the harbour?"):
                before = backend.prefix_use.cached_tokens
                text(backend, Request(messages=(*turns, Message("user", question)), sampling=Sampling(max_tokens=2), shared=shared))
            kept = backend.prefix_use.cached_tokens - before
            assert (kept > backend.count_tokens(Request(messages=turns)) - 20) == (shared == 3)


@pytest.mark.slow
def test_plain_kernels_are_told_and_compute(model, monkeypatch):
    monkeypatch.setattr(llama_native, "_plain", threading.Event())
    monkeypatch.setattr(llama_cpp, "check_loads", lambda *files, **told: "plain")
    with LlamaCpp(model, options=LlamaCppOptions(**SMALL)) as backend:
        assert backend.running.plain and text(backend, request("Tell me."))
