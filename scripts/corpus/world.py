"""What WORLD finds in a recording: its pitch and its spectral envelope."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from vocoder import FFT, HOP, RATE, SPECTRA

from voxtral_jax.training.cycles import LOWEST

HIGHEST = 420.0
"""Hz under which pitch is looked for."""
VOICED_SPECTRA = 4
"""Spectra (of 16) that must have a pitch for the frame to have one."""


def find_pitch(samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, " N"]:
    """Hz (0: none) every 5 ms, first and last sample included."""
    import pyworld

    sound = samples.astype(np.float64)
    pitch, times = pyworld.dio(
        sound, RATE, f0_floor=LOWEST, f0_ceil=HIGHEST, frame_period=1000 * HOP / RATE
    )
    return pyworld.stonemask(sound, pitch, times, RATE)[: len(samples) // HOP + 1]


def find_power(
    samples: Float[np.ndarray, " S"], pitch: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N bins"]:
    """Power spectra without harmonics, where `find_pitch` has a pitch."""
    import pyworld

    times = np.arange(len(pitch)) * HOP / RATE
    return pyworld.cheaptrick(samples.astype(np.float64), pitch, times, RATE, fft_size=FFT)


def pitch_at_ends(pitch: Float[np.ndarray, " N"], frames: int) -> Float[np.ndarray, " frames"]:
    """Hz at the end of each frame, 0 if it has no voice; where it ends without, what is near."""
    voiced = np.flatnonzero(pitch)
    if not len(voiced):
        return np.zeros(frames)
    filled = np.interp(np.arange(-1, frames * SPECTRA + 2), voiced, pitch[voiced])
    smooth = np.convolve(filled, [0.25, 0.5, 0.25], "valid")
    spoken = pitch[: frames * SPECTRA].reshape(frames, SPECTRA) > 0
    return np.where(spoken.sum(axis=1) >= VOICED_SPECTRA, smooth[SPECTRA::SPECTRA], 0)
