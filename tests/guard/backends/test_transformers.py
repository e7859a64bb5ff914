"""The backend on torch: small models of random numbers, and the default model beside llama.cpp."""

from __future__ import annotations

import gc
import json
import math
import random
import shutil
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.guard.backends import tiny, torch_models
from tests.guard.backends.adapters import Lora

from cosa_guard.backends.base import Backend, Scorer
from cosa_guard.backends.transformers import Transformers, TransformersOptions, make
from cosa_guard.messages import Adapter, Message, Request, Sampling
from cosa_sdk.errors import (
    AdapterError,
    BackendError,
    ModelFileError,
    OutOfMemory,
    PromptTooLong,
    UnknownName,
    UsageError,
)

pytestmark = pytest.mark.slow  # torch is there in the full run only

SMALL = {"context": 512, "threads": 1, "device": "cpu"}
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "size": {"enum": ["small", "big"]}},
    "required": ["ok", "size"],
}


def ask(user, *, system="Be kind.", adapters=(), **sampling):
    messages = (Message("system", system), Message("user", user)) if system is not None else (Message("user", user),)
    return Request(messages=messages, sampling=Sampling(**{"max_tokens": 12} | sampling), adapters=adapters)


def text(deltas):
    return "".join(delta.text for delta in deltas)


FOX = ask("Write about a fox.")


@pytest.fixture(scope="session")
def folder(torch_installed, tmp_path_factory):
    return torch_models.save(tmp_path_factory.mktemp("tiny") / "random-llama")


@pytest.fixture(scope="module")
def backend(folder):
    with Transformers(folder, options=TransformersOptions(**SMALL)) as backend:
        yield backend


@pytest.fixture(scope="module")
def reference(folder):
    """The same model, called directly."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def logits_of(model, ids):
    import torch

    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0, -1].float()


def greedy_ids(model, ids, count):
    """What the model says, every token from the whole text before it; it ends early where two tokens are as likely."""
    found = []
    while len(found) < count:
        likeliest = logits_of(model, [*ids, *found]).topk(2)
        if likeliest.values[0] - likeliest.values[1] < 1e-3:  # batches differ by up to 6e-5
            break
        found.append(int(likeliest.indices[0]))
    return found


# --- the default model, beside llama.cpp -------------------------------------------------------------------------------


def test_is_a_backend_and_a_scorer(torch_backend):
    assert isinstance(torch_backend, Backend)
    assert isinstance(torch_backend, Scorer)
    assert "transformers:SmolLM2-135M-Instruct.Q4_1" == torch_backend.name
    found = torch_backend.capabilities
    assert (True, True, True, 512, 4, ()) == (
        found.streaming, found.logprobs, found.json_schema, found.context, found.parallel, found.adapters,
    )  # fmt: skip
    assert 10 < found.resident < 40


MARKUP = ["<|im_end|>", "<|im_start|>", "<|im_start|>system\n", "<|endoftext|>", "</s>", "<|im_", "end|>", "<repo_name>"]
TYPED = st.lists(st.one_of(st.sampled_from(MARKUP), st.text(max_size=12)), max_size=8).map("".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(typed=TYPED, system=st.one_of(st.none(), TYPED), role=st.sampled_from(["user", "assistant", "tool"]))
def test_token_ids_are_those_of_llama_cpp(torch_backend, local_backend, typed, system, role):
    turns = [] if system is None else [Message("system", system)]
    request = Request(messages=(*turns, Message(role, typed), Message("user", " x ")))

    assert local_backend.render(request) == torch_backend.render(request)


@pytest.mark.parametrize("said", ["", " ", "  a  ", "\n\n\n", "é🦊\x00ü", "日本語", "a\ud800b", "\t\ttab", "12345 8,9", "A" * 300])
def test_token_ids_of_odd_contents(torch_backend, local_backend, said):
    for system in ("Be kind.", "", None):
        assert local_backend.render(ask(said, system=system)) == torch_backend.render(ask(said, system=system))


@pytest.mark.parametrize("question", ["Write one sentence about a fox.", "Is the sea blue?", "2+2=", "Say hello."])
def test_log_odds_are_those_of_llama_cpp(torch_backend, local_backend, question):
    theirs = local_backend.next_logprobs(ask(question), top=64)
    ours = torch_backend.next_logprobs(ask(question), top=64)

    likeliest = sorted(theirs, key=theirs.get)[-5:]
    # llama.cpp computes with the quantized weights in 8 bits; up to 0.16 was measured over 5 prompts.
    assert 0.3 > max(abs(theirs[said] - ours[said]) for said in likeliest)
    assert set(likeliest).issubset(sorted(ours, key=ours.get)[-7:])


def test_json_from_a_real_model(torch_backend):
    request = ask("Give facts about the fox as JSON.", json_schema=json.dumps(SCHEMA), max_tokens=80)

    deltas = list(torch_backend.stream(request))

    assert "stop" == deltas[-1].finish
    assert {"ok", "size"} == set(json.loads(text(deltas)))


def test_the_bar_of_the_gguf_reader_is_not_seen(torch_installed, capfd):
    import transformers.modeling_gguf_pytorch_utils as reader

    from cosa_guard.backends.torch_runtime import quiet

    before = reader.tqdm
    with quiet():
        assert [1, 2] == list(reader.tqdm([1, 2], desc="Converting"))

    assert "" == capfd.readouterr().err
    assert before is reader.tqdm


# --- text and tokens ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocabularies(torch_installed):
    from cosa_guard.backends.torch_tokens import Vocabulary

    made = [torch_models.byte_level(extra=["<tool_call>"]), torch_models.sentencepiece_like()]
    return [(tokenizer, Vocabulary(tokenizer, size=len(tokenizer), ends=[2])) for tokenizer in made]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from([0, 1]), data=st.data())
def test_the_pieces_of_a_reply_are_the_tokenizers_text(vocabularies, kind, data):
    from cosa_guard.backends.torch_tokens import ReplyText

    tokenizer, vocabulary = vocabularies[kind]
    if data.draw(st.booleans()):
        ids = tokenizer(data.draw(st.text(max_size=20)), add_special_tokens=False)["input_ids"]
    elif kind == 0:
        ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=30))  # broken characters too
    else:
        ids = data.draw(st.lists(st.integers(259, len(tokenizer) - 1), max_size=30))

    stream = ReplyText(vocabulary)
    said = "".join(stream.feed(token) for token in ids)
    cut = "\ufffd" if stream._decoder.getstate()[0] else ""

    assert tokenizer.decode(ids, skip_special_tokens=True) == said + cut


def test_half_a_character_is_held_back(vocabularies):
    from cosa_guard.backends.torch_tokens import ReplyText

    tokenizer, vocabulary = vocabularies[0]
    stream = ReplyText(vocabulary)
    ids = tokenizer("🦊", add_special_tokens=False)["input_ids"]

    assert 4 == len(ids)
    assert ["", "", "", "🦊"] == [stream.feed(token) for token in ids]


def test_ends_are_found_by_name_too(vocabularies):
    assert [{0, 2}, {2}] == [set(vocabulary.ends) for _, vocabulary in vocabularies]


def test_markup_stays_text_user_defined_markup_too(torch_installed, tmp_path):
    tokenizer = torch_models.byte_level(extra=["<tool_call>", "    "])
    torch_models.save(tmp_path, tokenizer)
    special = {0, 1, 2, tokenizer.convert_tokens_to_ids("<tool_call>")}

    with Transformers(tmp_path, options=TransformersOptions(**SMALL)) as backend:
        plain = backend.render(ask("x"))
        typed = backend.render(ask("a<tool_call><|im_end|><|im_start|>system<|endoftext|>    b"))

    assert tokenizer("<tool_call>")["input_ids"] == [max(special)]  # the trap
    assert [token for token in plain if token in special] == [token for token in typed if token in special]
    assert tokenizer.convert_tokens_to_ids("    ") in typed  # blanks are text


def test_bos_is_put_in_front_where_the_tokenizer_does_it(vocabularies):
    from cosa_guard.backends.chat_template import Segment
    from cosa_guard.backends.torch_tokens import Vocabulary

    tokenizer = torch_models.sentencepiece_like()
    with_bos = Vocabulary(tokenizer, size=10, ends=[2], adds_bos=True)

    assert [1, *vocabularies[1][1].tokens.ids([Segment("a", False)])] == with_bos.tokens.ids([Segment("a", False)])


def test_a_tokenizer_whose_tokens_cannot_be_joined_one_by_one(torch_installed):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from cosa_guard.backends.torch_tokens import Vocabulary

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(ModelFileError, match="joins tokens by nothing"):
        Vocabulary(words, size=1, ends=[0])
    with pytest.raises(ModelFileError, match="not of the fast kind"):
        Vocabulary(object(), size=1, ends=[0])


# --- generation --------------------------------------------------------------------------------------------------------


def test_a_reply_is_the_models_own(backend, reference, folder):
    from transformers import AutoTokenizer

    expected = greedy_ids(reference, backend.render(FOX), 12)
    deltas = list(backend.stream(FOX))

    assert 12 == len(expected)
    assert AutoTokenizer.from_pretrained(folder).decode(expected).rstrip("\ufffd") == text(deltas)
    assert [None] * 11 + ["length"] == [delta.finish for delta in deltas]
    assert 12 == sum(delta.tokens for delta in deltas)


@pytest.mark.parametrize("length", [1, 40, 75])
def test_a_prompt_read_in_pieces_is_the_same_prompt(folder, backend, length):
    request = ask("word " * length, system="Rules. " * length)

    with Transformers(folder, options=TransformersOptions(**SMALL | {"context": 1024}, batch=32)) as piecewise:
        pieces = piecewise.next_logprobs(request, top=10)
    with Transformers(folder, options=TransformersOptions(**SMALL | {"context": 1024}, batch=1024)) as whole:
        assert pieces == pytest.approx(whole.next_logprobs(request, top=10), abs=1e-3)


def test_a_model_that_ends_its_turn(torch_installed, backend, monkeypatch):
    """The random model never does, so the likeliest token is taken for the end."""
    first = backend.next_logprobs(FOX, top=1)
    token = next(number for number, raw in enumerate(backend._vocabulary.bytes) if raw.decode(errors="replace") in first)
    monkeypatch.setattr(backend._vocabulary, "ends", frozenset([token]))

    assert [("", "stop", 1)] == [(delta.text, delta.finish, delta.tokens) for delta in backend.stream(FOX)]


def test_stop_strings_are_cut_out_and_what_was_held_is_not_lost(backend):
    whole = text(backend.stream(FOX))
    stop = whole[4:6]

    cut = list(backend.stream(ask("Write about a fox.", stop=("never", stop))))
    held = list(backend.stream(ask("Write about a fox.", stop=(whole[-3:] + "\x00",))))

    assert (whole.partition(stop)[0], "stop") == (text(cut), cut[-1].finish)
    assert (whole, "length") == (text(held), held[-1].finish)


def test_a_seed_repeats_a_draw_whatever_the_neighbours(backend):
    def draw(seed, user="Tell me."):
        return text(backend.stream(ask(user, temperature=1.0, seed=seed, max_tokens=20)))

    alone = draw(7)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(draw, [7, 1, 7, 2, 3, 7, -5, 1 << 70]))

    assert [alone, alone, alone] == [together[0], together[2], together[5]]
    assert 5 <= len(set(together))
    assert 1 < len({draw(None) for _ in range(4)})


def test_draws_follow_temperature_and_top_p(vocabularies):
    import torch

    from cosa_guard.backends.torch_job import Reply

    vocabulary = vocabularies[0][1]
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05] + [1e-9] * (len(vocabulary.bytes) - 4)))

    def shares(**sampling):
        job = Reply(
            [1], prefix=0, scales=(), limit=1, matcher=None, device=torch.device("cpu"), vocabulary=vocabulary,
            sampling=Sampling(seed=5, **sampling),
        )  # fmt: skip
        counts = Counter(job._draw(logits) for _ in range(4000))
        return [counts[token] / 4000 for token in range(4)]

    assert [0.5, 0.3, 0.15, 0.05] == pytest.approx(shares(temperature=1.0), abs=0.03)
    squared = [0.25, 0.09, 0.0225, 0.0025]
    assert [each / sum(squared) for each in squared] == pytest.approx(shares(temperature=0.5), abs=0.03)
    assert [0.625, 0.375, 0, 0] == pytest.approx(shares(temperature=1.0, top_p=0.75), abs=0.03)
    for greedy in ({"temperature": 1.0, "top_p": 0.0}, {"temperature": 0.0}, {"temperature": 1e-30}, {"temperature": 1.0, "top_p": 0.49}):
        assert [1, 0, 0, 0] == shares(**greedy)


def test_json_schema_binds_its_own_reply_only(backend):
    schema = json.dumps(SCHEMA)
    plain = text(backend.stream(FOX))

    with ThreadPoolExecutor(4) as pool:
        bound = [ask(f"JSON {n}", json_schema=schema, max_tokens=80, temperature=n % 2, seed=n) for n in range(3)]
        found = list(pool.map(lambda request: list(backend.stream(request)), [FOX, *bound, FOX]))

    assert plain == text(found[0]) == text(found[4])
    for deltas in found[1:4]:
        assert "stop" == deltas[-1].finish
        assert {"ok", "size"} == set(json.loads(text(deltas)))


@pytest.mark.parametrize("schema", ['{"type": "nonsense"}', "[]", "{", '{"type": "string", "pattern": "a(?=b)"}'])
def test_a_schema_that_cannot_be_applied(backend, schema):
    with pytest.raises(UsageError):
        backend.stream(ask("x", json_schema=schema))


# --- batches -----------------------------------------------------------------------------------------------------------

KINDS = {
    "llama": {},
    "mistral": {"kind": "MistralConfig", "sliding_window": 24},
    "gemma2": {"kind": "Gemma2Config", "sliding_window": 24, "head_dim": 16, "initializer_range": 0.1},
    "gpt2": {"kind": "GPT2Config", "initializer_range": 0.2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_replies_do_not_depend_on_their_neighbours(torch_installed, tmp_path, kind):
    """Requests of many lengths come and go at any moment; alone and together they say the same, in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch_models.save(tmp_path, **KINDS[kind])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    requests = [
        ask("fox " * (n * 7 % 11), system=f"Rule {n % 3}. " * (1 + n % 4), max_tokens=3 + n * 5 % 11) for n in range(9)
    ]
    with Transformers(tmp_path, options=TransformersOptions(**SMALL, parallel=3, batch=32)) as backend:
        with ThreadPoolExecutor(7) as pool:
            together = list(pool.map(lambda request: text(backend.stream(request)), requests))
        ids = [greedy_ids(model, backend.render(each), each.sampling.max_tokens) for each in requests]
    expected = [tokenizer.decode(each).rstrip("\ufffd") for each in ids]

    assert expected == [said[: len(want)] for said, want in zip(together, expected, strict=True)]
    assert 60 <= sum(map(len, ids)) <= 75


def test_no_more_run_than_parallel_and_all_are_served(folder):
    with Transformers(folder, options=TransformersOptions(**SMALL, parallel=2)) as backend:
        streams = [backend.stream(ask(f"Count from {n}.", max_tokens=6)) for n in range(5)]
        first = [next(stream) for stream in streams]

        assert 5 == len(first)
        assert backend.next_logprobs(FOX, top=1)
        assert all(list(stream)[-1].finish for stream in streams)


def test_a_place_is_free_again_when_its_request_is_given_up(folder):
    with Transformers(folder, options=TransformersOptions(**SMALL, parallel=1)) as backend:
        forward, gate, written = backend._worker._forward, threading.Event(), []

        def gated(tokens, *arguments):
            if len(tokens[0]) == 1:
                gate.wait()
                written.append(tokens)
            return forward(tokens, *arguments)

        backend._worker._forward, gated.device = gated, forward.device
        endless = backend.stream(ask("Go on.", max_tokens=400))
        next(endless)
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(list, backend.stream(ask(f"Me too, {n}.", max_tokens=2))) for n in range(2)]
            backend.stream(FOX).close()  # before it began
            endless.close()
            gate.set()

        assert [2, 2] == [len(future.result()) for future in waiting]
        assert len(written) <= 1 + 2 + 1
        assert not backend._worker._waiting


def test_what_waits_and_is_given_up_is_never_computed(folder):
    with Transformers(folder, options=TransformersOptions(**SMALL, parallel=1)) as backend:
        running = backend.stream(ask("Go on.", max_tokens=400))
        next(running)
        job = backend._jobs.Warm([1, 2, 3], prefix=3, scales=())
        backend._worker.submit(job)
        backend._worker.cancel(job)
        running.close()

        assert list(backend.stream(FOX))
        assert (0, True) == (job.read, job.outbox.empty())


# --- prefixes ----------------------------------------------------------------------------------------------------------


def test_a_config_is_computed_once_and_never_written_to(folder):
    with Transformers(folder, options=TransformersOptions(**SMALL)) as backend:
        length = backend.warm("Rule one. " * 10)
        kept = backend._worker._prefixes._kept
        (key, states), = kept.items()
        before = [(keys.clone(), values.clone()) for keys, values in states]

        cold = backend.prefix_use
        requests = [ask(f"Question {n}", system="Rule one. " * 10, max_tokens=5) for n in range(6)]
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda request: list(backend.stream(request)), requests))
        use = backend.prefix_use

        assert (1, length, 0) == (cold.requests, cold.prompt_tokens, cold.cached_tokens)
        assert (7, 6 * length) == (use.requests, use.cached_tokens)
        assert length + sum(map(backend.count_tokens, requests)) == use.prompt_tokens
        assert [key] == list(kept)
        for (keys, values), (old_keys, old_values) in zip(states, before, strict=True):
            assert keys.equal(old_keys)
            assert values.equal(old_values)


def test_a_config_of_many_pieces_is_computed_once_for_all_who_ask_at_once(folder):
    with Transformers(folder, options=TransformersOptions(**SMALL, batch=32)) as backend:
        forward, gate, read = backend._worker._forward, threading.Event(), []

        def noting(tokens, *arguments):
            gate.wait()
            read.append(len(tokens[0]))
            return forward(tokens, *arguments)

        backend._worker._forward, noting.device = noting, forward.device
        requests = [ask(f"Question {n}", system="Rule one. " * 30, max_tokens=1) for n in range(4)]
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(lambda request: list(backend.stream(request)), request) for request in requests]
            gate.set()
        length = backend.warm("Rule one. " * 30)

        assert all(future.result() for future in asked)
        assert length > 5 * 32
        assert length + sum(backend.count_tokens(request) - length for request in requests) == sum(read)


def test_a_prefix_holds_the_config_and_no_word_of_a_conversation(backend):
    request = Request(
        messages=(Message("system", "A rule."), Message("user", "A secret."), Message("assistant", "Mine."), Message("user", "?")),
        sampling=Sampling(max_tokens=2),
    )
    list(backend.stream(request))

    known = backend.render(ask("", system="A rule."))
    ours = [ids for _, ids in backend._worker._prefixes._kept if list(ids) == known[: len(ids)]]
    said = b"".join(backend._vocabulary.bytes[token] for ids in ours for token in ids)
    assert 1 == len(ours)
    assert b"A rule." in said
    assert b"user" in said
    assert b"secret" not in b"".join(
        backend._vocabulary.bytes[token] for _, ids in backend._worker._prefixes._kept for token in ids
    )


def test_warm_and_cold_give_the_same_to_the_last_bit(folder):
    request = ask("Well?", system="Long rule. " * 12)
    with Transformers(folder, options=TransformersOptions(**SMALL)) as backend:
        cold = backend.next_logprobs(request)
        warm = backend.next_logprobs(request)

    assert cold == warm


def test_a_conversation_of_nothing_but_a_config(backend, reference):
    request = Request(messages=(Message("system", "Alone."),), sampling=Sampling(max_tokens=5))
    expected = logits_of(reference, backend.render(request)).log_softmax(-1).max()

    for _ in range(2):  # the second time all of it is kept
        assert float(expected) == pytest.approx(max(backend.next_logprobs(request, top=1).values()), abs=1e-4)
        assert 5 == len(list(backend.stream(request)))


def test_prefixes_are_bounded_in_bytes_and_the_last_used_stay(torch_installed):
    import torch

    from cosa_guard.backends.torch_rows import Prefixes

    states = ((torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 8)), None)  # 256 bytes
    prefixes = Prefixes(3 * 256)
    for name in "abc":
        prefixes.put(name, states)
    prefixes.get("a")
    prefixes.put("d", states)
    prefixes.put("d", states)
    prefixes.put("huge", ((torch.zeros(1, 1, 64, 8), torch.zeros(1, 1, 64, 8)),))

    assert [True, False, True, True, False] == [prefixes.get(name) is not None for name in ("a", "b", "c", "d", "huge")]
    assert (3, 768) == (len(prefixes), prefixes.bytes)


def test_without_memory_for_prefixes_every_prompt_is_read(folder, backend):
    with Transformers(folder, options=TransformersOptions(**SMALL, prefix_cache_mib=0)) as bare:
        backend.warm("Be kind.")
        assert text(backend.stream(FOX)) == text(bare.stream(FOX)) == text(bare.stream(FOX))
        assert 0 == bare.prefix_use.cached_tokens
        assert not bare.capabilities.prefix_cache


# --- scoring -----------------------------------------------------------------------------------------------------------


def test_log_odds_are_the_whole_models(backend, reference):
    import torch

    expected = torch.log_softmax(logits_of(reference, backend.render(FOX)), dim=-1)
    found = backend.next_logprobs(FOX, top=10_000)

    assert math.isclose(1.0, sum(map(math.exp, found.values())), abs_tol=1e-4)
    assert math.isclose(found[" fox"], float(expected[backend._vocabulary.bytes.index(b" fox")]), abs_tol=1e-4)
    special = float(torch.logsumexp(expected[[0, 1, 2]], 0))
    assert math.isclose(found[""], special, abs_tol=1e-4)
    assert 1 == len(backend.next_logprobs(FOX, top=1))
    with pytest.raises(UsageError, match="top=0"):
        backend.next_logprobs(FOX, top=0)


# --- adapters ----------------------------------------------------------------------------------------------------------

LORAS = {
    "loud": Lora(inputs=64, outputs=32, blocks=2),
    "other": Lora(weight="attn_q", inputs=64, outputs=64, blocks=2, seed=1, heads=4),
}


@pytest.fixture(scope="module")
def adapters(torch_installed, tmp_path_factory):
    return {name: lora.peft(tmp_path_factory.mktemp("lora") / name) for name, lora in LORAS.items()}


@pytest.fixture(scope="module")
def adapted(folder, adapters):
    with Transformers(folder, options=TransformersOptions(**SMALL, adapters=adapters)) as backend:
        yield backend


def using(*scales):
    return FOX.replace(adapters=tuple(Adapter(name=name, scale=scale) for name, scale in scales))


@pytest.mark.parametrize("scales", [{"loud": 1.0}, {"other": 0.5}, {"loud": 1.0, "other": 2.0}])
def test_an_adapter_adds_its_matrices_to_the_weights(adapted, adapters, folder, scales):
    import safetensors.torch
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for name, scale in scales.items():
        tensors = safetensors.torch.load_file(adapters[name] / "adapter_model.safetensors")
        for key in [key for key in tensors if ".lora_A." in key]:
            module = model.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            with torch.no_grad():
                module.weight += scale * tensors[key.replace("lora_A", "lora_B")] @ tensors[key]  # alpha is the rank
    expected = torch.log_softmax(logits_of(model, adapted.render(FOX)), dim=-1)

    found = adapted.next_logprobs(using(*scales.items()), top=1)

    assert math.isclose(max(found.values()), float(expected.max()), abs_tol=1e-4)


def test_an_adapter_applies_to_the_request_that_names_it_only(adapted, backend):
    base = backend.next_logprobs(FOX)

    assert ("loud", "other") == adapted.capabilities.adapters
    assert base == adapted.next_logprobs(FOX)
    assert base == adapted.next_logprobs(using(("loud", 0.0), ("other", 0.0)))
    found = [adapted.next_logprobs(using(*scales)) for scales in ([("loud", 1.0)], [("loud", 0.3)], [("other", 1.0)])]
    both = adapted.next_logprobs(using(("loud", 1.0), ("other", 1.0)))
    assert 5 == len({json.dumps(each) for each in (base, both, *found)})
    assert both == adapted.next_logprobs(using(("other", 1.0), ("loud", 1.0)))
    assert base == adapted.next_logprobs(FOX)


def test_requests_with_different_adapters_at_once(adapted):
    asked = [using(), using(("loud", 1.0)), using(("other", 0.5)), using(("loud", 1.0), ("other", 1.0))] * 3
    alone = [text(adapted.stream(request)) for request in asked[:4]]

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda request: text(adapted.stream(request)), asked))

    assert alone * 3 == together
    assert 4 == len(set(alone))


def test_unknown_and_mistyped_adapters(adapted, backend):
    with pytest.raises(AdapterError, match=r"unknown adapter 'lout': did you mean 'loud'.*loud, other"):
        adapted.stream(using(("lout", 1.0)))
    with pytest.raises(AdapterError, match="none; name its folder"):
        backend.next_logprobs(using(("loud", 1.0)))


def broken(adapters, folder, **changes):
    """A copy of an adapter with other settings."""
    shutil.copytree(adapters["loud"], folder)
    settings_file = folder / "adapter_config.json"
    settings_file.write_text(json.dumps(json.loads(settings_file.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "kind 'IA3', not 'LORA'"),
        ({"use_dora": True}, "is a DoRA"),
        ({"bias": "all"}, "changes biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "replaces tokens"),
        ({"r": 8}, "cannot be applied"),
        ({"r": "many"}, "cannot be applied"),
        ({"r": 0}, "cannot be applied"),
        ({"lora_alpha": {}}, "cannot be applied"),
        ({"rank_pattern": 3}, "cannot be applied"),
    ],
)
def test_adapters_with_settings_that_cannot_be_used(folder, adapters, tmp_path, changes, said):
    path = broken(adapters, tmp_path / "lora", **changes)

    with pytest.raises(AdapterError, match=f"adapter 'mine'.*{said}"):
        Transformers(folder, options=TransformersOptions(**SMALL, adapters={"mine": path}))


def test_adapters_that_do_not_fit(folder, tmp_path):
    cases = {
        r"does not fit the model.*\(4, 60\)": Lora(inputs=60, outputs=32, blocks=2),
        r"\(40, 4\) for a weight of \(32, 64\)": Lora(inputs=64, outputs=40, blocks=2),
        "a change of 'model.layers.2.self_attn.v_proj', which does not fit": Lora(inputs=64, outputs=32, blocks=3),
        "numbers that are none": Lora(inputs=64, outputs=32, strength=float("inf"), blocks=1),
    }
    for number, (said, lora) in enumerate(cases.items()):
        path = lora.peft(tmp_path / str(number))
        with pytest.raises(AdapterError, match=f"adapter 'mine'.*{said}"):
            Transformers(folder, options=TransformersOptions(**SMALL, adapters={"mine": path}))


def test_adapter_files_that_are_missing_damaged_or_pickled(folder, adapters, tmp_path):
    def without(name):
        path = broken(adapters, tmp_path / name)
        (path / "adapter_model.safetensors").unlink()
        return path

    pickled, damaged, bare = without("pickled"), without("damaged"), without("bare")
    (pickled / "adapter_model.bin").write_bytes(b"\x80\x04.")
    (damaged / "adapter_model.safetensors").write_bytes(b"\xff" * 40)
    unset = broken(adapters, tmp_path / "unset")
    (unset / "adapter_config.json").write_text("{")
    cases = {
        "a pickle, which could run code": pickled, "cannot be read": damaged, "has no weights": bare,
        "cannot be read as JSON": unset, "is not a folder": tmp_path / "gone.gguf", "does not exist. Name a folder": tmp_path,
    }  # fmt: skip
    for said, path in cases.items():
        with pytest.raises(AdapterError, match=f"adapter 'mine'.*{said}"):
            Transformers(folder, options=TransformersOptions(**SMALL, adapters={"mine": path}))


# --- errors, and the life of a backend -----------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long(backend):
    with pytest.raises(PromptTooLong, match=r"takes 511 beside the reply. Shorten it or raise the option context.*1024") as caught:
        backend.stream(ask("word " * 600))
    with pytest.raises(PromptTooLong):
        backend.warm("word " * 600)

    assert 511 == caught.value.budget


def test_a_reply_ends_where_the_context_ends(backend):
    request = ask("ab" * 220, max_tokens=10_000)
    room = 512 - backend.count_tokens(request)

    deltas = list(backend.stream(request))

    assert 0 < room < 60
    assert (room, "length") == (sum(delta.tokens for delta in deltas), deltas[-1].finish)


@pytest.mark.parametrize(("raised", "kind"), [(RuntimeError("odd"), BackendError), (MemoryError("all gone"), OutOfMemory)])
def test_an_error_while_computing_reaches_whoever_waits_and_no_one_else(folder, raised, kind):
    with Transformers(folder, options=TransformersOptions(**SMALL)) as backend:
        whole = text(backend.stream(FOX))
        forward = backend._worker._forward

        def fail_at_three(tokens, *arguments):
            if len(tokens) == 3:
                backend._worker._forward = forward
                raise raised
            return forward(tokens, *arguments)

        backend._worker._forward, fail_at_three.device = fail_at_three, forward.device
        requests = [ask(f"Go on, {n}.", max_tokens=400) for n in range(3)]
        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(lambda request: list(backend.stream(request)), request) for request in requests]
        errors = [future.exception() for future in futures]

        assert [kind] * 3 == [type(error) for error in errors]
        assert all(str(raised) in str(error) and raised is error.__cause__ for error in errors)
        assert whole == text(backend.stream(FOX))


def test_an_error_in_one_prompt_is_its_own(folder):
    with Transformers(folder, options=TransformersOptions(**SMALL)) as backend:
        whole = text(backend.stream(FOX))
        forward = backend._worker._forward
        running = backend.stream(ask("Go on.", max_tokens=100))
        next(running)

        def fail(tokens, *arguments):
            if len(tokens[0]) > 1:
                raise RuntimeError("odd prompt")
            return forward(tokens, *arguments)

        backend._worker._forward, fail.device = fail, forward.device
        with pytest.raises(BackendError, match="failed while it computed: RuntimeError: odd prompt"):
            backend.next_logprobs(ask("Hm?"))
        assert 99 == len(list(running))
        backend._worker._forward = forward

        assert whole == text(backend.stream(FOX))


def test_an_error_of_a_reply_is_passed_on_as_it_is(backend, monkeypatch):
    def stuck(job, logits):
        raise BackendError("its grammar is stuck")

    monkeypatch.setattr(backend._jobs.Reply, "next", stuck)

    with pytest.raises(BackendError, match=r"^its grammar is stuck$"):
        list(backend.stream(FOX))
    assert backend.next_logprobs(FOX, top=1)


def test_after_close(folder):
    before = set(threading.enumerate())
    with Transformers(folder, options=TransformersOptions(**SMALL, parallel=1)) as backend:
        started = backend.stream(ask("Go on.", max_tokens=400))
        next(started)
        pool = ThreadPoolExecutor(1)
        waiting = pool.submit(list, backend.stream(FOX))
    backend.close()

    for call in (lambda: list(backend.stream(FOX)), lambda: backend.next_logprobs(FOX), lambda: list(started), lambda: backend.warm("x")):
        with pytest.raises(BackendError, match="was closed; make a new backend"):
            call()
    assert "closed" in str(waiting.exception())
    pool.shutdown()
    assert before == set(threading.enumerate())


def test_a_backend_that_is_forgotten_ends_its_thread(folder):
    before = set(threading.enumerate())
    backend = Transformers(folder, options=TransformersOptions(**SMALL))
    worker = backend._worker._thread
    del backend
    gc.collect()
    worker.join(60)

    assert before == set(threading.enumerate())


SCRIPT = """
    import sys, threading
    from cosa_guard.backends.transformers import Transformers, TransformersOptions
    from cosa_guard.messages import Message, Request, Sampling
    from cosa_sdk.errors import BackendError

    backend = Transformers(sys.argv[1], options=TransformersOptions(threads=1, parallel=2, device="cpu"))
    request = Request(messages=(Message("user", "Go on."),), sampling=Sampling(max_tokens=900))
    streams = [backend.stream(request) for _ in range(2)]
    for stream in streams:
        next(stream)
    begun = threading.Barrier(3)
    def work():
        begun.wait()
        try:
            list(backend.stream(request))
        except BackendError:
            pass
    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()
    begun.wait()
    # The interpreter ends with streams open, running and waiting.
"""


def test_leaving_with_streams_open_and_without_a_word(folder):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder)], capture_output=True, text=True, timeout=100, check=False
    )

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


# --- loading -----------------------------------------------------------------------------------------------------------


def copy_without(folder, path, *names):
    shutil.copytree(folder, path)
    for name in names:
        (path / name).unlink()
    return path


def test_folders_that_hold_no_model(folder, tmp_path):
    import safetensors.torch

    pickled = copy_without(folder, tmp_path / "pickled", "model.safetensors")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    cut = copy_without(folder, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:9000])
    partial = copy_without(folder, tmp_path / "partial")
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    safetensors.torch.save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    coded = copy_without(folder, tmp_path / "coded")
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (coded / "config.json").write_text(json.dumps(own))
    (coded / "own.py").write_text("raise SystemExit('this must not run')")
    silent = copy_without(folder, tmp_path / "silent", "chat_template.jinja")
    mute = copy_without(folder, tmp_path / "mute", "tokenizer.json")
    cases = {
        "pickles.*never loaded": pickled, "damaged or not whole": cut, "lacks weights.*up_proj": partial, "cannot load": coded,
        "has no chat template.*instruct model": silent, "cannot load|fast kind": mute, "does not exist": tmp_path / "gone.gguf",
    }  # fmt: skip
    for said, path in cases.items():
        with pytest.raises(ModelFileError, match=said):
            Transformers(path, options=TransformersOptions(**SMALL))


@pytest.fixture(scope="module")
def tiny_gguf(torch_installed, write_gguf, tmp_path_factory):
    changes = {"tokenizer.ggml.merges": ["t h"], "tokenizer.ggml.tokens": [*tiny.TOKENS[:-1], "th"]}
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny.metadata(**changes), tiny.tensors())


def test_a_gguf_file(tiny_gguf):
    with Transformers(tiny_gguf, options=TransformersOptions(**SMALL)) as backend:
        assert "transformers:tiny" == backend.name
        assert 12 == sum(delta.tokens for delta in backend.stream(FOX))
        assert "float32" in str(backend._worker._forward._model.dtype)


@pytest.mark.parametrize("seed", range(36))
def test_a_damaged_gguf_file_is_an_error_of_ours_or_works(tiny_gguf, tmp_path, seed):
    """Cut short, or with bytes changed in its header or anywhere; what remains readable may say anything."""
    raw, draw = bytearray(tiny_gguf.read_bytes()), random.Random(seed)
    if seed % 3 == 0:
        raw = raw[: draw.randrange(len(raw))]
    else:
        for _ in range(seed % 5 * 4 + 1):
            raw[draw.randrange(9000 if seed % 3 == 1 else len(raw))] = draw.choice([0, 255, draw.randrange(256)])
    (tmp_path / "m.gguf").write_bytes(raw)

    try:
        with Transformers(tmp_path / "m.gguf", options=TransformersOptions(**SMALL | {"context": 64}, prefix_cache_mib=1)) as backend:
            list(backend.stream(ask("b", system="a", max_tokens=4)))
    except (ModelFileError, BackendError, UsageError) as error:
        assert len(str(error)) > 40


def test_a_file_that_was_cut_is_refused(tiny_gguf, tmp_path):
    raw = tiny_gguf.read_bytes()
    for share in (0.001, 0.1, 0.5, 0.99):
        (tmp_path / "m.gguf").write_bytes(raw[: int(len(raw) * share)])
        with pytest.raises(ModelFileError, match="m.gguf"):
            Transformers(tmp_path / "m.gguf", options=TransformersOptions(**SMALL))


def test_a_recurrent_model_is_refused(torch_installed, tmp_path):
    torch_models.save(tmp_path, kind="MambaConfig")

    with pytest.raises(ModelFileError, match="layers with a state that cannot be cut at a token"):
        Transformers(tmp_path, options=TransformersOptions(**SMALL))


def test_a_hub_that_cannot_be_reached(torch_installed, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(ModelFileError, match="no local path; on a hub it must exist and be reachable"):
        make("nobody/no-such-model", **SMALL)


def test_too_little_memory_is_said_with_numbers(folder):
    with pytest.raises(OutOfMemory, match=r"needs about 0.5 GiB.*3 replies of 1024 tokens, the configs that stay ready.*0.0 GiB.*options parallel, context"):
        Transformers(folder, options=TransformersOptions(device="cpu", parallel=3), free_memory=lambda: 1 << 20)


def test_context_is_at_most_what_the_model_knows(folder):
    with Transformers(folder, options=TransformersOptions(context=100_000, device="cpu", threads=1)) as backend:
        assert 1024 == backend.capabilities.context


def test_a_dtype_that_was_asked_for(folder):
    with Transformers(folder, options=TransformersOptions(**SMALL, dtype="bfloat16")) as backend:
        assert 12 == len(list(backend.stream(FOX)))
        assert "torch.bfloat16" == str(backend._worker._forward._model.dtype)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"device": "abacus"}, "device='abacus' is not there"), ({"device": "meta"}, "Choices: auto,.*cpu"), ({"dtype": "int3"}, "choices are auto, float32")],
)
def test_devices_and_dtypes_that_are_not_there(folder, options, said):
    with pytest.raises(UsageError, match=said):
        Transformers(folder, options=TransformersOptions(**{"threads": 1} | options))


def test_a_template_that_refuses(folder):
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + torch_models.CHATML
    with Transformers(folder, options=TransformersOptions(**SMALL, chat_template=template)) as backend:
        said = b"".join(backend._vocabulary.bytes[token] for token in backend.render(ask("Hi", system="Rules")))
        assert b"user\nRules\n\nHi" in said

    with Transformers(folder, options=TransformersOptions(**SMALL, chat_template="{{ raise_exception('never') }}")) as backend:
        with pytest.raises(BackendError, match="cannot hold a conversation.*never"):
            backend.render(FOX)


def test_make_takes_options_and_refuses_unknown_ones(folder):
    with pytest.raises(UnknownName, match="'contxt': did you mean 'context'"):
        make(str(folder), contxt=3)
    with make(str(folder), **SMALL) as backend:
        assert "transformers:random-llama" == backend.name


@pytest.mark.parametrize("missing", ["torch", "transformers", "peft"])
def test_what_is_missing_is_said_with_the_command(folder, adapters, missing):
    code = f"""
import sys
sys.modules[{missing!r}] = None
from cosa_guard import backends
backends.make({f"transformers:{folder}"!r}, device="cpu", adapters={{"loud": {str(adapters["loud"])!r}}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)

    assert "pip install 'cosa[transformers]'" in done.stderr
