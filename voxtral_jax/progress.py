"""Tells how far a loop has come: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

LOG_SECONDS = 30.0
"""Between two lines where stderr is no terminal."""

T = TypeVar("T")


def followed(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """The items, while stderr tells how many of them are done and how long the rest will take.

    Args:
        items: what is gone through.
        what: they are, and what is done with them ("recordings encoded").
        total: how many there are.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(items, what, total=total, console=console)
        return
    begun = told = time.perf_counter()
    for done, item in enumerate(items):
        now = time.perf_counter()
        if now - told >= LOG_SECONDS:
            told = now
            left = (now - begun) / max(done, 1) * (total - done) / 60
            print(f"{what}: {done:,}/{total:,}, {left:.1f} min left", file=sys.stderr, flush=True)
        yield item
