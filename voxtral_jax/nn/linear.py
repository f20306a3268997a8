"""Linear map, embedding table and RMS norm, with the names and layouts of the checkpoint.

Every weight is declared once, here or beside its use, with shape, initialiser and logical axes
(`voxtral_jax.sharding`); initialisation, checkpoint keys and sharding follow from the declaration.
A parameter's path is its checkpoint key.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from voxtral_jax.nn.module import declare
from voxtral_jax.sharding import Axes

LORA = ("lora_a", "lora_b")
"""Weights of an adapter beside `weight`: `[rank, inputs]` and `[features, rank]`."""
SCALE = "weight_scale"
"""Beside a `weight` of 8 bits: `[features]` float32, what a step of each row stands for."""


class Linear(nn.Module):
    """`y = x W^T` without bias; `weight` is `[features, inputs]`, as in the checkpoint.

    Where there is an adapter (`LORA`), `y = x (W + B A)^T`; where there is a `SCALE`, `weight` is
    int8 and counts steps of it.

    Attributes:
        features: size of the output.
        axes: logical axes of `weight`, output first.
    """

    features: int
    axes: Axes = (None, None)

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=1, out_axis=0)
        weight = declare(self, "weight", init, (self.features, x.shape[-1]), self.axes)
        # One matrix of all vectors: on CPUs the gradient of more axes costs half as much again.
        rows = x.reshape(-1, x.shape[-1])
        if self.has_variable("params", SCALE):
            scale: Any = self.get_variable("params", SCALE)
            steps = jnp.matmul(rows, weight.astype(x.dtype).T, preferred_element_type=jnp.float32)
            y = (steps * scale).astype(x.dtype)
        else:
            y = rows @ weight.astype(x.dtype).T
        y = y.reshape(*x.shape[:-1], -1)
        if self.has_variable("params", "lora_a"):
            a: Any = self.get_variable("params", LORA[0]).astype(x.dtype)
            b: Any = self.get_variable("params", LORA[1]).astype(x.dtype)
            y = y + jnp.einsum("...r,or->...o", jnp.einsum("...i,ri->...r", x, a), b)
        return y


class Embedding(nn.Module):
    """Table of `rows` vectors; `weight` is `[rows, dim]`."""

    rows: int
    dim: int
    axes: Axes = (None, None)

    def setup(self) -> None:
        init = nn.initializers.normal(0.02)
        self.weight = declare(self, "weight", init, (self.rows, self.dim), self.axes)

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch dim"]:
        return jnp.take(self.weight, ids, axis=0)

    def table(self) -> Float[Array, "rows dim"]:
        """All of it."""
        return self.weight


class RMSNorm(nn.Module):
    """`x / rms(x) * weight` over the last axis, computed in float32."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        weight = declare(self, "weight", nn.initializers.ones, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return (wide * weight.astype(jnp.float32)).astype(x.dtype)


class SwiGLU(nn.Module):
    """Feed-forward `w2(silu(w1 x) * w3 x)` of inner width `hidden`."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        gate = Linear(self.hidden, ("mlp", "embed"), name="w1")(x)
        up = Linear(self.hidden, ("mlp", "embed"), name="w3")(x)
        return Linear(x.shape[-1], ("embed", "mlp"), name="w2")(jax.nn.silu(gate) * up)
