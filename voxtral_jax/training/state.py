"""The state of a run, and the step that every stage shares: gradients, guard, update, averages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from voxtral_jax.parameters import Params, leaves, unflatten
from voxtral_jax.sharding import Rules
from voxtral_jax.training.settings import GuardSettings

GUARD_DECAY = 0.98
"""Of the running mean of the loss that spikes are measured against."""
LEAST_TYPICAL = 1e-3
"""What the mean's magnitude counts as at least: losses that hold scores may cross 0."""

Path: TypeAlias = tuple[str, ...]


@struct.dataclass
class Guard:
    """What the guard remembers.

    Attributes:
        skipped: steps skipped in all.
        streak: steps skipped in a row.
        typical: running mean of the loss.
    """

    skipped: Int[Array, ""]
    streak: Int[Array, ""]
    typical: Float[Array, ""]


@struct.dataclass
class TrainState:
    """Everything that a checkpoint holds, and that a step takes and gives back.

    Attributes:
        step: steps done.
        params: weights that are trained, float32.
        frozen: all others: constants, averages that a stage moves itself, weights kept as they are.
        optimizer: of `params`.
        average: moving average of `params`, or None.
        guard: of loss spikes.
    """

    step: Int[Array, ""]
    params: Params
    frozen: Params
    optimizer: Any
    average: Params | None
    guard: Guard

    @property
    def weights(self) -> Params:
        """All weights to validate and export with: averaged if there are averages."""
        return join(self.params if self.average is None else self.average, self.frozen)


@struct.dataclass
class Gradients:
    """What a stage makes of a batch.

    Attributes:
        params: gradients of the trained weights.
        frozen: the frozen weights after the step (moving averages may have moved).
        loss: what the guard watches.
        metrics: scalars to log.
    """

    params: Params
    frozen: Params
    loss: Float[Array, ""]
    metrics: dict[str, Array]


GradientFunction: TypeAlias = Callable[[Params, Params, Any, jax.Array, Array], Gradients]
"""`gradients(params, frozen, batch, key, step)`; the key belongs to the step."""


LossFunction: TypeAlias = Callable[
    [Params, Params, Any, jax.Array, Array], tuple[Array, dict[str, Array]]
]
"""`loss(params, frozen, batch, key, step) -> (loss, metrics)`."""


def gradients_of(loss: LossFunction) -> GradientFunction:
    """Gradients of a loss that leaves the frozen weights alone."""

    def gradients(
        params: Params, frozen: Params, batch: Any, key: jax.Array, step: Array
    ) -> Gradients:
        (value, metrics), found = jax.value_and_grad(loss, has_aux=True)(
            params, frozen, batch, key, step
        )
        return Gradients(found, frozen, value, metrics)

    return gradients


def split(params: Params, trained: Callable[[Path], bool]) -> tuple[Params, Params]:
    """The weights whose path is `trained`, and the others."""
    flat = dict(leaves(params))
    return (
        unflatten({path: leaf for path, leaf in flat.items() if trained(path)}),
        unflatten({path: leaf for path, leaf in flat.items() if not trained(path)}),
    )


def join(first: Params, second: Params) -> Params:
    """One tree of two that `split` made."""
    return unflatten(dict(leaves(first)) | dict(leaves(second)))


def new_state(
    params: Params,
    trained: Callable[[Path], bool],
    optimizer: optax.GradientTransformation,
    *,
    average: bool,
) -> TrainState:
    """The state before the first step. `params` may be boxed with logical axes; so is the state."""
    ours, frozen = split(params, trained)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=ours,
        frozen=frozen,
        optimizer=optimizer.init(ours),
        average=jax.tree.map(jnp.copy, ours) if average else None,
        guard=Guard(zero, zero, jnp.zeros(())),
    )


def state_shardings(abstract: TrainState, rules: Rules) -> Any:
    """Sharding of every leaf of a boxed abstract state: by its axes, or on every device."""

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, nn.Partitioned):
            return rules.sharding((), ())
        if isinstance(leaf.value, optax.MaskedNode):  # another optimizer's weight: nothing to place
            return leaf.value
        return rules.sharding(leaf.names, leaf.value.shape)

    return jax.tree.map(place, abstract, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))


@dataclass(frozen=True)
class StepSettings:
    """What the shared step needs to know."""

    seed: int
    guard: GuardSettings
    average_decay: float | None


def make_step(
    gradients: GradientFunction, optimizer: optax.GradientTransformation, settings: StepSettings
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]:
    """The function `step(state, batch) -> (state, metrics)`, to be jitted with `state` donated."""

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
        found = gradients(state.params, state.frozen, batch, key, state.step)
        norm = optax.tree.norm(found.params)
        guard, good = _watch(state, found.loss, norm, settings.guard)
        updates, moments = optimizer.update(found.params, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None and settings.average_decay is not None:
            # At first the average follows closely, so that the random start is soon forgotten.
            decay = jnp.minimum(settings.average_decay, (1 + state.step) / (10 + state.step))
            average = optax.incremental_update(params, average, 1 - decay)

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

        moved = TrainState(
            step=state.step + 1,
            params=keep(params, state.params),
            frozen=keep(found.frozen, state.frozen),
            optimizer=keep(moments, state.optimizer),
            average=None if average is None else keep(average, state.average),
            guard=guard,
        )
        metrics = found.metrics | {
            "loss": found.loss,
            "gradient_norm": norm,
            "skipped": guard.skipped,
            "skipped_in_a_row": guard.streak,
        }
        return moved, metrics

    return step


def _watch(
    state: TrainState, loss: Array, norm: Array, settings: GuardSettings
) -> tuple[Guard, Array]:
    old = state.guard
    seen = state.step - old.skipped
    size = jnp.maximum(jnp.abs(old.typical), LEAST_TYPICAL)
    spike = (seen >= settings.after_steps) & (loss - old.typical > (settings.spike - 1) * size)
    good = jnp.isfinite(loss) & jnp.isfinite(norm) & ~spike
    # A plain mean at first, so that the first loss does not linger.
    keep = jnp.minimum(GUARD_DECAY, seen / (seen + 1))
    typical = jnp.where(good, keep * old.typical + (1 - keep) * loss, old.typical)
    skipped = old.skipped + (~good).astype(jnp.int32)
    streak = jnp.where(good, 0, old.streak + 1)
    return Guard(skipped, streak, typical), good
