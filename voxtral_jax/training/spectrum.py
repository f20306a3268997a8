"""Short-time Fourier transform that differentiates fast: framing by shifted views, no gathers."""

from __future__ import annotations

import math
from functools import cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

OVERLAP = 4
"""Frames that cover each sample: the hop is a quarter of the window."""
MOST_MELS = 80
"""Mel bands; narrow windows have fewer, one for each four bins."""


@cache
def mel_bands(rate: int, size: int) -> Float[np.ndarray, "bands bins"]:
    """Weights of mel bands over the bins of a window; those of a band add up to 1."""
    import librosa

    bands = min(MOST_MELS, size // 8)
    return librosa.filters.mel(sr=rate, n_fft=size, n_mels=bands, norm=1).astype(np.float32)


def frame_count(samples: int, size: int) -> int:
    """Frames that `stft` makes of so many samples."""
    return math.ceil(samples / (size // OVERLAP))


def windows(x: Float[Array, "B S"], size: int, hop: int) -> Float[Array, "B frames size"]:
    """Hann windows of `size` samples, `hop` apart, the first centred on the first sample.

    Tapers have a square sum of 1.
    """
    blocks, frames = math.ceil(size / hop), math.ceil(x.shape[1] / hop)
    before = size // 2
    after = (frames + blocks - 1) * hop - before - x.shape[1]
    rows = jnp.pad(x, ((0, 0), (before, max(after, 0))))
    rows = rows[:, : (frames + blocks - 1) * hop].reshape(x.shape[0], -1, hop)
    cut = jnp.concatenate([rows[:, i : i + frames] for i in range(blocks)], axis=-1)
    hann = np.hanning(size + 1)[:-1]
    return cut[..., :size] * (hann / np.sqrt(np.sum(hann**2))).astype(np.float32)


def stft(x: Float[Array, "B S"], size: int) -> Complex[Array, "B frames bins"]:
    """Spectra of Hann windows of `size` samples, `size // 4` apart, `size // 2 + 1` bins.

    Zeros surround the signal: the first window is centred on the first sample. Divided by the
    window's length in the sense of power: white noise of variance 1 has bins of power 1.
    """
    return jnp.fft.rfft(windows(x, size, size // OVERLAP))


def magnitudes(x: Float[Array, "B S"], size: int) -> Float[Array, "B frames bins"]:
    """Absolute values of `stft`, with a gradient of 0 at 0."""
    spectrum = stft(x, size)
    power = spectrum.real**2 + spectrum.imag**2
    positive = power > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, power, 1.0)), 0.0)
