"""Splits long texts into parts that are spoken one by one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from voxtral_jax.text.duration import estimate_seconds

PART_SECONDS = 20.0
"""Longest part, as estimated: well within what the model speaks without drifting."""
AFTER_SENTENCE, AFTER_PARAGRAPH, AFTER_CLAUSE, WITHIN_CLAUSE = 0.35, 0.6, 0.15, 0.0
"""Seconds of pause after a part, by what ends it."""
LANGUAGES = ["en", "fr", "de", "es", "it", "pt", "nl"]
"""Latin-script languages told apart by their words; the others by their script."""
SCRIPTS = {"HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "ARABIC": "ar", "DEVANAGARI": "hi"}
ABBREVIATION = re.compile(r"^\W*\w{1,3}\.\s*$")
"""A "sentence" such as "M." is an abbreviation that the splitter does not know."""
CLAUSE_END = re.compile(r"(?<=[,;:.!?،؛؟।])\s+|[、，；：。！？—]+\s*")
"""What ends a clause; within 1,000 or 9:30 there is no white space."""


@dataclass(frozen=True)
class Part:
    """A part of a text, and the pause after it in seconds."""

    text: str
    pause_after: float


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(LANGUAGES)
    return identifier


def language_of(text: str) -> str:
    """ISO 639-1 code of the language a text is most likely in."""
    han = False
    for character in text:
        if character.isalpha() and not character.isascii():
            script = unicodedata.name(character, "").split(" ", 1)[0]
            if script in SCRIPTS:
                return SCRIPTS[script]
            han |= script == "CJK"
    return "zh" if han else str(_identifier().classify(text)[0])


def split_sentences(text: str, language: str | None = None) -> list[str]:
    """Sentences of a text; together they are the text.

    Args:
        language: ISO 639-1 code; found out by default.
    """
    import sentencex

    sentences: list[str] = []
    for piece in sentencex.segment(language or language_of(text), text):
        if sentences and ABBREVIATION.match(sentences[-1]):
            sentences[-1] += piece
        else:
            sentences.append(piece)
    return sentences


def split_text(text: str, longest: float = PART_SECONDS) -> list[Part]:
    """Parts of at most about `longest` seconds, cut at paragraphs, sentences, clauses, words.

    A text that is short enough is one part. Nothing but white space is lost.
    """
    text = text.strip()
    if estimate_seconds(text) <= longest:
        return [Part(text, AFTER_SENTENCE)]
    language = language_of(text)
    parts: list[Part] = []
    for paragraph in filter(None, (p.strip() for p in text.splitlines())):
        pieces = _fit(split_sentences(paragraph, language), longest, AFTER_SENTENCE, CUTS)
        *inner, last = _balanced(pieces, longest)
        parts += [*inner, Part(last.text, AFTER_PARAGRAPH)]
    return parts


def _by_clause(text: str) -> list[str]:
    ends = [match.end() for match in CLAUSE_END.finditer(text)]
    return [text[begin:end] for begin, end in pairwise([0, *ends, len(text)]) if begin < end]


def _by_word(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


CUTS: tuple[tuple[Callable[[str], Iterable[str]], float], ...] = (
    (_by_clause, AFTER_CLAUSE),
    (_by_word, WITHIN_CLAUSE),
    (list, WITHIN_CLAUSE),
)
"""How a piece that is too long is cut further, and the pause after such a cut."""


def _fit(
    pieces: Iterable[str],
    longest: float,
    pause: float,
    cuts: tuple[tuple[Callable[[str], Iterable[str]], float], ...],
) -> list[Part]:
    """Pieces none of which is too long, in order."""
    fitting: list[Part] = []
    for piece in pieces:
        if estimate_seconds(piece) <= longest or not cuts:
            fitting.append(Part(piece, pause))
            continue
        (cut, inner_pause), *further = cuts
        smaller = _fit(cut(piece), longest, inner_pause, tuple(further))
        fitting += [*_merged(smaller[:-1], longest), Part(smaller[-1].text, pause)]
    return fitting


def _merged(pieces: list[Part], longest: float) -> list[Part]:
    """Neighbours together as long as they are short enough; the last one's pause counts."""
    groups: list[list[Part]] = []
    total = 0.0
    for piece in pieces:
        seconds = estimate_seconds(piece.text)
        total += seconds
        if groups and total <= longest:
            groups[-1].append(piece)
        else:
            groups.append([piece])
            total = seconds
    return [Part("".join(p.text for p in group), group[-1].pause_after) for group in groups]


def _balanced(pieces: list[Part], longest: float) -> list[Part]:
    """Groups of about equal length, so that no part is a lonely word."""
    total = sum(estimate_seconds(piece.text) for piece in pieces)
    count = max(1, -(-total // longest))
    # An even share and some more, as sentences do not fill it exactly.
    groups = _merged(pieces, min(longest, 1.15 * total / count))
    return [Part(part.text.strip(), part.pause_after) for part in groups if part.text.strip()]
