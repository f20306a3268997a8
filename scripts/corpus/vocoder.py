"""Speech from spectral envelopes and the pitch at the ends of frames, sample by sample.

Between the ends of the codec's frames of 80 ms pitch goes from one to the other in a whole number
of cycles. Low harmonics are pulses with the envelope's minimum phase, high ones noise whose
loudness beats with the pitch, as in harmonic and noise models (Stylianou 2001): a small decoder
hardly learns where in a frame high ones lie. The noise is the same in every frame. Nothing is
drawn: every sample follows from what is given.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Complex, Float
from noise import steady_noise

from voxtral_jax.training.cycles import cycles

RATE, FRAME = 24_000, 1920
"""Samples a second, and in a frame of the codec."""
HOP, WINDOW, FFT = 120, 480, 1024
"""Samples between two spectra, in one, and with room for the envelope's echo."""
SPECTRA = FRAME // HOP
"""In each frame."""
HERTZ = np.arange(FFT // 2 + 1) * RATE / FFT
"""Of each bin of a spectrum."""
NOISE = np.array([(0, 0.04), (1000, 0.12), (2200, 1.0)])
"""Share of noise (of amplitude) in voiced speech at some Hz. WORLD finds less from 1000 Hz on."""


def cycles_of(
    ends: Float[np.ndarray, " frames"],
) -> tuple[Float[np.ndarray, "frames N"], Float[np.ndarray, "frames N"]]:
    """Cycles since each frame began, and Hz, at its samples."""
    return cycles(ends, np.arange(FRAME) / FRAME, RATE / FRAME)


def pulses(
    turns: Float[np.ndarray, "frames N"], hertz: Float[np.ndarray, "frames N"]
) -> Float[np.ndarray, " S"]:
    """Pulses with all harmonics, of power 1, in the middle of each of the `cycles_of`."""
    harmonics = np.maximum(1, RATE / 2 // hertz.max(axis=1, keepdims=True))
    # The sum of cosines of all harmonics, half a turn on; it is `harmonics` at a pulse.
    angles = np.pi * (turns + 0.5)
    below = np.sin(angles)
    pulse = np.abs(below) < 1e-6
    ratio = np.sin((2 * harmonics + 1) * angles) / np.where(pulse, 1, below)
    made = np.where(pulse, harmonics, (ratio - 1) / 2)
    return (made * np.sqrt(2 / harmonics)).reshape(-1)


def beat(turns: Float[np.ndarray, "frames N"]) -> Float[np.ndarray, " S"]:
    """Gains of power 1 that are highest at the pulses of `cycles_of` and 0 between them."""
    return ((1 - np.cos(2 * np.pi * turns)) / np.sqrt(1.5)).reshape(-1)


def minimum_phase(power: Float[np.ndarray, "N bins"]) -> Complex[np.ndarray, "N bins"]:
    """Numbers of absolute value 1: phases with which spectra sound as soon as they can."""
    cepstra = np.fft.irfft(np.log(np.maximum(power, 1e-16)) / 2, FFT, axis=1)
    later = np.zeros(FFT)
    later[[0, FFT // 2]] = 1
    later[1 : FFT // 2] = 2
    return np.exp(1j * np.fft.rfft(cepstra * later, axis=1).imag)


def vocode(
    power: Float[np.ndarray, "N bins"],
    voiced: Float[np.ndarray, " N"],
    ends: Float[np.ndarray, " frames"],
) -> Float[np.ndarray, " S"]:
    """Plays power spectra, one every 5 ms, those of the first and the last sample included.

    Args:
        power: of each; N is `frames * SPECTRA + 1`.
        voiced: 0 to 1; what is less than 1 is noise.
        ends: Hz at the end of each frame; where it is 0, there is noise alone.
    """
    frames, count = len(ends), len(power)
    spoken_in = ends[np.minimum(np.arange(count) // SPECTRA, frames - 1)] > 0
    padded = np.pad(voiced * spoken_in, 1, mode="edge")
    smooth = np.convolve(padded, [0.25, 0.5, 0.25], "valid")
    tone = smooth[:, None] * (1 - np.interp(HERTZ, NOISE[:, 0], NOISE[:, 1]) ** 2)

    # These add up to the same everywhere.
    taper = np.hanning(WINDOW + 1)[:-1]
    places = np.arange(count)[:, None] * HOP + np.arange(WINDOW)
    turns, hertz = cycles_of(ends)
    beating = np.repeat((voiced * spoken_in)[:-1], HOP)
    noise = np.tile(steady_noise(FRAME, RATE), frames) * (1 + beating * (beat(turns) - 1))
    spoken, hissed = (
        np.fft.rfft(np.pad(x, (WINDOW // 2, WINDOW))[places] * taper, FFT)
        for x in (pulses(turns, hertz), noise)
    )
    spoken *= np.sqrt(tone) * minimum_phase(power)
    made = np.fft.irfft(np.sqrt(power) * (spoken + np.sqrt(1 - tone) * hissed), FFT)
    # The envelope of noise has no phase: its echo lies on both sides of the window.
    made = np.roll(made, (FFT - WINDOW) // 2, axis=1)
    out = np.zeros((count - 1) * HOP + FFT)
    for place, piece in enumerate(made):
        out[place * HOP : place * HOP + FFT] += piece
    return out[FFT // 2 : FFT // 2 + frames * FRAME]
