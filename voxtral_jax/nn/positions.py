"""Position information: rotary embedding (decoder) and ALiBi slopes (codec)."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotate(
    x: Float[Array, "B T H head"], positions: Int[Array, "B T"], theta: float
) -> Float[Array, "B T H head"]:
    """Rotary embedding that turns neighbouring pairs (2i, 2i+1), computed in float32."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Slope of each head: r^0, r^1, ... with r = 2^(-8/heads).

    For a head count that is no power of two: the slopes of the largest power of two m below it,
    then every second slope of 2m.
    """
    if heads & (heads - 1) == 0:
        return tuple(2.0 ** (-8.0 * i / heads) for i in range(heads))
    below = 2 ** math.floor(math.log2(heads))
    return alibi_slopes(below) + alibi_slopes(2 * below)[::2][: heads - below]
