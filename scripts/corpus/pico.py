"""A third teacher, 150 times as fast as Kokoro: Pico's voices of five languages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import ttspico
from teacher import Spoken, trimmed
from voices import played

from voxtral_jax.errors import TextError
from voxtral_jax.text.phonemes import phonemes

PICO_RATE = 16_000
"""Hz."""
VOLUME = 25
"""Percent: as loud as the others; at its usual 100 it clips."""
LIMITS = (20, 500)
"""Percent of the speed that it can do."""


class Pico:
    """Pico on one CPU core; it does not say when each phoneme is spoken."""

    def __init__(self) -> None:
        self._engines: dict[str, ttspico.TtsEngine] = {}

    def speak(
        self, text: str, language: str, parts: Sequence[tuple[str, float]], speed: float
    ) -> Spoken:
        """Speaks a sentence in the voice and at the pitch that `parts` names.

        Raises:
            TextError: nothing came out.
        """
        ((voice, pitch),) = parts
        if voice not in self._engines:
            self._engines[voice] = ttspico.TtsEngine(voice)
        engine = self._engines[voice]
        engine.volume = VOLUME
        engine.rate = int(np.clip(round(100 * speed / pitch), *LIMITS))
        sound = engine.speak(text)
        if not sound:
            raise TextError(f'nothing came out of "{text[:40]}"')
        samples = np.frombuffer(sound, np.int16).astype(np.float32) / 2**15
        return trimmed(played(samples, PICO_RATE, pitch), phonemes(text, language), [], text)
