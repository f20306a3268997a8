"""Causal sliding-window attention with ALiBi, over a chunk and the keys carried from before it."""

from __future__ import annotations

import math
from functools import partial
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from voxtral_jax.config import CodecConfig
from voxtral_jax.nn.positions import alibi_slopes
from voxtral_jax.nn.transformer import LayerConfig, TransformerLayer

BLOCK = 64
"""Queries handled together: a long chunk costs blocks of BLOCK x (BLOCK + window) scores."""

KeyValues: TypeAlias = tuple[Float[Array, "B window G head"], Float[Array, "B window G head"]]
"""The keys and values of the last `window` steps."""


def windowed_attention(
    q: Float[Array, "B N H head"],
    k: Float[Array, "B N G head"],
    v: Float[Array, "B N G head"],
    past: KeyValues,
    position: Int[Array, " B"],
) -> tuple[Float[Array, "B N H head"], KeyValues]:
    """Query i sees keys i - window to i; head h adds `slope_h * (j - i)` to the score of key j.

    Args:
        q, k, v: the chunk.
        past: keys and values of the `window` steps before it.
        position: steps before the chunk; of `past`, only so many are real.
    """
    batch, count, heads, size = q.shape
    window = past[0].shape[1]
    k, v = (jnp.concatenate([old, new], axis=1) for old, new in zip(past, (k, v), strict=True))
    block = min(count, max(BLOCK, window))
    blocks = math.ceil(count / block)
    spare = blocks * block - count

    def cut(x: Array) -> Array:
        # Each block after the window before it; no gather, whose gradient would be slow.
        x = jnp.pad(x, ((0, 0), (0, spare), (0, 0), (0, 0)))
        own = x[:, window:].reshape(batch, blocks, block, *x.shape[2:])
        before = x[:, None, :window]
        if blocks > 1:
            before = jnp.concatenate([before, own[:, :-1, block - window :]], axis=1)
        return jnp.concatenate([before, own], axis=2).reshape(
            batch * blocks, block + window, *x.shape[2:]
        )

    queries = jnp.pad(q, ((0, 0), (0, spare), (0, 0), (0, 0)))
    queries = queries.reshape(batch * blocks, block, heads, size)
    distance = jnp.arange(block + window)[None] - window - jnp.arange(block)[:, None]
    slopes = jnp.asarray(alibi_slopes(heads), jnp.float32)
    bias = (slopes[:, None, None] * distance)[None]
    band = (distance <= 0) & (distance >= -window)
    place = jnp.arange(blocks)[:, None] * block + jnp.arange(block + window)[None]
    real = place[None] - window + position[:, None, None] >= 0
    # A window without a single real key would be a row of NaN; every query has itself.
    mask = band[None, None] & real.reshape(batch * blocks, 1, 1, -1)
    y = jax.nn.dot_product_attention(queries, cut(k), cut(v), bias.astype(q.dtype), mask)
    y = y.reshape(batch, blocks * block, heads, size)[:, :count]
    return y, (k[:, k.shape[1] - window :], v[:, v.shape[1] - window :])


class CodecTransformer(nn.Module):
    """`n_layers` transformer layers with a window; `[B, N, dim]` to the same."""

    config: CodecConfig
    n_layers: int
    window: int

    @nn.nowrap
    def initial(self, batch: int, dtype: jnp.dtype) -> tuple[KeyValues, ...]:
        """Keys and values before the first chunk: none, marked by position 0."""
        shape = (batch, self.window, self.config.n_kv_heads, self.config.head_dim)
        return tuple(
            (jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(self.n_layers)
        )

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N dim"],
        state: tuple[KeyValues, ...],
        position: Int[Array, " B"],
        lengths: Int[Array, " B"],
    ) -> tuple[Float[Array, "B N dim"], tuple[KeyValues, ...]]:
        """Args: a chunk, keys and values before it, steps before it; valid steps do not matter."""
        c = self.config
        layer = LayerConfig.of(
            c,
            qk_norm_eps=c.qk_norm_eps if c.qk_norm else None,
            layer_scale_init=c.layer_scale_init if c.layer_scale else None,
            part="codec_",
        )
        new = []
        for i, past in enumerate(state):
            attend = partial(windowed_attention, past=past, position=position)
            x, past = TransformerLayer(layer, name=f"layers_{i}")(x, attend)
            new.append(past)
        return x, tuple(new)
