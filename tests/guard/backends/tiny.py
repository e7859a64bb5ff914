"""A whole language model of 0.4 MB for tests that damage it: two layers, 64 wide, a vocabulary of bytes."""

from __future__ import annotations

import random
import struct
from array import array

WIDTH, HEADS, KV_HEADS, HIDDEN, LAYERS = 64, 4, 2, 96, 2
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _byte_letters():
    """GPT-2's letters for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


TOKENS = [*SPECIAL, *_byte_letters()]


def metadata(**changes):
    """Keys of the model, in order. A change of None leaves a key out; `_` in a name stands for `.` where there is one."""
    told = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "Tiny",
        "general.file_type": 0,
        "llama.context_length": 512,
        "llama.embedding_length": WIDTH,
        "llama.block_count": LAYERS,
        "llama.feed_forward_length": HIDDEN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.rope.dimension_count": WIDTH // HEADS,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": len(TOKENS),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * 256,
        "tokenizer.ggml.merges": ["Ġ t", "h e"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    } | changes
    return {key: value for key, value in told.items() if value is not None}


def tensors(seed=0):
    """name -> (shape in GGUF's order, floats)."""
    draw = random.Random(seed)

    def matrix(*shape):
        size = 1
        for side in shape:
            size *= side
        return shape, [draw.gauss(0, 0.1) for _ in range(size)]

    kv = WIDTH // HEADS * KV_HEADS
    found = {"token_embd.weight": matrix(WIDTH, len(TOKENS)), "output_norm.weight": ((WIDTH,), [1.0] * WIDTH)}
    for layer in range(LAYERS):
        start = f"blk.{layer}"
        for name in ("attn_norm", "ffn_norm"):
            found[f"{start}.{name}.weight"] = ((WIDTH,), [1.0] * WIDTH)
        for name, shape in {
            "attn_q": (WIDTH, WIDTH), "attn_k": (WIDTH, kv), "attn_v": (WIDTH, kv), "attn_output": (WIDTH, WIDTH),
            "ffn_gate": (WIDTH, HIDDEN), "ffn_up": (WIDTH, HIDDEN), "ffn_down": (HIDDEN, WIDTH),
        }.items():  # fmt: skip
            found[f"{start}.{name}.weight"] = matrix(*shape)
    return found


def lora(rank=2, *, weight="attn_v", layers=LAYERS, inputs=WIDTH, outputs=WIDTH // HEADS * KV_HEADS, value=0.5):
    """Tensors of an adapter for it."""
    found = {}
    for layer in range(layers):
        start = f"blk.{layer}.{weight}.weight"
        found[f"{start}.lora_a"] = ((inputs, rank), [value] * inputs * rank)
        found[f"{start}.lora_b"] = ((rank, outputs), [value] * outputs * rank)
    return found


def patched(raw, key, change, *, at=0):
    """`raw` with bytes replaced `at` bytes behind the name `key`: the value's type comes first, then the value."""
    raw = bytearray(raw)
    start = raw.index(key.encode()) + len(key.encode()) + at
    raw[start : start + len(change)] = change
    return bytes(raw)


def tensor_fields(raw, name):
    """Where a tensor's number of sides, its type and its offset stand."""
    sides_at = raw.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
    sides = struct.unpack_from("<I", raw, sides_at)[0]
    type_at = sides_at + 4 + 8 * sides
    return sides_at, type_at, type_at + 4


def put(raw, at, form, *values):
    raw = bytearray(raw)
    struct.pack_into(form, raw, at, *values)
    return bytes(raw)


def floats(values):
    return array("f", values).tobytes()
