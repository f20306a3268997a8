"""Errors between what should be said and what was heard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from voxtral_jax.evaluation.normalization import BY_CHARACTERS, normalize, require

RUNAWAY = 0.5
"""An utterance with a larger share of errors did not say its text: it ran away, or broke off."""


@dataclass(frozen=True)
class Errors:
    """Errors of one utterance, or of several together.

    Attributes:
        wrong: words or characters that were replaced, left out or put in.
        total: words or characters that should be said.
    """

    wrong: int
    total: int

    @property
    def rate(self) -> float:
        """Share that is wrong; may exceed 1."""
        return self.wrong / max(1, self.total)

    def __add__(self, other: Errors) -> Errors:
        return Errors(self.wrong + other.wrong, self.total + other.total)


@dataclass(frozen=True)
class Comparison:
    """Word and character errors of one utterance."""

    language: str
    words: Errors
    characters: Errors

    @property
    def main(self) -> Errors:
        """By words, or by characters where words are not written apart."""
        return self.characters if self.language in BY_CHARACTERS else self.words

    @property
    def runaway(self) -> bool:
        """Whether something else than the text was said."""
        return self.main.rate > RUNAWAY


def compare(text: str, heard: str, language: str) -> Comparison:
    """Counts the errors of one utterance, both texts normalised.

    Raises:
        ConfigError: jiwer, or a package that the language needs, is missing.
    """
    said, understood = normalize(text, language), normalize(heard, language)
    return Comparison(
        language,
        _count(said.split(), understood.split()),
        _count(list(said.replace(" ", "")), list(understood.replace(" ", ""))),
    )


def total(errors: Iterable[Errors]) -> Errors:
    """All of them together: long utterances count more than short ones."""
    return sum(errors, Errors(0, 0))


def _count(said: list[str], heard: list[str]) -> Errors:
    jiwer = require("jiwer", "jiwer")
    if not said or not heard:  # jiwer refuses an empty text
        return Errors(max(len(said), len(heard)), len(said))
    counts = jiwer.process_words(" ".join(said), " ".join(heard))
    return Errors(counts.substitutions + counts.deletions + counts.insertions, len(said))
