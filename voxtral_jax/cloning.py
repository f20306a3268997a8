"""A voice from a recording."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voxtral_jax.buckets import bucket
from voxtral_jax.codec.run import encode_audio, require_encoder
from voxtral_jax.decoder.generate import embed_frames
from voxtral_jax.decoder.prompt import LEAST_PROMPT, voice_tokens
from voxtral_jax.errors import AudioError
from voxtral_jax.voice import Voice

if TYPE_CHECKING:
    from voxtral_jax.model import Model

Reference = str | os.PathLike[str] | tuple[np.ndarray, int]
"""A recording: a file, or samples and their rate."""


def make_voice(model: Model, ref: Reference, *, name: str | None = None) -> Voice:
    """Makes a voice from 1 to 60 s of someone speaking; keep it to speak again at no cost.

    Args:
        model: with encoder weights.
        ref: audio file, or (samples, sample rate).
        name: defaults to the file's name.

    Raises:
        CheckpointError: the model has no encoder weights.
        AudioError: the recording cannot be read, is silent, too short or too long.
    """
    from voxtral_jax.audio import prepare_reference, read_audio

    require_encoder(model)
    if isinstance(ref, tuple) and len(ref) == 2:
        samples, rate = ref
        name = name or "recording"
    elif not isinstance(ref, str | os.PathLike):
        kind = type(ref).__name__
        raise AudioError(f"a reference is a file's path or (samples, sample rate), got {kind}")
    else:
        samples, rate = read_audio(ref)
        name = name or Path(ref).stem
    prepared = prepare_reference(samples, rate, model.sample_rate)
    codes = encode_audio(model, prepared, model.sample_rate)
    return voice_from_codes(model, codes, name)


def voice_from_codes(model: Model, codes: np.ndarray, name: str) -> Voice:
    """The voice prompt of a recording's codes `[frames, K]` (no offset)."""
    tokens = voice_tokens(codes)
    padded = np.zeros((bucket(len(tokens), LEAST_PROMPT), tokens.shape[1]), np.int32)
    padded[: len(tokens)] = tokens
    embedding = embed_frames(model.speaker, padded, config=model.config)
    return Voice(name, np.asarray(embedding, np.float32)[: len(tokens)], np.asarray(codes))
