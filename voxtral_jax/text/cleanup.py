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
    (re.compile(r"!?\[([^\]\[]*)\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)?\)"), r"\1"),  # links
    (re.compile(r"^[^\S\n]*+(?:[-*_=][^\S\n]*+){3,}$", re.MULTILINE), ""),  # rules
    # Headings, lists and quotations.
    (re.compile(r"^[^\S\n]*+(?:(?:[-*+>•]|#{1,6})[^\S\n]++)++", re.MULTILINE), ""),
    (re.compile("~~+"), ""),
    (re.compile("[`\ufe00-\ufe0f\u20e3]"), ""),  # code; what turns a character into an emoji
    # Emphasis opens before a word or closes after one; URLs, 2*3, f(x)*2, snake_case have none.
    (
        re.compile(
            r"(https?://\S*[^\W_])"
            r"|(?<![\w*)\]}])[*_]++(?=\S)|(?<=\S)(?<![*_])[*_]++(?![\w(\[{])"
        ),
        r"\1",
    ),
    (re.compile(r"(?<=[^\W\d_])\*\*(?=[^\W\d_])"), ""),  # within a word, as in Chinese
)
"""Markdown -> what is spoken of it."""
WIDE = re.compile("[０-９Ａ-Ｚａ-ｚｦ-ﾟ]+")
"""Letters and digits of another width; full-width punctuation is how Chinese and Japanese pause."""
NESTED_AMPERSANDS = re.compile(r"&(?:amp;|#38;)+")
SILENT = {"Cc", "Cf", "Co", "Cs", "Cn", "So", "Sk"}
"""Unicode categories that are not spoken: controls, private use, pictographs, modifiers."""
SPOKEN = "\n\t°℃℉№^\u200c\u200d"
"""Characters of these categories that are kept all the same."""
JOINERS = re.compile(
    "(?<![\u0600-\u06ff\u0900-\u0dff])[\u200c\u200d]|[\u200c\u200d](?![\u0600-\u06ff\u0900-\u0dff])"
)
"""Zero-width joiners that spell nothing; within Arabic and Indic words they belong."""
MOST_PASSES = 10
"""What is uncovered by taking one mark away can be another; deeper nesting is nobody's text."""


def clean(text: str) -> str:
    """Text without mojibake, markup, emoji, control characters and odd white space.

    Lines stay lines; empty ones go. Cleaning twice changes nothing more.
    """
    for _ in range(MOST_PASSES):
        cleaner = _clean_once(text)
        if cleaner == text:
            break
        text = cleaner
    return text


def _clean_once(text: str) -> str:
    import ftfy

    text = NESTED_AMPERSANDS.sub("&", text)
    text = ftfy.fix_text(text, normalization="NFC", uncurl_quotes=False, fix_character_width=False)
    text = WIDE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    for pattern, spoken in MARKUP:
        text = pattern.sub(spoken, text)
    kept = (
        " " if c == "\t" else c
        for c in text
        if c in SPOKEN or unicodedata.category(c) not in SILENT
    )
    text = JOINERS.sub("", "".join(kept))
    text = re.sub(r"[^\S\n]+", " ", text)
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
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(f"the text is no valid Unicode: {error}; read it as UTF-8") from None
    if not any(c.isalnum() for c in text):
        what = repr(text[:40]) if text.strip() else "empty"
        raise TextError(f"there is nothing to speak: the text is {what}")
