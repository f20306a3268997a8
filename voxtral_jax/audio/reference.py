"""Makes a recording fit to be cloned: one voice, no silence around it, a known loudness."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float

from voxtral_jax.audio.reading import LONGEST_FILE, resample, to_mono
from voxtral_jax.errors import AudioError

SHORTEST = 1.0
"""Seconds of sound that a voice needs at least."""
SHORT = 3.0
"""Under this many seconds the voice may not be caught; the model is made for 3 s and more."""
LONGEST = 60.0
"""Seconds that are used as they are."""
BEST_WINDOW = 30.0
"""Seconds taken of longer recordings."""
SILENCE_DB = 45.0
"""This far below the loudest moment counts as silence."""
SILENT_PEAK = 1e-3
"""A recording that never exceeds -60 dBFS is silence."""
MARGIN = 0.1
"""Seconds of silence left around the sound, so that no consonant is cut."""
LOUDNESS = -20.0
"""LUFS that references are brought to; the usual level of speech corpora."""
PEAK = 0.891
"""-1 dBFS; the gain is lowered where peaks would exceed it."""
FRAME, HOP = 1200, 240
"""Analysis window and hop for silence: 50 ms and 10 ms at 24 kHz."""


def prepare_reference(
    samples: Float[np.ndarray, "S ..."], rate: int, target: int = 24_000
) -> Float[np.ndarray, " S"]:
    """Mono reference at `target` Hz, trimmed and loudness-normalised.

    Warns (UserWarning) about less than 3 s, and when only the best 30 s of more than 60 s are used.

    Raises:
        AudioError: it is silent, shorter than 1 s, longer than 10 minutes, or not finite.
    """
    import librosa

    samples = to_mono(samples)
    if not len(samples) or not np.isfinite(samples).all():
        raise AudioError("the reference is empty or holds samples that are not finite")
    if len(samples) > LONGEST_FILE * rate:
        raise AudioError(
            f"the reference lasts {len(samples) / rate / 60:.1f} minutes; "
            f"cut out {SHORT:.0f} to {BEST_WINDOW:.0f} s of the voice"
        )
    samples = resample(samples, rate, target)
    if len(samples) < SHORTEST * target:
        raise AudioError(
            f"the reference lasts {len(samples) / target:.1f} s; at least {SHORTEST:.0f} s is "
            f"needed, {SHORT:.0f} s or more is better"
        )
    if np.abs(samples).max() < SILENT_PEAK:
        raise AudioError("the reference is silent; record it again, closer to the microphone")
    active = librosa.effects.split(samples, top_db=SILENCE_DB, frame_length=FRAME, hop_length=HOP)
    margin = round(MARGIN * target)
    first, last = max(0, active[0][0] - margin), min(len(samples), active[-1][1] + margin)
    sound = (last - first) / target
    if sound < SHORTEST:
        raise AudioError(
            f"the reference has {sound:.1f} s of sound; at least {SHORTEST:.0f} s is needed, "
            f"{SHORT:.0f} s or more is better"
        )
    if sound < SHORT:
        warnings.warn(
            f"the reference has {sound:.1f} s of sound; {SHORT:.0f} s or more keep a voice better",
            stacklevel=2,
        )
    if sound > LONGEST:
        warnings.warn(
            f"the reference has {sound:.0f} s of sound; its best {BEST_WINDOW:.0f} s are used",
            stacklevel=2,
        )
        first, last = _best_window(active, len(samples), round(BEST_WINDOW * target))
    return _normalise(samples[first:last], target)


def _best_window(active: np.ndarray, length: int, window: int) -> tuple[int, int]:
    """The window with the most sound among those that start where a sound does."""
    covered = np.zeros(length + 1, np.int64)
    for begin, end in active:
        covered[begin + 1 : end + 1] = 1
    covered = np.cumsum(covered)
    starts = np.minimum(active[:, 0], length - window)
    start = int(starts[np.argmax(covered[starts + window] - covered[starts])])
    return start, start + window


def _normalise(samples: np.ndarray, rate: int) -> np.ndarray:
    import pyloudnorm

    loudness = pyloudnorm.Meter(rate).integrated_loudness(samples.astype(np.float64))
    if not np.isfinite(loudness):
        # Nothing passes the meter's gate of -70 LUFS: take the plain power instead.
        loudness = 10 * np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-12)
    gain = 10 ** ((LOUDNESS - loudness) / 20)
    gain = min(gain, PEAK / float(np.abs(samples).max()))
    return (samples * gain).astype(np.float32)
