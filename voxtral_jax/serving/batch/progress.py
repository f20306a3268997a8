"""Tells how far a run has come: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from voxtral_jax.cli import say
from voxtral_jax.progress import LOG_SECONDS
from voxtral_jax.serving.batch.jobs import Job

if TYPE_CHECKING:
    from voxtral_jax.serving.batch.records import Result

SPEED_SECONDS = 600.0
"""Time left follows from the speed of so long: jobs are of any length."""


class Progress:
    """Counts results. Work is measured by how long the texts take to say, not by their number.

    Args:
        left: jobs of this run.
        total: jobs of the list, those that were done before included.
    """

    def __init__(self, left: Sequence[Job], total: int) -> None:
        self._work = {job.name: job.expected_seconds for job in left}
        self._all_work = sum(self._work.values())
        self.total, self.done = total, total - len(left)
        self.failed, self.seconds = 0, 0.0
        self._begun = self._told = time.perf_counter()
        console = Console(stderr=True)
        self._bar = Bar(
            BarColumn(),
            TextColumn("{task.description}, left:"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=SPEED_SECONDS,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(str(self), total=self._all_work)

    @property
    def rate(self) -> float:
        """Seconds of audio made in a second."""
        return self.seconds / max(time.perf_counter() - self._begun, 1e-9)

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.total}{failed}, {self.rate:.1f} audio s/s"

    def count(self, results: Iterable[Result]) -> None:
        """Takes results as they come, and shows them; time counts from here."""
        self._begun = self._told = time.perf_counter()
        with self._bar:
            for result in results:
                self._add(result)

    def _add(self, result: Result) -> None:
        """Counts a result, and tells."""
        self.done += result.error is None
        self.failed += result.error is not None
        self.seconds += result.seconds
        work = self._work.pop(result.name, 0.0)
        self._bar.update(self._task, advance=work, description=str(self))
        now = time.perf_counter()
        if self._bar.disable and now - self._told >= LOG_SECONDS:
            self._told = now
            left = sum(self._work.values())
            spent = (now - self._begun) / max(self._all_work - left, 1e-9)
            say(f"{self}, {left * spent / 60:.1f} min left")
