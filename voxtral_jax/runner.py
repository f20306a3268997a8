"""Speaks a batch of lines: prefill, then chunks of frames and their samples, one chunk ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from voxtral_jax.buckets import bucket
from voxtral_jax.codec import Codec, CodecStream
from voxtral_jax.codec.run import decoder_stream
from voxtral_jax.config import TOKEN_OFFSET, CodecConfig
from voxtral_jax.decoder.generate import Requests, generate, prefill
from voxtral_jax.decoder.prompt import batch_prompts
from voxtral_jax.flow import Sampler
from voxtral_jax.nn.module import apply
from voxtral_jax.speech import FinishReason

if TYPE_CHECKING:
    from voxtral_jax.model import Model

LEAST_CACHE = 128
"""Smallest key/value cache, in tokens."""


@dataclass(frozen=True, eq=False)
class Line:
    """One sequence to speak.

    Attributes:
        ids: the prompt's token ids.
        voice: `[N, D]`, the voice prompt.
        seed: of noise and draws.
        least_frames, most_frames: the speech may not end before, and is cut after.
        guidance, temperature, top_p: see `voxtral_jax.decoder.generate.Requests`.
    """

    ids: list[int]
    voice: Float[np.ndarray, "N D"]
    seed: int
    least_frames: int
    most_frames: int
    guidance: float
    temperature: float
    top_p: float


@dataclass(frozen=True, eq=False)
class Chunk:
    """The next frames of one line.

    Attributes:
        samples: `[S]` float32.
        codes: `[frames, K]` int32 (no offset).
        finish_reason: None while the line goes on.
    """

    samples: Float[np.ndarray, " S"]
    codes: Int[np.ndarray, "frames K"]
    finish_reason: FinishReason | None


@partial(jax.jit, static_argnames=("config", "count"), donate_argnames=("stream",))
def voice_frames(
    codec: Any,
    tokens: Int[Array, "B F K"],
    frames: Int[Array, " B"],
    start: Int[Array, ""],
    stream: CodecStream,
    *,
    config: CodecConfig,
    count: int,
) -> tuple[Float[Array, "B S"], Int[Array, "B count K"], Int[Array, " B"], CodecStream]:
    """Samples and codes of `count` frames from `start`, and how many of them there are."""
    piece = jax.lax.dynamic_slice_in_dim(tokens, start, count, axis=1)
    codes = jnp.maximum(piece - TOKEN_OFFSET, 0)
    valid = jnp.clip(frames - start, 0, count)
    samples, stream = apply(Codec(config), codec, codes, valid, stream, method="decode")
    return samples, codes, valid, stream


def _requests(lines: Sequence[Line], spare: int) -> Requests:
    def column(name: str, dtype: Any, filler: float) -> Array:
        return jnp.asarray([getattr(line, name) for line in lines] + [filler] * spare, dtype)

    return Requests(
        seeds=column("seed", np.uint32, 0),
        guidance=column("guidance", np.float32, 1),
        temperature=column("temperature", np.float32, 0),
        top_p=column("top_p", np.float32, 1),
        least_frames=column("least_frames", np.int32, 0),
        most_frames=column("most_frames", np.int32, 0),
    )


def speak(
    model: Model, lines: Sequence[Line], sampler: Sampler, chunk_frames: int
) -> Iterator[list[Chunk | None]]:
    """Yields the next chunk of every line, until all have ended; None for lines that had before."""
    config, codec = model.config, model.config.codec
    spare = bucket(len(lines)) - len(lines)
    rows = len(lines) + spare
    filled = [*lines, *[lines[0]] * spare]
    prompt = batch_prompts([line.ids for line in filled], [line.voice for line in filled])
    requests = _requests(lines, spare)
    most = int(requests.most_frames.max())
    capacity = bucket(most, chunk_frames)
    state, _ = prefill(
        model.speaker,
        prompt,
        config=config,
        cache_length=bucket(prompt.ids.shape[1] + capacity, LEAST_CACHE),
        most_frames=capacity,
        rules=model.rules,
    )
    go_on = partial(generate, model.speaker, config=config, sampler=sampler)
    stream = decoder_stream(codec, rows)
    state = go_on(state, requests, chunk_frames)
    ended = [False] * len(lines)
    for start in range(0, most, chunk_frames):
        stopped: Bool[Array, " B"] = jnp.copy(state.stopped)
        samples, codes, valid, stream = voice_frames(
            model.codec, state.tokens, state.frames, start, stream, config=codec, count=chunk_frames
        )
        # The next frames are under way while the host takes these; after the end it is a no-op.
        state = go_on(state, requests, chunk_frames)
        samples, codes, valid, stopped = jax.device_get((samples, codes, valid, stopped))
        chunks: list[Chunk | None] = []
        for row, line in enumerate(lines):
            if ended[row]:
                chunks.append(None)
                continue
            done = bool(stopped[row] or start + valid[row] >= line.most_frames)
            reason: FinishReason = "stop" if stopped[row] else "length"
            chunks.append(
                Chunk(
                    samples[row, : valid[row] * codec.frame_samples],
                    codes[row, : valid[row]],
                    reason if done else None,
                )
            )
            ended[row] = done
        yield chunks
        if all(ended):
            return
