"""A third teacher, 150 times as fast as Kokoro: Pico's voices of five languages."""

from __future__ import annotations

import numpy as np
import ttspico
from teacher import Sound

from voxtral_jax.errors import TextError

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

    def say(self, text: str, read: str, voice: str, speed: float) -> Sound:
        """Speaks a text, which it reads in its own way.

        Raises:
            TextError: nothing came out.
        """
        if voice not in self._engines:
            self._engines[voice] = ttspico.TtsEngine(voice)
        engine = self._engines[voice]
        engine.volume = VOLUME
        engine.rate = int(np.clip(round(100 * speed), *LIMITS))
        spoken = engine.speak(text)
        if not spoken:
            raise TextError(f'nothing came out of "{text[:40]}"')
        return Sound(np.frombuffer(spoken, np.int16).astype(np.float32) / 2**15, PICO_RATE)
