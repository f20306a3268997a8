"""From batches by number to a stream of them: threads or processes that work ahead.

A stream knows only how many batches it has given, and batches are functions of their number. So
the order does not depend on who makes them, and a run may continue with other workers.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar

import grain
from absl import flags

from voxtral_jax.errors import DataError

T = TypeVar("T")

MOST_THREADS = 8
"""Threads of this process that make batches where there are no worker processes."""
AHEAD = 8
"""Batches that those threads keep ready."""
WORKER_THREADS = 2
"""Threads in each worker process."""
WORKER_AHEAD = 2
"""Batches that each worker process keeps ready."""


def my_rows(batch_size: int, process: tuple[int, int]) -> slice:
    """Which rows of each global batch are this process's.

    Args:
        batch_size: rows of a global batch.
        process: index of this process, and how many there are.

    Raises:
        DataError: the processes cannot share the rows evenly.
    """
    index, count = process
    if batch_size < 1 or batch_size % count:
        raise DataError(
            f"a batch of {batch_size} rows cannot be shared evenly by {count} processes; make "
            "batch_size a multiple"
        )
    rows = batch_size // count
    return slice(index * rows, (index + 1) * rows)


class Batches(grain.IterDataset[T]):
    """A stream of the batches that `by_number` makes, in their order.

    Args:
        by_number: element i is batch i.
        workers: processes that make batches; 0 is threads of this process.
    """

    def __init__(self, by_number: grain.MapDataset[T], workers: int) -> None:
        super().__init__()
        self._by_number, self._workers = by_number, workers

    def __iter__(self) -> BatchIterator[T]:
        return BatchIterator(self._by_number, self._workers)


class BatchIterator(grain.DatasetIterator[T]):
    """Where a stream is; its state is the number of the next batch."""

    def __init__(self, by_number: grain.MapDataset[T], workers: int) -> None:
        super().__init__()
        self._by_number, self._workers = by_number, workers
        self._next = 0
        self._made: grain.DatasetIterator[T] | None = None

    def __next__(self) -> T:
        self._assert_not_closed()
        self.start_prefetch()
        assert self._made is not None
        batch = next(self._made)
        self._next += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The number of the next batch."""
        return {"next_batch": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from another batch."""
        self._stop()
        self._next = state["next_batch"]

    def start_prefetch(self) -> None:
        """Starts to work ahead."""
        if self._made is None:
            self._made = iter(_ahead(self._by_number[self._next :], self._workers))
            self._made.start_prefetch()

    def close(self) -> None:
        """Stops threads and processes."""
        super().close()
        self._stop()

    def _stop(self) -> None:
        if self._made is not None:
            self._made.close()
            self._made = None


def _ahead(by_number: grain.MapDataset[T], workers: int) -> grain.IterDataset[T]:
    if not workers:
        threads = min(MOST_THREADS, os.cpu_count() or 1)
        return by_number.to_iter_dataset(grain.ReadOptions(threads, AHEAD))
    if not flags.FLAGS.is_parsed():
        # grain hands its flags to the workers; they have their defaults.
        flags.FLAGS.mark_as_parsed()
    made = by_number.to_iter_dataset(grain.ReadOptions(WORKER_THREADS, WORKER_AHEAD))
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=WORKER_AHEAD)
    return made.mp_prefetch(options, worker_init_fn=_keep_off_accelerators)


def _keep_off_accelerators(worker: int, workers: int) -> None:
    """The accelerators are the training process's, whatever a worker may import."""
    import jax

    jax.config.update("jax_platforms", "cpu")
