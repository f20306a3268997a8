"""Weights and voices of any size, for benchmarks that need no real ones."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from voxtral_jax import Voice, VoxtralConfig
from voxtral_jax.checkpoint.weights import CODEC_DTYPE
from voxtral_jax.eight_bit import eight_bit
from voxtral_jax.model import computing_dtype
from voxtral_jax.parameters import abstract_params, leaves, unflatten

PROMPT_SECONDS = 10.0
"""Of a random voice prompt."""


@partial(jax.jit, static_argnames=("shape", "dtype"))
def random_weight(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Normal numbers of a size that keeps activations healthy."""
    scale = 1.0 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
    return scale * jax.random.normal(key, shape, dtype)


def random_params(config: VoxtralConfig, dtype: str | None = None) -> Any:
    """Random weights made on the device, one after the other.

    Args:
        config: sizes.
        dtype: as in `load_model`.
    """
    flat = {}
    for number, (path, leaf) in enumerate(leaves(abstract_params(config, encoder=False))):
        kind = CODEC_DTYPE if path[0] == "codec" else computing_dtype(dtype)
        flat[path] = random_weight(jax.random.key(number), leaf.value.shape, kind)
    params = unflatten(flat)
    return eight_bit(params) if dtype == "int8" else params


def random_voice(config: VoxtralConfig) -> Voice:
    """A voice prompt of the usual length that sounds like nobody."""
    frames = round(PROMPT_SECONDS * config.codec.frame_rate) + 1
    embedding = np.random.default_rng(0).standard_normal((frames, config.dim))
    return Voice("random", embedding.astype(np.float32), None)
