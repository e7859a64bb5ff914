"""The encoder of the embedded judge: MiniLM's first layers with one linear head per question.

Weights start from `sentence-transformers/all-MiniLM-L6-v2` (Apache-2.0), read from safetensors. The layers are written
out here rather than taken from a library, so that what is exported to ONNX is exactly what was trained, and nothing
but torch is needed to read or train it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["HEADS", "MEANING", "Encoder", "Fast", "minilm"]

HEADS = {"prompt": 8, "text": 8, "response": 8, "reply": 2}
"""Head -> outputs. Risks in the order of `sources.CODES`; `reply` is refused?, addressed?."""

MEANING = 128
"""Length of the vector that says what a text is about: MiniLM's own sentence embedding, rotated and shortened."""

_HEADS_OF_ATTENTION = 12


class _Layer(nn.Module):
    """One transformer layer, post-norm as in BERT."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows, length, width = x.shape
        # (3, rows, heads, length, width of a head)
        q, k, v = self.qkv(x).view(rows, length, 3, _HEADS_OF_ATTENTION, -1).permute(2, 0, 3, 1, 4)
        # Written out: on short texts the fused kernel's backward pass took a quarter of the training time.
        weights = torch.softmax(q @ k.transpose(2, 3) * (width // _HEADS_OF_ATTENTION) ** -0.5 + mask, dim=-1)
        seen = (weights @ v).transpose(1, 2).reshape(rows, length, width)
        x = self.norm1(x + self.out(seen))
        return self.norm2(x + self.dropout(self.down(functional.gelu(self.up(x)))))


class Encoder(nn.Module):
    """Token ids in, one row of logits per text out.

    Args:
        vocabulary: number of word pieces.
        layers: number of transformer layers.
    """

    def __init__(
        self, vocabulary: int, layers: int, *, width: int = 384, inner: int = 1536, positions: int = 512
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.segments = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(_Layer(width, inner) for _ in range(layers))
        self.dropout = nn.Dropout(0.1)
        self.heads = nn.Linear(2 * width, sum(HEADS.values()))
        self.meaning = nn.Linear(width, MEANING, bias=False)

    def embed(self, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
        """Mean and first-token vectors, side by side: (rows, 2 * width). `mask` is 1.0 at tokens, 0.0 at padding."""
        where = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(where) + self.segments(segments))
        x = self.dropout(x)
        bias = (mask[:, None, None, :] - 1.0) * 1e4
        for layer in self.layers:
            x = layer(x, bias.to(x.dtype))
        mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.cat([mean, x[:, 0]], dim=1)

    def forward(self, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
        """Logits and meaning side by side, (rows, outputs of all heads + MEANING)."""
        seen = self.embed(ids, segments, mask)
        logits = self.heads(self.dropout(seen))
        return torch.cat([logits, self.meaning(seen[:, : seen.shape[1] // 2])], dim=1)


class Fast(nn.Module):
    """The static tier: word vectors pooled over prompt and text, then two small layers. Same inputs, no word order.

    Args:
        vocabulary: number of word pieces.
    """

    def __init__(self, vocabulary: int, *, width: int = 96, inner: int = 256) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.weights = nn.Embedding(vocabulary, 1)
        nn.init.ones_(self.weights.weight)
        self.up = nn.Linear(3 * width, inner)
        self.down = nn.Linear(inner, sum(HEADS.values()))
        self.dropout = nn.Dropout(0.1)

    def forward(self, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
        """Logits, (rows, outputs of all heads)."""
        x = self.words(ids) * self.weights(ids)
        # Segment 1 holds the text where there is a prompt; else segment 0 is the text.
        second = segments.to(x.dtype)[:, :, None] * mask[:, :, None]
        first = mask[:, :, None] - second
        means = [(x * part).sum(1) / (part.sum(1) + 1e-3) for part in (first, second)]
        most = (x + (mask[:, :, None] - 1.0) * 1e4).amax(1)
        return self.down(self.dropout(functional.gelu(self.up(torch.cat([*means, most], dim=1)))))


def minilm(folder: Path, keep: list[int], layers: list[int]) -> Encoder:
    """MiniLM with some of its word pieces and layers.

    Args:
        folder: where `model.safetensors` lies.
        keep: ids of the word pieces that stay, in their new order.
        layers: numbers of the layers that stay.
    """
    state = load_file(folder / "model.safetensors")
    model = Encoder(len(keep), len(layers))

    def both(ours: str, theirs: str) -> dict[str, Tensor]:
        return {f"{ours}.{part}": state[f"{theirs}.{part}"] for part in ("weight", "bias")}

    new = {
        "words.weight": state["embeddings.word_embeddings.weight"][keep],
        "positions.weight": state["embeddings.position_embeddings.weight"],
        "segments.weight": state["embeddings.token_type_embeddings.weight"],
        **both("norm", "embeddings.LayerNorm"),
        "heads.weight": torch.zeros_like(model.heads.weight),
        "heads.bias": torch.full_like(model.heads.bias, -2.0),
        "meaning.weight": model.meaning.weight.detach(),
    }
    for new_index, old_index in enumerate(layers):
        theirs, ours = f"encoder.layer.{old_index}", f"layers.{new_index}"
        for part in ("weight", "bias"):
            new[f"{ours}.qkv.{part}"] = torch.cat(
                [state[f"{theirs}.attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            )
        new |= both(f"{ours}.out", f"{theirs}.attention.output.dense")
        new |= both(f"{ours}.norm1", f"{theirs}.attention.output.LayerNorm")
        new |= both(f"{ours}.up", f"{theirs}.intermediate.dense")
        new |= both(f"{ours}.down", f"{theirs}.output.dense")
        new |= both(f"{ours}.norm2", f"{theirs}.output.LayerNorm")
    model.load_state_dict(new)
    return model
