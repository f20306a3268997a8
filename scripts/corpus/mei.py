"""A fourth teacher: Open JTalk's Japanese voice `mei`, 30 times as fast as Kokoro."""

from __future__ import annotations

import numpy as np
import pyopenjtalk
from teacher import Sound

VOLUME = 0.45
"""Brings it to the level of the others."""


def say(text: str, read: str, voice: str, speed: float) -> Sound:
    """Speaks a text; `mei` is the only voice, and reads the text in its own way."""
    samples, rate = pyopenjtalk.tts(text, speed=speed)
    return Sound((VOLUME / 2**15 * samples).astype(np.float32), rate)
