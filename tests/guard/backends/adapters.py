"""LoRA adapters of random numbers, strong enough to change what a model says: one seed, two formats."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

ALPHA, RANK = 4.0, 4
GGUF_LORA = {
    "general.architecture": "llama",
    "general.type": "adapter",
    "adapter.type": "lora",
    "adapter.lora.alpha": ALPHA,
}
_PEFT_NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj"}


@dataclass(frozen=True)
class Lora:
    """What the two formats of one adapter are made from; the sizes are SmolLM2-135M's."""

    weight: str = "attn_v"
    outputs: int = 192
    blocks: int = 10
    seed: int = 0
    inputs: int = 576
    heads: int = 9
    kv_heads: int = 3
    strength: float = 0.3

    def matrices(self):
        """Block -> (A, B) in llama.cpp's order of rows."""
        import numpy as np

        draw = np.random.default_rng(self.seed)
        return {
            block: tuple(
                draw.normal(0, self.strength, shape).astype("float32") for shape in ((RANK, self.inputs), (self.outputs, RANK))
            )
            for block in range(self.blocks)
        }

    def gguf(self, write_gguf, path, metadata=()):
        """A GGUF file; `write_gguf` is the fixture, `metadata` what is said otherwise."""
        tensors = {}
        for block, pair in self.matrices().items():
            for part, matrix in zip("ab", pair, strict=True):
                # GGUF names the fastest dimension first.
                tensors[f"blk.{block}.{self.weight}.weight.lora_{part}"] = (matrix.shape[::-1], matrix.ravel().tolist())
        return write_gguf(path, GGUF_LORA | dict(metadata), tensors)

    def peft(self, folder):
        """A PEFT folder with the same meaning."""
        from safetensors.numpy import save_file

        name = _PEFT_NAMES[self.weight]
        tensors = {}
        for block, (down, up) in self.matrices().items():
            start = f"base_model.model.model.layers.{block}.{name}"
            tensors[f"{start}.lora_A.weight"] = down
            tensors[f"{start}.lora_B.weight"] = self._hugging_face(up).copy()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none",
            "target_modules": [name.partition(".")[2]], "layers_to_transform": list(range(self.blocks)),
            "base_model_name_or_path": "", "inference_mode": True,
        }  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder

    def _hugging_face(self, up):
        """llama.cpp interleaves the halves of each head's rows for q and k; this is the way back."""
        heads = {"attn_q": self.heads, "attn_k": self.kv_heads}.get(self.weight)
        if heads is None:
            return up
        half = self.outputs // heads // 2
        return up.reshape(heads, half, 2, RANK).swapaxes(1, 2).reshape(self.outputs, RANK)


LOUD = Lora()
OTHER = Lora(weight="attn_q", outputs=576, blocks=12, seed=1, strength=0.6)
