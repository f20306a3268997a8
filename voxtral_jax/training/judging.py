"""Scores of spoken candidates, and the pairs that preference tuning learns from."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from voxtral_jax.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Spoken:
    """One candidate, as a judge hears it.

    Attributes:
        samples: `[S]` float32.
        reference: `[R]` float32, the voice prompt's audio.
        sample_rate: of both, in Hz.
        text: what should be said.
        language: of the text.
    """

    samples: Float[np.ndarray, " S"]
    reference: Float[np.ndarray, " R"]
    sample_rate: int
    text: str
    language: str


@dataclass(frozen=True)
class Scores:
    """A judgement.

    Attributes:
        word_errors: share of words that are wrong (may exceed 1).
        similarity: of the speaker to the reference, cosine of embeddings.
        naturalness: predicted mean opinion score, 1 to 5; 0 where nobody predicts it.
    """

    word_errors: float
    similarity: float
    naturalness: float = 0.0


class Judge(Protocol):
    """Anything that scores a candidate."""

    def __call__(self, spoken: Spoken) -> Scores:
        """The scores of one candidate."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How scores become one number: similarity - word errors + naturalness, each weighed.

    Attributes:
        least_margin: a prompt whose best and worst candidates differ by less gives no pair.
    """

    word_errors: float = 1.0
    similarity: float = 1.0
    naturalness: float = 0.1
    least_margin: float = 0.05

    def value(self, scores: Scores) -> float:
        """The higher the better."""
        return (
            self.similarity * scores.similarity
            - self.word_errors * scores.word_errors
            + self.naturalness * scores.naturalness
        )

    def pair(self, candidates: Sequence[Scores]) -> tuple[int, int] | None:
        """Indices of winner and loser: the best, and the worst; None if they are too close."""
        values = [self.value(scores) for scores in candidates]
        winner, loser = int(np.argmax(values)), int(np.argmin(values))
        if not values[winner] - values[loser] >= self.least_margin:
            return None
        return winner, loser


def load_judge(name: str) -> Judge:
    """The judge called `package.module:attribute`; a class is called without arguments.

    Raises:
        ConfigError: there is none.
    """
    module, colon, attribute = name.partition(":")
    try:
        if not colon:
            raise AttributeError("no colon in it")
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the judge {name!r} cannot be imported (expected package.module:attribute): {error}"
        ) from None
    return found() if isinstance(found, type) else found
