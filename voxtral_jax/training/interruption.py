"""SIGTERM and Ctrl-C ask for a checkpoint and an orderly end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Whether the run was asked to end."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Signal handler. A second signal ends the process at once."""
        self._asked = True
        signal.signal(number, signal.SIG_DFL)

    def at(self, step: int) -> bool:
        """Whether to end after this step; the same answer on all hosts."""
        if jax.process_count() == 1:
            return self._asked
        # The coordinator tells all hosts of a SIGTERM at any of them, for one common step.
        return multihost_utils.reached_preemption_sync_point(step)


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Listens for signals while the block runs.

    With several hosts SIGTERM is jax's own (its preemption service); Ctrl-C stays as it is.
    """
    asked = Interruption()
    if jax.process_count() > 1:
        yield asked
        return
    before = {number: signal.signal(number, asked.ask) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
