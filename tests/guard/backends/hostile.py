"""Files that are damaged or written to do harm, made from a tiny model, and a process that loads them all."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

from tests.guard.backends import tiny

ENDLESS = "{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(90000) %}{% endfor %}{% endfor %}{% endfor %}"
GREEDY = "{% set ns = namespace(t='xxxxxxxx') %}{% for a in range(99) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}"
LORA = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0}


def models(write, folder):
    """name -> bytes of each model."""

    def built(changes=None, tensors=None, **lies):
        given = tiny.tensors() if tensors is None else tensors
        return write(folder / "built.gguf", tiny.metadata(**changes or {}), given, **lies).read_bytes()

    whole = built()
    tensors = tiny.tensors()
    data_at = _data_start(whole)
    first = "blk.0.attn_q.weight"
    sides_at, type_at, offset_at = tiny.tensor_fields(whole, first)
    tokens_key, types_key = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
    found = {
        # Cut off.
        "empty": b"",
        "cut in the magic": whole[:3],
        "cut in the version": whole[:6],
        "cut in the counts": whole[:20],
        "cut in a key": whole[:40],
        "cut in the tokens": whole[: whole.index(tokens_key.encode()) + 400],
        "cut in the tensor list": whole[: offset_at - 2],
        "cut where the data begins": whole[:data_at],
        "cut in the data": whole[: (data_at + len(whole)) // 2],
        "cut by one block": whole[:-64],
        # The head.
        "wrong magic": b"GGUG" + whole[4:],
        "version 0": tiny.put(whole, 4, "<I", 0),
        "version 9": tiny.put(whole, 4, "<I", 9),
        "big-endian version": tiny.put(whole, 4, ">I", 3),
        "a tensor too many": tiny.put(whole, 8, "<Q", len(tensors) + 1),
        "a tensor too few": tiny.put(whole, 8, "<Q", len(tensors) - 1),
        "2**62 tensors": tiny.put(whole, 8, "<Q", 2**62),
        "a key too many": tiny.put(whole, 16, "<Q", len(tiny.metadata()) + 1),
        "2**63 keys": tiny.put(whole, 16, "<Q", 2**63),
        "a key of 2**60 bytes": tiny.put(whole, 24, "<Q", 2**60),
        "a value of type 77": tiny.patched(whole, "llama.block_count", struct.pack("<I", 77)),
        "a string of 2**40 bytes": tiny.patched(whole, "general.name", struct.pack("<Q", 2**40), at=4),
        "an array of 2**61 tokens": tiny.patched(whole, tokens_key, struct.pack("<Q", 2**61), at=8),
        "an array of type 50": tiny.patched(whole, tokens_key, struct.pack("<I", 50), at=4),
        "the same key twice": whole.replace(b"general.file_type", b"llama.block_count", 1),
        "alignment 0": built({"general.alignment": 0}),
        "alignment 7": built({"general.alignment": 7}),
        "alignment 2**31": built({"general.alignment": 2**31}),
        # Tensors.
        "9 dimensions": tiny.put(whole, sides_at, "<I", 9),
        "2**32 - 1 dimensions": tiny.put(whole, sides_at, "<I", 2**32 - 1),
        "a side of 0": tiny.put(whole, sides_at + 4, "<Q", 0),
        "a side of 2**63": tiny.put(whole, sides_at + 4, "<Q", 2**63),
        "sides whose product overflows": tiny.put(whole, sides_at + 4, "<QQ", 2**33, 2**33),
        "a negative side": tiny.put(whole, sides_at + 4, "<q", -64),
        "a tensor of type 255": tiny.put(whole, type_at, "<I", 255),
        "a tensor of a type that is gone": tiny.put(whole, type_at, "<I", 4),
        "a tensor of whole numbers": tiny.put(whole, type_at, "<I", 24),
        "an offset behind the end": tiny.put(whole, offset_at, "<Q", 2**40),
        "an offset that overflows": tiny.put(whole, offset_at, "<Q", 2**64 - 32),
        "an offset out of line": tiny.put(whole, offset_at, "<Q", 33),
        "two tensors in one place": tiny.put(whole, offset_at, "<Q", 0),
        "the same tensor twice": whole.replace(b"blk.1.attn_q.weight", b"blk.0.attn_q.weight", 1),
        "no output norm": built(tensors={k: v for k, v in tensors.items() if k != "output_norm.weight"}),
        "a layer missing": built(tensors={k: v for k, v in tensors.items() if not k.startswith("blk.1.")}),
        "a matrix turned": built(tensors=tensors | {"blk.0.ffn_up.weight": ((96, 64), [0.1] * 96 * 64)}),
        # Numbers.
        "no heads": built({"llama.attention.head_count": 0}),
        "no layers": built({"llama.block_count": 0}),
        "2**31 layers": built({"llama.block_count": 2**31}),
        "more heads than width": built({"llama.attention.head_count": 4096}),
        "3 heads of 64": built({"llama.attention.head_count": 3}),
        "no key-value heads": built({"llama.attention.head_count_kv": 0}),
        "3 key-value heads for 4": built({"llama.attention.head_count_kv": 3}),
        "a width of 0": built({"llama.embedding_length": 0}),
        "a width of 2**31": built({"llama.embedding_length": 2**31}),
        "rope dimensions of 10**6": built({"llama.rope.dimension_count": 10**6}),
        "rope dimensions of 3": built({"llama.rope.dimension_count": 3}),
        "a head of length 0": built({"llama.attention.key_length": 0}),
        "an epsilon that is no number": built({"llama.attention.layer_norm_rms_epsilon": float("nan")}),
        "an epsilon below 0": built({"llama.attention.layer_norm_rms_epsilon": -1.0}),
        "no epsilon": built({"llama.attention.layer_norm_rms_epsilon": None}),
        "a context of 0": built({"llama.context_length": 0}),
        "a context of 2**31": built({"llama.context_length": 2**31}),
        "text where a number belongs": built({"llama.block_count": "two"}),
        "an architecture that nobody knows": built({"general.architecture": "martian"}),
        "an architecture of another kind": built({"general.architecture": "bert"}),
        # The vocabulary.
        "no tokens": built({tokens_key: None}),
        "too few tokens": built({tokens_key: tiny.TOKENS[:100], types_key: [1] * 100}),
        "too many tokens": built({tokens_key: [*tiny.TOKENS, *map(str, range(9000))]}),
        "too few token types": built({types_key: [1] * 3}),
        "token types that are none": built({types_key: [99] * len(tiny.TOKENS)}),
        "the same token everywhere": built({tokens_key: ["a"] * len(tiny.TOKENS)}),
        "empty tokens": built({tokens_key: [""] * len(tiny.TOKENS)}),
        "a token of 9 MB": built({tokens_key: ["a" * 9_000_000, *tiny.TOKENS[1:]]}),
        "merges that are none": built({"tokenizer.ggml.merges": ["", " ", "a", "a b c"]}),
        "BOS out of range": built({"tokenizer.ggml.bos_token_id": 10**6, "tokenizer.ggml.add_bos_token": True}),
        "EOS out of range": built({"tokenizer.ggml.eos_token_id": 2**31 - 1}),
        "a tokenizer that nobody knows": built({"tokenizer.ggml.model": "martian"}),
        "a tokenizer of another kind": built({"tokenizer.ggml.model": "t5"}),
        "a pre-tokenizer that nobody knows": built({"tokenizer.ggml.pre": "martian"}),
        # The template.
        "an endless template": built({"tokenizer.chat_template": ENDLESS + tiny.TEMPLATE}),
        "a template that is endless for a conversation": built({"tokenizer.chat_template": f"{{% if messages[0]['content'][0] == 'c' %}}{ENDLESS}{{% endif %}}{tiny.TEMPLATE}"}),
        "a template that takes all memory": built({"tokenizer.chat_template": GREEDY + tiny.TEMPLATE}),
        "a template that is none": built({"tokenizer.chat_template": "{% for %}"}),
        "a template that refuses all": built({"tokenizer.chat_template": "{{ raise_exception('no') }}"}),
        "a template without contents": built({"tokenizer.chat_template": "hello"}),
        "a template nested 9,000 deep": built({"tokenizer.chat_template": "{{" + "(" * 9000 + "1" + ")" * 9000 + "}}" + tiny.TEMPLATE}),
        "a template of 50 MB": built({"tokenizer.chat_template": tiny.TEMPLATE + "{# " + "x" * 50_000_000 + " #}"}),
    }  # fmt: skip
    return found | {
        "weights that are no numbers": _filled(whole, data_at, struct.pack("<f", float("nan"))),
        "weights without bounds": _filled(whole, data_at, struct.pack("<f", float("inf"))),
    }


def adapters(write, folder):
    """name -> bytes of each adapter; the model is whole."""

    def built(changes=None, tensors=None):
        given = tiny.lora() if tensors is None else tensors
        metadata = {key: value for key, value in (LORA | (changes or {})).items() if value is not None}
        return write(folder / "built.gguf", metadata, given).read_bytes()

    whole = built()
    good = tiny.lora()
    a, b = "blk.0.attn_v.weight.lora_a", "blk.0.attn_v.weight.lora_b"
    sides_at, type_at, offset_at = tiny.tensor_fields(whole, a)
    return {
        "cut in the header": whole[:60],
        "cut in the data": whole[:-100],
        "no kind": built({"adapter.type": None}),
        "of a kind that nobody knows": built({"adapter.type": "dora"}),
        "alpha missing": built({"adapter.lora.alpha": None}),
        "alpha no number": built({"adapter.lora.alpha": float("nan")}),
        "alpha without bounds": built({"adapter.lora.alpha": float("inf")}),
        "alpha in words": built({"adapter.lora.alpha": "four"}),
        "another architecture": built({"general.architecture": "qwen2"}),
        "two ranks in one pair": built(tensors=good | {b: ((3, 32), [0.5] * 96)}),
        "rank 0": tiny.put(whole, sides_at + 4, "<QQ", 64, 0),
        "half a pair": built(tensors={name: value for name, value in good.items() if name != b}),
        "another width": built(tensors=tiny.lora(inputs=80)),
        "another height": built(tensors=tiny.lora(outputs=80)),
        "for layers that are not there": built(tensors=tiny.lora(layers=9)),
        "for weights that are not there": built(tensors=tiny.lora(weight="attn_w")),
        "for a norm": built(tensors={"output_norm.weight.lora_a": ((64, 2), [1.0] * 128), "output_norm.weight.lora_b": ((2, 64), [1.0] * 128)}),
        "a tensor of type 255": tiny.put(whole, type_at, "<I", 255),
        "an offset behind the end": tiny.put(whole, offset_at, "<Q", 2**40),
        "an offset that overflows": tiny.put(whole, offset_at, "<Q", 2**64 - 32),
        "sides whose product overflows": tiny.put(whole, sides_at + 4, "<QQ", 64, 2**60),
        "a tensor of no pair": built(tensors=good | {"blk.0.attn_v.weight": ((64, 32), [0.5] * 2048)}),
        "no tensors": built(tensors={}),
        "weights that are no numbers": built(tensors=tiny.lora(value=float("nan"))),
    }  # fmt: skip


def _data_start(raw):
    """Where the tensors' bytes begin: the last tensor's end is the file's."""
    size = sum(-(-4 * len(values) // 32) * 32 for _, values in tiny.tensors().values())
    return len(raw) - size


def _filled(raw, start, value):
    return raw[:start] + value * ((len(raw) - start) // 4)


HARMLESS = {
    # llama.cpp reads these as somebody may have meant them, and nothing happens to the process.
    "token types that are none", "a token of 9 MB", "merges that are none", "BOS out of range", "EOS out of range",
    "a tokenizer of another kind", "a template of 50 MB", "alpha missing",
}  # fmt: skip
EITHER = {"a context of 0", "a context of 2**31"}
"""One llama.cpp takes them, the other does not."""
ENDLESS_CASES = {"an endless template", "a template that is endless for a conversation", "a template that takes all memory"}


RUNNER = """
import json, sys
from cosa_guard.messages import Adapter, Message, Request, Sampling
from cosa_sdk.errors import CosaError
from cosa_guard.backends import probe
from pathlib import Path

told = json.load(sys.stdin)
probe._LEAST_S = told["patience"]
probe._memory_file = lambda: Path(told["memory"])

def make(library, model, adapters):
    if library == "xllamacpp":
        from cosa_guard.backends.xllamacpp import XLlamaCpp, XLlamaCppOptions
        return XLlamaCpp(model, options=XLlamaCppOptions(context=128, slots=1, threads=1, adapters=adapters))
    if library == "llama_cpp":
        from cosa_guard.backends.llama_cpp import LlamaCpp, LlamaCppOptions
        return LlamaCpp(model, options=LlamaCppOptions(context=128, sequences=1, threads=1, adapters=adapters))
    from cosa_guard.backends.transformers import Transformers, TransformersOptions
    return Transformers(model, options=TransformersOptions(context=128, parallel=1, threads=1, adapters=adapters))

def use(case):
    adapters = {"mine": case["adapter"]} if case["adapter"] else {}
    with make(told["library"], case["model"], adapters) as backend:
        named = tuple(Adapter(name=name) for name in adapters)
        sampling = Sampling(max_tokens=2)
        request = Request(messages=(Message("user", "Hello."),), sampling=sampling, adapters=named)
        list(backend.stream(request))

for case in told["cases"]:
    try:
        use(case)
    except CosaError as error:
        outcome = [type(error).__name__, str(error)]
    except Exception as error:
        outcome = ["not of our tree: " + type(error).__name__, str(error)]
    else:
        outcome = ["works", ""]
    print(json.dumps([case["name"], *outcome]), flush=True)
"""


def outcomes(library, cases, folder, *, patience=20.0):
    """name -> (kind of error or `works`, message), from one process that loads them all and must live."""
    told = {"library": library, "cases": cases, "memory": str(folder / "checked.json"), "patience": patience}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(told), capture_output=True, text=True, timeout=500, check=False
    )
    assert 0 == done.returncode, f"the process died behind {done.stdout[-300:]}: {done.stderr[-2000:]}"
    return {name: (kind, message) for name, kind, message in map(json.loads, done.stdout.splitlines())}
