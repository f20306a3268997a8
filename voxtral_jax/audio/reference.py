"""Makes a recording fit to be cloned: one voice, no silence around it, a known loudness."""

from __future__ import annotations

import math
import warnings

import numpy as np
from jaxtyping import Float, Int

from voxtral_jax.audio.reading import LONGEST_FILE, check_rate, resample, to_mono
from voxtral_jax.errors import AudioError

SHORTEST = 1.0
"""Seconds of sound that a voice needs at least."""
SHORT = 3.0
"""Under this many seconds the voice may not be caught; the model is made for 3 s and more."""
LONGEST = 60.0
"""Seconds that are used as they are."""
BEST_WINDOW = 30.0
"""Seconds taken of longer recordings."""
WINDOW_END = 5.0
"""Seconds that the best window may lose so as to end in a pause, not within a word."""
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
FRAME_SECONDS, HOP_SECONDS = 0.05, 0.01
"""Analysis window and hop for silence."""


def prepare_reference(
    samples: Float[np.ndarray, "S ..."], sample_rate: int, target_rate: int = 24_000
) -> Float[np.ndarray, " S"]:
    """Mono reference at `target_rate` Hz, float32, trimmed and loudness-normalised.

    Warns (UserWarning) about less than 3 s, and when only the best 30 s of more than 60 s are used.

    Args:
        samples: `[S]` or `[S, channels]`, float or integer.
        sample_rate: in Hz.
        target_rate: in Hz.

    Raises:
        AudioError: it is silent, has less than 1 s of sound, lasts more than 10 minutes, or is not
            finite.
    """
    check_rate(sample_rate)
    samples = to_mono(samples)
    if not len(samples) or not np.isfinite(samples).all():
        raise AudioError("the reference is empty or holds samples that are not finite")
    if len(samples) > LONGEST_FILE * sample_rate:
        raise AudioError(
            f"the reference lasts {len(samples) / sample_rate / 60:.1f} minutes; "
            f"cut out {SHORT:.0f} to {BEST_WINDOW:.0f} s of the voice"
        )
    samples = resample(samples, sample_rate, target_rate)
    if len(samples) < SHORTEST * target_rate:
        raise AudioError(_too_short("lasts {:.1f} s", len(samples) / target_rate))
    # A constant offset cannot be heard, but would pass for sound.
    samples = samples - samples.mean(dtype=np.float64).astype(np.float32)
    peak = np.abs(samples).max()
    if peak < SILENT_PEAK:
        raise AudioError("the reference is silent; record it again, closer to the microphone")
    active = sounding_spans(samples, target_rate)
    margin = round(MARGIN * target_rate)
    first, last = max(0, active[0][0] - margin), min(len(samples), active[-1][1] + margin)
    length = (last - first) / target_rate
    if length > LONGEST:
        first, last = _best_window(active, len(samples), target_rate)
    used = np.clip(active, first, last)
    sound = float((used[:, 1] - used[:, 0]).sum()) / target_rate
    if sound < SHORTEST:
        raise AudioError(_too_short("has {:.1f} s of sound", sound))
    if length > LONGEST:
        best = f"the reference lasts {length:.0f} s; its best {BEST_WINDOW:.0f} s are used"
        warnings.warn(best, stacklevel=2)
    if sound < SHORT:
        warnings.warn(
            f"the reference has {sound:.1f} s of sound; {SHORT:.0f} s or more keep a voice better",
            stacklevel=2,
        )
    return normalise_loudness(samples[first:last], target_rate)


def sounding_spans(samples: Float[np.ndarray, " S"], rate: int) -> Int[np.ndarray, "spans 2"]:
    """First and last sample of each stretch that is not silence; the samples must not all be 0.

    The same spans as `librosa.effects.split`, which takes seconds to load and compile.
    """
    size, hop = round(FRAME_SECONDS * rate), round(HOP_SECONDS * rate)
    around = np.pad(samples.astype(np.float64) / np.abs(samples).max(), size // 2)
    energy = np.concatenate([[0.0], np.cumsum(np.square(around))])
    starts = np.arange(0, len(around) - size + 1, hop)
    power = energy[starts + size] - energy[starts]
    sounding = power > power.max() * 10 ** (-SILENCE_DB / 10)
    edges = np.flatnonzero(np.diff(sounding, prepend=False, append=False))
    return np.minimum(edges * hop, len(samples)).reshape(-1, 2)


def _too_short(what: str, seconds: float) -> str:
    seconds = math.floor(10 * seconds) / 10  # rounded up it would seem enough
    return (
        f"the reference {what.format(seconds)}; at least {SHORTEST:.0f} s of sound is needed, "
        f"{SHORT:.0f} s or more is better"
    )


def _best_window(active: np.ndarray, length: int, rate: int) -> tuple[int, int]:
    """The window with the most sound among those that start in the pause before a sound.

    It ends in a pause as well if there is one near its end.
    """
    window, margin = round(BEST_WINDOW * rate), round(MARGIN * rate)
    sounding = np.zeros(length + 1, np.int64)
    for begin, end in active:
        sounding[begin + 1 : end + 1] = 1
    covered = np.cumsum(sounding)
    starts = np.clip(active[:, 0] - margin, 0, length - window)
    start = int(starts[np.argmax(covered[starts + window] - covered[starts])])
    ends = active[:, 1] + margin
    near = ends[(ends <= start + window) & (ends > start + window - round(WINDOW_END * rate))]
    return start, int(near[-1]) if len(near) else start + window


def normalise_loudness(samples: Float[np.ndarray, " S"], rate: int) -> Float[np.ndarray, " S"]:
    """The same sound at `LOUDNESS`, quieter where its peaks would exceed `PEAK`."""
    import pyloudnorm

    wide = samples.astype(np.float64)
    with warnings.catch_warnings():
        # Where nothing passes the meter's gate it takes the mean of nothing.
        warnings.simplefilter("ignore", RuntimeWarning)
        loudness = pyloudnorm.Meter(rate).integrated_loudness(wide)
    if not np.isfinite(loudness):
        # Nothing passes the meter's gate of -70 LUFS: take the plain power instead.
        loudness = 10 * np.log10(np.mean(np.square(wide)))
    gain = min(10 ** ((LOUDNESS - loudness) / 20), PEAK / float(np.abs(wide).max()))
    return (wide * gain).astype(np.float32)
