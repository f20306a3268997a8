"""Discriminators on complex spectra of different window sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from voxtral_jax.nn.module import apply
from voxtral_jax.training.spectrum import OVERLAP, compressed, stft

WINDOWS = (2296, 1418, 876, 542, 334, 206, 126, 76)
"""FFT sizes in samples (published)."""
TIME_DILATIONS = (1, 2, 4)
"""Of the convolutions that halve the frequency axis."""
FRAME_KERNELS = (5, 5, 5)
"""Frames that each layer of a `FrameDiscriminator` sees."""
LEAK = 0.2

Judgement: TypeAlias = tuple[list[Array], Array]
"""Features of each layer, and scores `[B, frames, bins]`, or `[B, frames]`."""
Frames: TypeAlias = list[Float[Array, "B frames"]]
"""Of each discriminator, 1 for the frames that count."""
Kind: TypeAlias = Literal["bins", "frames"]
"""What is judged: each bin (as published), or each frame as a whole, at a tenth of the cost on a
CPU."""


class SpectrumDiscriminator(nn.Module):
    """2-D convolutions over time and frequency of one complex STFT (published).

    Attributes:
        window: FFT size.
        channels: width of every layer.
    """

    window: int
    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "B S"]) -> Judgement:
        spectrum = stft(x, self.window)
        y = jnp.stack([spectrum.real, spectrum.imag], axis=-1)
        features = []
        for kernel, strides, dilation in [
            ((3, 9), (1, 1), (1, 1)),
            *[((3, 9), (1, 2), (d, 1)) for d in TIME_DILATIONS],
            ((3, 3), (1, 1), (1, 1)),
        ]:
            conv = nn.Conv(self.channels, kernel, strides, kernel_dilation=dilation)
            y = nn.leaky_relu(nn.WeightNorm(conv)(y), LEAK)
            features.append(y)
        return features, nn.WeightNorm(nn.Conv(1, (3, 3)))(y)[..., 0]


class FrameDiscriminator(nn.Module):
    """1-D convolutions over the frames of one compressed STFT, whose bins are channels.

    Not published. Its attributes are those of `SpectrumDiscriminator`.
    """

    window: int
    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "B S"]) -> Judgement:
        y = jnp.concatenate(compressed(x, self.window), axis=-1)
        features = []
        for kernel in FRAME_KERNELS:
            y = nn.leaky_relu(nn.WeightNorm(nn.Conv(self.channels, kernel))(y), LEAK)
            features.append(y)
        return features, nn.WeightNorm(nn.Conv(1, 3))(y)[..., 0]


class Discriminators(nn.Module):
    """All of them, side by side."""

    channels: int
    windows: tuple[int, ...] = WINDOWS
    kind: Kind = "bins"

    @nn.compact
    def __call__(self, x: Float[Array, "B S"]) -> list[Judgement]:
        judge = SpectrumDiscriminator if self.kind == "bins" else FrameDiscriminator
        return [judge(window, self.channels, name=f"window_{window}")(x) for window in self.windows]


def valid_frames(windows: Sequence[int], samples: Float[Array, "B S"]) -> Frames:
    """Frames whose centre is a valid sample, for each FFT size.

    Args:
        windows: FFT sizes.
        samples: 1 where valid.
    """
    return [samples[:, :: window // OVERLAP] for window in windows]


def judge_both(
    discriminators: Discriminators, params: Any, real: Array, fake: Array
) -> tuple[list[Judgement], list[Judgement]]:
    """Judgements of real and of generated audio `[B, S]`, from one run over both."""
    rows = real.shape[0]
    both = apply(discriminators, params, jnp.concatenate([real, fake]))
    return jax.tree.map(lambda x: x[:rows], both), jax.tree.map(lambda x: x[rows:], both)
