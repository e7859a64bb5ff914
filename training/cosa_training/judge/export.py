"""Trained weights to the files that ship: ONNX with 8-bit weights, and the vocabulary."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from cosa_training.judge.encoder import Encoder, Fast

__all__ = ["export", "write_vocabulary"]


def export(model: Encoder | Fast, path: Path) -> None:
    """Write one network as ONNX, its weights as 8-bit integers with a scale for each output.

    Args:
        model: trained.
        path: the file to write; nothing else is left beside it.
    """
    model = model.eval().float()
    ids = torch.ones((2, 8), dtype=torch.int64)
    inputs = (ids, torch.zeros_like(ids), torch.ones((2, 8)))
    names = ["ids", "segments", "mask"]
    whole = path.with_suffix(".float.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about itself
        torch.onnx.export(
            model, inputs, str(whole), dynamo=False, opset_version=17, input_names=names, output_names=["outputs"],
            dynamic_axes={name: {0: "rows", 1: "length"} for name in names} | {"outputs": {0: "rows"}},
        )  # fmt: skip
    # The static tier's two small layers stay exact: 8-bit activations share a scale over a batch, so that neighbours
    # would move a reading.
    kinds = ["Gather"] if isinstance(model, Fast) else ["Gather", "MatMul"]
    quantize_dynamic(str(whole), str(path), op_types_to_quantize=kinds, weight_type=QuantType.QInt8, per_channel=True)
    whole.unlink()


def write_vocabulary(pieces: list[str], path: Path) -> None:
    """One piece a line, in the order of its id."""
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
