"""Damaged and hostile folders of safetensors: models of transformers and adapters of PEFT, all tiny."""

from __future__ import annotations

import json
import pickle
import shutil
import struct

from tests.guard.backends import tiny

LAYER = "base_model.model.model.layers.0.self_attn.v_proj"
MINE = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["v_proj"],
    "base_model_name_or_path": "", "inference_mode": True,
}  # fmt: skip


def good_model(folder):
    """A model of two layers with random weights, and a tokenizer of bytes."""
    import tokenizers
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tiny.TOKENS), hidden_size=tiny.WIDTH, intermediate_size=tiny.HIDDEN, num_hidden_layers=tiny.LAYERS,
        num_attention_heads=tiny.HEADS, num_key_value_heads=tiny.KV_HEADS, max_position_embeddings=512, eos_token_id=2,
        bos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {token: place for place, token in enumerate(tiny.TOKENS)}
    native = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    native.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = tokenizers.decoders.ByteLevel()
    native.add_special_tokens(list(tiny.SPECIAL))
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=native, eos_token="<|im_end|>", bos_token="<|im_start|>")
    wrapped.chat_template = tiny.TEMPLATE
    wrapped.save_pretrained(folder)
    return folder


def safetensors(tensors, *, header=None, data=None):
    """A file of F32 tensors, name -> shape, all 0.5; `header` changes what is said of each, `data` what follows."""
    said, at = {}, 0
    for name, shape in tensors.items():
        size = 4
        for side in shape:
            size *= side
        said[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    said = said if header is None else header(said)
    raw = json.dumps(said).encode()
    return struct.pack("<Q", len(raw)) + raw + (struct.pack("<f", 0.5) * (at // 4) if data is None else data)


class Payload:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def changed(first, **what):
    """A header in which one tensor is said to be otherwise."""
    return lambda said: {name: (entry | what if name == first else entry) for name, entry in said.items()}


def models(good, folder, trap):
    """name -> folder of each model."""
    weights = (good / "model.safetensors").read_bytes()
    config = json.loads((good / "config.json").read_text())
    size = struct.unpack_from("<Q", weights)[0]
    header = json.loads(weights[8 : 8 + size])
    first = next(name for name in header if name != "__metadata__")
    found = {}

    def made(name, **files):
        path = folder / name.replace(" ", "-").replace("*", "x")
        shutil.copytree(good, path)
        for file, content in files.items():
            target = path / {"weights": "model.safetensors", "pickle": "pytorch_model.bin"}.get(file, f"{file}.json")
            if content is None:
                target.unlink()
            else:
                target.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        found[name] = path

    def headed(change):
        raw = json.dumps(change(header)).encode()
        return struct.pack("<Q", len(raw)) + raw + weights[8 + size :]

    made("empty weights", weights=b"")
    made("a header of 2**60 bytes", weights=struct.pack("<Q", 2**60) + weights[8:])
    made("a header longer than the file", weights=struct.pack("<Q", len(weights)) + weights[8:])
    made("a header that is no JSON", weights=struct.pack("<Q", size) + b"x" * size + weights[8 + size :])
    made("weights cut off", weights=weights[: len(weights) // 2])
    made("offsets that overlap", weights=headed(changed(first, data_offsets=[0, 4])))
    made("offsets behind the end", weights=headed(changed(first, data_offsets=[2**40, 2**40 + 4])))
    made("offsets the wrong way round", weights=headed(changed(first, data_offsets=[400, 4])))
    made("a type that nobody knows", weights=headed(changed(first, dtype="F99")))
    made("a side of 2**62", weights=headed(changed(first, shape=[2**62, 2**62])))
    made("a weight that is missing", weights=headed(lambda said: {k: v for k, v in said.items() if k != first}))
    made("a pickle in disguise", weights=pickle.dumps(Payload(trap)))
    made("nothing but a pickle", weights=None, pickle=pickle.dumps(Payload(trap)))
    made("settings that are no JSON", config=b"{")
    made("settings that are a list", config=b"[]")
    made("no settings", config=None)
    made("an architecture that nobody knows", config=config | {"model_type": "martian"})
    made("code of its own", config=config | {"model_type": "martian", "auto_map": {"AutoModelForCausalLM": "evil.Model"}})
    made("no heads", config=config | {"num_attention_heads": 0})
    made("no layers", config=config | {"num_hidden_layers": -1})
    made("another width", config=config | {"hidden_size": 80, "head_dim": 20})
    made("text where a number belongs", config=config | {"num_hidden_layers": "two"})
    made("a tokenizer that is no JSON", tokenizer=b"{")
    made("a tokenizer without a vocabulary", tokenizer={"version": "1.0", "model": {"type": "BPE"}})
    return found


def adapters(folder, trap):
    """name -> folder of each adapter; the model is whole."""
    kv = tiny.WIDTH // tiny.HEADS * tiny.KV_HEADS
    pair = {f"{LAYER}.lora_A.weight": (2, tiny.WIDTH), f"{LAYER}.lora_B.weight": (kv, 2)}
    a = f"{LAYER}.lora_A.weight"
    whole = safetensors(pair)
    found = {}

    def made(name, weights=whole, config=MINE, **changes):
        path = folder / f"a-{name.replace(' ', '-')}"
        path.mkdir()
        told = config | changes if isinstance(config, dict) else config
        if told is not None:
            (path / "adapter_config.json").write_bytes(told if isinstance(told, bytes) else json.dumps(told).encode())
        if weights is not None:
            (path / "adapter_model.safetensors").write_bytes(weights)
        found[f"adapter: {name}"] = path
        return path

    made("settings that are no JSON", config=b"{garbage")
    made("settings that are a list", config=b"[]")
    made("no settings", config=None)
    made("no weights", weights=None)
    (made("nothing but a pickle", weights=None) / "adapter_model.bin").write_bytes(pickle.dumps(Payload(trap)))
    made("a pickle in disguise", weights=pickle.dumps(Payload(trap)))
    made("weights cut off", weights=whole[:-40])
    made("a header of 2**60 bytes", weights=struct.pack("<Q", 2**60) + whole[8:])
    made("offsets that overlap", weights=safetensors(pair, header=changed(a, data_offsets=[0, 8])))
    made("a type that nobody knows", weights=safetensors(pair, header=changed(a, dtype="F99")))
    made("rank 0", r=0)
    made("a rank below 0", r=-2)
    made("a rank that does not fit", r=16)
    made("alpha no number", lora_alpha="much")
    made("a kind that nobody knows", peft_type="MARTIAN")
    made("for weights that are not there", weights=safetensors({k.replace("v_proj", "w_proj"): v for k, v in pair.items()}))
    made("for layers that are not there", weights=safetensors({k.replace(".0.", ".9."): v for k, v in pair.items()}))
    made("another width", weights=safetensors(pair | {a: (2, 80)}))
    made("half a pair", weights=safetensors({a: (2, tiny.WIDTH)}))
    made("no tensors", weights=safetensors({}))
    return found
