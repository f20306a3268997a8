"""What synthesis returns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

FinishReason = Literal["stop", "length", "cancelled"]
"""`stop`: the model ended the speech; `length`: it was cut at its limit; `cancelled`: by whoever
asked for it."""


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds since the call.

    Attributes:
        first_audio: until the first samples were there.
        total: until the last were.
    """

    first_audio: float
    total: float


@dataclass(frozen=True, eq=False)
class Speech:
    """Speech, or one chunk of a stream.

    Attributes:
        samples: `[S]` float32 in [-1, 1].
        sample_rate: in Hz.
        codes: `[frames, K]` int32 codes (no offset) that the samples were decoded from.
        finish_reason: why it ended; None for a chunk that is not the last.
        timings: of the call so far.
    """

    samples: Float[np.ndarray, " S"]
    sample_rate: int
    codes: Int[np.ndarray, "frames K"]
    finish_reason: FinishReason | None
    timings: Timings

    @property
    def seconds(self) -> float:
        """Duration of the audio."""
        return len(self.samples) / self.sample_rate

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing for a second of audio."""
        return self.timings.total / self.seconds if len(self.samples) else float("inf")

    def save(self, path: str | os.PathLike[str], format: str | None = None) -> None:
        """Writes wav, flac, ogg, opus, mp3 or raw pcm; the suffix decides unless `format` does.

        Raises:
            AudioError: the format is unknown or the directory does not exist.
        """
        from voxtral_jax.audio import write_audio

        write_audio(path, self.samples, self.sample_rate, format)

    def _repr_html_(self) -> str:
        """A player, in a notebook."""
        import base64

        from voxtral_jax.audio import encode

        data = base64.b64encode(encode(self.samples, self.sample_rate, "flac")).decode()
        return (
            f'<audio controls src="data:audio/flac;base64,{data}"></audio>'
            f"<div>{self.seconds:.2f} s, finished by {self.finish_reason}</div>"
        )
