"""How well sentences are understood that a model speaks in the voices of recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voxtral_jax import Voice, make_voice, synthesize
from voxtral_jax.audio import resample
from voxtral_jax.evaluation import misheard
from voxtral_jax.evaluation.judges import RATE
from voxtral_jax.files import append_line, read_lines
from voxtral_jax.progress import followed

if TYPE_CHECKING:
    from voxtral_jax import Model

AT_ONCE = 16
"""Sentences that are spoken together."""


def errors_in(
    model: Model,
    voices: Mapping[str, Path],
    sentences: Sequence[str],
    language: str,
    known: Path,
    name_of_model: str,
) -> dict[str, float]:
    """Share of errors that Whisper hears in each voice; of a sentence all of it at most.

    Args:
        model: speaks.
        voices: recordings by name.
        sentences: spoken in all of them.
        language: of the sentences.
        known: JSON lines of what was heard before, which is not spoken again.
        name_of_model: tells its lines there from those of others.
    """
    heard = {
        (line["voice"], line["text"]): line["errors"]
        for line in read_lines(known)
        if line["model"] == name_of_model
    }
    # Alike in length, few wait for others.
    wanted = [(name, text) for text in sorted(sentences, key=len) for name in voices]
    left = [one for one in wanted if one not in heard]
    made: dict[str, Voice] = {}
    starts = range(0, len(left), AT_ONCE)
    for start in followed(starts, f"{language}, batches heard", len(starts)):
        batch = left[start : start + AT_ONCE]
        for name, _ in batch:
            if name not in made:
                made[name] = make_voice(model, voices[name])
        speeches = synthesize(
            model,
            [text for _, text in batch],
            voice=[made[name] for name, _ in batch],
            language=[language] * len(batch),
        )
        for (name, text), speech in zip(batch, speeches, strict=True):
            sound = resample(speech.samples, model.sample_rate, RATE).clip(-1, 1)
            heard[name, text] = min(1.0, misheard(sound, text, language))
            line = {"model": name_of_model, "voice": name, "text": text}
            append_line(known, line | {"errors": heard[name, text]})
    return {name: float(np.mean([heard[name, text] for text in sentences])) for name in voices}
