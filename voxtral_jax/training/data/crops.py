"""Batches of crops of recordings, for the codec."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from voxtral_jax.errors import AudioError, DataError
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.data.manifest import Manifest, Utterance, goal_of
from voxtral_jax.training.data.pipeline import Batches, my_rows
from voxtral_jax.training.data.recordings import read_crop, read_utterance
from voxtral_jax.training.data.references import with_goal
from voxtral_jax.training.data.shards import CodeSource

logger = logging.getLogger(__name__)

NO_UTTERANCE = -1
"""In `CropBatch.utterances` of rows that only fill up a batch."""

Targets = Callable[[Utterance, int, int, bool], dict[str, np.ndarray]]
"""Arrays for one crop: from utterance, first sample, samples, and whether it is all of it."""


def crop_batches(
    manifest: Manifest,
    *,
    rate: int,
    crop_samples: int,
    batch_size: int,
    seed: int,
    frame_samples: int = 1,
    epochs: int | None = None,
    targets: Targets | None = None,
    codes: CodeSource | None = None,
    workers: int = 0,
    process: tuple[int, int] = (0, 1),
) -> grain.IterDataset[CropBatch]:
    """Random crops of all utterances, in another random order each epoch.

    Epochs follow each other without a gap, so a batch may hold the end of one and the beginning of
    the next; only the very last batch is dropped if it is not full. A recording that cannot be
    decoded is a row of length 0.

    Args:
        manifest: of recordings.
        rate: of the crops.
        crop_samples: S; utterances that are not longer are taken whole.
        batch_size: rows of a global batch.
        seed: of order and crops.
        frame_samples: crops begin at multiples of this.
        epochs: None is without end.
        targets: called for each crop; must give arrays of the same shapes for all.
        codes: of some of the recordings as references, by key: their crops are of those, trimmed
            and levelled alike, and have their codes.
        workers: processes that make batches; 0 is threads of this one. The batches are the same.
        process: index of this process and how many there are; each gets its rows of a batch.

    Returns:
        A dataset whose iterator has `get_state` and `set_state`.

    Raises:
        DataError: there are too few utterances for one batch, the processes cannot share it, or
            there are codes of none of the recordings.
    """
    if epochs is not None and epochs * len(manifest.utterances) < batch_size:
        raise DataError(
            f"{epochs} x {len(manifest.utterances)} utterances do not fill a batch of {batch_size}"
        )
    coded = None if codes is None else _Coded(manifest, codes, rate, frame_samples)
    goals = manifest.has_goals
    crops = _Crops(
        manifest.utterances, rate, crop_samples, frame_samples, targets, seed, goals, coded
    )
    mine = my_rows(batch_size, process)
    batches = (
        grain.MapDataset.range(len(manifest.utterances))
        .shuffle(seed % 2**32)
        .repeat(epochs)
        .map_with_index(lambda place, utterance: (place, int(utterance)))
        .batch(batch_size, drop_remainder=True, batch_fn=list)
        .map(lambda places: crops.random(places[mine]))
    )
    return Batches(batches, workers)


def validation_crops(
    manifest: Manifest,
    *,
    rate: int,
    crop_samples: int,
    batch_size: int,
    targets: Targets | None = None,
    workers: int = 0,
) -> grain.IterDataset[CropBatch]:
    """The beginning of every utterance, once and in the manifest's order.

    The last batch is filled up with rows of length 0 and utterance -1. Arguments are those of
    `crop_batches`; every process gets whole batches.
    """
    goals = manifest.has_goals
    crops = _Crops(manifest.utterances, rate, crop_samples, 1, targets, 0, goals)
    batches = (
        grain.MapDataset.range(len(manifest.utterances))
        .map(int)
        .batch(batch_size, batch_fn=list)
        .map(lambda utterances: crops.beginnings(utterances, batch_size))
    )
    return Batches(batches, workers)


class _Coded:
    """Recordings with codes.

    Args:
        manifest: of recordings.
        codes: of some of them.
        rate: of their samples.
        frame_samples: of a frame of codes.

    Raises:
        DataError: there are codes of none of them.
    """

    def __init__(self, manifest: Manifest, codes: CodeSource, rate: int, frame_samples: int):
        self._codes, self._rate, self.frame_samples = codes, rate, frame_samples
        places = {entry.key: number for number, entry in enumerate(codes.entries)}
        self._of = {
            number: places[one.key]
            for number, one in enumerate(manifest.utterances)
            if one.key in places
        }
        if not self._of:
            raise DataError(
                f"none of {len(codes):,} records of codes is of a recording of the manifest; make "
                "data.codes of data.manifest"
            )
        self.codebooks = codes[next(iter(self._of.values()))].codes.shape[1]

    def __contains__(self, number: int) -> bool:
        return number in self._of

    def samples(self, number: int) -> int:
        """How long a recording is, in whole frames of samples."""
        return self._codes.entries[self._of[number]].frames * self.frame_samples

    def read(self, utterance: Utterance, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A recording and its goal, as references are, and its codes.

        Raises:
            AudioError: it cannot be decoded, or is silent.
            DataError: a shard is corrupt, or these are not the codes of this recording.
        """
        whole = read_utterance(utterance, self._rate)
        goal = whole if utterance.goal is None else read_utterance(goal_of(utterance), self._rate)
        whole, goal = whole[: len(goal)], goal[: len(whole)]
        samples, goal, _ = with_goal(whole, goal, self._rate, self.frame_samples)
        codes = self._codes[self._of[number]].codes
        if len(codes) != -(-len(samples) // self.frame_samples):
            raise DataError(
                f"{utterance.key} has {len(samples) / self.frame_samples:.1f} frames as a "
                f"reference, and codes of {len(codes)}; make data.codes of data.manifest"
            )
        return samples, goal, codes


@dataclass(frozen=True)
class _Crops:
    """Makes batches of crops; fields are the arguments of `crop_batches`, whether there are
    goals, and what has codes."""

    utterances: tuple[Utterance, ...]
    rate: int
    crop_samples: int
    frame_samples: int
    targets: Targets | None
    seed: int
    goals: bool
    coded: _Coded | None = None

    def random(self, places: list[tuple[int, int]]) -> CropBatch:
        """Crops of utterances, each with its place among those of all epochs."""
        return self._stack([(n, self._first(place, n)) for place, n in places])

    def beginnings(self, numbers: list[int], rows: int) -> CropBatch:
        """Crops from the start; rows without an utterance follow."""
        return self._stack([(n, 0) for n in numbers] + [(NO_UTTERANCE, 0)] * (rows - len(numbers)))

    def _samples(self, number: int) -> int:
        if self.coded is not None and number in self.coded:
            return self.coded.samples(number)
        return int(self.utterances[number].seconds * self.rate)

    def _first(self, place: int, number: int) -> int:
        """Where the crop of an utterance begins: each epoch elsewhere, in frames."""
        spare = self._samples(number) - self.crop_samples
        if spare <= 0:
            return 0
        epoch = place // len(self.utterances)
        chance = np.random.default_rng((self.seed, epoch, number))
        return int(chance.integers(spare // self.frame_samples + 1)) * self.frame_samples

    def _stack(self, rows: list[tuple[int, int]]) -> CropBatch:
        """A batch of crops of these utterances from these samples on."""
        samples: Any = np.zeros((len(rows), self.crop_samples), np.float32)
        lengths: Any = np.zeros(len(rows), np.int32)
        utterances: Any = np.array([number for number, _ in rows], np.int32)
        goals = np.zeros_like(samples) if self.goals else None
        codes: Any = None
        if self.coded is not None:
            frames = self.crop_samples // self.coded.frame_samples
            codes = np.full((len(rows), frames, self.coded.codebooks), -1, np.int32)
        targets = []
        for row, (number, first) in enumerate(rows):
            if number != NO_UTTERANCE:
                crop, goal, known = self._crop(number, first)
                samples[row, : len(crop)], lengths[row] = crop, len(crop)
                if goals is not None:
                    goals[row, : len(crop)] = goal
                if known is not None:
                    codes[row, : len(known)] = known
            if self.targets is not None:
                # Rows that fill up ask for the targets of nothing of some utterance.
                whole = self._samples(number) <= self.crop_samples
                length = int(lengths[row])
                targets.append(self.targets(self.utterances[number], first, length, whole))
        names = targets[0] if targets else {}
        return CropBatch(
            samples=samples,
            lengths=lengths,
            utterances=utterances,
            targets={name: np.stack([one[name] for one in targets]) for name in names},
            goals=goals,
            codes=codes,
        )

    def _crop(self, number: int, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """A crop, as much of its goal, and its codes if there are some; of no length where it
        cannot be read."""
        utterance = self.utterances[number]
        try:
            if self.coded is not None and number in self.coded:
                samples, goal, codes = self.coded.read(utterance, number)
                part, frame = slice(first, first + self.crop_samples), self.coded.frame_samples
                frames = slice(first // frame, (first + self.crop_samples) // frame)
                return samples[part], goal[part], codes[frames]
            place = first / self.rate, self.crop_samples / self.rate
            crop = goal = read_crop(utterance, self.rate, *place)
            if utterance.goal is not None:
                goal = read_crop(goal_of(utterance), self.rate, *place)
            both = min(len(crop), len(goal))
            return crop[:both], goal[:both], None
        except (AudioError, DataError) as error:
            logger.warning("a recording is left out: %s", error)
            nothing = np.zeros(0, np.float32)
            return nothing, nothing, None
