"""Whisper's hidden states and alignments of utterances, computed before training."""

from __future__ import annotations

import os
from types import TracebackType

import numpy as np
from jaxtyping import Float

from voxtral_jax.errors import DataError
from voxtral_jax.training.data import records

TARGETS = "targets"
"""Kind of these shards."""
SHARD_BYTES = 256 * 2**20
"""Size of a shard."""


class TargetWriter:
    """Writes targets into shards; see `records.RecordWriter`.

    Args:
        directory: where to; complete shards there stay.
        shard_bytes: a shard is complete when it has so many.
    """

    def __init__(self, directory: str | os.PathLike[str], shard_bytes: int = SHARD_BYTES) -> None:
        self._writer = records.RecordWriter(directory, TARGETS, shard_bytes)

    @property
    def done(self) -> set[str]:
        """Keys that need not be written again."""
        return self._writer.done

    def write(
        self,
        key: str,
        hidden: Float[np.ndarray, "N D"],
        alignment: Float[np.ndarray, "N T"],
    ) -> None:
        """Adds the targets of one utterance; both are stored as float16.

        Args:
            key: of the utterance.
            hidden: of each text token.
            alignment: share of each of the utterance's T codec frames in each token.

        Raises:
            DataError: the shapes do not fit, something is not finite as float16, the key is there
                already, or the disk cannot take it.
        """
        with np.errstate(over="ignore"):
            states, weights = np.asarray(hidden, "<f2"), np.asarray(alignment, "<f2")
        if states.ndim != 2 or weights.ndim != 2 or len(states) != len(weights):
            raise DataError(
                f"{key}: hidden must be [N, D] and alignment [N, T], got {list(states.shape)} and "
                f"{list(weights.shape)}"
            )
        if not (np.isfinite(states).all() and np.isfinite(weights).all()):
            raise DataError(f"{key}: hidden states or alignment are not finite as float16")
        size = {"key": key, "width": states.shape[1], "frames": weights.shape[1]}
        stored = {**size, "hidden": states.tobytes(), "alignment": weights.tobytes()}
        self._writer.write(stored, size, states.nbytes + weights.nbytes)

    def __enter__(self) -> TargetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()


class TargetSource:
    """Targets by the utterance's key; worker processes may share it.

    Attributes:
        width: D, of the hidden states.

    Raises:
        DataError: there are none, one of the shards is incomplete or corrupt, or their widths
            differ.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._places: dict[str, tuple[str, int]] = {}
        widths: set[int] = set()
        for shard, record, entry in records.read_entries(directory, TARGETS):
            self._places[entry["key"]] = (str(shard), record)
            widths.add(entry["width"])
        if len(widths) != 1:
            raise DataError(f"the targets in {directory} have different widths: {widths}")
        self.width: int = widths.pop()

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N T"]] | None:
        """Hidden states and alignment (float32) of an utterance; None if there are none.

        Raises:
            DataError: the shard is missing or corrupt.
        """
        if key not in self._places:
            return None
        shard, record = self._places[key]
        stored = records.read_record(shard, record)
        if stored.get("key") != key:
            raise DataError(f"record {record} of {shard} is not {key!r}, as its index says")
        hidden = np.frombuffer(stored["hidden"], "<f2").reshape(-1, stored["width"])
        alignment = np.frombuffer(stored["alignment"], "<f2").reshape(len(hidden), stored["frames"])
        return hidden.astype(np.float32), alignment.astype(np.float32)
