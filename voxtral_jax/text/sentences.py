"""Splits long texts into parts that are spoken one by one."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

from voxtral_jax.config import PART_SECONDS
from voxtral_jax.text.duration import estimate_seconds

AFTER_SENTENCE, AFTER_PARAGRAPH, AFTER_CLAUSE, WITHIN_CLAUSE = 0.35, 0.6, 0.15, 0.0
"""Seconds of pause after a part, by what ends it."""
LANGUAGES = ["en", "fr", "de", "es", "it", "pt", "nl"]
"""Latin-script languages told apart by their words; the others by their script."""
SCRIPTS = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "zh",
    "HANGUL": "ko",
    "ARABIC": "ar",
    "DEVANAGARI": "hi",
}
LATIN_SHARE = 3
"""A foreign word in a text of another script, or the reverse, does not make its language."""
FEWEST_LETTERS = 12
"""In fewer Latin letters than these the words tell no language: "Hello" would be Italian."""
WINDOW = 5_000
"""Characters that the splitter sees at once: its time grows with their square."""
ABBREVIATION = re.compile(
    r"(?:^\W*\w{1,3}|\b(?:[A-Z]|Dr|MM|Mlle|Mme|Ms|Pr|Srta|Ste?|approx|vol"
    r"|mevr|mw|ds|jhr|mej|o\.a|d\.w\.z|Abb|Bd|Dipl|Hrn|Kap|Av|cap|núm|pág|pag))\.\s*$"
)
"""The end of a "sentence" that goes on: an abbreviation that the splitter does not know."""
CLAUSE_END = re.compile(r"(?<=[,;:.!?،؛؟।])\s+|[、，；：。！？—]+\s*")
"""What ends a clause; within 1,000 or 9:30 there is no white space."""

WRAPPED_LINES = range(50, 121)
"""Lines of so many characters are those of a text wrapped at a width: the next one goes on."""


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
    """ISO 639-1 code of the language a text is most likely in; "en" if it is too short to tell."""
    votes = Counter(_language_of_letter(c) for c in text if c.isalpha())
    others = votes.pop("", 0)
    if votes["ja"]:
        votes["ja"] += votes.pop("zh", 0)
    language, letters = max(votes.items(), key=lambda vote: vote[1], default=("", 0))
    if letters and LATIN_SHARE * letters >= others:
        return language
    if others < FEWEST_LETTERS:
        return "en"
    return str(_identifier().classify(text)[0])


@cache
def _language_of_letter(letter: str) -> str:
    """By its script; empty for Latin and others that tell nothing."""
    script = "" if letter.isascii() else unicodedata.name(letter, "").split(" ", 1)[0]
    return SCRIPTS.get(script, "")


def split_sentences(text: str, language: str | None = None) -> list[str]:
    """Sentences of a text; together they are the text.

    Args:
        language: ISO 639-1 code; found out by default.
    """
    sentences: list[list[str]] = []
    for piece in _segments(language or language_of(text), text):
        if sentences and ABBREVIATION.search("".join(sentences[-1][-2:])):
            sentences[-1].append(piece)
        else:
            sentences.append([piece])
    return ["".join(pieces) for pieces in sentences]


def _segments(language: str, text: str) -> Iterator[str]:
    import sentencex

    rest = ""
    for start in range(0, len(text), WINDOW):
        # A window's last sentence goes on in the next, unless it fills a window by itself.
        *whole, rest = sentencex.segment(language, rest + text[start : start + WINDOW])
        yield from whole
        if len(rest) > WINDOW:
            yield rest
            rest = ""
    if rest:
        yield rest


def split_text(text: str, longest: float = PART_SECONDS, language: str | None = None) -> list[Part]:
    """Parts of at most about `longest` seconds, cut at paragraphs, sentences, clauses, words.

    A text that is short enough is one part. Every part of a longer one has a letter or digit.
    Nothing is lost but white space, and lines without a letter or digit.

    Args:
        text: to be split.
        longest: seconds.
        language: ISO 639-1 code; found out by default.
    """
    text = text.strip()
    if estimate_seconds(text) <= longest:
        return [Part(text, AFTER_SENTENCE)]
    language = language or language_of(text)
    parts: list[Part] = []
    for paragraph in _paragraphs(text) or [text]:
        pieces = _fit(split_sentences(paragraph, language), longest, AFTER_SENTENCE, CUTS)
        *inner, last = _balanced(pieces, longest)
        parts += [*inner, Part(last.text, AFTER_PARAGRAPH)]
    return parts


def _paragraphs(text: str) -> list[str]:
    """Lines with something to say; those of a text wrapped at a fixed width are put together."""
    paragraphs: list[str] = []
    goes_on = False
    for line in map(str.strip, text.splitlines()):
        if not _has_words(line):
            continue
        if goes_on:
            paragraphs[-1] += " " + line
        else:
            paragraphs.append(line)
        goes_on = len(line) in WRAPPED_LINES
    return paragraphs


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


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
    return [_together(group) for group in groups]


def _balanced(pieces: list[Part], longest: float) -> list[Part]:
    """Groups of about equal length, so that no part is a lonely word."""
    left = sum(estimate_seconds(piece.text) for piece in pieces)
    groups_left = len(_merged(pieces, longest))
    groups: list[list[Part]] = [[]]
    total = 0.0
    for piece in pieces:
        seconds = estimate_seconds(piece.text)
        has_its_share = groups_left > 1 and total + seconds / 2 > left / groups_left
        if groups[-1] and (has_its_share or total + seconds > longest):
            groups.append([])
            left -= total
            groups_left -= 1
            total = 0.0
        groups[-1].append(piece)
        total += seconds
    parts: list[Part] = []
    for part in map(_together, groups):
        # Signs without a word are nothing to speak: they stay with a neighbour.
        if parts and not (_has_words(parts[-1].text) and _has_words(part.text)):
            parts[-1] = _together([parts[-1], part])
        else:
            parts.append(part)
    return [Part(part.text.strip(), part.pause_after) for part in parts if part.text.strip()]


def _together(pieces: list[Part]) -> Part:
    return Part("".join(piece.text for piece in pieces), pieces[-1].pause_after)
