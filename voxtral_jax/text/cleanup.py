"""Cleans text that was not written to be spoken, and refuses what cannot be.

Digits and abbreviations stay as they are: the model was trained on raw text.
"""

from __future__ import annotations

import re
import unicodedata

from voxtral_jax.errors import TextError

MOST_CHARACTERS = 100_000
"""About two hours of speech; longer texts belong into a batch job."""
MARKUP = (
    (re.compile(r"```.*?```", re.DOTALL), " "),  # code blocks are not read
    (re.compile(r"!?\[([^\]\[]*)\]\([^()\s]*\)"), r"\1"),  # links
    (re.compile(r"^\s{0,3}#{1,6}\s+", re.MULTILINE), ""),  # headings
    (re.compile(r"^\s*[-*+]\s+", re.MULTILINE), ""),  # lists
    (re.compile(r"(\*\*|__|`)"), ""),  # emphasis and code
    (re.compile(r"(?<!\w)[*_](?=\S)|(?<=\S)[*_](?!\w)"), ""),
)
"""Markdown -> what is spoken of it."""
SILENT = {"Cc", "Cf", "Co", "Cs", "Cn", "So", "Sk"}
"""Unicode categories that are not spoken: controls, private use, pictographs, modifiers."""


def clean(text: str) -> str:
    """Text without mojibake, markup, emoji, control characters and odd white space.

    A line break that ends a paragraph is kept as one. Cleaning twice changes nothing more.
    """
    import ftfy

    while (
        cleaner := _clean_once(ftfy.fix_text(text, normalization="NFC", uncurl_quotes=False))
    ) != text:
        # What is uncovered by taking one mark away can be another.
        text = cleaner
    return text


def _clean_once(text: str) -> str:
    for pattern, spoken in MARKUP:
        text = pattern.sub(spoken, text)
    kept = (
        " " if c == "\t" else c
        for c in text
        if c in "\n\t°" or unicodedata.category(c) not in SILENT
    )
    text = re.sub(r"[^\S\n]+", " ", "".join(kept))
    text = re.sub(r" ?\n[ \n]*", "\n", text)
    return unicodedata.normalize("NFC", text.strip())


def check(text: object) -> None:
    """Raises TextError unless this is text with something to say in it."""
    if not isinstance(text, str):
        raise TextError(f"the text must be a string, got {type(text).__name__}")
    if len(text) > MOST_CHARACTERS:
        raise TextError(
            f"the text has {len(text):,} characters, at most {MOST_CHARACTERS:,} are spoken at "
            "once; split it"
        )
    if not any(c.isalnum() for c in text):
        what = repr(text[:40]) if text.strip() else "empty"
        raise TextError(f"there is nothing to speak: the text is {what}")
