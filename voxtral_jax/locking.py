"""Locks of directories that one process at a time may write to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from voxtral_jax.errors import VoxtralError


@contextmanager
def held(lock: Path, taken: VoxtralError) -> Iterator[None]:
    """Holds a lock while the block runs; a killed process lets go of it by itself.

    Args:
        lock: its file, in a directory that is there.
        taken: raised if another process holds it.

    Raises:
        OSError: the file cannot be made.
    """
    lock_file = FileLock(lock)
    try:
        lock_file.acquire(blocking=False)
    except Timeout:
        raise taken from None
    try:
        yield
    finally:
        lock_file.release()
