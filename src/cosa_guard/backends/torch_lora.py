"""LoRA adapters of PEFT on a torch model: checked before they touch it, and switched for each request.

Of an adapter's settings only the plain numbers are used; which weights it changes is read from its own file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cosa_guard.backends.torch_runtime import load_file, peft, torch
from cosa_sdk.errors import AdapterError

__all__ = ["Adapters", "Scales", "size_of"]

Scales = tuple[tuple[str, float], ...]
"""Adapters in use, by name, in order, with their scales; none of them is 0."""

_SETTINGS, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PICKLES: Final = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
_MAX_SETTINGS: Final = 1 << 20
_PREFIX: Final = "base_model.model."
_MATRIX: Final = 2
# Each of them changes a model in a way that has no scale, or that another adapter would inherit.
_REFUSED: Final = {
    "use_dora": "is a DoRA",
    "modules_to_save": "replaces whole modules (modules_to_save)",
    "layer_replication": "repeats layers (layer_replication)",
    "trainable_token_indices": "replaces tokens (trainable_token_indices)",
    "target_parameters": "changes bare parameters (target_parameters)",
    "lora_bias": "has biases (lora_bias)",
    "alora_invocation_tokens": "is an activated LoRA (alora_invocation_tokens)",
    "megatron_config": "was made for Megatron",
}

Weights = dict[str, dict[str, torch.Tensor]]
"""Of each changed module, its two matrices by the names `A` and `B`."""


class Adapters:
    """The adapters of one model. One thread at a time may use it.

    Raises (on construction):
        AdapterError: an adapter is missing, is none, is a pickle, or does not fit the model.
        MissingExtra: there are adapters, and peft is not installed.
    """

    def __init__(self, model: torch.nn.Module, paths: Mapping[str, Path], *, name: str) -> None:
        self._now: Scales = ()
        # PEFT's names must not hold dots.
        self._own = {adapter: f"adapter{number}" for number, adapter in enumerate(paths)}
        found = {adapter: _read(adapter, path, model, name) for adapter, path in paths.items()}
        self._tuner: Any = None
        for adapter, (settings, weights) in found.items():
            try:
                self._inject(model, self._own[adapter], settings, weights)
            except Exception as error:
                raise AdapterError(
                    f"adapter {adapter!r} cannot be applied: {type(error).__name__}: {error}."
                ) from error
        kind = peft().tuners.lora.LoraLayer if paths else ()
        self._layers: list[Any] = [module for module in model.modules() if isinstance(module, kind)]
        self._set(())

    def use(self, scales: Scales) -> None:
        """Applies these adapters, and no others, from now on."""
        if scales != self._now:
            self._set(scales)

    def _inject(self, model: torch.nn.Module, own: str, settings: Mapping[str, Any], weights: Weights) -> None:
        """Puts the adapter's layers into the model and fills them."""
        config = peft().LoraConfig(
            r=int(settings["r"]),
            lora_alpha=settings.get("lora_alpha", 8),
            target_modules=sorted(weights),
            use_rslora=bool(settings.get("use_rslora")),
            fan_in_fan_out=bool(settings.get("fan_in_fan_out")),
            rank_pattern=dict(settings.get("rank_pattern") or {}),
            alpha_pattern=dict(settings.get("alpha_pattern") or {}),
            inference_mode=True,
        )
        if self._tuner is None:
            self._tuner = peft().LoraModel(model, {own: config}, own)
        else:
            self._tuner.peft_config[own] = config
            self._tuner.inject_adapter(model, own)
        with torch.no_grad():
            for module, pair in weights.items():
                layer = model.get_submodule(module)
                dtype = layer.get_base_layer().weight.dtype
                for part, matrix in (("A", layer.lora_A[own]), ("B", layer.lora_B[own])):
                    matrix.weight.copy_(pair[part])
                    matrix.to(dtype)

    def _set(self, scales: Scales) -> None:
        active = [self._own[adapter] for adapter, _ in scales]
        for layer in self._layers:
            layer.enable_adapters(bool(active))
            if active:
                layer.set_adapter(active, inference_mode=True)
            for adapter, scale in scales:
                layer.set_scale(self._own[adapter], scale)
        self._now = scales


def size_of(paths: Mapping[str, Path]) -> int:
    """Bytes of the adapters' weights, as far as they are there."""
    return sum(file.stat().st_size for path in paths.values() if (file := path / _WEIGHTS).is_file())


def _read(name: str, path: Path, model: torch.nn.Module, model_name: str) -> tuple[dict[str, Any], Weights]:
    if not path.is_dir():
        raise AdapterError(
            f"adapter {name!r}: {str(path)!r} is not a folder. Name the folder with its {_SETTINGS} and {_WEIGHTS}; a "
            "GGUF adapter is for the backends on llama.cpp."
        )
    settings = _settings(name, path / _SETTINGS)
    if not (path / _WEIGHTS).is_file():
        pickles = [each for each in _PICKLES if (path / each).exists()]
        why = f"only {pickles[0]!r}, a pickle, which could run code and is never loaded" if pickles else "no weights"
        raise AdapterError(f"adapter {name!r}: {str(path)!r} has {why}. Save it as {_WEIGHTS}.")
    try:
        tensors = load_file(path / _WEIGHTS)
    except Exception as error:
        raise AdapterError(
            f"adapter {name!r}: {str(path / _WEIGHTS)!r} cannot be read: {error}. Fetch or save it again."
        ) from error
    weights: Weights = {}
    for key, tensor in tensors.items():
        module, _, part = key.removeprefix(_PREFIX).rpartition(".lora_")
        if part not in ("A.weight", "B.weight"):
            raise AdapterError(f"adapter {name!r} holds {key!r}: only plain LoRA matrices can be applied and scaled.")
        weights.setdefault(module, {})[part[0]] = tensor
    if not weights:
        raise AdapterError(f"adapter {name!r}: {str(path / _WEIGHTS)!r} is empty.")
    for module, pair in weights.items():
        _check_module(name, module, pair, model, model_name)
    return settings, weights


def _settings(name: str, path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_SETTINGS:
            raise AdapterError(f"adapter {name!r}: {str(path)!r} is larger than any settings file.")
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise AdapterError(f"adapter {name!r}: {str(path)!r} does not exist. Name a folder that PEFT saved.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"adapter {name!r}: {str(path)!r} cannot be read as JSON: {error}.") from error
    kind = found.get("peft_type") if isinstance(found, dict) else None
    if kind != "LORA":
        raise AdapterError(f"adapter {name!r}: {str(path)!r} is of the kind {kind!r}, not 'LORA'.")
    assert isinstance(found, dict)
    wrong = [said for key, said in _REFUSED.items() if found.get(key)]
    if found.get("bias", "none") != "none":
        wrong.append("changes biases of the model")
    if wrong:
        raise AdapterError(f"adapter {name!r} {wrong[0]}, which cannot be scaled. Train a plain LoRA.")
    return found


def _check_module(
    name: str, module: str, pair: Mapping[str, torch.Tensor], model: torch.nn.Module, model_name: str
) -> None:
    try:
        weight = model.get_submodule(module).weight
    except AttributeError:
        weight = None
    if weight is None or weight.ndim != _MATRIX or set(pair) != {"A", "B"}:
        said = "only one of the two matrices of" if set(pair) != {"A", "B"} else "a change of"
        raise AdapterError(f"adapter {name!r} has {said} {module!r}, which does not fit {model_name!r}.")
    if not all(bool(torch.isfinite(matrix).all()) for matrix in pair.values()):
        raise AdapterError(f"adapter {name!r}: the matrices of {module!r} hold numbers that are none. Save it again.")
    a, b = pair["A"], pair["B"]
    fits = a.ndim == b.ndim == _MATRIX and b.shape[1] == a.shape[0]
    # GPT-2's layers keep their weights the other way round.
    if not fits or (b.shape[0], a.shape[1]) not in (tuple(weight.shape), tuple(weight.shape)[::-1]):
        raise AdapterError(
            f"adapter {name!r} does not fit the model {model_name!r}: {module!r} has matrices of {tuple(a.shape)!r} "
            f"and {tuple(b.shape)!r} for a weight of {tuple(weight.shape)!r}. Use an adapter that was trained on this "
            "model."
        )
