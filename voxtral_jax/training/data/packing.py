"""Which sequences share a row: best fit, the longest of each window first."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
from jaxtyping import Int

WINDOW = 1024
"""Sequences that are sorted by length together; their order is otherwise as it comes."""
MOST_OPEN = 32
"""Unfinished rows that are kept open between windows: those with the most room. More of
them save no padding and cost time where targets, not tokens, fill the rows."""


def pack(
    tokens: Int[np.ndarray, " N"],
    targets: Int[np.ndarray, " N"],
    row_tokens: int,
    row_targets: int,
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " R+1"]]:
    """Packs sequences into rows.

    Args:
        tokens: of each sequence, in random order; at most `row_tokens`.
        targets: target places of each, at most `row_targets`.
        row_tokens: that a row holds.
        row_targets: that a row holds.

    Returns:
        The sequences row by row, and where each row begins among them (the last entry is N).
    """
    rows: list[list[int]] = []
    # Open rows by the tokens they have room for, as single integers: room * SHIFT + row.
    shift = len(tokens) + 1
    room: list[int] = []
    places_left: list[int] = []
    least = int(tokens.min(initial=row_tokens))
    sizes, places = tokens.tolist(), targets.tolist()
    for start in range(0, len(sizes), WINDOW):
        stop = min(start + WINDOW, len(sizes))
        for i in sorted(range(start, stop), key=sizes.__getitem__, reverse=True):
            at = bisect_left(room, sizes[i] * shift)
            while at < len(room) and places_left[room[at] % shift] < places[i]:
                at += 1
            if at < len(room):
                left, row = divmod(room.pop(at), shift)
            else:
                left, row = row_tokens, len(rows)
                rows.append([])
                places_left.append(row_targets)
            rows[row].append(i)
            left -= sizes[i]
            places_left[row] -= places[i]
            if left >= least:
                insort(room, left * shift + row)
        del room[:-MOST_OPEN]
    order = np.array([i for row in rows for i in row], np.int64)
    bounds = np.cumsum([0, *map(len, rows)])
    return order, bounds
