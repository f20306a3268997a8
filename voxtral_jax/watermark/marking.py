"""Puts the mark into sound, chunk by chunk and without delay.

The mark is an equaliser whose curve changes every `FRAME`: a filter of minimum phase for each frame
of the pattern, faded from one to the next. What comes out at a sample depends on the samples up to
it alone, so chunks of any size give what one call gives.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float

from voxtral_jax.audio.reading import check_rate
from voxtral_jax.errors import AudioError
from voxtral_jax.watermark.pattern import FRAME, KEY, PERIOD, STRENGTH, band_of, signs

REACH = 0.012
"""Seconds over which a filter's response fades: rounds the steps between bands to about 80 Hz."""
AT_ONCE = 256
"""Frames that are filtered at once: bounds the memory for long sounds."""


@dataclass(frozen=True)
class MarkState:
    """Where a stream is.

    Attributes:
        done: samples marked so far.
        past: [FRAME] the last samples before the mark, zeros before the start.
    """

    done: int
    past: Float[np.ndarray, " F"]


class Watermark:
    """The mark of a key at one rate; it holds no stream's state, so streams and threads share it.

    Attributes:
        rate: Hz of the sound.
        frame: samples of a frame.
    """

    def __init__(self, rate: int, key: str = KEY) -> None:
        """Designs the filters.

        Args:
            rate: of the sound, Hz; a multiple of 50.
            key: anything; `detect` must be given the same.

        Raises:
            AudioError: the rate is not one that can be marked.
            RequestError: the key is empty.
        """
        check_rate(rate)
        if rate * FRAME % 1:
            raise AudioError(
                f"a watermark needs a sample rate that is a multiple of {1 / FRAME:.0f} Hz, "
                f"got {rate}; resample to 24000"
            )
        self.rate = rate
        self.frame = round(rate * FRAME)
        self._filters = _filters(rate, self.frame, signs(key))
        # From 0 to 1 over a frame, at the middles of its samples.
        self._fade = (1 - np.cos(np.pi * (np.arange(self.frame) + 0.5) / self.frame)) / 2

    def begin(self) -> MarkState:
        """The state before the first sample."""
        return MarkState(0, np.zeros(self.frame, np.float32))

    def push(
        self, samples: Float[np.ndarray, " S"], state: MarkState
    ) -> tuple[Float[np.ndarray, " S"], MarkState]:
        """The next samples of a stream, marked (float32), and the state after them.

        There is no delay: as many samples come out as go in. In whatever chunks a stream comes, the
        result is that of one call but for the rounding of float32.
        """
        marked = np.empty(len(samples), np.float32)
        for start in range(0, len(samples), AT_ONCE * self.frame):
            part = slice(start, start + AT_ONCE * self.frame)
            marked[part], state = self._push(samples[part], state)
        return marked, state

    def embed(self, samples: Float[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
        """A whole sound, marked (float32)."""
        return self.push(samples, self.begin())[0]

    def _push(
        self, samples: Float[np.ndarray, " S"], state: MarkState
    ) -> tuple[Float[np.ndarray, " S"], MarkState]:
        size = self.frame
        first, inside = divmod(state.done, size)
        count = -(-(inside + len(samples)) // size)
        # Whole frames, with the one before them; what lies before `past` is in no wanted output.
        padded = np.zeros((count + 1) * size)
        padded[inside : inside + size] = state.past
        padded[inside + size : inside + size + len(samples)] = samples
        pairs = np.lib.stride_tricks.sliding_window_view(padded, 2 * size)[::size]
        spectra = np.fft.rfft(pairs)
        number = first + np.arange(count)
        # The second half of a circular convolution with at most a frame of taps is the linear one.
        old, new = (
            np.fft.irfft(spectra * self._filters[at % PERIOD], 2 * size)[:, size:]
            for at in (number - 1, number)
        )
        marked = (old + self._fade * (new - old)).ravel()[inside : inside + len(samples)]
        past = padded[inside + len(samples) :][:size].astype(np.float32)
        return marked.astype(np.float32), MarkState(state.done + len(samples), past)


def _filters(
    rate: int, frame: int, pattern: Float[np.ndarray, "period bands"]
) -> Complex[np.ndarray, "period bins"]:
    """Spectra, over two frames, of the minimum-phase filter of each frame of the pattern."""
    size = 4 * frame
    gains = pattern @ band_of(np.arange(size // 2 + 1) * rate / size) * STRENGTH / 20 * np.log(10)
    # Minimum phase: the cepstrum's negative times are folded onto its positive ones.
    reach = round(REACH * rate)
    fold = np.zeros(size)
    fold[:reach] = 1 + np.cos(np.pi * np.arange(reach) / reach)
    fold[0] = 1
    response = np.fft.irfft(np.exp(np.fft.rfft(np.fft.irfft(gains, size) * fold)), size)
    return np.fft.rfft(response[:, :frame], 2 * frame)


@functools.lru_cache(maxsize=8)
def watermark(rate: int, key: str = KEY) -> Watermark:
    """The `Watermark` of a rate and a key, designed once."""
    return Watermark(rate, key)


def embed(samples: Float[np.ndarray, " S"], rate: int, key: str = KEY) -> Float[np.ndarray, " S"]:
    """A whole sound, marked (float32).

    Args:
        samples: mono.
        rate: Hz; a multiple of 50.
        key: anything; `detect` must be given the same.

    Raises:
        AudioError: the rate is not one that can be marked.
        RequestError: the key is empty.
    """
    return watermark(rate, key).embed(samples)
