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
LARGEST_FILE = 2 * 192_000 * int(LONGEST_FILE)
"""Samples of all channels that are decoded at most (1 GB): `LONGEST_FILE` of 192 kHz stereo."""
RATES = (4_000, 768_000)
"""Sample rates that recordings can have, in Hz."""
MOST_CHANNELS = 64
"""More than any recording has: such an array is [channels, S], the wrong way round."""


def read_audio(file: str | os.PathLike[str] | BinaryIO) -> tuple[Float[np.ndarray, "S C"], int]:
    """Samples `[S, channels]` (float32) and rate of any format that libsndfile knows.

    The length is checked before anything is decoded.

    Args:
        file: a path, or a binary file that can seek.

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
            if not RATES[0] <= rate <= RATES[1]:
                raise AudioError(
                    f"{name} has a sample rate of {rate} Hz, recordings have {RATES[0]} to "
                    f"{RATES[1]}; is it damaged?"
                )
            if sound.frames > LONGEST_FILE * rate:
                raise AudioError(
                    f"{name} lasts {sound.frames / rate / 60:.1f} minutes, at most "
                    f"{LONGEST_FILE / 60:.0f} are read; cut out 3 to 30 s of the voice"
                )
            if sound.frames * sound.channels > LARGEST_FILE:
                raise AudioError(
                    f"{name} holds {sound.channels} channels of {sound.frames:,} samples, at most "
                    f"{LARGEST_FILE:,} in all are read; mix it down to mono"
                )
            # A header may lie about the length: no more than the limit is ever decoded.
            samples = sound.read(int(LONGEST_FILE * rate), dtype="float32", always_2d=True)
    except AudioError:
        raise
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise AudioError(f"{name} cannot be read as audio: {error}") from None
    if not len(samples):
        raise AudioError(f"{name} holds no audio")
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} holds samples that are not finite")
    return samples, rate


def to_mono(samples: Float[np.ndarray, "S ..."]) -> Float[np.ndarray, " S"]:
    """Mean of the channels of `[S]` or `[S, channels]`, float32; integers are scaled to [-1, 1].

    Raises:
        AudioError: the shape is neither, or these are no numbers.
    """
    try:
        samples = np.asarray(samples)
    except ValueError as error:
        raise AudioError(f"audio must be [S] or [S, channels]: {error}") from None
    if samples.ndim not in (1, 2) or samples.shape[1:] == (0,):
        raise AudioError(f"audio must be [S] or [S, channels], got {list(samples.shape)}")
    if samples.ndim == 2 and samples.shape[1] > MOST_CHANNELS:
        raise AudioError(
            f"audio must be [S, channels], got {list(samples.shape)}; transpose it if it is "
            "[channels, S]"
        )
    if samples.dtype.kind not in "iuf":
        raise AudioError(f"audio must be float or integer samples, got {samples.dtype}")
    if samples.dtype.kind == "u":
        # Unsigned samples, as in 8-bit WAV, are silent at half of their range.
        half = np.iinfo(samples.dtype).max // 2 + 1
        samples = (samples.astype(np.float64) - half) / half
    elif samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    samples = samples.astype(np.float32)
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)


def check_rate(sample_rate: int) -> None:
    """Raises AudioError unless this is a sample rate in Hz that a recording can have."""
    whole = isinstance(sample_rate, int | np.integer) and not isinstance(sample_rate, bool)
    if not whole or not RATES[0] <= sample_rate <= RATES[1]:
        raise AudioError(
            f"the sample rate must be from {RATES[0]} to {RATES[1]} Hz, got {sample_rate!r}"
        )


def resample(
    samples: Float[np.ndarray, " S"], sample_rate: int, target_rate: int
) -> Float[np.ndarray, " R"]:
    """The same sound at another rate (soxr, high quality), `ceil(S * target / rate)` at most.

    Raises:
        AudioError: a rate is out of any sensible range.
    """
    check_rate(sample_rate)
    check_rate(target_rate)
    if sample_rate == target_rate:
        return samples
    import soxr

    out: Any = soxr.resample(samples, sample_rate, target_rate, quality="HQ")
    wanted = math.ceil(len(samples) * target_rate / sample_rate)
    return np.asarray(out[:wanted], np.float32)
