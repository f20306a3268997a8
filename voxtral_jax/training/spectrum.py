"""Short-time Fourier transform that differentiates fast: framing by shifted views, no gathers."""

from __future__ import annotations

import math
from functools import cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

OVERLAP = 4
"""Frames that cover each sample: the hop is a quarter of the window."""
MEL_FLOOR = 1e-3
"""Magnitude under which bands count as silent: 60 dB under white noise of variance 1."""
COMPRESSION_FLOOR = MEL_FLOOR**2
"""Power under which the root of a magnitude becomes a straight line."""
MOST_MELS = 128
"""Mel bands of `log_mel`; narrow windows have fewer, one for each two bins."""


@cache
def mel_bands(rate: int, size: int, bands: int) -> Float[np.ndarray, "bands bins"]:
    """Weights of mel bands over the bins of a window; those of a band add up to 1."""
    import librosa

    return librosa.filters.mel(sr=rate, n_fft=size, n_mels=bands, norm=1).astype(np.float32)


def frame_count(samples: int, size: int, hop: int | None = None) -> int:
    """Frames that `stft` makes of so many samples."""
    return math.ceil(samples / (hop or size // OVERLAP))


def stft(
    x: Float[Array, "B S"], size: int, hop: int | None = None
) -> Complex[Array, "B frames bins"]:
    """Spectra of Hann windows of `size` samples, `hop` apart, `size // 2 + 1` bins.

    Zeros surround the signal: the first window is centred on the first sample. Divided by the
    window's length in the sense of power: white noise of variance 1 has bins of power 1.

    Args:
        hop: None is a quarter of the window.
    """
    hop = hop or size // OVERLAP
    blocks = math.ceil(size / hop)
    frames = frame_count(x.shape[1], size, hop)
    before = size // 2
    after = (frames + blocks - 1) * hop - before - x.shape[1]
    rows = jnp.pad(x, ((0, 0), (before, max(after, 0)))).reshape(x.shape[0], -1, hop)
    windows = jnp.concatenate([rows[:, i : i + frames] for i in range(blocks)], axis=-1)
    hann = np.hanning(size + 1)[:-1]
    taper = (hann / np.sqrt(np.sum(hann**2))).astype(np.float32)
    return jnp.fft.rfft(windows[..., :size] * taper, axis=-1)


def magnitudes(
    x: Float[Array, "B S"], size: int, hop: int | None = None
) -> Float[Array, "B frames bins"]:
    """Absolute values of `stft`, with a gradient of 0 at 0."""
    spectrum = stft(x, size, hop)
    power = spectrum.real**2 + spectrum.imag**2
    positive = power > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, power, 1.0)), 0.0)


def compressed(x: Float[Array, "B S"], size: int) -> Float[Array, "2 B frames bins"]:
    """Real and imaginary parts of `stft` with the square roots of its magnitudes.

    Without the root the strongest harmonics would be all that counts.
    """
    spectrum = stft(x, size)
    pair = jnp.stack([spectrum.real, spectrum.imag])
    return pair * (jnp.sum(pair**2, axis=0) + COMPRESSION_FLOOR) ** -0.25


def log_mel(
    x: Float[Array, "B S"], size: int, rate: int, hop: int | None = None
) -> Float[Array, "B frames bands"]:
    """Log10 magnitudes of mel bands, not below that of `MEL_FLOOR`."""
    bands = mel_bands(rate, size, min(MOST_MELS, size // 4))
    return jnp.log10(jnp.maximum(magnitudes(x, size, hop) @ bands.T, MEL_FLOOR))
