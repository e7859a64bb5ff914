"""The same prompts give the same greedy text on llama-cpp and on transformers, from one F16 file."""

from __future__ import annotations

import ctypes
import os

import pytest
from tests.guard.backends.conftest import _absent as absent

from cosa_guard.messages import Message, Request, Sampling

F16 = 1
QUESTIONS = (
    "What is the capital of France?", "Name three colours of the rainbow.", "Write one line about a harbour at night.",
    "How do bees make honey?", "Give me a short poem about winter.", "What does a lighthouse keeper do?",
    "Translate 'good morning' into French.", "Why is the sky blue?", "Tell me a joke about a cat.", "List four kinds of bread.",
    "Who wrote Romeo and Juliet?", "What is 12 times 12?",
)  # fmt: skip
CONFIGS = (None, "You answer in one short sentence.", "You are a patient teacher of children. Talk of animals, plants and the sea.")
TOKENS = 32


@pytest.fixture(scope="module")
def f16(local_model, torch_installed, tmp_path_factory):
    from cosa_guard.backends.llama_native import load_library

    try:
        llama = load_library()
    except Exception as error:  # noqa: BLE001  # whatever is missing
        absent(str(error))
    path = tmp_path_factory.mktemp("f16") / "model-f16.gguf"
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = F16, True, 1
    assert 0 == llama.llama_model_quantize(bytes(local_model), bytes(path), ctypes.byref(params))
    return path


def requests():
    for question in QUESTIONS[: int(os.environ.get("COSA_QUESTIONS", "5"))]:
        for config in CONFIGS:
            system = (Message("system", config),) if config else ()
            yield Request(messages=(*system, Message("user", question)), sampling=Sampling(max_tokens=TOKENS))


def pieces(backend):
    return [[delta.text for delta in backend.stream(request) if delta.text] for request in requests()], [backend.render(request) for request in requests()]


def equal(left, right):
    """Tokens before the first that differs, and tokens in all."""
    same = total = 0
    for one, other in zip(left, right, strict=True):
        total += max(len(one), len(other))
        for a, b in zip(one, other, strict=False):
            if a != b:
                break
            same += 1
    return same, total


@pytest.mark.slow
def test_one_file_says_the_same_on_both(f16, record_property):
    from cosa_guard.backends.llama_cpp import LlamaCpp, LlamaCppOptions
    from cosa_guard.backends.transformers import Transformers, TransformersOptions

    with LlamaCpp(f16, options=LlamaCppOptions(context=256, sequences=1, threads=1, requantize=False)) as backend:
        ours, prompts = pieces(backend)
    with Transformers(f16, options=TransformersOptions(context=256, parallel=1, threads=1)) as backend:
        theirs, other_prompts = pieces(backend)
    same, total = equal(ours, theirs)
    replies = sum(a == b for a, b in zip(ours, theirs, strict=True))
    record_property("equal", f"{same} of {total} tokens, {replies} of {len(ours)} replies")

    assert prompts == other_prompts
    assert total > 200
    assert same / total > 0.9
