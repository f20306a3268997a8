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

from voxtral_jax.audio.reading import check_rate, resample
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
RATES_OF = {
    "opus": (8_000, 12_000, 16_000, 24_000, 48_000),
    "mp3": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
}
"""The only sample rates of some formats, in Hz; other audio is resampled to the last of them."""
BLOCK = 65_536
"""Samples given to libsndfile at once: its Vorbis encoder overflows the stack on minutes."""
PLAYERS = (
    ["ffplay", "-autoexit", "-nodisp", "-loglevel", "error", "-"],
    ["aplay", "-q", "-"],
    ["play", "-q", "-t", "wav", "-"],
    ["mpv", "--really-quiet", "-"],
)
"""Programs that play a WAV stream from their standard input, in order of preference."""


def format_of(path: str | os.PathLike[str], format: str | None = None) -> str:
    """The format to write `path` in: `format`, else the suffix, in any case.

    Raises:
        AudioError: it is none of `FORMATS`.
    """
    name = (Path(path).suffix.removeprefix(".") if format is None else format).lower()
    if name not in FORMATS:
        raise AudioError(
            f"{str(path)!r}: unknown audio format {name!r}; choose from {', '.join(FORMATS)}"
        )
    return name


def check_output(path: str | os.PathLike[str], format: str | None = None) -> None:
    """Raises AudioError if `path` cannot be written in that format; - is stdout, as wav."""
    if str(path) == "-":
        format = format or "wav"
    elif not os.path.isdir(Path(path).absolute().parent):
        raise AudioError(f"{path}: the directory {Path(path).parent} does not exist")
    elif os.path.isdir(path):
        raise AudioError(f"{path} is a directory; name a file in it")
    format_of(path, format)


def pcm(samples: Float[np.ndarray, " S"]) -> bytes:
    """Signed 16-bit little endian; values beyond [-1, 1] are clipped."""
    scaled = np.round(np.clip(samples, -1, 1) * 32767)
    return scaled.astype("<i2").tobytes()


def wav_stream_header(sample_rate: int) -> bytes:
    """Header of a mono 16-bit WAV of unknown length, for a stream."""
    unknown = 0xFFFFFFFF
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, sample_rate * 2, 2, 16)
    head = struct.pack("<4sI4s", b"RIFF", unknown, b"WAVE")
    return head + form + struct.pack("<4sI", b"data", unknown)


def encode(samples: Float[np.ndarray, " S"], sample_rate: int, format: str) -> bytes:
    """A whole audio file in memory.

    Args:
        samples: mono; values beyond [-1, 1] are clipped.
        sample_rate: in Hz; resampled where the format does not know it.
        format: one of `FORMATS`.

    Raises:
        AudioError: the format is unknown, the samples are not finite, or cannot be encoded.
    """
    format = format_of(f"audio.{format}", format)
    coding = FORMATS[format]
    check_rate(sample_rate)
    samples = np.asarray(samples, np.float32)
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise AudioError("audio to write must be [S] and finite")
    if coding is None:
        return pcm(samples)
    import soundfile

    known = RATES_OF.get(format, (sample_rate,))
    if sample_rate not in known:
        samples, sample_rate = resample(samples, sample_rate, known[-1]), known[-1]
    container, subtype = coding
    if subtype == "PCM_16":
        data: np.ndarray = np.frombuffer(pcm(samples), "<i2")
    else:
        data = np.clip(samples, -1, 1)
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(
            buffer, "w", samplerate=sample_rate, channels=1, format=container, subtype=subtype
        ) as sound:
            for start in range(0, len(data), BLOCK):
                sound.write(data[start : start + BLOCK])
    except soundfile.SoundFileError as error:
        raise AudioError(f"cannot encode {format} at {sample_rate} Hz: {error}") from None
    return buffer.getvalue()


def write_audio(
    path: str | os.PathLike[str],
    samples: Float[np.ndarray, " S"],
    sample_rate: int,
    format: str | None = None,
) -> None:
    """Writes a file, replacing an old one in one step; the suffix decides unless `format` does.

    Raises:
        AudioError: the format is unknown, or the place cannot be written.
    """
    check_output(path, format)
    data = encode(samples, sample_rate, format_of(path, format))
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            # A device or a pipe, such as /dev/null, must not be replaced by a file.
            Path(path).write_bytes(data)
        else:
            with replacing(path) as temporary:
                temporary.write_bytes(data)
    except OSError as error:
        raise AudioError(f"cannot write {path}: {error}") from None


def find_player() -> list[str]:
    """The command of the first of `PLAYERS` that is installed.

    Raises:
        AudioError: none is.
    """
    for command in PLAYERS:
        if shutil.which(command[0]):
            return command
    names = ", ".join(command[0] for command in PLAYERS)
    raise AudioError(f"no audio player found; install one of {names}, or write to a file")


def play(chunks: Iterable[Float[np.ndarray, " S"]], sample_rate: int) -> None:
    """Plays chunks as they come.

    Raises:
        AudioError: there is no player, or it was closed before the end.
    """
    command = find_player()
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE) as player:
            assert player.stdin is not None
            player.stdin.write(wav_stream_header(sample_rate))
            for chunk in chunks:
                player.stdin.write(pcm(chunk))
                player.stdin.flush()
    except BrokenPipeError:
        raise AudioError(f"{command[0]} was closed before all was played") from None
