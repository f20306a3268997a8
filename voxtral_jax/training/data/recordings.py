"""Reads utterances, or only parts of them, as mono audio at one rate."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from voxtral_jax.audio import resample, to_mono
from voxtral_jax.audio.reading import check_rate
from voxtral_jax.errors import AudioError, VoxtralError
from voxtral_jax.training.data.manifest import TOLERANCE
from voxtral_jax.training.data.records import read_record
from voxtral_jax.training.data.utterances import Utterance

MARGIN = 0.1
"""Seconds around a crop that the resampler sees: many times the length of its filter."""
EXACT = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")
"""Sample formats in which libsndfile finds any sample; FLAC is among them."""
SKIPPED = 2**20
"""Samples that are decoded at once on the way to a place."""


def at_speed(utterance: Utterance, speed: float) -> Utterance:
    """The utterance as it is when its recording is played at a speed: by another speaker, at the
    times of that, and of a pitch that is not known."""
    if speed == 1.0:
        return utterance
    return replace(
        utterance,
        key=f"{utterance.key}@{speed:g}",
        speaker=f"{utterance.speaker}@{speed:g}",
        phoneme_ends=tuple(end / speed for end in utterance.phoneme_ends),
        start=utterance.start / speed,
        end=None if utterance.end is None else utterance.end / speed,
        pitch=(),
        seconds=utterance.seconds / speed,
    )


def read_utterance(utterance: Utterance, rate: int, speed: float = 1.0) -> Float[np.ndarray, " S"]:
    """The whole utterance, mono, float32, at `rate`; of its file, only its span is decoded.

    Args:
        utterance: as it was recorded.
        rate: of the result.
        speed: at which it is played, pitch and all: what `at_speed` says of it.

    Raises:
        AudioError: it cannot be decoded, is cut short, not finite, or empty.
        DataError: its shard is corrupt.
    """
    return resample(_read(utterance, rate, 0, None), round(speed * rate), rate)


def read_crop(
    utterance: Utterance, rate: int, first_second: float, seconds: float
) -> Float[np.ndarray, " S"]:
    """A part of the utterance, as `read_utterance` has it; only what it needs is decoded.

    Args:
        utterance: whose part.
        rate: of the result.
        first_second: where the part begins in the utterance.
        seconds: how long it is; it ends with the utterance at the latest.

    Raises:
        AudioError: it cannot be decoded, is cut short, not finite, or empty.
        DataError: its shard is corrupt.
    """
    return _read(utterance, rate, round(first_second * rate), round(seconds * rate))


def _read(
    utterance: Utterance, rate: int, first: int, count: int | None
) -> Float[np.ndarray, " S"]:
    """`count` samples (None: all) from sample `first` on, both at `rate`."""
    with opened(utterance) as sound:
        own = sound.samplerate
        check_rate(own)
        span, stop = span_of(utterance, sound)
        begin, end = 0, stop - span
        if count is not None:
            # Input and output have a sample at the same time only once in so many.
            step = own // math.gcd(own, rate)
            margin = math.ceil(MARGIN * own)
            begin = max(0, (first * own // rate - margin) // step * step)
            end = min(end, math.ceil((first + count) * own / rate) + margin)
        if begin >= end:
            raise AudioError(f"{utterance.key} has no audio there")
        go_to(sound, span + begin)
        samples = sound.read(end - begin, dtype="float32", always_2d=True)
        if len(samples) + TOLERANCE * own < end - begin:
            raise AudioError(
                f"{utterance.key} is cut short: {len(samples)} of {end - begin} samples are there"
            )
    if not np.isfinite(samples).all():
        raise AudioError(f"{utterance.key} holds samples that are not finite")
    mono = resample(to_mono(samples), own, rate)
    first -= begin * rate // own
    part = mono[first:] if count is None else mono[first : first + count]
    if not len(part):
        raise AudioError(f"{utterance.key} has no audio there")
    return part


@contextmanager
def opened(utterance: Utterance) -> Iterator[Any]:
    """The `soundfile.SoundFile` that holds an utterance.

    Raises:
        AudioError: it cannot be decoded, here or within the `with`.
        DataError: its shard is corrupt.
    """
    import soundfile

    file: Any = utterance.file
    if utterance.record is not None:
        file = io.BytesIO(read_record(file, utterance.record)["audio"])
    try:
        with soundfile.SoundFile(file) as sound:
            yield sound
    except VoxtralError:
        raise
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise AudioError(f"{utterance.key} cannot be read as audio: {error}") from None


def go_to(sound: Any, sample: int) -> None:
    """Goes to a sample of a file that was just opened.

    libsndfile misses the place by some samples in files with lossy compression: those are decoded
    up to it. Long ones of many utterances are better cut first, or converted to FLAC.
    """
    if sound.subtype.startswith(EXACT):
        sound.seek(sample)
        return
    while sample:
        skipped = len(sound.read(min(sample, SKIPPED), dtype="float32"))
        if not skipped:
            raise AudioError(f"{sound.name} ends before its header says")
        sample -= skipped


def span_of(utterance: Utterance, sound: Any) -> tuple[int, int]:
    """First sample of the utterance in its file, and the one after its last."""
    if utterance.record is not None:
        return 0, sound.frames
    end = utterance.start + utterance.seconds
    stop = sound.frames if utterance.end is None else round(end * sound.samplerate)
    return round(utterance.start * sound.samplerate), min(stop, sound.frames)
