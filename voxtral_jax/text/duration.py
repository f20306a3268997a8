"""How long a text takes to say: limits that keep endings honest."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

IDEOGRAPH = 0.22
"""Seconds of a Chinese character: 4 to 5 syllables a second. In Japanese it is two moras, too."""
KANA = 0.13
"""Seconds of a mora: 7 to 8 a second."""
HANGUL = 0.17
"""Seconds of a Korean syllable: 6 a second."""
LETTER = 0.065
"""Seconds of a letter of an alphabet: about 15 a second in reading aloud."""
DIGIT = 0.25
"""Seconds of a digit, which is a word."""
SYMBOL = 0.3
"""Seconds of a sign that is read as a word (%, +, €)."""
COMMA = 0.15
SENTENCE = 0.35
"""Seconds of the pauses at commas and at sentence ends."""
SENTENCE_ENDS = set(".!?…。！？\n")
COMMAS = set(",;:、，；：—–")
FASTEST = 0.3
"""Nobody speaks a text in less than this share of the usual time."""
SLOWEST = 2.5
SLACK = 3.0
"""A speech that takes more than SLOWEST times the usual time, and SLACK seconds, has run away."""
FEWEST_FRAMES = 2


def _seconds(character: str) -> float:
    if character in SENTENCE_ENDS:
        return SENTENCE
    if character in COMMAS:
        return COMMA
    if character.isdigit():
        return DIGIT
    if character.isalpha():
        code = ord(character)
        if 0x3040 <= code < 0x3100 or 0x31F0 <= code < 0x3200:
            return KANA
        if 0xAC00 <= code < 0xD7B0:
            return HANGUL
        return IDEOGRAPH if unicodedata.east_asian_width(character) in "WF" else LETTER
    return SYMBOL if unicodedata.category(character) in ("Sc", "Sm", "So") else 0.0


def estimate_seconds(text: str) -> float:
    """Usual time to say a text, by what its characters stand for."""
    return sum(map(_seconds, text))


@dataclass(frozen=True)
class FrameLimits:
    """Frames under which an ending is implausible, and frames after which speech is cut."""

    minimum: int
    maximum: int


def frame_limits(text: str, frame_rate: float) -> FrameLimits:
    """Limits for a text at `frame_rate` frames a second."""
    seconds = estimate_seconds(text)
    # Pauses are no speech: what must be spoken at least are the words.
    words = sum(_seconds(c) for c in text if c.isalnum())
    return FrameLimits(
        minimum=max(FEWEST_FRAMES, math.floor(FASTEST * words * frame_rate)),
        maximum=math.ceil((SLOWEST * seconds + SLACK) * frame_rate),
    )
