"""Generation: prefill, then frame after frame on the device, in batches and chunks.

One frame: semantic code from the hidden state, acoustic codes from the flow, their embedding back
through the decoder. All of it is one `while` loop in one program; the host asks for as many frames
as it wants to see at once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from voxtral_jax.config import EMPTY_AUDIO, END_AUDIO, TOKEN_OFFSET, VoxtralConfig
from voxtral_jax.decoder.model import Decoder, KVCache
from voxtral_jax.decoder.prompt import PromptBatch, embed_prompt
from voxtral_jax.flow import FlowHead, Sampler, sample_flow, time_table
from voxtral_jax.flow.model import MASKED
from voxtral_jax.nn.module import apply
from voxtral_jax.sharding import Rules


@struct.dataclass
class Requests:
    """What each of B sequences asks for.

    Attributes:
        seeds: `[B]` uint32; noise and draws depend on the seed and the frame's index alone.
        guidance: `[B]` float32, strength of the flow's guidance (1: none).
        noise_scale: `[B]` float32, times the noise that the flow starts from (1: as trained).
        temperature: `[B]` float32 of the semantic code; 0 takes the likeliest.
        top_p: `[B]` float32, share of the probability that is drawn from.
        least_frames: `[B]` int32, frames before which the speech may not end.
        most_frames: `[B]` int32, frames after which it is cut.
        noise: None, or `[B, F, A]` float32 to use in place of the seeds' noise.
    """

    seeds: Int[Array, " B"]
    guidance: Float[Array, " B"]
    noise_scale: Float[Array, " B"]
    temperature: Float[Array, " B"]
    top_p: Float[Array, " B"]
    least_frames: Int[Array, " B"]
    most_frames: Int[Array, " B"]
    noise: Float[Array, "B F A"] | None = None


@struct.dataclass
class Generation:
    """State of B sequences between chunks of frames.

    Attributes:
        cache: keys and values of prompts and frames.
        lengths: `[B]` int32, tokens in the cache.
        hidden: `[B, D]`, hidden state that the next frame is made from.
        tokens: `[B, F, K]` int32, the frames so far (codes with offset).
        frames: `[B]` int32, how many there are.
        stopped: `[B]`, whether `[END_AUDIO]` came.
    """

    cache: KVCache
    lengths: Int[Array, " B"]
    hidden: Float[Array, "B D"]
    tokens: Int[Array, "B F K"]
    frames: Int[Array, " B"]
    stopped: Bool[Array, " B"]

    def active(self, requests: Requests) -> Bool[Array, " B"]:
        """Sequences that go on."""
        return ~self.stopped & (self.frames < requests.most_frames)


@struct.dataclass
class Frame:
    """One frame as it is made.

    Attributes:
        tokens: `[B, K]` int32, codes with offset; `[END_AUDIO]` and empty codes at the end.
        flow: `[B, A]` float32, end of the flow before clamp and rounding.
    """

    tokens: Int[Array, "B K"]
    flow: Float[Array, "B A"]


def frame_noise(seeds: Int[Array, " B"], frames: Int[Array, " B"], width: int) -> Array:
    """Noise of the flow's start, `[B, width]` float32, from (seed, frame index) alone."""

    def one(seed: Array, frame: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(jax.random.key(seed), frame), (width,))

    return jax.vmap(one)(seeds, frames)


def choose_semantic(
    logits: Float[Array, "B rows"], requests: Requests, frames: Int[Array, " B"]
) -> Int[Array, " B"]:
    """Semantic audio token: the likeliest, or drawn at `temperature` from the `top_p` nucleus."""

    def draw() -> Array:
        warmth = jnp.where(requests.temperature > 0, requests.temperature, 1.0)
        # From the likeliest down, so that none overflows however cold it is.
        scaled = (logits - jnp.max(logits, axis=-1, keepdims=True)) / warmth[:, None]
        probabilities = jax.nn.softmax(scaled)
        ranked = jnp.sort(probabilities, axis=-1, descending=True)
        # An entry is in the nucleus if those above it do not fill top_p.
        before = jnp.cumsum(ranked, axis=-1) - ranked
        least = jnp.min(
            jnp.where(before < requests.top_p[:, None], ranked, jnp.inf), axis=-1, keepdims=True
        )
        nucleus = jnp.where(probabilities >= least, scaled, -jnp.inf)

        def one(seed: Array, frame: Array, row: Array) -> Array:
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), frame), 1)
            return jax.random.categorical(key, row)

        return jax.vmap(one)(requests.seeds, frames, nucleus)

    likeliest = jnp.argmax(logits, axis=-1)
    warm = requests.temperature > 0
    drawn = jax.lax.cond(jnp.any(warm), draw, lambda: likeliest)
    return jnp.where(warm, drawn, likeliest).astype(jnp.int32)


def make_frame(
    params: Any,
    config: VoxtralConfig,
    sampler: Sampler,
    table: Array,
    state: Generation,
    requests: Requests,
) -> Frame:
    """The next frame of every sequence, from its hidden state.

    Args:
        params: `{"decoder", "flow"}`.
        table: from `voxtral_jax.flow.time_table`.
    """
    audio = config.audio
    logits = apply(FlowHead(audio), params["flow"], state.hidden, method="semantic_logits")
    too_early = state.frames < requests.least_frames
    logits = logits.at[:, END_AUDIO].set(jnp.where(too_early, MASKED, logits[:, END_AUDIO]))
    semantic = choose_semantic(logits, requests, state.frames)
    if requests.noise is None:
        noise = frame_noise(requests.seeds, state.frames, audio.n_acoustic_codebook)
    else:
        noise = jnp.take_along_axis(requests.noise, state.frames[:, None, None], axis=1)[:, 0]
    start = requests.noise_scale[:, None] * noise
    end, codes = sample_flow(
        params["flow"], audio, sampler, table, state.hidden, start, requests.guidance
    )
    acoustic = jnp.where((semantic == END_AUDIO)[:, None], EMPTY_AUDIO, codes + TOKEN_OFFSET)
    return Frame(jnp.concatenate([semantic[:, None], acoustic], axis=1), end)


def append_frame(
    params: Any,
    config: VoxtralConfig,
    state: Generation,
    frame: Frame,
    requests: Requests,
    span: int | None = None,
) -> Generation:
    """Decode step: notes the frame, feeds it back, and makes the next hidden state.

    Sequences that are not active keep theirs: they may go on later.

    Args:
        span: how much of the cache to look at, more than the longest active sequence; None is all.
    """
    decoder, rows = Decoder(config), jnp.arange(state.lengths.shape[0])
    active = state.active(requests)
    stopped = state.stopped | (active & (frame.tokens[:, 0] == END_AUDIO))
    spoken = active & ~stopped
    place = jnp.where(spoken, state.frames, state.tokens.shape[1])
    tokens = state.tokens.at[rows, place].set(frame.tokens, mode="drop")
    x = apply(decoder, params["decoder"], frame.tokens, method="embed_audio")
    hidden, cache = apply(
        decoder,
        params["decoder"],
        x[:, None],
        state.lengths[:, None],
        state.cache,
        span or state.cache.keys[0].shape[1],
        method="extend",
    )
    step = spoken.astype(jnp.int32)
    hidden = jnp.where(spoken[:, None], hidden[:, 0], state.hidden)
    return Generation(cache, state.lengths + step, hidden, tokens, state.frames + step, stopped)


@partial(jax.jit, static_argnames=("config", "cache_length", "most_frames", "rules"))
def prefill(
    params: Any,
    prompt: PromptBatch,
    *,
    config: VoxtralConfig,
    cache_length: int,
    most_frames: int,
    rules: Rules | None = None,
) -> tuple[Generation, Float[Array, "B P D"]]:
    """Runs the prompts.

    Args:
        params: `{"decoder", "flow"}`.
        cache_length: L, at least the longest prompt and its frames.
        most_frames: F, frames that the state has room for.
        rules: places batch and heads on a mesh.

    Returns:
        The state before the first frame, and the hidden states of the whole prompts.
    """
    x = embed_prompt(params["decoder"], config, prompt)
    batch, count = prompt.ids.shape
    cache = KVCache.empty(config, batch, cache_length, x.dtype)
    if rules is not None:
        place = partial(rules.constrain, axes=("batch", None, "kv_heads", None))
        cache = jax.tree.map(place, cache)
        x = rules.constrain(x, ("batch", None, None))
    positions = jnp.broadcast_to(jnp.arange(count), (batch, count))
    hidden, cache = apply(
        Decoder(config), params["decoder"], x, positions, cache, count, method="extend"
    )
    last = jnp.take_along_axis(hidden, prompt.lengths[:, None, None] - 1, axis=1)[:, 0]
    tokens = jnp.zeros((batch, most_frames, config.audio.n_codebooks), jnp.int32)
    nothing = jnp.zeros((batch,), jnp.int32)
    state = Generation(cache, prompt.lengths, last, tokens, nothing, nothing.astype(bool))
    return state, hidden


@partial(jax.jit, static_argnames=("config", "sampler", "span"), donate_argnames=("state",))
def generate(
    params: Any,
    state: Generation,
    requests: Requests,
    count: Int[Array, ""],
    *,
    config: VoxtralConfig,
    sampler: Sampler,
    span: int | None = None,
) -> Generation:
    """Up to `count` more frames; stops early when every sequence has ended.

    Args:
        params: `{"decoder", "flow"}`.
        state: is consumed (its buffers are donated).
        count: frames; a traced value, so that every count is one program.
        span: see `append_frame`.
    """
    table = time_table(params["flow"], config.audio, sampler, state.hidden.dtype)

    def goes_on(carry: tuple[Array, Generation]) -> Array:
        done, state = carry
        return (done < count) & jnp.any(state.active(requests))

    def body(carry: tuple[Array, Generation]) -> tuple[Array, Generation]:
        done, state = carry
        frame = make_frame(params, config, sampler, table, state, requests)
        return done + 1, append_frame(params, config, state, frame, requests, span)

    return jax.lax.while_loop(goes_on, body, (jnp.int32(0), state))[1]


@partial(jax.jit, static_argnames=("config",))
def embed_frames(params: Any, tokens: Int[Array, "N K"], *, config: VoxtralConfig) -> Array:
    """Summed codebook embeddings `[N, D]` of frames of audio tokens: a voice prompt."""
    return apply(Decoder(config), params["decoder"], tokens, method="embed_audio")
