"""Encodes speech while it is made, in the formats of OpenAI's API, with FFmpeg (PyAV)."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Literal

import av
import numpy as np
from jaxtyping import Float

from voxtral_jax.audio import pcm
from voxtral_jax.audio.writing import RATES_OF

AudioFormat = Literal["mp3", "wav", "flac", "opus", "aac", "pcm"]


@dataclass(frozen=True)
class Coding:
    """How a format is written.

    Attributes:
        container, codec: FFmpeg's names.
        media_type: of HTTP.
        bit_rate: bits per second, where some are lost.
        options: of the container.
        streamed: further ones where nobody can go back to the file's start.
    """

    container: str
    codec: str
    media_type: str
    bit_rate: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    streamed: dict[str, str] = field(default_factory=dict)


CODINGS: dict[AudioFormat, Coding] = {
    # A Xing header tells the length, which a stream does not know.
    "mp3": Coding(
        "mp3", "libmp3lame", "audio/mpeg", 96_000, {"id3v2_version": "0"}, {"write_xing": "0"}
    ),
    "wav": Coding("wav", "pcm_s16le", "audio/wav"),
    "flac": Coding("flac", "flac", "audio/flac"),
    # Pages of 0.1 s; by default they hold back a second.
    "opus": Coding("ogg", "libopus", "audio/ogg", 64_000, streamed={"page_duration": "100000"}),
    "aac": Coding("adts", "aac", "audio/aac", 96_000),
    "pcm": Coding("s16le", "pcm_s16le", "audio/pcm"),
}
"""Formats; pcm is raw 16-bit little endian."""


class _Pipe:
    """A file that can only be written; FFmpeg sees that there is no way back."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class Encoder:
    """Samples in, bytes out, as they come; or the whole file at the end.

    Args:
        format: one of `CODINGS`.
        sample_rate: in Hz.
        whole: write one file with its length in its header, which `finish` returns; otherwise the
            header says that the length is unknown.
    """

    def __init__(self, format: AudioFormat, sample_rate: int, *, whole: bool = False) -> None:
        coding = CODINGS[format]
        known = RATES_OF.get(format, (sample_rate,))
        self._rate = sample_rate
        self._whole = io.BytesIO() if whole else None
        self._pipe = _Pipe()
        self._container = av.open(
            self._pipe if self._whole is None else self._whole,
            "w",
            format=coding.container,
            # Neither the encoder's name nor the time: the same speech is the same file.
            options={"fflags": "+bitexact", "flush_packets": "1"}
            | coding.options
            | ({} if whole else coding.streamed),
        )
        rate = sample_rate if sample_rate in known else known[-1]
        stream = self._container.add_stream(coding.codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        self._stream = stream
        if coding.bit_rate is not None:
            self._stream.bit_rate = coding.bit_rate
        self._time = 0

    def push(self, samples: Float[np.ndarray, " S"]) -> bytes:
        """What can be sent after these samples; values beyond [-1, 1] are clipped."""
        if len(samples):
            data = np.frombuffer(pcm(samples), "<i2")[None]
            frame = av.AudioFrame.from_ndarray(data, format="s16", layout="mono")
            frame.sample_rate, frame.pts = self._rate, self._time
            self._time += len(samples)
            self._container.mux(self._stream.encode(frame))
        return self._pipe.take()

    def finish(self) -> bytes:
        """The rest of the stream, or the whole file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._pipe.take() if self._whole is None else self._whole.getvalue()
