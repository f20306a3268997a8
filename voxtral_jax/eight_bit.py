"""Weights in 8 bits: half the memory of bfloat16, and half the bytes that a frame has to read.

Each row of a matrix is written in steps of its own (`voxtral_jax.nn.linear.SCALE`), symmetric
around zero. Activations, embeddings, norms, the flow's small projections and the codec stay as they
are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from voxtral_jax.nn.linear import SCALE
from voxtral_jax.parameters import Params, leaves, unflatten

STEPS = 127
"""The largest step, to either side of zero."""
HEADS = ("semantic_codebook_output", "llm_projection")
"""Matrices of the flow head that are large enough to be worth it, beside those of layers."""


def is_heavy(path: tuple[str, ...]) -> bool:
    """Whether a weight is a matrix that each frame reads, and large."""
    _, module, *_, name = path
    return name == "weight" and (
        module in HEADS or (module.startswith("layers") and "norm" not in path[-2])
    )


@jax.jit
def in_steps(
    weight: Float[Array, "features inputs"],
) -> tuple[Int[Array, "features inputs"], Float[Array, " features"]]:
    """A matrix as int8 steps, and what a step of each row stands for."""
    wide = weight.astype(jnp.float32)
    scale = jnp.maximum(jnp.max(jnp.abs(wide), axis=1), 1e-30) / STEPS
    return jnp.round(wide / scale[:, None]).astype(jnp.int8), scale


def eight_bit(params: Params) -> Params:
    """The tree with the matrices of decoder and flow in 8 bits; the rest is shared."""
    flat: dict[tuple[str, ...], Any] = dict(leaves(params))
    for path in [path for path in flat if path[0] != "codec" and is_heavy(path)]:
        flat[path], flat[(*path[:-1], SCALE)] = in_steps(flat[path])
    return unflatten(flat)
