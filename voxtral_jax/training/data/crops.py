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
from voxtral_jax.training.data.manifest import Manifest
from voxtral_jax.training.data.pipeline import Batches, my_rows
from voxtral_jax.training.data.recordings import read_crop
from voxtral_jax.training.data.utterances import Utterance, goal_of

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
        frame_samples: crops begin at multiples of this, and pitch is known of frames of it.
        epochs: None is without end.
        targets: called for each crop; must give arrays of the same shapes for all.
        workers: processes that make batches; 0 is threads of this one. The batches are the same.
        process: index of this process and how many there are; each gets its rows of a batch.

    Returns:
        A dataset whose iterator has `get_state` and `set_state`.

    Raises:
        DataError: there are too few utterances for one batch, or the processes cannot share it.
    """
    if epochs is not None and epochs * len(manifest.utterances) < batch_size:
        raise DataError(
            f"{epochs} x {len(manifest.utterances)} utterances do not fill a batch of {batch_size}"
        )
    crops = _Crops(manifest, rate, crop_samples, frame_samples, targets, seed)
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
    frame_samples: int = 1,
    targets: Targets | None = None,
    workers: int = 0,
) -> grain.IterDataset[CropBatch]:
    """The beginning of every utterance, once and in the manifest's order.

    The last batch is filled up with rows of length 0 and utterance -1. Arguments are those of
    `crop_batches`; every process gets whole batches.
    """
    crops = _Crops(manifest, rate, crop_samples, frame_samples, targets, 0)
    batches = (
        grain.MapDataset.range(len(manifest.utterances))
        .map(int)
        .batch(batch_size, batch_fn=list)
        .map(lambda utterances: crops.beginnings(utterances, batch_size))
    )
    return Batches(batches, workers)


@dataclass(frozen=True)
class _Crops:
    """Makes batches of crops; fields are the arguments of `crop_batches`."""

    manifest: Manifest
    rate: int
    crop_samples: int
    frame_samples: int
    targets: Targets | None
    seed: int

    @property
    def utterances(self) -> tuple[Utterance, ...]:
        """Those of the manifest."""
        return self.manifest.utterances

    def random(self, places: list[tuple[int, int]]) -> CropBatch:
        """Crops of utterances, each with its place among those of all epochs."""
        return self._stack([(n, self._first(place, n)) for place, n in places])

    def beginnings(self, numbers: list[int], rows: int) -> CropBatch:
        """Crops from the start; rows without an utterance follow."""
        return self._stack([(n, 0) for n in numbers] + [(NO_UTTERANCE, 0)] * (rows - len(numbers)))

    def _samples(self, number: int) -> int:
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
        goals = np.zeros_like(samples) if self.manifest.has_goals else None
        frames = self.crop_samples // self.frame_samples
        pitch = np.zeros((len(rows), frames), np.float32) if self.manifest.has_pitch else None
        targets = []
        for row, (number, first) in enumerate(rows):
            if number != NO_UTTERANCE:
                utterance = self.utterances[number]
                crop = self._read(utterance, first)
                goal = crop
                if utterance.goal is not None:
                    goal = self._read(goal_of(utterance), first)
                    crop = crop[: len(goal)]
                samples[row, : len(crop)], lengths[row] = crop, len(crop)
                if goals is not None:
                    goals[row, : len(crop)] = goal[: len(crop)]
                if pitch is not None:
                    known = utterance.pitch[first // self.frame_samples :][:frames]
                    pitch[row, : len(known)] = known
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
            pitch=pitch,
        )

    def _read(self, utterance: Utterance, first: int) -> np.ndarray:
        try:
            return read_crop(utterance, self.rate, first / self.rate, self.crop_samples / self.rate)
        except (AudioError, DataError) as error:
            logger.warning("a recording is left out: %s", error)
            return np.zeros(0, np.float32)
