"""Reads audio files and brings them to one channel and one rate."""

from __future__ import annotations

import math
import os
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from voxtral_jax.errors import AudioError

LONGEST_FILE = 600.0
"""Seconds of audio that are decoded at all; more is a mistake, or an attack."""
RATES = (4_000, 768_000)
"""Sample rates that recordings can have, in Hz."""


def read_audio(file: str | os.PathLike[str] | BinaryIO) -> tuple[Float[np.ndarray, "S C"], int]:
    """Samples `[S, channels]` (float32) and rate of any format that libsndfile knows.

    The length is checked before anything is decoded.

    Raises:
        AudioError: the file is missing, corrupt, empty, too long, or not finite.
    """
    import soundfile

    name = getattr(file, "name", "the audio") if hasattr(file, "read") else str(file)
    if isinstance(file, str | os.PathLike) and not os.path.isfile(file):
        raise AudioError(f"{name} does not exist or is not a file")
    try:
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            if sound.frames > LONGEST_FILE * rate:
                raise AudioError(
                    f"{name} lasts {sound.frames / rate / 60:.1f} minutes, at most "
                    f"{LONGEST_FILE / 60:.0f} are read; cut out 3 to 30 s of the voice"
                )
            # A header may lie about the length: no more than the limit is ever decoded.
            samples = sound.read(int(LONGEST_FILE * rate), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, ValueError, TypeError) as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{name} cannot be read as audio: {error}") from None
    if not len(samples):
        raise AudioError(f"{name} holds no audio")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} holds samples that are not finite")
    return samples, rate


def to_mono(samples: Float[np.ndarray, "S ..."]) -> Float[np.ndarray, " S"]:
    """Mean of the channels of `[S]` or `[S, channels]`, float32.

    Raises:
        AudioError: the shape is neither.
    """
    samples = np.asarray(samples)
    if samples.ndim not in (1, 2):
        raise AudioError(f"audio must be [S] or [S, channels], got {list(samples.shape)}")
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min or -np.iinfo(samples.dtype).max)
    samples = samples.astype(np.float32)
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)


def resample(samples: Float[np.ndarray, " S"], rate: int, target: int) -> Float[np.ndarray, " R"]:
    """The same sound at another rate (soxr, high quality).

    Raises:
        AudioError: the rate is out of any sensible range.
    """
    if not isinstance(rate, int | np.integer) or not RATES[0] <= rate <= RATES[1]:
        raise AudioError(f"the sample rate must be from {RATES[0]} to {RATES[1]} Hz, got {rate!r}")
    if rate == target:
        return samples
    import soxr

    out: Any = soxr.resample(samples, rate, target, quality="HQ")
    wanted = math.ceil(len(samples) * target / rate)
    return np.asarray(out[:wanted], np.float32)
