"""Finite scalar quantisation: latents or generated values to codes, and codes to values.

`levels` values spread evenly over [-1, 1]; a code is the index of the nearest.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from voxtral_jax.kernels.elementwise import elementwise, round_half_even

Rounded = tuple[Int[Array, "*batch width"], Float[Array, "*batch width"]]
"""Codes (int32) and their values in [-1, 1] (float32)."""


def code_values(codes: Int[Array, "*batch"], levels: int) -> Float[Array, "*batch"]:
    """Value of a code: `2 code / (levels - 1) - 1`, float32."""
    return codes.astype(jnp.float32) * (2.0 / (levels - 1)) - 1.0


def scale_and_round(
    bounded: Array, levels: int, round_: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """Codes and values of numbers within [-1, 1]; shared by kernels and twins."""
    codes = round_((bounded + 1.0) * 0.5 * (levels - 1))
    return codes.astype(jnp.int32), codes * (2.0 / (levels - 1)) - 1.0


def _rounded(
    x: Array, bound: Callable[[Array], Array], levels: int, kernels: str, name: str
) -> Rounded:
    x = x.astype(jnp.float32)
    if kernels == "jnp":
        return scale_and_round(bound(x), levels, jnp.round)
    codes, values = elementwise(
        lambda x: scale_and_round(bound(x), levels, round_half_even),
        [x],
        [],
        [jnp.int32, jnp.float32],
        interpret=kernels == "interpret",
        name=name,
    )
    return codes, values


def quantize(latent: Float[Array, "*batch width"], levels: int, kernels: str) -> Rounded:
    """FSQ of the codec's latents: `round((tanh(x) + 1) / 2 (levels - 1))`."""
    return _rounded(latent, jnp.tanh, levels, kernels, "fsq_quantize")


def clamp(x: Array) -> Array:
    """To [-1, 1]."""
    return jnp.minimum(jnp.maximum(x, -1.0), 1.0)


def round_generated(x: Float[Array, "*batch width"], levels: int, kernels: str) -> Rounded:
    """FSQ of generated values, which are in code space already: clamp to [-1, 1], then round."""
    return _rounded(x, clamp, levels, kernels, "fsq_round_generated")
