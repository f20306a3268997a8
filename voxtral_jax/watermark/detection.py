"""Looks for the mark of a key, wherever the sound was cut and whatever it was coded with.

The energy of each cell is taken as a logarithm, and what its neighbours foretell is taken away:
what remains knows little of the speech and, if it is marked, a little of the signs. The sum of what
remains times the signs, at every shift of the pattern, is found by a Fourier transform.

The false-positive rate is no estimate. To sound that was made without the key, the signs are thrown
coins, and a sum of fixed numbers with random signs exceeds `z` times its standard deviation with a
probability of at most `exp(-z^2 / 2)` (Hoeffding 1963), whatever the numbers are. That times the
number of places looked at is the p-value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from voxtral_jax.audio.reading import resample, to_mono
from voxtral_jax.errors import AudioError
from voxtral_jax.watermark.pattern import FRAME, KEY, PERIOD, band_of, signs

FALSE_POSITIVES = 1e-5
"""At most this share of unmarked files is called marked, however long they are."""
RATE = 16_000
"""Hz: the detector hears no more, and nothing above is marked."""
STEP = round(FRAME * RATE)
WINDOW = 3 * STEP // 2
SHIFTS = 4
"""Places within a frame at which the grid is tried: never more than 2.5 ms off."""
FLOOR = 1e-5
"""Of the mean energy, added to all: what lies 50 dB down is noise of the recording or the codec."""
OUTLIER = 2.0
"""Standard deviations at which a cell is cut off: onsets must not outvote the rest."""
KERNEL = np.array(
    [
        [1.0, -0.57, -0.12, -0.12, -0.10],
        [-0.59, 0.04, 0.19, 0.14, 0.09],
        [-0.12, 0.15, 0.03, -0.05, 0.03],
    ]
)
"""What the cells up to 2 frames and 4 bands away say about a sign.

Row: frames away; column: bands away; a weight is shared by the up to four cells at that distance.
It is the least-squares fit of the signs, with weights that sum to 0, to the logarithms around them
in 80 marked recordings of `data/nano/validation` after Opus at 24 and MP3 at 64 kbit/s.
"""
STRETCH, HOP = 10.0, 5.0
"""Seconds of the stretches, and between their starts, that longer sounds are looked at in as well:
a part of it may be marked, or it was edited in between."""


@dataclass(frozen=True)
class Detection:
    """What was found.

    Attributes:
        present: whether the mark is there: the p-value is at most `FALSE_POSITIVES`.
        score: standard deviations by which the best match stands out; unmarked sound has 2 to 5.
        p_value: at most this share of unmarked sounds of the same length score as high.
    """

    present: bool
    score: float
    p_value: float


def detect(samples: Float[np.ndarray, "S ..."], rate: int, key: str = KEY) -> Detection:
    """Looks for the mark of `key`.

    Args:
        samples: `[S]` or `[S, channels]`; integers are scaled.
        rate: Hz; any.
        key: that the sound was marked with.

    Raises:
        AudioError: the shape or the rate is none of a recording, or samples are not finite.
        RequestError: the key is empty.
    """
    pattern = np.fft.rfft(signs(key), axis=0)
    best, places = 0.0, 0
    for cells in remainders(samples, rate):
        for stretch in _stretches(cells):
            best = max(best, float(scores(stretch, pattern).max()))
            places += PERIOD
    p_value = min(1.0, max(places, 1) * math.exp(-(best**2) / 2))
    return Detection(p_value <= FALSE_POSITIVES, best, p_value)


def remainders(
    samples: Float[np.ndarray, "S ..."], rate: int
) -> Iterator[Float[np.ndarray, "frames bands"]]:
    """For each shift of the grid, what is left of the cells once their neighbours are allowed for.

    Nothing comes of a sound that is silent or shorter than a cell.
    """
    mono = to_mono(samples)
    if not np.isfinite(mono).all():
        raise AudioError("the audio holds samples that are not finite")
    sound = resample(mono, rate, RATE).astype(np.float64)
    size = 2 * STEP
    window = np.hanning(WINDOW + 2)[1:-1]
    bands = band_of(np.arange(size + 1) * RATE / (2 * size)).T
    for shift in range(SHIFTS):
        shifted = sound[shift * STEP // SHIFTS :]
        if len(shifted) < WINDOW:
            return
        frames = np.lib.stride_tricks.sliding_window_view(shifted, WINDOW)[::STEP]
        energies = np.abs(np.fft.rfft(frames * window, 2 * size)) ** 2 @ bands
        mean = energies.mean()
        if mean > 0:
            yield _whitened(np.log(energies + FLOOR * mean))


def scores(
    cells: Float[np.ndarray, "frames bands"], pattern: Float[np.ndarray, "half bands"]
) -> Float[np.ndarray, " period"]:
    """Match of the cells with the pattern (its transform over frames) at each shift, in sigmas."""
    missing = -len(cells) % PERIOD
    folded = np.pad(cells, ((0, missing), (0, 0))).reshape(-1, PERIOD, cells.shape[1]).sum(axis=0)
    spread = math.sqrt(float((folded**2).sum()))
    if spread == 0:
        return np.zeros(PERIOD)
    matches = np.conj(np.fft.rfft(folded, axis=0)) * pattern
    return np.fft.irfft(matches.sum(axis=1), PERIOD) / spread


def _whitened(logs: Float[np.ndarray, "frames bands"]) -> Float[np.ndarray, "frames bands"]:
    count, bands = logs.shape
    high, wide = (side - 1 for side in KERNEL.shape)
    padded = np.pad(logs, ((high, high), (wide, wide)), mode="edge")
    rest = np.zeros_like(logs)
    for i in range(-high, high + 1):
        for j in range(-wide, wide + 1):
            shared = (1 + (i != 0)) * (1 + (j != 0))
            cell = padded[high + i : high + i + count, wide + j : wide + j + bands]
            rest += KERNEL[abs(i), abs(j)] / shared * cell
    limit = OUTLIER * float(rest.std())
    return np.clip(rest, -limit, limit)


def _stretches(
    cells: Float[np.ndarray, "frames bands"],
) -> Iterator[Float[np.ndarray, "frames bands"]]:
    yield cells
    length, hop = round(STRETCH / FRAME), round(HOP / FRAME)
    if len(cells) > length + hop:
        for start in range(0, len(cells) - length + hop, hop):
            yield cells[start : start + length]
