"""Low-rank adapters (LoRA): beside the weights they adapt, merged into them, or in a small file.

An adapter of a linear map is two leaves beside its `weight` (`voxtral_jax.nn.linear.LORA`): the map
becomes `W + B A`. In a file their keys are the weight's checkpoint key with `lora_a` or `lora_b` in
place of `weight`.
"""

from __future__ import annotations

import os
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from voxtral_jax.errors import CheckpointError, ConfigError
from voxtral_jax.files import replacing
from voxtral_jax.nn.linear import LORA
from voxtral_jax.parameters import Params, checkpoint_key, leaves, unflatten


def is_adapter(path: tuple[str, ...]) -> bool:
    """Whether the leaf at this path belongs to an adapter."""
    return path[-1] in LORA


def add_adapters(params: Params, pattern: str, rank: int, key: jax.Array) -> Params:
    """The tree with new adapters (A random, B zero: nothing changes yet) beside its linear maps.

    Args:
        params: boxed with logical axes (`voxtral_jax.parameters.init_params`).
        pattern: regular expression; of the maps whose checkpoint key it matches, all get one.
        rank: width of the adapters.

    Raises:
        ConfigError: the pattern is no regular expression, or fits nothing.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"lora.pattern {pattern!r} is no regular expression: {error}") from None
    flat = dict(leaves(params))
    found = [path for path in flat if path[-1] == "weight" and flat[path].value.ndim == 2]
    found = [
        path for path in found if "embeddings" not in path and wanted.search(checkpoint_key(path))
    ]
    if not found:
        raise ConfigError(f"lora.pattern {pattern!r} fits no linear map of the model")
    for number, path in enumerate(found):
        (features, inputs), (out_axis, in_axis) = flat[path].value.shape, flat[path].names
        a = jax.random.normal(jax.random.fold_in(key, number), (rank, inputs)) * inputs**-0.5
        b = jnp.zeros((features, rank))
        flat[(*path[:-1], LORA[0])] = nn.Partitioned(a, (None, in_axis))
        flat[(*path[:-1], LORA[1])] = nn.Partitioned(b, (out_axis, None))
    return unflatten(flat)


def merge_adapters(params: Params) -> Params:
    """The tree with every adapter added to its weight, `W + B A`, in float32 and back."""
    flat: dict[tuple[str, ...], Any] = {}
    every = dict(leaves(params))
    for path, leaf in every.items():
        if is_adapter(path):
            continue
        a, b = (every.get((*path[:-1], name)) for name in LORA)
        if a is not None and b is not None:
            wide = leaf.astype(jnp.float32) + b.astype(jnp.float32) @ a.astype(jnp.float32)
            leaf = wide.astype(leaf.dtype)
        flat[path] = leaf
    return unflatten(flat)


def save_adapters(path: str | os.PathLike[str], params: Params) -> None:
    """Writes the adapters of a tree as safetensors (float32), replacing the file in one step."""
    tensors = {
        checkpoint_key(path): np.asarray(leaf, np.float32)
        for path, leaf in leaves(params)
        if is_adapter(path)
    }
    if not tensors:
        raise CheckpointError(f"there are no adapters to write to {path}")
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def adapt(params: Params, adapters: dict[str, np.ndarray], source: str) -> Params:
    """`params` with the adapters of a file merged in.

    Args:
        adapters: by key.
        source: the file, named in errors.

    Raises:
        CheckpointError: they do not fit the weights.
    """
    flat = dict(leaves(params))
    keys = {checkpoint_key(path): path for path in flat}
    for name in sorted({key.rpartition(".")[0] for key in adapters}):
        weight = keys.get(f"{name}.weight")
        a, b = (adapters.get(f"{name}.{leaf}") for leaf in LORA)
        if weight is None or a is None or b is None:
            raise CheckpointError(f"{source}: {name} is no adapter of a weight of the model")
        shape = flat[weight].shape
        fits = a.ndim == b.ndim == 2 and b.shape[1] == len(a)
        if not fits or (b.shape[0], a.shape[1]) != shape:
            raise CheckpointError(
                f"{source}: {name} is {list(b.shape)} times {list(a.shape)}, which does not make "
                f"the model's weight of {list(shape)}"
            )
        for leaf, value in zip(LORA, (a, b), strict=True):
            flat[(*weight[:-1], leaf)] = jnp.asarray(value)
    return merge_adapters(unflatten(flat))
