"""A fourth teacher: Open JTalk's Japanese voice `mei`, 30 times as fast as Kokoro."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyopenjtalk
from teacher import Spoken, trimmed
from voices import played

from voxtral_jax.text.phonemes import phonemes

VOLUME = 0.45
"""Brings it to the level of the others."""


class Mei:
    """Open JTalk on one CPU core; it does not say when each phoneme is spoken."""

    def speak(
        self, text: str, language: str, parts: Sequence[tuple[str, float]], speed: float
    ) -> Spoken:
        """Speaks a sentence at the pitch that `parts` names.

        Raises:
            TextError: nothing came out.
        """
        ((_, pitch),) = parts
        samples, rate = pyopenjtalk.tts(text, speed=speed / pitch)
        samples = (VOLUME / 2**15 * samples).astype(np.float32)
        return trimmed(played(samples, rate, pitch), phonemes(text, language), [], text)
