"""The plan of an epoch: which excerpt is spoken, with which voice prompt and text, in which row.

Nothing is read for a plan but the index of the code shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Int
from pydantic import Field

from voxtral_jax.errors import DataError, TextError
from voxtral_jax.text import Tokenizer, check, clean
from voxtral_jax.training.data.layout import MARKS
from voxtral_jax.training.data.packing import pack
from voxtral_jax.training.data.pairing import NOBODY, Voices
from voxtral_jax.training.data.shards import CodeEntry
from voxtral_jax.training.settings import Count, Positive

LEAST_VOICE = 1.0
"""Seconds of the shortest excerpt that serves as a voice prompt."""
NO_TEXT = "there is nothing to speak in its text"
NO_VOICE = "there is no other excerpt of its speaker of a second or more"
TOO_LONG = "it is too long for a row or max_seconds, together with a voice prompt"


@dataclass(frozen=True, kw_only=True)
class PackingSettings:
    """How sequences are made and packed into rows.

    Attributes:
        row_tokens: L, tokens of a row.
        row_targets: M, target places of a row: frames, and an `[END_AUDIO]` for each sequence.
            Where they are full before the tokens are, there is more padding.
        prompt_seconds: shortest and longest voice prompt; shorter excerpts are taken whole.
        max_seconds: of voice prompt and speech together.
        silence_seconds: longer silence counts in no loss but for half of this at both ends.
    """

    row_tokens: Count
    row_targets: Count
    prompt_seconds: tuple[Positive, Positive] = (3.0, 30.0)
    max_seconds: Positive = 180.0
    silence_seconds: Annotated[float, Field(ge=0)] = 0.5


@dataclass(frozen=True, eq=False)
class Texts:
    """Tokens of the usable variants of each record's text.

    Attributes:
        first, counts: `[N]`, where a record's variants begin and how many there are.
        variants: `[V]`, their numbers among the record's texts.
        tokens: `[V]`.
    """

    first: Int[np.ndarray, " N"]
    counts: Int[np.ndarray, " N"]
    variants: Int[np.ndarray, " V"]
    tokens: Int[np.ndarray, " V"]


@dataclass(frozen=True, eq=False)
class Plan:
    """One epoch.

    Attributes:
        targets: `[S]` records that are spoken, row by row.
        voices: `[S]` records of the voice prompts.
        voice_first, voice_frames: `[S]`, which frames of them.
        variants: `[S]`, which text is used.
        bounds: `[R + 1]`, where each row begins, and S.
        left_out: keys of the records that cannot be used, by reason.
        padding: share of the rows' tokens that is padding.
    """

    targets: Int[np.ndarray, " S"]
    voices: Int[np.ndarray, " S"]
    voice_first: Int[np.ndarray, " S"]
    voice_frames: Int[np.ndarray, " S"]
    variants: Int[np.ndarray, " S"]
    bounds: Int[np.ndarray, " R+1"]
    left_out: Mapping[str, tuple[str, ...]]
    padding: float

    @property
    def rows(self) -> int:
        """R."""
        return len(self.bounds) - 1


def measure_texts(entries: Sequence[CodeEntry], tokenizer: Tokenizer) -> Texts:
    """Cleans all texts as inference does and counts their tokens (0.2 ms each)."""
    counts = np.zeros(len(entries), np.int64)
    variants, tokens = [], []
    for number, entry in enumerate(entries):
        for variant, text in enumerate(entry.texts):
            cleaned = spoken_text(text)
            try:
                ids = [] if cleaned is None else tokenizer.encode(cleaned, entry.language or None)
            except TextError:  # it cannot be pronounced
                continue
            if cleaned is not None:
                counts[number] += 1
                variants.append(variant)
                tokens.append(len(ids))
    first = np.cumsum(counts) - counts
    return Texts(first, counts, np.array(variants, np.int64), np.array(tokens, np.int64))


def spoken_text(text: str) -> str | None:
    """The text as the model gets it; None if there is nothing to speak."""
    try:
        check(text)
        cleaned = clean(text)
        check(cleaned)
    except TextError:
        return None
    return cleaned


class Planner:
    """Makes plans.

    Args:
        entries: what can be spoken.
        tokenizer: of the model.
        settings: of sequences and rows.
        frame_rate: frames per second.
        seed: of all chance.

    Raises:
        DataError: the settings contradict each other.
    """

    def __init__(
        self,
        entries: Sequence[CodeEntry],
        tokenizer: Tokenizer,
        settings: PackingSettings,
        frame_rate: float,
        seed: int,
    ) -> None:
        shortest, longest = settings.prompt_seconds
        if shortest > longest or shortest < LEAST_VOICE:
            raise DataError(
                f"prompt_seconds must be the shortest and the longest voice prompt, at least "
                f"{LEAST_VOICE} s, got {settings.prompt_seconds}"
            )
        self._settings, self._seed = settings, seed
        self._keys = [entry.key for entry in entries]
        self._frames = np.array([entry.frames for entry in entries], np.int64)
        self._texts = measure_texts(entries, tokenizer)
        self._voices = Voices(entries, int(np.ceil(LEAST_VOICE * frame_rate)))
        least = int(np.ceil(shortest * frame_rate))
        self._prompt = (least, max(least, int(longest * frame_rate)))
        self._most_frames = int(settings.max_seconds * frame_rate)

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch, the same whenever it is made.

        Raises:
            DataError: no record can be used.
        """
        chance = np.random.default_rng((self._seed, epoch))
        left_out: dict[str, tuple[str, ...]] = {}

        def keep(records: np.ndarray, good: np.ndarray, reason: str) -> np.ndarray:
            if not good.all():
                left_out[reason] = tuple(self._keys[i] for i in np.sort(records[~good]))
            return np.flatnonzero(good)

        targets = chance.permutation(len(self._keys))
        targets = targets[keep(targets, self._texts.counts[targets] > 0, NO_TEXT)]
        voices = self._voices.draw(targets, chance)
        chosen = keep(targets, voices != NOBODY, NO_VOICE)
        targets, voices = targets[chosen], voices[chosen]

        drawn = (chance.random(len(targets)) * self._texts.counts[targets]).astype(np.int64)
        texts = self._texts.first[targets] + drawn
        shortest, longest = self._voice_range(targets, voices, texts)
        fits = (shortest <= longest) & (self._frames[targets] < self._settings.row_targets)
        chosen = keep(targets, fits, TOO_LONG)
        targets, voices, texts = targets[chosen], voices[chosen], texts[chosen]
        shortest, longest = shortest[chosen], longest[chosen]
        if not len(targets):
            counts = "; ".join(f"{len(keys)}: {reason}" for reason, keys in left_out.items())
            raise DataError(f"none of {len(self._keys)} records can be used: {counts}")

        frames = chance.integers(shortest, longest, endpoint=True)
        first = chance.integers(0, self._frames[voices] - frames, endpoint=True)
        tokens = self._texts.tokens[texts] + frames + self._frames[targets] + MARKS
        order, bounds = self._pack(tokens, self._frames[targets] + 1, chance)
        capacity = (len(bounds) - 1) * self._settings.row_tokens
        return Plan(
            targets=targets[order],
            voices=voices[order],
            voice_first=first[order],
            voice_frames=frames[order],
            variants=self._texts.variants[texts[order]],
            bounds=bounds,
            left_out=left_out,
            padding=1 - float(tokens.sum()) / capacity,
        )

    def _voice_range(
        self, targets: np.ndarray, voices: np.ndarray, texts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fewest and most frames of the voice prompts; none fits where the most are fewer."""
        others = self._texts.tokens[texts] + self._frames[targets] + MARKS
        in_row = self._settings.row_tokens - others
        in_time = self._most_frames - self._frames[targets]
        shortest = np.minimum(self._prompt[0], self._frames[voices])
        longest = np.minimum(self._prompt[1], self._frames[voices])
        return shortest, np.minimum(longest, np.minimum(in_row, in_time))

    def _pack(
        self, tokens: np.ndarray, places: np.ndarray, chance: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sequences row by row, the rows in random order, and where each row begins."""
        order, bounds = pack(tokens, places, self._settings.row_tokens, self._settings.row_targets)
        rows = chance.permutation(len(bounds) - 1)
        lengths = np.diff(bounds)[rows]
        ends = np.cumsum(lengths)
        within = np.arange(len(order)) - np.repeat(ends - lengths, lengths)
        return order[np.repeat(bounds[rows], lengths) + within], np.append(0, ends)
