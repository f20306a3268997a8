"""Compiles every program that an engine will need, before its first request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from voxtral_jax.buckets import bucket_sizes
from voxtral_jax.cloning import voice_from_codes
from voxtral_jax.codec.run import LEAST_FRAMES, MOST_FRAMES, encode_audio
from voxtral_jax.decoder.prompt import LEAST_PROMPT
from voxtral_jax.flow import Sampler
from voxtral_jax.serving.lines import Line
from voxtral_jax.serving.room import Room
from voxtral_jax.serving.scheduler import Scheduler

if TYPE_CHECKING:
    from voxtral_jax.model import Model


def warm_up(model: Model, room: Room, chunks: Sequence[int], samplers: Sequence[Sampler]) -> None:
    """Runs everything once: prompts and voices of every length, chunks of every kind.

    Args:
        model: speaks.
        room: the engine's.
        chunks: frames that are asked for at once.
        samplers: of the flow.
    """
    scheduler = Scheduler[int](model, room)
    width = model.config.dim
    for length in bucket_sizes(LEAST_PROMPT, room.prompt):
        tokens = min(length, room.prompt)
        line = Line(
            ids=[1] * tokens,
            voice=np.zeros((1, width), np.float32),
            seed=0,
            least_frames=0,
            most_frames=1,
            guidance=1.0,
            noise_scale=1.0,
            temperature=0.0,
            top_p=1.0,
        )
        scheduler.admit([(0, line, samplers[0])])
        scheduler.cancel(0)
    for sampler in samplers:
        for count in chunks:
            for span in room.spans:
                scheduler.compile(count, sampler, span)
    if not model.can_clone:
        return
    for frames in bucket_sizes(LEAST_FRAMES, MOST_FRAMES):
        samples = np.zeros(frames * model.config.codec.frame_samples, np.float32)
        codes = encode_audio(model, samples, model.sample_rate)
    for tokens in bucket_sizes(LEAST_PROMPT, room.prompt):
        voice_from_codes(model, np.repeat(codes[:1], tokens - 1, axis=0), "warm-up")
