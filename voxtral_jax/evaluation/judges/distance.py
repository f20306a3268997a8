"""How near a resynthesis is to its recording, as the literature on codecs measures it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from voxtral_jax.audio import resample
from voxtral_jax.evaluation.judges import RATE, Sound
from voxtral_jax.evaluation.takes import CODEC, Clip

WINDOWS = (2048, 512)
"""Samples of the windows; the hop is a quarter of it."""
MELS = (150, 80)
"""Mel bands at each window."""
FLOOR = 1e-5
"""Magnitudes are at least this under the logarithm."""
DIGITS = 4


def spectral_distances(
    a: Float[np.ndarray, " S"], b: Float[np.ndarray, " S"], rate: int
) -> tuple[float, float]:
    """Mel and STFT distance of equally long samples, as DAC's evaluation has them.

    With magnitudes A and B at each window (Hann, hop of a quarter), summed over the windows:

        mean |log10 max(A, 1e-5)^2 - log10 max(B, 1e-5)^2| + mean |A - B|

    for the STFT; the same of the mel bands' magnitudes (150 and 80 of them) for mel.
    """
    import librosa

    mel = stft = 0.0
    for window, bands in zip(WINDOWS, MELS, strict=True):
        magnitudes = [
            np.abs(librosa.stft(x, n_fft=window, hop_length=window // 4, pad_mode="reflect"))
            for x in (a, b)
        ]
        stft += _distance(*magnitudes)
        bank = librosa.filters.mel(sr=rate, n_fft=window, n_mels=bands)
        mel += _distance(*(bank @ magnitude for magnitude in magnitudes))
    return mel, stft


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    logarithms = [2 * np.log10(np.maximum(x, FLOOR)) for x in (a, b)]
    return float(np.abs(logarithms[0] - logarithms[1]).mean() + np.abs(a - b).mean())


def _pair(sound: Sound) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Recording and resynthesis, equally long."""
    assert sound.original is not None
    length = min(len(sound.samples), len(sound.original))
    return sound.original[:length], sound.samples[:length]


class Distance:
    """Spectral distances; needs nothing beyond the library itself."""

    def __init__(self, threads: int = 1) -> None:
        pass

    def wants(self, clip: Clip) -> bool:
        """Resynthesis."""
        return clip.kind == CODEC

    def hear(self, sound: Sound) -> dict[str, Any]:
        """`mel` and `stft`, the lower the better."""
        mel, stft = spectral_distances(*_pair(sound), sound.rate)
        return {"mel": round(mel, DIGITS), "stft": round(stft, DIGITS)}


class Pesq:
    """ITU-T P.862.2, wideband, at 16 kHz."""

    def __init__(self, threads: int = 1) -> None:
        import pesq

        self._package = pesq

    def wants(self, clip: Clip) -> bool:
        """Resynthesis."""
        return clip.kind == CODEC

    def hear(self, sound: Sound) -> dict[str, Any]:
        """`pesq`, 1.04 to 4.64; null where it finds no speech."""
        pair = [resample(x, sound.rate, RATE) for x in _pair(sound)]
        try:
            return {"pesq": round(float(self._package.pesq(RATE, *pair, "wb")), DIGITS)}
        except self._package.PesqError:
            return {"pesq": None}


class Estoi:
    """Extended short-time objective intelligibility."""

    def __init__(self, threads: int = 1) -> None:
        import pystoi

        self._package = pystoi

    def wants(self, clip: Clip) -> bool:
        """Resynthesis."""
        return clip.kind == CODEC

    def hear(self, sound: Sound) -> dict[str, Any]:
        """`estoi`, up to 1; null where there is too little speech."""
        pair = [resample(x, sound.rate, RATE) for x in _pair(sound)]
        with warnings.catch_warnings():
            # What it returns beside this warning is no figure; less than a frame is an error.
            warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
            try:
                value = float(self._package.stoi(*pair, RATE, extended=True))
            except (RuntimeWarning, np.exceptions.AxisError):
                return {"estoi": None}
        return {"estoi": round(value, DIGITS)}
