"""A request in the engine."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from voxtral_jax.flow import Sampler
from voxtral_jax.serving.lines import Line
from voxtral_jax.serving.talk import Talk
from voxtral_jax.synthesis import Assembly
from voxtral_jax.utterance import Utterance


@dataclass(eq=False)
class Work:
    """What is left of a request: lines to speak, where their chunks go, frames handed out."""

    talk: Talk
    utterance: Utterance
    assembly: Assembly
    sampler: Sampler
    lines: deque[Line]
    frames: int = 0
