"""AdamW with warm-up, a schedule, clipping and accumulation: optax, put together from settings."""

from __future__ import annotations

from typing import Any

import jax
import optax

from voxtral_jax.training.settings import OptimizerSettings


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
        decay = max(1, round(updates * settings.decay_share))
        after = optax.linear_schedule(peak, last, decay, transition_begin=max(0, rest - decay))
    # From peak / warmup rather than from 0: the first update moves as well.
    return optax.join_schedules(
        [optax.linear_schedule(peak / max(1, warmup), peak, max(1, warmup - 1)), after], [warmup]
    )


def make_optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """AdamW; only matrices decay."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(
            learning_rate(settings, steps),
            b1=settings.beta1,
            b2=settings.beta2,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim >= 2, params),
        ),
    )


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
