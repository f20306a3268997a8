"""Recordings as inference hears references: trimmed, and at one loudness."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from voxtral_jax.audio.reference import MARGIN, SILENT_PEAK, normalise_loudness, sounding_spans
from voxtral_jax.errors import AudioError


def as_reference(
    samples: Float[np.ndarray, " S"], rate: int, step: int = 1
) -> tuple[Float[np.ndarray, " S"], int]:
    """Trimmed and at the loudness that references are brought to, and the first sample kept.

    Args:
        samples: of a recording.
        rate: of them.
        step: the first sample kept is a multiple of this.

    Raises:
        AudioError: it is silent.
    """
    if np.abs(samples).max() < SILENT_PEAK:
        raise AudioError("the recording is silent")
    spans = sounding_spans(samples, rate)
    margin = round(MARGIN * rate)
    first, last = max(0, spans[0][0] - margin) // step * step, spans[-1][1] + margin
    return normalise_loudness(samples[first:last], rate), first


def with_goal(
    samples: Float[np.ndarray, " S"],
    goal: Float[np.ndarray, " S"],
    rate: int,
    frame_samples: int,
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"], int]:
    """A recording as a reference, its goal trimmed and made louder as it was, and the first sample.

    Args:
        samples: of the recording.
        goal: as long; what the codec is to give back of it.
        rate: of both.
        frame_samples: of a codec frame: a goal's pitch goes by its frames, which stay where they
            are.

    Raises:
        AudioError: the recording is silent.
    """
    kept, first = as_reference(samples, rate, frame_samples)
    gain = np.abs(kept).max() / np.abs(samples[first:][: len(kept)]).max()
    return kept, goal[first:][: len(kept)] * gain, first
