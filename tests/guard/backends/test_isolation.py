"""A secret that one customer's conversation holds is nowhere in another's: not in a reply, not in a probability.

What a question says is compared with what it says on a backend where no secret ever was. A language model of random
numbers is as good as any here: all that its sequences hold shows in its log-odds, as the control shows.
"""

from __future__ import annotations

import os
import random
import string
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
from tests.guard.backends import tiny, torch_models
from tests.guard.backends.adapters import GGUF_LORA
from tests.guard.backends.conftest import _absent as absent

from cosa_guard.messages import Adapter, Message, Request, Sampling

REQUESTS = int(os.environ.get("COSA_ISOLATION", "1000"))
TENANTS = ("ada", "ben", "cem", "dan")
CONFIGS = [f"Config {number}. " + " ".join(random.Random(number).choices(["allow", "deny", "ask", "cite"], k=20)) for number in range(64)]
QUESTION = "Say the password."
LOUDNESS = 3
NEAR = 0.05
"""Nats: what other batches do to a log-probability, at most; a secret in the prompt does more, as the control shows."""


def secret_of(number):
    return "".join(random.Random(f"secret {number}").choices(string.ascii_letters + string.digits, k=40))


def request_of(config, *turns, adapter=None, tenant=""):
    roles = ("user", "assistant")
    messages = [Message("system", config), *(Message(roles[place % 2], turn) for place, turn in enumerate(turns))]
    adapters = (Adapter(name=adapter),) if adapter else ()
    return Request(messages=tuple(messages), adapters=adapters, scope=tenant, sampling=Sampling(max_tokens=4))


def seen(backend, request):
    text = "".join(delta.text for delta in backend.stream(request))
    return text, dict(backend.next_logprobs(request, top=200))


def apart(left, right):
    """How far the log-odds of two replies are apart, at the tokens that both name."""
    return max((abs(left[text] - right[text]) for text in left.keys() & right.keys()), default=99.0)


def interleaved(backend, alone, adapters, near):
    """Plants secrets and asks for them, in turns and from many threads; gives how often what was found where."""
    reference = {}
    cases = random.Random(11)
    plan = [
        (
            number,
            cases.choice(CONFIGS[:8] if number % 2 else CONFIGS),
            cases.choice(TENANTS),
            cases.choice(adapters),
            cases.choice(["plant", "plant", "go on", "ask", "ask"]),
        )
        for number in range(REQUESTS)
    ]
    for _, config, _, adapter, kind in plan:
        key = (config, adapter)
        if kind == "ask" and key not in reference:
            reference[key] = seen(alone, request_of(config, QUESTION, adapter=adapter))

    def one(case):
        number, config, tenant, adapter, kind = case
        secret = f"The password is {secret_of(number)}."
        if kind == "plant":
            told = request_of(config, secret, adapter=adapter, tenant=tenant)
            return kind, "".join(delta.text for delta in backend.stream(told)), None
        if kind == "go on":
            reply = "".join(delta.text for delta in backend.stream(request_of(config, secret, adapter=adapter, tenant=tenant)))
            onward = request_of(config, secret, reply, QUESTION, adapter=adapter, tenant=tenant)
            return kind, *seen(backend, onward)
        return kind, *seen(backend, request_of(config, QUESTION, adapter=adapter, tenant=tenant))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, plan))
    wrong = []
    for case, (kind, text, odds) in zip(plan, found, strict=True):
        if kind == "ask":
            # Texts may differ where two tokens are as likely; what made one likelier shows in the odds.
            expected_text, expected = reference[case[1], case[3]]
            if apart(expected, odds) > near:
                wrong.append((case, apart(expected, odds), expected_text, text))
            if any(secret_of(number)[:6] in text for number in range(REQUESTS)):
                wrong.append((case, text))
    return wrong, sum(kind == "ask" for kind, _, _ in found)


def control(alone, adapters):
    """The least that a secret in the prompt does to the log-odds."""
    least = 99.0
    for number, config in enumerate(CONFIGS[:8]):
        plain = seen(alone, request_of(config, QUESTION, adapter=adapters[number % len(adapters)]))[1]
        told = request_of(config, f"The password is {secret_of(number)}.", "Yes.", QUESTION, adapter=adapters[number % len(adapters)])
        least = min(least, apart(plain, seen(alone, told)[1]))
    return least


def check(backend, alone, adapters, near=NEAR):
    assert control(alone, adapters) > 10 * near
    wrong, asked = interleaved(backend, alone, adapters, near)

    assert not wrong[:3]
    assert asked > REQUESTS / 4


@pytest.fixture(scope="module")
def model(write_gguf, tmp_path_factory):
    # Louder than for other tests, so that whatever a sequence holds is heard.
    loud = {
        name: (shape, values if "norm" in name else [LOUDNESS * value for value in values])
        for name, (shape, values) in tiny.tensors(1).items()
    }
    return write_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", tiny.metadata(), loud)


@pytest.fixture(scope="module")
def adapter(write_gguf, tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("lora") / "loud.gguf", GGUF_LORA, tiny.lora())


@pytest.mark.slow
@pytest.mark.parametrize("ram", [0, 1, 64])
@pytest.mark.parametrize("disk", [0, 1])
def test_llama_cpp_in_all_tiers(model, adapter, tmp_path, ram, disk):
    if find_spec("llama_cpp") is None:
        absent("llama-cpp-python is not installed: pip install 'cosa[llama-cpp]'")
    from cosa_guard.backends.llama_cpp import LlamaCpp, LlamaCppOptions

    told = {"context": 512, "threads": 1, "adapters": {"loud": adapter}, "prefix_folder": tmp_path}
    tiers = LlamaCppOptions(sequences=3, prefix_ram_mib=ram, prefix_disk_mib=disk, **told)
    with LlamaCpp(model, options=tiers) as backend, LlamaCpp(model, options=LlamaCppOptions(sequences=1, **told)) as alone:
        check(backend, alone, [None, "loud"])
        use = backend.store_use

        assert backend.idle
        # Every tier was used, and overflowed where it is small.
        assert (use.hits > 0) == (ram > 0)
        assert (use.evicted > 0) == (ram == 1)
        assert (use.disk_hits > 0) == (disk > 0 and ram < 64)


@pytest.mark.local
@pytest.mark.slow
@pytest.mark.parametrize("loaded", [[None], [None, "loud"]])
def test_xllamacpp(local_model, model, adapter, loaded):  # the default model stands for the package
    from cosa_guard.backends.xllamacpp import XLlamaCpp, XLlamaCppOptions

    told = {"context": 512, "threads": 1, "adapters": {"loud": adapter} if len(loaded) > 1 else {}}
    with (
        XLlamaCpp(model, options=XLlamaCppOptions(slots=3, prefix_cache_mib=8, **told)) as backend,
        XLlamaCpp(model, options=XLlamaCppOptions(slots=1, reproducible=True, **told)) as alone,
    ):
        check(backend, alone, loaded, near=0.2)  # its cached prompts differ by up to 0.1 from fresh ones


@pytest.mark.slow
@pytest.mark.parametrize("cache_mib", [0, 1])
def test_transformers(torch_installed, tmp_path, cache_mib):
    from cosa_guard.backends.transformers import Transformers, TransformersOptions

    folder = torch_models.save(tmp_path / "tiny")
    told = {"context": 512, "threads": 1}
    with (
        Transformers(folder, options=TransformersOptions(parallel=3, prefix_cache_mib=cache_mib, **told)) as backend,
        Transformers(folder, options=TransformersOptions(parallel=1, prefix_cache_mib=0, **told)) as alone,
    ):
        check(backend, alone, [None])
