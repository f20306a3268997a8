"""Weights from wherever there are some: a model's directory, or the directory of a training run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from voxtral_jax.checkpoint.download import find_model
from voxtral_jax.checkpoint.weights import load_some
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.errors import CheckpointError
from voxtral_jax.parameters import abstract_params, leaves
from voxtral_jax.sharding import Rules
from voxtral_jax.training.checkpoints import ABOUT, read_run, run_weights
from voxtral_jax.training.state import Path

OUTPUTS = (("attention", "wo", "weight"), ("feed_forward", "w2", "weight"))
"""What a layer adds to its input goes through these."""


def is_run(path: str) -> bool:
    """Whether this is the directory of a training run."""
    return (FilePath(path) / ABOUT).exists()


def source_config(path: str) -> VoxtralConfig:
    """Sizes of the model in a model's or a run's directory, or of a `params.json`."""
    if is_run(path):
        return VoxtralConfig.from_dict(read_run(FilePath(path))["params"])
    if path.endswith(".json"):
        return VoxtralConfig.load(path)
    return VoxtralConfig.load(find_model(path))


def source_weights(
    path: str, config: VoxtralConfig, parts: Sequence[str], rules: Rules | None = None
) -> Mapping[Path, Any]:
    """The weights of these parts of the model (of "decoder", "flow", "codec") that `path` has.

    Raises:
        CheckpointError: it has none, or their shapes do not fit `config`.
    """
    if not is_run(path):
        return load_some(config, find_model(path), parts, rules=rules)
    found = {p: x for p, x in run_weights(FilePath(path)).items() if p[0] in parts}
    if not found:
        raise CheckpointError(f"the run in {path} has no weights of the {' or '.join(parts)}")
    for name, leaf in leaves(abstract_params(config)):
        if name in found and found[name].shape != leaf.value.shape:
            raise CheckpointError(
                f"the run in {path} is of another size: {'.'.join(name)} is "
                f"{list(found[name].shape)}, expected {list(leaf.value.shape)}"
            )
    return found


def whole_weights(
    path: str, config: VoxtralConfig, parts: Sequence[str], rules: Rules | None = None
) -> Mapping[Path, Any]:
    """`source_weights`, and none of them may be missing: what stays as it is cannot be random.

    Raises:
        CheckpointError: `path` lacks some, or their shapes do not fit `config`.
    """
    found = source_weights(path, config, parts, rules)
    every = [name for name, _ in leaves(abstract_params(config)) if name[0] in parts]
    missing = [name for name in every if name not in found]
    if missing:
        raise CheckpointError(
            f"{path} lacks {len(missing)} of the {len(every)} weights of the "
            f"{' and '.join(parts)}, {'.'.join(missing[0])} among them; start from a whole model "
            "(train.py export makes one of a LoRA run)"
        )
    return found


def silent_layers(config: VoxtralConfig, found: Mapping[Path, Any]) -> dict[Path, np.ndarray]:
    """Zeros for what the layers that `found` lacks would add to their input.

    A model with more layers than the one that it starts from so begins as the same function. Stacks
    of which `found` has no layer get none.
    """
    layers = {layer for path in found if (layer := _layer(path))}
    stacks = {layer[:-1] for layer in layers}
    return {
        path: np.zeros(leaf.value.shape, np.float32)
        for path, leaf in leaves(abstract_params(config))
        if (layer := _layer(path))
        and layer[:-1] in stacks
        and layer not in layers
        and path[len(layer) :] in OUTPUTS
    }


def check_codec(
    source: str, config: VoxtralConfig, parts: Collection[str], found: Mapping[Path, Any]
) -> None:
    """Raises CheckpointError unless `found` has all weights of these parts of the codec.

    Layers that `silent_layers` begins may be random: they add nothing.
    """
    silent = {_layer(path) for path in silent_layers(config, found)}
    missing = [
        path
        for path, _ in leaves(abstract_params(config))
        if path[0] == "codec"
        and path[1] in parts
        and path not in found
        and _layer(path) not in silent
    ]
    if missing:
        raise CheckpointError(
            f"{source} has no weights of the codec's encoder and quantizer for "
            f"{'.'.join(missing[0])} and {len(missing) - 1} others, and this run keeps the codes "
            "that they make: start from a run of train.py codec, or a model with all of them"
        )


def _layer(path: Path) -> Path:
    """The layer that a weight is of; empty if of none."""
    return next((path[: i + 1] for i, name in enumerate(path) if name.startswith("layers_")), ())
