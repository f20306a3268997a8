"""What a run will cost: operations per step, memory per device; nothing is computed for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from voxtral_jax.parameters import leaves
from voxtral_jax.training.state import TrainState
from voxtral_jax.training.task import StageSettings, Task, abstract_state, make_rules

PEAK_RATES = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "4090": 165e12,
    "T4": 65e12,
    "V100": 125e12,
}
"""Dense half-precision operations per second by part of the device's name (vendor's figures);
the first that fits counts."""


def peak_rate() -> float | None:
    """Operations per second of one device, or None where it is not known."""
    kind = jax.devices()[0].device_kind
    return next((rate for name, rate in PEAK_RATES.items() if name in kind), None)


def _arguments(state: TrainState, batch: Any) -> tuple[Any, ...]:
    """Shapes of what a `GradientFunction` takes."""
    params, frozen, batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        (state.params, state.frozen, batch),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    return params, frozen, batch, key, jax.ShapeDtypeStruct((), jnp.int32)


def step_operations(task: Task, state: TrainState, batch: Any) -> float | None:
    """Operations of one global step, forwards and backwards, as the compiler counts them.

    What rematerialisation computes twice counts once. None where the compiler does not say.
    """
    lowered = jax.jit(task.gradients("all")).lower(*_arguments(state, batch))
    found = lowered.cost_analysis()
    return float(found["flops"]) if isinstance(found, dict) and "flops" in found else None


@dataclass(frozen=True)
class Cost:
    """Cost of a run before it starts; bytes are per device.

    Attributes:
        parameters: trained weights.
        frozen: other weights.
        state: weights, moments and averages.
        gradients: of the trained weights.
        activations: kept from the forward to the backward pass, copies of weights included.
        operations: per global step; None where unknown.
    """

    parameters: int
    frozen: int
    state: int
    gradients: int
    activations: int
    operations: float | None

    @property
    def total(self) -> int:
        """Bytes per device, temporary buffers aside."""
        return self.state + self.gradients + self.activations


def _bytes(leaf: Any) -> int:
    shape = leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def residuals(task: Task, state: TrainState, batch: Any, keep: str) -> list[Any]:
    """Shapes of everything that the backward pass finds kept."""
    loss = task.loss(keep)

    def backwards(params: Any, frozen: Any, batch: Any, key: jax.Array, step: jax.Array) -> Any:
        return jax.vjp(lambda params: loss(params, frozen, batch, key, step)[0], params)[1]

    return jax.tree.leaves(jax.eval_shape(backwards, *_arguments(state, batch)))


def run_cost(task: Task, abstract: TrainState, batch: Any, rows: int, keep: str) -> Cost:
    """Cost of a task whose state has these shapes and shardings.

    Args:
        batch: an abstract global batch.
        rows: devices that share the rows of a batch.
        keep: activations kept (`voxtral_jax.nn.module.REMAT`).
    """
    weights = list(leaves(abstract.params))
    shares = {leaf.shape: _bytes(leaf) / leaf.dtype.itemsize for _, leaf in weights}
    kept = 0.0
    for leaf in residuals(task, abstract, batch, keep):
        # A copy of a weight lies as the weight does; everything else belongs to rows of the batch.
        elements = shares.get(leaf.shape, math.prod(leaf.shape) / rows)
        kept += elements * leaf.dtype.itemsize
    return Cost(
        parameters=sum(math.prod(leaf.shape) for _, leaf in weights),
        frozen=sum(math.prod(leaf.shape) for _, leaf in leaves(abstract.frozen)),
        state=sum(_bytes(leaf) for leaf in jax.tree.leaves(abstract)),
        gradients=sum(_bytes(leaf) for _, leaf in weights),
        activations=round(kept),
        operations=step_operations(task, abstract, batch),
    )


def dry_run(task: Task, settings: StageSettings) -> list[str]:
    """What the run would be, for a mesh that need not be here: lines to print."""
    mesh = settings.mesh
    rows = (mesh.data or 1) * mesh.fsdp
    rules = make_rules(task.config, mesh, task.batch_size, described=True)
    state = abstract_state(task, settings, task.optimizer(settings), rules)
    cost = run_cost(task, state, task.example(), rows, settings.run.keep)
    lines = [
        f"mesh            data={mesh.data or 1} x fsdp={mesh.fsdp} x tensor={mesh.tensor}",
        f"parameters      {cost.parameters:,} trained, {cost.frozen:,} frozen",
        f"memory, each    {_gib(cost.total)}: weights, moments and averages {_gib(cost.state)}, "
        f"gradients {_gib(cost.gradients)}, activations {_gib(cost.activations)} "
        f"(run.keep = {settings.run.keep!r})",
    ]
    if cost.operations is not None:
        lines.append(f"operations      {cost.operations:.3g} per step of {task.batch_size} rows")
    if (steps := settings.run.steps) and cost.operations is not None:
        lines.append(f"whole run       {steps:,} steps, {cost.operations * steps:.3g} operations")
    return lines


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
