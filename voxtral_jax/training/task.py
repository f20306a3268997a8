"""What the loop needs to know of a stage, and the start of its state on a mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import flax.linen as nn
import grain
import jax
import numpy as np
import optax

from voxtral_jax.config import VoxtralConfig
from voxtral_jax.errors import ConfigError
from voxtral_jax.parameters import Params, leaves, unflatten
from voxtral_jax.sharding import Rules, describe_mesh, make_mesh
from voxtral_jax.training.logs import Validation
from voxtral_jax.training.optimizer import accumulated, make_optimizer, with_critic
from voxtral_jax.training.settings import (
    CheckpointSettings,
    GuardSettings,
    LogSettings,
    MeshSettings,
    OptimizerSettings,
    RunSettings,
)
from voxtral_jax.training.state import (
    GradientFunction,
    LossFunction,
    Path,
    TrainState,
    new_state,
    split,
    state_shardings,
)

NAMED_WEIGHTS = 5
"""Weights that an error names."""


class StageSettings(Protocol):
    """The tables that the configuration of every trained stage has."""

    @property
    def run(self) -> RunSettings: ...
    @property
    def optimizer(self) -> OptimizerSettings: ...
    @property
    def mesh(self) -> MeshSettings: ...
    @property
    def checkpoints(self) -> CheckpointSettings: ...
    @property
    def logging(self) -> LogSettings: ...
    @property
    def guard(self) -> GuardSettings: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One stage of training, ready to run.

    Attributes:
        config: the model's sizes.
        init: all weights from a key, boxed with logical axes (`nn.Partitioned`).
        start: weights to start from in place of `init`'s, by path.
        trained: which weights get gradients.
        loss: what the backward pass goes through, for a key of `REMAT`.
        gradients: of it, for a key of `REMAT`.
        batch_size: rows of a global batch.
        batches: an endless dataset of this process's batches.
        batches_per_pass: global batches in one pass over the data.
        example: a global batch of zeros, for accounts of memory and operations.
        audio_seconds: of target audio in this process's batch.
        inspect: looks at this process's batch; what to log, or an error if it cannot go on.
        validate: from all weights; None if there is nothing to validate with.
        critic: optimizer of the branch "critic", if there is one.
        restarted: which frozen weights are always taken from `start`, so that checkpoints need not
            hold them.
        about: what must not change when a run is continued.
        notes: lines for the person who starts the run, such as what the data leave out.
    """

    config: VoxtralConfig
    init: Callable[[jax.Array], Params]
    start: Callable[[Rules], Mapping[Path, jax.Array]]
    trained: Callable[[Path], bool]
    loss: Callable[[str], LossFunction]
    gradients: Callable[[str], GradientFunction]
    batch_size: int
    batches: Callable[[], grain.IterDataset]
    batches_per_pass: int
    example: Callable[[], Any]
    audio_seconds: Callable[[Any], float]
    inspect: Callable[[Any], dict[str, float]] | None = None
    validate: Callable[[Params], Validation] | None = None
    critic: OptimizerSettings | None = None
    restarted: Callable[[Path], bool] = lambda path: False
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def steps(self, settings: StageSettings) -> int:
        """Steps of the run."""
        return settings.run.steps or self.batches_per_pass

    def optimizer(self, settings: StageSettings) -> optax.GradientTransformation:
        """Of all trained weights."""
        steps, own = self.steps(settings), settings.optimizer
        optimizer = make_optimizer(own, steps)
        if self.critic is not None:
            # Both are updated in the same steps.
            alike = dataclasses.replace(self.critic, accumulate=own.accumulate)
            critic = make_optimizer(alike, steps)
            ours, _ = split(jax.eval_shape(lambda: self.init(jax.random.key(0))), self.trained)
            optimizer = with_critic(optimizer, critic, nn.meta.unbox(ours))
        return accumulated(optimizer, own.accumulate)


def make_rules(
    config: VoxtralConfig, settings: MeshSettings, batch_size: int, *, described: bool = False
) -> Rules:
    """The mesh of a run; `described`: one that need not be here.

    Raises:
        ConfigError: the batch cannot be split over it.
    """
    rest = settings.fsdp * settings.tensor
    data = settings.data or (1 if described else max(1, jax.device_count() // rest))
    rows = data * settings.fsdp
    if batch_size % rows or batch_size % jax.process_count():
        raise ConfigError(
            f"data.batch_size is {batch_size}, which data x fsdp = {rows} devices on "
            f"{jax.process_count()} hosts cannot share evenly; choose a multiple"
        )
    make = describe_mesh if described else make_mesh
    return Rules.make(config, make(data=data, fsdp=settings.fsdp, tensor=settings.tensor))


def place_batch(batch: Any, rules: Rules) -> Any:
    """This process's rows of a batch as global arrays, split over the batch axes of the mesh."""

    def place(local: np.ndarray) -> jax.Array:
        shape = (local.shape[0] * jax.process_count(), *local.shape[1:])
        sharding = rules.sharding(("batch", *[None] * (local.ndim - 1)), shape)
        return jax.make_array_from_process_local_data(sharding, local, shape)

    return jax.tree.map(place, batch)


def abstract_batch(task: Task, rules: Rules) -> Any:
    """A global batch as shapes with shardings."""

    def describe(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
        sharding = rules.sharding(("batch", *[None] * (leaf.ndim - 1)), leaf.shape)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(describe, task.example())


def abstract_state(
    task: Task, settings: StageSettings, optimizer: optax.GradientTransformation, rules: Rules
) -> TrainState:
    """The state as shapes with shardings, nothing computed."""
    boxed = jax.eval_shape(
        lambda key: new_state(
            task.init(key),
            task.trained,
            optimizer,
            average=settings.optimizer.average_decay is not None,
        ),
        jax.random.key(0),
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nn.meta.unbox(boxed),
        state_shardings(boxed, rules),
    )


def first_state(
    task: Task,
    settings: StageSettings,
    optimizer: optax.GradientTransformation,
    rules: Rules,
    abstract: TrainState,
) -> TrainState:
    """The state before the first step, every weight made or loaded where it belongs."""
    places = dict(leaves(abstract.params)) | dict(leaves(abstract.frozen))
    loaded = task.start(rules)
    if unknown := loaded.keys() - places.keys():
        names = ", ".join(sorted(".".join(path) for path in unknown)[:NAMED_WEIGHTS])
        raise ConfigError(f"what the run starts from has weights that the model lacks: {names}")
    average = settings.optimizer.average_decay is not None
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    build = jax.jit(
        lambda params: new_state(params, task.trained, optimizer, average=average),
        out_shardings=shardings,
        donate_argnums=0,
    )
    return build(first_weights(task, settings, places, loaded))


def first_weights(
    task: Task,
    settings: StageSettings,
    places: Mapping[Path, jax.ShapeDtypeStruct],
    loaded: Mapping[Path, jax.Array],
) -> Params:
    """The weights of these places before the first step.

    Args:
        places: shapes with shardings, by path.
        loaded: what the task starts from; the others are random.
    """
    key = jax.random.fold_in(jax.random.key(settings.run.seed), 2**31 - 1)
    flat = {
        path: jax.device_put(loaded[path].astype(leaf.dtype), leaf.sharding)
        for path, leaf in places.items()
        if path in loaded
    }
    missing = {path: leaf.sharding for path, leaf in places.items() if path not in flat}

    def make(key: jax.Array) -> dict[Path, jax.Array]:
        every = dict(leaves(nn.meta.unbox(task.init(key))))
        return {path: every[path] for path in missing}

    flat |= jax.jit(make, out_shardings=missing)(key) if missing else {}
    return unflatten(flat)
