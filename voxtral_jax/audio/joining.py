"""Joins the parts of a long text: natural pauses, one loudness, no clicks; chunk by chunk.

Everything is decided on blocks of 20 ms counted from a part's start, so that any split of the parts
into chunks gives the same samples. A single part passes through untouched.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

BLOCK_SECONDS = 0.02
SILENT_RMS = 10 ** (-50 / 20)
"""A block under -50 dBFS is silence."""
LEAD_BLOCKS = 2
"""Silent blocks kept before a later part's first sound."""
TAIL_BLOCKS = 3
"""Silent blocks kept after a part's last sound, before the pause."""
FADE_SECONDS = 0.005
MEASURE_SECONDS = 3.0
"""Sound that a part's loudness is measured on; a later part is held back that long."""
GAIN_LIMIT = 10 ** (4 / 20)
"""Parts are brought to the first one's loudness by 4 dB at most: more would be audible as such."""
PEAK = 0.99
"""No peak exceeds this where a part is made louder."""
KNEE = 0.9
"""From here on a louder part's peaks are rounded off towards `PEAK`, instead of clipped."""


class PartJoiner:
    """Takes the parts' samples in order, gives back what can be played.

    The first part sets the loudness and is given back with a delay of one block and of its pauses;
    later ones after as much as `MEASURE_SECONDS`. The last `end_part` gives back all that is left.

    Args:
        parts: how many parts will come.
        sample_rate: in Hz.
    """

    def __init__(self, parts: int, sample_rate: int) -> None:
        self._parts = parts
        self._rate = sample_rate
        self._block = round(BLOCK_SECONDS * sample_rate)
        self._fade = round(FADE_SECONDS * sample_rate)
        self._measured_blocks = round(MEASURE_SECONDS / BLOCK_SECONDS)
        self._part = 0
        self._target: float | None = None
        self._open_part()

    def _open_part(self) -> None:
        self._rest = np.zeros(0, np.float32)  # samples short of a block
        self._held: list[np.ndarray] = []  # blocks held back until the loudness is known
        self._powers: list[float] = []  # of the blocks with sound, as far as measured
        self._quiet: list[np.ndarray] = []  # silent blocks that only sound can release
        self._gain: float | None = 1.0 if self._target is None else None
        self._last: list[np.ndarray] = []  # the newest block with sound: it may be the part's end
        self._begun = False

    def push(self, samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, " R"]:
        """More samples of the current part."""
        if self._parts == 1:
            return samples
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // self._block * self._block
        self._rest = samples[whole:]
        out: list[np.ndarray] = []
        for block in samples[:whole].reshape(-1, self._block):
            out += self._take(block)
        return _together(out)

    def end_part(self, pause_seconds: float) -> Float[np.ndarray, " R"]:
        """The current part is over; `pause_seconds` of silence follow unless it is the last."""
        if self._parts == 1:
            return np.zeros(0, np.float32)
        out = self._take(self._rest) if len(self._rest) else []
        out += self._release()
        if self._begun:
            # All of it together: the last block may be shorter than the fade.
            end = np.concatenate([*out, *self._last, *self._scaled(self._quiet[:TAIL_BLOCKS])])
            fade = min(len(end), self._fade)
            end[len(end) - fade :] *= np.linspace(1, 0, fade + 1, dtype=np.float32)[1:]
            out = [end]
        if self._target is None and self._powers:
            self._target = float(np.mean(self._powers))
        self._part += 1
        if self._part < self._parts:
            out.append(np.zeros(round(pause_seconds * self._rate), np.float32))
        self._open_part()
        return _together(out)

    def _take(self, block: np.ndarray) -> list[np.ndarray]:
        """One block of the current part (its last may be short)."""
        power = float(np.mean(np.square(block, dtype=np.float64)))
        if power < SILENT_RMS**2:
            self._quiet.append(block)
            return []
        quiet, self._quiet = self._quiet, []
        if not self._begun and self._part:
            quiet = quiet[len(quiet) - min(len(quiet), LEAD_BLOCKS) :]
            opening = np.concatenate([*quiet, block])
            fade = min(len(opening), self._fade)
            opening[:fade] *= np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
            quiet, block = [], opening
        self._begun = True
        if len(self._powers) < self._measured_blocks:
            self._powers.append(power)
        self._held += [*quiet, block]
        known = self._gain is not None or len(self._powers) == self._measured_blocks
        return self._release() if known else []

    def _release(self) -> list[np.ndarray]:
        """The held blocks, at the part's gain."""
        if self._gain is None and self._powers:
            assert self._target is not None
            gain = float(np.sqrt(self._target / np.mean(self._powers)))
            peak = max(float(np.abs(block).max()) for block in self._held)
            self._gain = min(max(gain, 1 / GAIN_LIMIT), GAIN_LIMIT, max(1.0, PEAK / peak))
        blocks = [*self._last, *self._scaled(self._held)]
        self._last, self._held = blocks[-1:], []
        return blocks[:-1]

    def _scaled(self, blocks: list[np.ndarray]) -> list[np.ndarray]:
        if self._gain is None or self._gain == 1.0:
            return blocks
        louder = self._gain > 1.0
        scaled = [block * np.float32(self._gain) for block in blocks]
        return [_rounded_off(block) for block in scaled] if louder else scaled


def _rounded_off(block: np.ndarray) -> np.ndarray:
    """Peaks above the knee bent to stay under `PEAK`; the gain was chosen before they came."""
    size = np.abs(block)
    if size.max(initial=0.0) <= KNEE:
        return block
    room = np.float32(PEAK - KNEE)
    bent = np.copysign(KNEE + room * np.tanh((size - np.float32(KNEE)) / room), block)
    return np.where(size > KNEE, bent, block).astype(np.float32)


def _together(blocks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
