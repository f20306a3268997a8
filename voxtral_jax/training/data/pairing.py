"""Which excerpt of a speaker is the voice prompt of another, and by which codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from voxtral_jax.errors import DataError
from voxtral_jax.training.data.shards import CodeEntry

TRIES = 6
"""Random draws before a speaker's excerpts are looked through one by one."""
NOBODY = -1
"""Stands for no excerpt."""


class Voices:
    """The excerpts of each speaker that are long enough for a voice prompt.

    Args:
        entries: of all excerpts.
        least_frames: that a voice prompt has.
    """

    def __init__(self, entries: Sequence[CodeEntry], least_frames: int) -> None:
        self._recording = _numbered([entry.audio for entry in entries])
        self._start = np.array([entry.start for entry in entries])
        self._end = np.array([np.inf if entry.end is None else entry.end for entry in entries])
        self._speaker = _numbered([entry.speaker for entry in entries])
        frames = np.array([entry.frames for entry in entries])
        long = np.flatnonzero(frames >= least_frames)
        self._excerpts = long[np.argsort(self._speaker[long], kind="stable")]
        speakers = int(self._speaker.max(initial=-1)) + 1
        self._counts = np.bincount(self._speaker[long], minlength=speakers)
        self._first = np.cumsum(self._counts) - self._counts

    def overlap(
        self, some: Int[np.ndarray, " N"], others: Int[np.ndarray, " N"]
    ) -> Bool[np.ndarray, " N"]:
        """Whether two excerpts are the same, or have audio in common."""
        same = self._recording[some] == self._recording[others]
        before = self._start[some] < self._end[others]
        after = self._start[others] < self._end[some]
        return (some == others) | (same & before & after)

    def draw(
        self, targets: Int[np.ndarray, " N"], chance: np.random.Generator
    ) -> Int[np.ndarray, " N"]:
        """For each excerpt another one of its speaker, without audio in common; or NOBODY."""
        drawn = np.full(len(targets), NOBODY)
        counts, first = self._counts[self._speaker[targets]], self._first[self._speaker[targets]]
        left = np.flatnonzero(counts)
        for _ in range(TRIES):
            place = (chance.random(len(left)) * counts[left]).astype(np.int64)
            voices = self._excerpts[first[left] + place]
            good = ~self.overlap(voices, targets[left])
            drawn[left[good]] = voices[good]
            # Where there is one excerpt only, another draw would give the same.
            left = left[~good & (counts[left] > 1)]
        for i in left:
            voices = self._excerpts[first[i] : first[i] + counts[i]]
            voices = voices[~self.overlap(voices, np.full(len(voices), targets[i]))]
            if len(voices):
                drawn[i] = chance.choice(voices)
        return drawn


def same_recordings(entries: Sequence[CodeEntry], prompts: Sequence[CodeEntry]) -> dict[int, int]:
    """By the number of an excerpt that of its codes for voice prompts, where there are some.

    Raises:
        DataError: there are none, or their frames are not the excerpt's.
    """
    places = {one.key: number for number, one in enumerate(prompts)}
    found = {n: places[one.key] for n, one in enumerate(entries) if one.key in places}
    advice = "make data.prompts of the same recordings as data.codes"
    if not found:
        raise DataError(f"none of {len(prompts):,} voice prompts is of a record; {advice}")
    for number, heard in found.items():
        one, frames = entries[number], prompts[heard].frames
        if frames != one.frames:
            raise DataError(
                f"{one.key} has {one.frames} frames, and {frames} as a voice prompt; {advice}"
            )
    return found


def _numbered(names: list[str]) -> Int[np.ndarray, " N"]:
    """Equal names as equal numbers from 0."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
