"""Causal convolutions of the codec, plain, strided and transposed, with a carried tail.

All are one operation: the input is seen as rows of `stride` steps, an output row is the sum of
`taps` products with the current row and the ones before it. What came before the chunk (the tail)
is carried; before the first chunk it is made up from the chunk itself (reflect, replicate, zeros).
"""

from __future__ import annotations

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from voxtral_jax.nn.module import declare

Padding = Literal["reflect", "replicate"]


def weight_norm(
    scale: Float[Array, "first 1 1"], direction: Float[Array, "first second kernel"]
) -> Float[Array, "first second kernel"]:
    """`scale * direction / |direction|`, the norm over all axes but the first; float32."""
    direction = direction.astype(jnp.float32)
    norm = jnp.sqrt(jnp.sum(direction**2, axis=(1, 2), keepdims=True))
    return scale.astype(jnp.float32) * direction / norm


def conv_taps(
    weight: Float[Array, "outputs inputs kernel"], stride: int
) -> Float[Array, "taps rows outputs"]:
    """Matrices that make a strided causal convolution a sum over rows of `stride` steps."""
    outputs, inputs, kernel = weight.shape
    taps = math.ceil(kernel / stride)
    weight = jnp.pad(weight, ((0, 0), (0, 0), (taps * stride - kernel, 0)))
    return weight.transpose(2, 1, 0).reshape(taps, stride * inputs, outputs)


def transposed_taps(
    weight: Float[Array, "inputs outputs kernel"], stride: int
) -> Float[Array, "taps inputs rows"]:
    """Matrices that make a causal transposed convolution a sum over the last input steps.

    Output step `stride * t + r` is the sum over i of `x[t - i] weight[..., i * stride + r]`.
    """
    inputs, outputs, kernel = weight.shape
    taps = math.ceil(kernel / stride)
    weight = jnp.pad(weight, ((0, 0), (0, 0), (0, taps * stride - kernel)))
    weight = weight.reshape(inputs, outputs, taps, stride)[:, :, ::-1]
    return weight.transpose(2, 0, 3, 1).reshape(taps, inputs, stride * outputs)


def apply_taps(
    rows: Float[Array, "B taps_minus_1_plus_N width"], taps: Float[Array, "taps width outputs"]
) -> Float[Array, "B N outputs"]:
    """Causal sum of products; the first `taps - 1` rows are the tail."""
    count = rows.shape[1] - taps.shape[0] + 1
    windows = jnp.concatenate([rows[:, i : i + count] for i in range(taps.shape[0])], axis=-1)
    # One matrix of all windows, as in `Linear`.
    y = windows.reshape(-1, windows.shape[-1]) @ taps.reshape(-1, taps.shape[-1]).astype(rows.dtype)
    return y.reshape(rows.shape[0], count, -1)


def hold_last(x: Float[Array, "B N C"], lengths: Int[Array, " B"]) -> Float[Array, "B N C"]:
    """Every step from `lengths` on repeats the last valid one (replicate padding on the right)."""
    last = jnp.take_along_axis(x, jnp.clip(lengths - 1, 0)[:, None, None], axis=1)
    valid = jnp.arange(x.shape[1])[None, :, None] < lengths[:, None, None]
    # What lies at `lengths - 1` or, in an empty row, at 0 is repeated.
    return jnp.where(valid, x, last)


def _first_tail(x: Array, count: int, padding: Padding, lengths: Array) -> Array:
    """The `count` steps that padding puts before the first chunk."""
    if padding == "replicate":
        return jnp.broadcast_to(x[:, :1], (x.shape[0], count, x.shape[2]))
    # Reflecting more steps than there are takes zeros for the missing ones.
    valid = jnp.arange(x.shape[1])[None, :, None] < lengths[:, None, None]
    x = jnp.pad(jnp.where(valid, x, 0), ((0, 0), (0, max(0, count + 1 - x.shape[1])), (0, 0)))
    return x[:, count:0:-1]


class WeightNorm(nn.Module):
    """A convolution's weight, as the checkpoint holds it or folded into its taps.

    Keys: `parametrizations.weight.original0` (scale) and `original1` (direction), or `weight`
    without weight norm; once folded (`voxtral_jax.codec.fold`) the only key is `taps`.

    Attributes:
        shape: of the weight.
        gain: root mean square of the outputs over that of the inputs, at the start of training.
    """

    shape: tuple[int, int, int]
    stride: int
    transposed: bool
    normalised: bool
    gain: float

    @nn.compact
    def __call__(self) -> Float[Array, "taps rows outputs"]:
        if self.has_variable("params", "taps"):
            return self.get_variable("params", "taps")
        # The norm of a direction is free. As long as its kernel, a step of Adam turns it no more
        # than it turns a row of a linear map, and the start is calm.
        init = nn.initializers.variance_scaling(
            float(self.shape[2] if self.normalised else self.gain) ** 2,
            "fan_in",
            "normal",
            in_axis=(0,) if self.transposed else (1, 2),
            out_axis=(),
        )
        if self.normalised:
            name = "parametrizations.weight.original"
            # A row of a transposed convolution feeds `stride` outputs, of a plain one just one.
            gain = self.gain * (self.stride**0.5 if self.transposed else 1.0)
            constant = nn.initializers.constant(gain)
            scale = declare(self, f"{name}0", constant, (self.shape[0], 1, 1))
            weight = weight_norm(scale, declare(self, f"{name}1", init, self.shape))
        else:
            weight = declare(self, "weight", init, self.shape)
        return (transposed_taps if self.transposed else conv_taps)(weight, self.stride)


class CausalConv(nn.Module):
    """Causal convolution of stride `stride`: `[B, N, inputs]` to `[B, N / stride, features]`.

    Pads `kernel - stride` steps on the left, and on the right up to a whole number of strides.
    """

    inputs: int
    features: int
    kernel: int
    stride: int
    padding: Padding
    normalised: bool
    gain: float = 1.0

    @nn.nowrap
    def weight(self, name: str | None = None) -> WeightNorm:
        """The module that holds the weight, `[features, inputs, kernel]`."""
        shape = (self.features, self.inputs, self.kernel)
        return WeightNorm(shape, self.stride, False, self.normalised, self.gain, name=name)

    @nn.nowrap
    def initial(self, batch: int, dtype: jnp.dtype) -> Float[Array, "B tail inputs"]:
        """The tail before the first chunk (a placeholder; the chunk itself decides)."""
        taps = math.ceil(self.kernel / self.stride)
        return jnp.zeros((batch, (taps - 1) * self.stride, self.inputs), dtype)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N inputs"],
        tail: Float[Array, "B tail inputs"],
        position: Int[Array, " B"],
        lengths: Int[Array, " B"],
    ) -> tuple[Float[Array, "B M features"], Float[Array, "B tail inputs"]]:
        """Args: a chunk, the tail, steps before the chunk (0: it opens the stream), valid steps."""
        taps = self.weight(name="conv")()
        if self.stride > 1:
            x = hold_last(x, lengths)
        count = tail.shape[1]
        if count:
            first = _first_tail(x, count, self.padding, lengths)
            tail = jnp.where((position == 0)[:, None, None], first, tail)
        x = jnp.concatenate([tail, x], axis=1)
        rows = x.reshape(x.shape[0], x.shape[1] // self.stride, -1)
        return apply_taps(rows, taps), x[:, x.shape[1] - count :]


class CausalTransposedConv(nn.Module):
    """Causal transposed convolution: `[B, N, inputs]` to `[B, N * stride, features]`.

    The last `kernel - stride` outputs of the plain transposed convolution are cut off.
    """

    inputs: int
    features: int
    kernel: int
    stride: int
    normalised: bool

    @nn.nowrap
    def weight(self, name: str | None = None) -> WeightNorm:
        """The module that holds the weight, `[inputs, features, kernel]`."""
        shape = (self.inputs, self.features, self.kernel)
        return WeightNorm(shape, self.stride, True, self.normalised, 1.0, name=name)

    @nn.nowrap
    def initial(self, batch: int, dtype: jnp.dtype) -> Float[Array, "B tail inputs"]:
        """The tail before the first chunk: zeros."""
        taps = math.ceil(self.kernel / self.stride)
        return jnp.zeros((batch, taps - 1, self.inputs), dtype)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N inputs"],
        tail: Float[Array, "B tail inputs"],
        position: Int[Array, " B"],
        lengths: Int[Array, " B"],
    ) -> tuple[Float[Array, "B M features"], Float[Array, "B tail inputs"]]:
        """Args: a chunk, the tail, steps before the chunk (0: it opens the stream), valid steps."""
        taps = self.weight(name="conv")()
        tail = jnp.where((position == 0)[:, None, None], 0, tail)
        x = jnp.concatenate([tail, x], axis=1)
        y = apply_taps(x, taps)
        return y.reshape(y.shape[0], -1, self.features), x[:, x.shape[1] - tail.shape[1] :]
