"""Speakers compared: how alike two recordings are, and whose voice among several a speech has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

VOICES = 10
"""Voices that a speech is compared with; one of them is right."""


def cosine(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Cosine of two embeddings: 1 is the same voice."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))


def line_up(speaker: str, speakers: Sequence[str], voices: int = VOICES) -> list[str]:
    """The speaker and those who follow in the alphabet, from its end on from the start."""
    ordered = sorted({*speakers, speaker})
    place = ordered.index(speaker)
    return (ordered[place:] + ordered[:place])[:voices]


def identified(
    spoken: Float[np.ndarray, " E"], speaker: str, enrolled: Mapping[str, Float[np.ndarray, " E"]]
) -> bool:
    """Whether speech is nearer to its own speaker's recording than to any other's.

    Args:
        spoken: embedding of the speech.
        speaker: whose voice it should have.
        enrolled: embedding of each speaker's recording, the right one among them.
    """
    nearest = max(enrolled, key=lambda name: cosine(spoken, enrolled[name]))
    return nearest == speaker
