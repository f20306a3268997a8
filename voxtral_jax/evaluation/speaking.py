"""Makes the takes: joins references, resynthesises recordings, speaks texts in batches.

Each finished clip is a file below `audio/` and a line of `spoken.jsonl`; a second call makes what
is missing.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from voxtral_jax.audio import read_audio, resample, to_mono, write_audio
from voxtral_jax.errors import AudioError, TextError, VoiceError
from voxtral_jax.evaluation.takes import (
    CODEC,
    LONG,
    RECORDING,
    REFERENCE,
    Clip,
    Take,
    recording_name,
    reference_name,
    seed_of,
)
from voxtral_jax.files import append_line, read_lines
from voxtral_jax.speech import Speech
from voxtral_jax.text.duration import estimate_seconds
from voxtral_jax.voice import Voice

if TYPE_CHECKING:
    from voxtral_jax.evaluation.sets import Reference
    from voxtral_jax.model import Model

SPOKEN = "spoken.jsonl"
SPEED = "speed.jsonl"
BATCH = 16
"""Texts that are spoken together."""
UNSPEAKABLE = (TextError, VoiceError, AudioError)
"""Errors of one text or voice; they are counted. Others concern the whole run."""
ALONE = 3
"""Texts spoken alone to measure the real-time factor, each after a first time that compiles."""


def audio_file(out: Path, name: str) -> Path:
    """Where a clip's audio is."""
    return out / "audio" / f"{name}.flac"


def read_clip(out: Path, name: str) -> tuple[Float[np.ndarray, " S"], int]:
    """Samples and rate of a clip."""
    samples, rate = read_audio(audio_file(out, name))
    return to_mono(samples), rate


def make_clips(
    model: Model,
    takes: Sequence[Take],
    out: Path,
    *,
    seed: int = 0,
    batch: int = BATCH,
    options: dict[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Clip]:
    """Makes all takes that `out` does not have yet.

    Args:
        model: speaks and resynthesises.
        takes: from `make_takes`.
        out: folder of the evaluation.
        seed: of the whole run.
        batch: texts spoken together.
        options: more arguments of `synthesize`.
        on_progress: called with the clips made and those to make.

    Returns:
        The clips in the takes' order.
    """
    out.mkdir(parents=True, exist_ok=True)
    done = {line["name"]: Clip(**line) for line in read_lines(out / SPOKEN)}
    left = [take for take in takes if take.name not in done]
    copied = [take for take in left if take.kind in (REFERENCE, RECORDING, CODEC)]
    spoken = [take for take in left if take.kind not in (REFERENCE, RECORDING, CODEC)]
    # Alike in length, so that little of a batch is spoken for nothing.
    spoken.sort(key=lambda take: estimate_seconds(take.text))
    made = 0

    def keep(clips: list[Clip]) -> None:
        nonlocal made
        for clip in clips:
            append_line(out / SPOKEN, clip.as_dict())
            done[clip.name] = clip
        made += len(clips)
        if on_progress is not None:
            on_progress(made, len(left))

    for take in copied:
        keep([_copy(model, take, out)])
    voices = _Voices(model, out)
    for start in range(0, len(spoken), batch):
        keep(_speak(model, spoken[start : start + batch], voices, out, seed, options or {}))
    return [done[take.name] for take in takes]


def _clip(take: Take, **result: Any) -> Clip:
    reference = take.reference if take.kind != REFERENCE else None
    return Clip(
        name=take.name,
        condition=take.condition,
        text=take.text,
        language=take.language,
        speaker=take.speaker,
        voice=take.voice,
        reference=None if reference is None else reference_name(reference),
        **result,
    )


def _save(out: Path, name: str, samples: np.ndarray, rate: int) -> float:
    """Writes a clip, and returns its seconds."""
    file = audio_file(out, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_audio(file, samples, rate)
    return round(len(samples) / rate, 3)


def _copy(model: Model, take: Take, out: Path) -> Clip:
    """A reference, a recording, or its resynthesis."""
    try:
        original = None
        if take.reference is not None:
            samples = join(take.reference, model.sample_rate)
        else:
            assert take.source is not None
            assert take.source.audio is not None
            samples = _read(take.source.audio, model.sample_rate)
            if take.kind == CODEC:
                from voxtral_jax import decode_codes, encode_audio

                codes = encode_audio(model, samples, model.sample_rate)
                samples = decode_codes(model, codes)[: len(samples)]
                original = recording_name(take.source)
        seconds = _save(out, take.name, samples, model.sample_rate)
    except UNSPEAKABLE as error:
        return _clip(take, failure=str(error))
    return _clip(take, seconds=seconds, original=original)


def _read(file: Path, rate: int) -> Float[np.ndarray, " S"]:
    samples, own = read_audio(file)
    return resample(to_mono(samples), own, rate)


def join(reference: Reference, rate: int) -> Float[np.ndarray, " S"]:
    """A reference's recordings in a row, cut at its limit."""
    samples = np.concatenate([_read(file, rate) for file in reference.files])
    return samples if reference.limit is None else samples[: round(reference.limit * rate)]


class _Voices:
    """Voices of presets and references; each is made once."""

    def __init__(self, model: Model, out: Path) -> None:
        self._model, self._out = model, out
        self._known: dict[str, Voice] = {}

    def of(self, take: Take) -> Voice:
        """The voice that speaks a take."""
        from voxtral_jax import make_voice

        name = take.voice if take.reference is None else reference_name(take.reference)
        assert name is not None
        if name not in self._known and take.reference is None:
            self._known[name] = self._model.voice(name)
        elif name not in self._known:
            with warnings.catch_warnings():
                # That 3 s are short is the point of it.
                warnings.simplefilter("ignore", UserWarning)
                self._known[name] = make_voice(self._model, audio_file(self._out, name))
        return self._known[name]


def _speak(
    model: Model, takes: list[Take], voices: _Voices, out: Path, seed: int, options: dict[str, Any]
) -> list[Clip]:
    """Speaks a batch; if one of it cannot be spoken, each on its own."""
    from voxtral_jax import synthesize

    begun = time.perf_counter()
    try:
        speeches = synthesize(
            model,
            [take.text for take in takes],
            voice=[voices.of(take) for take in takes],
            seed=[seed_of(take.name, seed) for take in takes],
            language=[take.language for take in takes],
            **options,
        )
    except UNSPEAKABLE as error:
        if len(takes) == 1:
            return [_clip(takes[0], failure=str(error))]
        return [
            clip for take in takes for clip in _speak(model, [take], voices, out, seed, options)
        ]
    wall = time.perf_counter() - begun
    audio = sum(speech.seconds for speech in speeches)
    append_line(out / SPEED, {"texts": len(takes), "seconds": audio, "wall": wall})
    return [_finish(take, speech, out) for take, speech in zip(takes, speeches, strict=True)]


def _finish(take: Take, speech: Speech, out: Path) -> Clip:
    if not len(speech.samples):
        return _clip(take, finish_reason=speech.finish_reason)
    seconds = _save(out, take.name, speech.samples, speech.sample_rate)
    return _clip(take, seconds=seconds, finish_reason=speech.finish_reason)


def measure_speed(model: Model, takes: Sequence[Take], out: Path, options: dict[str, Any]) -> None:
    """Real-time factors of texts spoken alone, kept in `speed.jsonl`."""
    from voxtral_jax import synthesize

    if any("factor" in line for line in read_lines(out / SPEED)):
        return
    able = [take for take in takes if take.kind not in (REFERENCE, RECORDING, CODEC, LONG)]
    voices = _Voices(model, out)
    for take in able[:: max(1, len(able) // ALONE)][:ALONE]:
        try:
            for _ in range(2):
                speech = synthesize(
                    model, take.text, voice=voices.of(take), language=take.language, **options
                )
        except UNSPEAKABLE:  # it is counted as a failure where it is judged
            continue
        if len(speech.samples):
            append_line(out / SPEED, {"factor": speech.real_time_factor, "seconds": speech.seconds})
