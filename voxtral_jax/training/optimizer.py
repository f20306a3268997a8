"""AdamW or Muon with warm-up, schedule, clipping and accumulation: optax, from settings."""

from __future__ import annotations

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from voxtral_jax.training.settings import OptimizerSettings

MUON_MOMENTUM, MUON_RMS = 0.95, 0.2
"""Decay of the momentum; root mean square of an update, next to AdamW's (arXiv 2502.16982)."""


def learning_rate(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """Learning rate by update, for a run of `steps` steps."""
    updates = max(1, steps // settings.accumulate)
    peak, last = settings.learning_rate, settings.learning_rate * settings.final_share
    warmup = min(settings.warmup_steps, updates)
    rest = max(1, updates - warmup)
    if settings.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, settings.final_share)
    else:
        # No longer than what the warm-up leaves, so that it ends where it should.
        decay = min(rest, max(1, round(updates * settings.decay_share)))
        after = optax.linear_schedule(peak, last, decay, transition_begin=rest - decay)
    # From peak / warmup rather than from 0: the first update moves as well.
    return optax.join_schedules(
        [optax.linear_schedule(peak / max(1, warmup), peak, max(1, warmup - 1)), after], [warmup]
    )


def make_optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """The optimizer of the settings; only matrices decay."""
    schedule = learning_rate(settings, steps)
    if settings.kind == "muon":
        update = muon(
            lambda count: settings.matrix_scale * schedule(count),
            adam_learning_rate=schedule,
            beta=MUON_MOMENTUM,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            adam_b1=settings.beta1,
            adam_b2=settings.beta2,
            muon_weight_dimension_numbers=muon_matrices,
            consistent_rms=MUON_RMS,
        )
    else:
        update = optax.adamw(
            schedule,
            b1=settings.beta1,
            b2=settings.beta2,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim >= 2, params),
        )
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), update)


def muon_matrices(params: Any) -> Any:
    """Muon's axes for the linear maps `[out, in]` of transformer layers, None for all else."""

    def axes(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        in_layer = any("layers" in str(getattr(key, "key", "")) for key in path)
        return MuonDimensionNumbers(1, 0) if in_layer and leaf.ndim == 2 else None

    return jax.tree_util.tree_map_with_path(axes, params)


def accumulated(
    optimizer: optax.GradientTransformation, every: int
) -> optax.GradientTransformation:
    """Updates once in `every` steps, from the mean of their gradients."""
    if every == 1:
        return optimizer
    steps = optax.MultiSteps(optimizer, every)
    return optax.GradientTransformation(steps.init, steps.update)


def with_critic(
    optimizer: optax.GradientTransformation, critic: optax.GradientTransformation, params: Any
) -> optax.GradientTransformation:
    """`critic` for the branch "critic" of the tree, `optimizer` for all other branches."""
    labels = {
        name: jax.tree.map(lambda _, name=name: "critic" if name == "critic" else "model", branch)
        for name, branch in params.items()
    }
    return optax.partition({"model": optimizer, "critic": critic}, labels)
