"""Slots on the device: sequences that join, advance and leave independently, in static shapes.

Everything that differs from slot to slot is an array over slots, so that who comes and goes changes
no shape: `admit` writes prompts into slots, `advance` makes the next frames of the live ones and
their samples. Samples depend on a slot's own request alone.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from voxtral_jax.codec import Codec, CodecStream
from voxtral_jax.codec.run import decoder_stream
from voxtral_jax.config import TOKEN_OFFSET, VoxtralConfig
from voxtral_jax.decoder.generate import Generation, Requests, generate, prefill
from voxtral_jax.decoder.model import KVCache
from voxtral_jax.decoder.prompt import PromptBatch
from voxtral_jax.flow import Sampler
from voxtral_jax.nn.module import apply
from voxtral_jax.sharding import Rules


@struct.dataclass
class Slots:
    """State of S slots between chunks of frames.

    Attributes:
        generation: of the decoder; its `tokens` have room for the longest request and one chunk.
        requests: what each slot's sequence asks for.
        stream: of the codec's decoder.
        voiced: `[S]` int32, frames of each sequence whose samples were made.
    """

    generation: Generation
    requests: Requests
    stream: CodecStream
    voiced: Int[Array, " S"]


@struct.dataclass
class Voiced:
    """What `advance` made, to be fetched by the host.

    Attributes:
        samples: `[S, count * frame]` float32.
        codes: `[S, count, K]` int32 (no offset).
        valid: `[S]` int32, frames of each slot that are real.
        stopped: `[S]`, whether the model ended the speech.
    """

    samples: Float[Array, "S samples"]
    codes: Int[Array, "S count K"]
    valid: Int[Array, " S"]
    stopped: Bool[Array, " S"]


@partial(
    jax.jit, static_argnames=("config", "slots", "cache_length", "most_frames", "dtype", "rules")
)
def open_slots(
    *,
    config: VoxtralConfig,
    slots: int,
    cache_length: int,
    most_frames: int,
    dtype: jnp.dtype,
    rules: Rules | None = None,
) -> Slots:
    """Empty slots.

    Args:
        slots: S.
        cache_length: L, tokens of the longest prompt and its frames.
        most_frames: F, frames of the longest request and of the longest chunk.
        dtype: of the decoder's activations.
    """
    cache = KVCache.empty(config, slots, cache_length, dtype)
    hidden = jnp.zeros((slots, config.dim), dtype)
    if rules is not None:
        place = partial(rules.constrain, axes=("batch", None, "kv_heads", None))
        cache = jax.tree.map(place, cache)
    nothing, none = jnp.zeros((slots,), jnp.int32), jnp.zeros((slots,), jnp.float32)
    tokens = jnp.zeros((slots, most_frames, config.audio.n_codebooks), jnp.int32)
    return Slots(
        generation=Generation(cache, nothing, hidden, tokens, nothing, nothing.astype(bool)),
        requests=Requests(
            seeds=nothing.astype(jnp.uint32),
            guidance=none,
            noise_scale=none,
            temperature=none,
            top_p=none,
            least_frames=nothing,
            most_frames=nothing,
        ),
        stream=decoder_stream(config.codec, slots),
        voiced=nothing,
    )


@partial(jax.jit, static_argnames=("config", "rules"), donate_argnames=("slots",))
def admit(
    params: Any,
    slots: Slots,
    prompts: PromptBatch,
    requests: Requests,
    rows: Int[Array, " G"],
    *,
    config: VoxtralConfig,
    rules: Rules | None = None,
) -> Slots:
    """Prefills G prompts and puts them into the slots `rows`.

    Args:
        params: `{"decoder", "flow"}`.
        slots: is consumed.
        rows: slots; what is out of their range (padding of a batch) goes nowhere.
    """
    length = prompts.ids.shape[1]
    new, _ = prefill(
        params, prompts, config=config, cache_length=length, most_frames=1, rules=rules
    )
    old = slots.generation

    def put(old: Array, new: Array) -> Array:
        return old.at[rows].set(new.astype(old.dtype), mode="drop")

    def put_cache(old: Array, new: Array) -> Array:
        return old.at[rows, :length].set(new, mode="drop")

    generation = Generation(
        cache=jax.tree.map(put_cache, old.cache, new.cache),
        lengths=put(old.lengths, new.lengths),
        hidden=put(old.hidden, new.hidden),
        # What the slot's last sequence left there is overwritten before it is read.
        tokens=old.tokens,
        frames=put(old.frames, new.frames),
        stopped=put(old.stopped, new.stopped),
    )
    # Frame 0 opens the codec's stream anew; what its blocks carry from before is not looked at.
    stream = CodecStream(slots.stream.blocks, put(slots.stream.frames, new.frames))
    return Slots(
        generation,
        jax.tree.map(put, slots.requests, requests),
        stream,
        put(slots.voiced, new.frames),
    )


@partial(
    jax.jit,
    static_argnames=("count", "config", "sampler", "span"),
    donate_argnames=("slots",),
)
def advance(
    params: Any,
    codec: Any,
    slots: Slots,
    live: Bool[Array, " S"],
    *,
    count: int,
    config: VoxtralConfig,
    sampler: Sampler,
    span: int | None = None,
) -> tuple[Slots, Voiced]:
    """Up to `count` more frames of the live slots, and their samples; other slots stay as they are.

    Args:
        params: `{"decoder", "flow"}`.
        codec: folded weights.
        slots: is consumed.
        live: slots that go on.
        count: frames.
        sampler: how the flow is integrated.
        span: how much of the cache to look at; more than a live sequence has and gets. None is all.
    """
    limits = jnp.where(live, slots.requests.most_frames, 0)
    requests = dataclasses.replace(slots.requests, most_frames=limits)
    generation = generate(
        params,
        slots.generation,
        requests,
        jnp.int32(count),
        config=config,
        sampler=sampler,
        span=span,
    )

    def piece(tokens: Array, start: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(tokens, start, count)

    codes = jnp.maximum(jax.vmap(piece)(generation.tokens, slots.voiced) - TOKEN_OFFSET, 0)
    valid = jnp.where(live, jnp.clip(generation.frames - slots.voiced, 0, count), 0)
    samples, stream = apply(Codec(config.codec), codec, codes, valid, slots.stream, method="decode")

    def kept(new: Array, old: Array) -> Array:
        return jnp.where(live.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    stream = jax.tree.map(kept, stream, slots.stream)
    made = Voiced(samples, codes, valid, generation.stopped & live)
    return Slots(generation, slots.requests, stream, slots.voiced + valid), made
