"""Static sizes: lengths and batches are rounded up to a few sizes, each compiled once."""

from __future__ import annotations

from collections.abc import Iterator


def bucket(size: int, least: int = 1) -> int:
    """The smallest of least * (1, 2, 3, 4, 6, 8, 12, 16, ...) that holds `size`.

    Padding is at most a third of the result, and doubling a length adds two programs.
    """
    step = least
    while step < size:
        if step // 2 * 3 >= size and step >= 2 * least:
            return step // 2 * 3
        step *= 2
    return step


def bucket_sizes(least: int, most: int) -> Iterator[int]:
    """Every size that `bucket(n, least)` has for n up to `most`."""
    size = least
    while True:
        yield size
        if size >= most:
            return
        size = bucket(size + 1, least)
