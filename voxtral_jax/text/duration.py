"""How long a text takes to say: limits that keep endings honest."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from functools import cache

IDEOGRAPH = 0.22
"""Seconds of a Chinese character: 4 to 5 syllables a second. In Japanese it is two moras, too."""
KANA = 0.13
"""Seconds of a mora: 7 to 8 a second."""
HANGUL = 0.17
"""Seconds of a Korean syllable: 6 a second."""
LETTER = 0.065
"""Seconds of a letter of an alphabet: about 15 a second in reading aloud."""
ARABIC = 0.085
"""Seconds of an Arabic letter: short vowels are spoken, not written; 12 a second."""
DEVANAGARI = 0.08
"""Seconds of a Devanagari letter or vowel sign: 12 a second."""
DIGIT = 0.25
"""Seconds of a digit, which is a word."""
SYMBOL = 0.3
"""Seconds of a sign that is read as a word (%, +, €)."""
SYMBOLS = set("%‰&@#§")
"""Such signs besides Unicode's own symbols (categories Sc, Sm, So)."""
COMMA = 0.15
SENTENCE = 0.35
"""Seconds of the pauses at commas and at sentence ends."""
SENTENCE_ENDS = set(".!?…。！？؟।\n")
COMMAS = set(",;:、，；：،؛—–")
REPEATED = re.compile(r"([^\w\s])(?:\s*\1)+")
"""Signs in a row (an ellipsis, the dots of a table of contents) are one pause or word."""
FASTEST = 0.3
"""Nobody speaks a text in less than this share of the usual time."""
SLOWEST = 2.5
SLACK = 3.0
"""A speech that takes more than SLOWEST times the usual time, and SLACK seconds, has run away."""
FEWEST_FRAMES = 2


@cache
def _seconds(character: str) -> float:
    if character in SENTENCE_ENDS:
        return SENTENCE
    if character in COMMAS:
        return COMMA
    if character.isdigit():
        return DIGIT
    code = ord(character)
    if 0x0900 <= code < 0x0980:
        return DEVANAGARI
    if character.isalpha():
        if 0x0600 <= code < 0x0780:
            return ARABIC
        if 0x3040 <= code < 0x3100 or 0x31F0 <= code < 0x3200:
            return KANA
        if 0xAC00 <= code < 0xD7B0:
            return HANGUL
        return IDEOGRAPH if unicodedata.east_asian_width(character) in "WF" else LETTER
    spoken = character in SYMBOLS or unicodedata.category(character) in ("Sc", "Sm", "So")
    return SYMBOL if spoken else 0.0


def estimate_seconds(text: str) -> float:
    """Usual time to say a text, by what its characters stand for."""
    return sum(map(_seconds, REPEATED.sub(r"\1", text)))


@dataclass(frozen=True)
class FrameLimits:
    """Frames under which an ending is implausible, and frames after which speech is cut."""

    minimum: int
    maximum: int


def frame_limits(text: str, frame_rate: float) -> FrameLimits:
    """Limits for a text at `frame_rate` frames a second."""
    seconds = estimate_seconds(text)
    # Pauses are no speech: what must be spoken at least are the words. A digit can be as short as
    # a letter: a million has seven.
    words = sum(LETTER if c.isdigit() else _seconds(c) for c in text if c.isalnum())
    return FrameLimits(
        minimum=max(FEWEST_FRAMES, math.floor(FASTEST * words * frame_rate)),
        maximum=math.ceil((SLOWEST * seconds + SLACK) * frame_rate),
    )
