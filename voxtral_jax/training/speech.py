"""Speech training: the loss on packed rows, and which weights get gradients.

The weights are `{"decoder": ..., "flow": ...}` as in the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from voxtral_jax.config import EMPTY_AUDIO, TOKEN_OFFSET, VoxtralConfig
from voxtral_jax.decoder.model import Decoder
from voxtral_jax.errors import ConfigError
from voxtral_jax.flow import FlowHead
from voxtral_jax.kernels.fsq import code_values
from voxtral_jax.nn.module import apply
from voxtral_jax.parameters import Params
from voxtral_jax.training import losses
from voxtral_jax.training.data.batches import SpeechBatch
from voxtral_jax.training.settings import Count, Dtype
from voxtral_jax.training.state import Path, join

CONSTANTS = ("inv_freq",)
"""Leaves that are no weights: the time sinusoid's frequencies."""


@dataclass(frozen=True, kw_only=True)
class SpeechLosses:
    """How the speech model is trained.

    Attributes:
        flow: weight of the flow-matching loss beside the semantic cross-entropy.
        attention: weight of a loss that holds the first head of the `guided` layers to the phonemes
            that are heard in a frame, where the code shards say when each is spoken. Small models
            that read phonemes find the text so within minutes, on two CPU cores.
        guided: those layers, from 0.
        flow_draws: noises and times that each frame is trained with. The flow's loss is mostly
            chance, and its network a small part of the model, so more are cheap.
        latent_weights: how much each acoustic code counts in the flow's loss, one number each; all
            alike if empty. A codec whose latents have known meanings knows which of them one hears.
        condition_dropout: share of frames whose condition is replaced by zeros, for guidance.
        frame_dropout: share of the frames read whose codes are `[EMPTY_AUDIO]`, so that a small
            model looks at the text and not only at what it just said.
        freeze_text: leave the text embeddings as they are (published for the 4B model, which
            starts from a language model).
        dtype: of the arithmetic; weights and moments are float32.
    """

    flow: float = 1.0
    attention: float = 0.0
    guided: tuple[int, ...] = ()
    flow_draws: Count = 1
    latent_weights: tuple[float, ...] = ()
    condition_dropout: float = 0.1
    frame_dropout: float = 0.0
    freeze_text: bool = False
    dtype: Dtype = "bfloat16"


def check_latent_weights(weights: Sequence[float], config: VoxtralConfig) -> None:
    """Raises ConfigError unless `losses.latent_weights` is empty or fits the acoustic codes."""
    codes = config.audio.n_acoustic_codebook
    if weights and (len(weights) != codes or min(weights) < 0 or max(weights) == 0):
        raise ConfigError(
            f"losses.latent_weights has {len(weights)} numbers; give {codes}, one for each "
            "acoustic code, none negative and not all 0"
        )


def compute_copy(params: Params, dtype: Any) -> Params:
    """Matrices in the type of the arithmetic; vectors (norms, constants) stay as they are."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.ndim >= 2 else leaf, params)


def is_text_embedding(path: Path) -> bool:
    """Whether this is the table of text embeddings."""
    return "tok_embeddings" in path


@struct.dataclass
class FlowDraw:
    """What chance decides for each frame of a batch of `[B, M]` places, N times.

    Attributes:
        noise: `[N, B, M, A]`, where the flow starts.
        t: `[N, B, M]` times in [0, 1).
        dropped: `[N, B, M]`, whether the condition is replaced by zeros.
    """

    noise: Float[Array, "N B M A"]
    t: Float[Array, "N B M"]
    dropped: Array


def draw_flow(key: jax.Array, batch: SpeechBatch, dropout: float, draws: int = 1) -> FlowDraw:
    """Noise, times and dropped conditions for the targets of a batch, `draws` of each."""
    for_noise, for_time, for_drop = jax.random.split(key, 3)
    places = (draws, *batch.targets.shape[:2])
    return FlowDraw(
        noise=jax.random.normal(for_noise, (*places, batch.targets.shape[2] - 1)),
        t=jax.random.uniform(for_time, places),
        dropped=jax.random.bernoulli(for_drop, dropout, places),
    )


def blank_frames(key: jax.Array, batch: SpeechBatch, share: float) -> SpeechBatch:
    """The batch with the codes of some frames that are read, not of targets, taken out."""
    blank = jax.random.bernoulli(key, share, batch.audio.shape) & batch.audio
    tokens = jnp.where(blank[..., None], EMPTY_AUDIO, batch.tokens)
    return dataclasses.replace(batch, tokens=tokens)


def draw_all(
    key: jax.Array, batch: SpeechBatch, settings: SpeechLosses
) -> tuple[FlowDraw, SpeechBatch]:
    """All that chance decides in a step: what `draw_flow` draws, and which frames are blank."""
    for_flow, for_blanks = jax.random.split(key)
    draw = draw_flow(for_flow, batch, settings.condition_dropout, settings.flow_draws)
    if settings.frame_dropout > 0:
        batch = blank_frames(for_blanks, batch, settings.frame_dropout)
    return draw, batch


@struct.dataclass
class PlaceLosses:
    """Losses of each target place, not yet weighed.

    Attributes:
        semantic: `[B, M]` negative log-likelihood of the semantic token.
        correct: `[B, M]` whether it is the likeliest.
        flow: `[B, M]` squared error of the velocity, mean of the draws.
        attention: `[B, M]` mean of the guided heads' losses; 0 without any.
    """

    semantic: Float[Array, "B M"]
    correct: Array
    flow: Float[Array, "B M"]
    attention: Float[Array, "B M"]


def place_losses(
    params: Params,
    config: VoxtralConfig,
    batch: SpeechBatch,
    draw: FlowDraw,
    keep: str,
    guided: tuple[int, ...] = (),
    latent_weights: tuple[float, ...] = (),
) -> PlaceLosses:
    """Runs decoder and heads over packed rows.

    Args:
        params: `{"decoder", "flow"}` in the type of the arithmetic.
        keep: a key of `voxtral_jax.nn.module.REMAT`.
        guided: layers whose first head should look at what is heard.
        latent_weights: as in `SpeechLosses`.
    """
    audio, decoder, head = config.audio, Decoder(config, keep), FlowHead(config.audio, keep)
    tokens, targets = batch.tokens.astype(jnp.int32), batch.targets.astype(jnp.int32)
    x = apply(decoder, params["decoder"], batch.ids, tokens, batch.audio, method="embed_packed")
    hidden, watched = apply(
        decoder, params["decoder"], x, batch.positions, batch.segments, guided, method="hidden"
    )
    attention = guided_attention(batch, watched)
    hidden = jnp.take_along_axis(hidden, batch.places[..., None], axis=1)
    logits = apply(head, params["flow"], hidden, method="semantic_logits")

    codes = jnp.maximum(targets[..., 1:] - TOKEN_OFFSET, 0)
    data = code_values(codes, audio.acoustic_codebook_size)
    state, target = losses.flow_path(data, draw.noise, draw.t, config.flow.sigma)
    condition = apply(head, params["flow"], hidden, method="condition")
    condition = jnp.where(draw.dropped[..., None], 0, condition)
    time_token = apply(head, params["flow"], draw.t.reshape(-1), hidden.dtype, method="time_tokens")
    velocity = apply(
        head,
        params["flow"],
        state.reshape(-1, state.shape[-1]),
        time_token,
        condition.reshape(-1, condition.shape[-1]),
        method="velocity",
    )
    error = losses.flow_error(velocity.reshape(target.shape), target, latent_weights)
    return PlaceLosses(
        semantic=losses.token_negative_log(logits, targets[..., 0]),
        correct=jnp.argmax(logits, axis=-1) == targets[..., 0],
        flow=jnp.mean(error, axis=0),
        attention=attention,
    )


def guided_attention(
    batch: SpeechBatch, watched: Sequence[tuple[Array, Array]]
) -> Float[Array, "B M"]:
    """Mean over guided heads of their losses at the target places."""
    if not watched:
        return jnp.zeros(batch.places.shape)
    segment = jnp.take_along_axis(batch.segments, batch.places, axis=1)
    visible = (batch.segments[:, None, :] == segment[..., None]) & (
        jnp.arange(batch.ids.shape[1]) <= batch.places[..., None]
    )
    each = [
        losses.attention_outside(
            jnp.take_along_axis(q, batch.places[..., None], axis=1), k, visible, batch.heard
        )
        for q, k in watched
    ]
    return jnp.mean(jnp.stack(each), axis=0)


def speech_loss(
    config: VoxtralConfig,
    settings: SpeechLosses,
    keep: str,
    params: Params,
    frozen: Params,
    batch: SpeechBatch,
    key: jax.Array,
    step: Array,
) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of the semantic code plus conditional flow matching, over target frames."""
    weights = compute_copy(join(params, frozen), settings.dtype)
    draw, batch = draw_all(key, batch, settings)
    guided = settings.guided if settings.attention > 0 else ()
    found = place_losses(weights, config, batch, draw, keep, guided, settings.latent_weights)
    semantic = losses.weighted_mean(found.semantic, batch.semantic_weights)
    flow = losses.weighted_mean(found.flow, batch.flow_weights)
    metrics = {
        "semantic": semantic,
        "accuracy": losses.weighted_mean(found.correct.astype(jnp.float32), batch.semantic_weights),
        "flow": flow,
    }
    loss = semantic + settings.flow * flow
    if guided:
        known = batch.semantic_weights * (batch.heard[..., 0] >= 0)
        metrics["attention"] = losses.weighted_mean(found.attention, known)
        loss += settings.attention * metrics["attention"]
    return loss, metrics
