"""Which cells of time and frequency a key raises, and which it lowers."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float

from voxtral_jax.errors import RequestError

KEY = "voxtral-jax"
"""The public key: anybody can look for the mark (and, knowing it, take it out)."""
FRAME = 0.02
"""Seconds of a cell: shorter ones are easier to find and to hear, longer ones harder."""
PERIOD = 128
"""Frames after which the signs repeat: 2.56 s, so that the least crop holds nearly all of them."""
STRENGTH = 1.25
"""Decibels by which a cell is raised or lowered: PESQ hears next to nothing of it."""
LOWEST, HIGHEST = 200.0, 7600.0
"""Hz: what every codec for speech keeps, and 16 kHz can hold."""
NARROWEST, GROWTH = 150.0, 0.1
"""Width of a band: so many Hz, or this share of its lower edge if that is more, as in the ear."""


def _edges() -> Float[np.ndarray, " edges"]:
    edges = [LOWEST]
    while edges[-1] < HIGHEST:
        edges.append(edges[-1] + max(NARROWEST, GROWTH * edges[-1]))
    return np.array(edges[:-1])


EDGES = _edges()
"""Hz: band `b` lies from `EDGES[b]` up to `EDGES[b + 1]`."""
BANDS = len(EDGES) - 1


def signs(key: str) -> Float[np.ndarray, "period bands"]:
    """1 where the cell is raised, -1 where it is lowered.

    They come from SHAKE-256 of the key, so they are the same everywhere and for ever, and as good
    as thrown by a coin: the false-positive rate of the detector needs nothing else.

    Raises:
        RequestError: the key is empty.
    """
    if not key:
        raise RequestError("the key of a watermark is empty; give one, or leave it out")
    drawn = hashlib.shake_256(key.encode()).digest(-(-PERIOD * BANDS // 8))
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8))[: PERIOD * BANDS]
    return np.where(bits, 1.0, -1.0).reshape(PERIOD, BANDS)


def band_of(frequencies: Float[np.ndarray, " bins"]) -> Float[np.ndarray, "bands bins"]:
    """1 where the frequency (Hz) lies in the band, else 0."""
    return ((frequencies >= EDGES[:-1, None]) & (frequencies < EDGES[1:, None])).astype(np.float64)
