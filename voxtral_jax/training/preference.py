"""Preference tuning (DPO) of the hybrid: semantic codes by likelihood, acoustic ones by flow error.

The weights are `{"decoder", "flow"}` (trained) and `{"reference": {"decoder", "flow"}}`, a frozen
copy of where they started.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from voxtral_jax.config import VoxtralConfig
from voxtral_jax.parameters import Params
from voxtral_jax.training import losses
from voxtral_jax.training.data.batches import SpeechBatch
from voxtral_jax.training.settings import Dtype
from voxtral_jax.training.speech import (
    FlowDraw,
    PlaceLosses,
    compute_copy,
    draw_flow,
    place_losses,
)
from voxtral_jax.training.state import join


@dataclass(frozen=True, kw_only=True)
class PreferenceLosses:
    """Weights and strengths; the defaults are the published recipe's.

    Attributes:
        semantic_beta: strength of the DPO loss on semantic codes.
        flow_beta: strength of the flow's.
        pretraining: weight of the speech loss on the winners.
        flow, latent_weights: weight of flow matching within it and of each acoustic code, as in
            `SpeechLosses`. The codes' weights also hold for the errors that are compared.
        dtype: of the arithmetic.
    """

    semantic_beta: float = 0.1
    flow_beta: float = 0.5
    pretraining: float = 1.0
    flow: float = 1.0
    latent_weights: tuple[float, ...] = ()
    dtype: Dtype = "bfloat16"


@struct.dataclass
class PreferenceBatch:
    """Pairs of samples for one prompt, one sample a row: row i of each is a pair.

    Attributes:
        winners, losers: see `SpeechBatch`; rows without weights are padding.
    """

    winners: SpeechBatch
    losers: SpeechBatch


def _likelihoods(found: PlaceLosses, batch: SpeechBatch) -> tuple[Array, Array]:
    """Log-likelihood of each row's semantic codes, and minus its summed flow errors: both `[B]`."""
    semantic = jnp.sum(found.semantic * batch.semantic_weights, axis=1)
    flow = jnp.sum(found.flow * batch.flow_weights, axis=1)
    return -semantic, -flow


def preference_loss(
    config: VoxtralConfig,
    settings: PreferenceLosses,
    keep: str,
    params: Params,
    frozen: Params,
    batch: PreferenceBatch,
    key: jax.Array,
    step: Array,
) -> tuple[Array, dict[str, Array]]:
    """Both DPO losses and the speech loss on the winners.

    Policy and reference see winner and loser at the same times and noise, frame by frame.
    """
    every = join(params, frozen)
    reference = compute_copy(every["reference"], settings.dtype)
    policy = compute_copy({part: every[part] for part in reference}, settings.dtype)
    draw = draw_flow(key, batch.winners, 0.0)

    def judge(weights: Params, side: SpeechBatch, draw: FlowDraw) -> PlaceLosses:
        latents = settings.latent_weights
        return place_losses(weights, config, side, draw, keep, latent_weights=latents)

    won, lost = judge(policy, batch.winners, draw), judge(policy, batch.losers, draw)
    before_won = jax.lax.stop_gradient(judge(reference, batch.winners, draw))
    before_lost = jax.lax.stop_gradient(judge(reference, batch.losers, draw))
    semantic_won, flow_won = _likelihoods(won, batch.winners)
    semantic_lost, flow_lost = _likelihoods(lost, batch.losers)
    semantic_ref_won, flow_ref_won = _likelihoods(before_won, batch.winners)
    semantic_ref_lost, flow_ref_lost = _likelihoods(before_lost, batch.losers)

    pairs = (jnp.sum(batch.winners.semantic_weights, axis=1) > 0).astype(jnp.float32)
    semantic = losses.preference(
        semantic_won, semantic_ref_won, semantic_lost, semantic_ref_lost, settings.semantic_beta
    )
    flow = losses.preference(flow_won, flow_ref_won, flow_lost, flow_ref_lost, settings.flow_beta)
    spoken = losses.weighted_mean(won.semantic, batch.winners.semantic_weights)
    matched = losses.weighted_mean(won.flow, batch.winners.flow_weights)
    margin = (semantic_won - semantic_ref_won) - (semantic_lost - semantic_ref_lost)
    metrics = {
        "semantic_dpo": losses.weighted_mean(semantic, pairs),
        "flow_dpo": losses.weighted_mean(flow, pairs),
        "semantic": spoken,
        "flow": matched,
        "semantic_margin": losses.weighted_mean(margin, pairs),
        "preferred": losses.weighted_mean((margin > 0).astype(jnp.float32), pairs),
    }
    preferences = metrics["semantic_dpo"] + metrics["flow_dpo"]
    return preferences + settings.pretraining * (spoken + settings.flow * matched), metrics
