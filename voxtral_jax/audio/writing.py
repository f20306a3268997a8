"""Encodes and writes audio, and plays it."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from voxtral_jax.audio.reading import resample
from voxtral_jax.errors import AudioError
from voxtral_jax.files import replacing

FORMATS: dict[str, tuple[str, str] | None] = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "pcm": None,
}
"""Format -> libsndfile's container and coding; pcm is raw 16-bit little endian."""
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
PLAYERS = (
    ["ffplay", "-autoexit", "-nodisp", "-loglevel", "error", "-"],
    ["aplay", "-q", "-"],
    ["play", "-q", "-t", "wav", "-"],
    ["mpv", "--really-quiet", "-"],
)
"""Programs that play a WAV stream from their standard input, in order of preference."""


def format_of(path: str | os.PathLike[str], format: str | None = None) -> str:
    """The format to write `path` in: `format`, else the suffix.

    Raises:
        AudioError: it is none of `FORMATS`.
    """
    name = format if format is not None else Path(path).suffix.removeprefix(".").lower()
    if name not in FORMATS:
        raise AudioError(
            f"{str(path)!r}: unknown audio format {name!r}; choose from {', '.join(FORMATS)}"
        )
    return name


def check_output(path: str | os.PathLike[str], format: str | None = None) -> None:
    """Raises AudioError if `path` cannot be written in that format; - is stdout, as wav."""
    if str(path) == "-":
        format = format or "wav"
    elif not Path(path).absolute().parent.is_dir():
        raise AudioError(f"{path}: the directory {Path(path).parent} does not exist")
    elif Path(path).is_dir():
        raise AudioError(f"{path} is a directory; name a file in it")
    format_of(path, format)


def pcm(samples: Float[np.ndarray, " S"]) -> bytes:
    """Signed 16-bit little endian; values beyond [-1, 1] are clipped."""
    scaled = np.round(np.clip(samples, -1, 1) * 32767)
    return scaled.astype("<i2").tobytes()


def wav_stream_header(rate: int) -> bytes:
    """Header of a mono 16-bit WAV of unknown length, for a stream."""
    unknown = 0xFFFFFFFF
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    head = struct.pack("<4sI4s", b"RIFF", unknown, b"WAVE")
    return head + form + struct.pack("<4sI", b"data", unknown)


def encode(samples: Float[np.ndarray, " S"], rate: int, format: str) -> bytes:
    """A whole audio file in memory.

    Raises:
        AudioError: the format is unknown, or the samples are not finite.
    """
    coding = FORMATS[format_of(f"audio.{format}", format)]
    samples = np.asarray(samples, np.float32)
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise AudioError("audio to write must be [S] and finite")
    if coding is None:
        return pcm(samples)
    import soundfile

    if format == "opus" and rate not in OPUS_RATES:
        samples, rate = resample(samples, rate, OPUS_RATES[-1]), OPUS_RATES[-1]
    if FORMATS[format] is not None and coding[1] == "PCM_16":
        data: np.ndarray = np.frombuffer(pcm(samples), "<i2")
    else:
        data = np.clip(samples, -1, 1)
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", samplerate=rate, channels=1, format=coding[0], subtype=coding[1]
    ) as sound:
        sound.write(data)
    return buffer.getvalue()


def write_audio(
    path: str | os.PathLike[str],
    samples: Float[np.ndarray, " S"],
    rate: int,
    format: str | None = None,
) -> None:
    """Writes a file, replacing an old one in one step; the suffix decides unless `format` does.

    Raises:
        AudioError: the format is unknown, or the place cannot be written.
    """
    check_output(path, format)
    data = encode(samples, rate, format_of(path, format))
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise AudioError(f"cannot write {path}: {error}") from None


def play(chunks: Iterable[Float[np.ndarray, " S"]], rate: int) -> None:
    """Plays chunks as they come, through the first of `PLAYERS` that is installed.

    Raises:
        AudioError: there is no player.
    """
    command = next((c for c in PLAYERS if shutil.which(c[0])), None)
    if command is None:
        names = ", ".join(c[0] for c in PLAYERS)
        raise AudioError(f"no audio player found; install one of {names}, or write to a file")
    with subprocess.Popen(command, stdin=subprocess.PIPE) as player:
        assert player.stdin is not None
        player.stdin.write(wav_stream_header(rate))
        for chunk in chunks:
            player.stdin.write(pcm(chunk))
            player.stdin.flush()
