"""Whose voice: embeddings of speakers by Resemblyzer (GE2E)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from voxtral_jax.evaluation.judges import RATE, Sound
from voxtral_jax.evaluation.takes import LONG, Clip

ENDS = 10.0
"""Seconds at both ends of a long speech that are compared."""
QUIETEST = 0.01
"""Peak under which nothing is there to embed."""
DIGITS = 5


class Speaker:
    """An embedding of every clip, and of both ends of long ones."""

    def __init__(self, threads: int = 1) -> None:
        import torch
        from resemblyzer import VoiceEncoder, preprocess_wav

        torch.set_num_threads(threads)
        self._encoder = VoiceEncoder("cpu", verbose=False)
        self._prepare = preprocess_wav

    def wants(self, clip: Clip) -> bool:
        """Everything has a voice."""
        return True

    def embed(self, samples: Float[np.ndarray, " S"]) -> list[float] | None:
        """Embedding (256 numbers, length 1) of samples of 16 kHz; None if there is no voice."""
        if not len(samples) or np.abs(samples).max() < QUIETEST:
            return None
        voiced = self._prepare(samples, RATE)
        # Where its voice activity finds nothing, the whole is better than nothing.
        embedding = self._encoder.embed_utterance(voiced if len(voiced) else samples)
        if not np.isfinite(embedding).all():
            return None
        return [round(float(value), DIGITS) for value in embedding]

    def hear(self, sound: Sound) -> dict[str, Any]:
        """`embedding`; of long clips also those of the `first` and `last` 10 s."""
        samples = sound.at_16k()
        values = {"embedding": self.embed(samples)}
        if sound.clip.kind == LONG:
            ends = round(ENDS * RATE)
            values |= {"first": self.embed(samples[:ends]), "last": self.embed(samples[-ends:])}
        return values
