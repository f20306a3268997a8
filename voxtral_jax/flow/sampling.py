"""Flow matching at inference: solvers, guidance, and codes at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from voxtral_jax.config import AudioModelConfig
from voxtral_jax.errors import RequestError
from voxtral_jax.flow.model import FlowHead
from voxtral_jax.kernels.ode_step import ode_last_step, ode_step
from voxtral_jax.nn.module import apply

Velocities: TypeAlias = tuple[Array, Array]
"""With and without the condition."""
Field: TypeAlias = Callable[[Array, Array], Velocities]
"""`field(x, time_token)`: the velocities at x."""
Move: TypeAlias = Callable[[Array, Velocities, float], Array]
"""`move(x, velocities, dt)`: x after following the guided velocity for dt."""


class Solver(Protocol):
    """An explicit one-step method: from x it moves along `direction` for the whole step."""

    @property
    def offsets(self) -> tuple[float, ...]:
        """Where in the step the velocity is needed, as fractions of it."""

    def direction(
        self, field: Field, move: Move, x: Array, time_tokens: Array, dt: float
    ) -> Velocities:
        """The velocities to follow; `time_tokens` holds one for each offset."""


@dataclass(frozen=True)
class Euler:
    """One evaluation a step, at its start."""

    offsets: tuple[float, ...] = (0.0,)

    def direction(
        self, field: Field, move: Move, x: Array, time_tokens: Array, dt: float
    ) -> Velocities:
        """The velocities at the start of the step."""
        return field(x, time_tokens[0])


@dataclass(frozen=True)
class Midpoint:
    """Two evaluations a step: the second, at the midpoint, is followed."""

    offsets: tuple[float, ...] = (0.0, 0.5)

    def direction(
        self, field: Field, move: Move, x: Array, time_tokens: Array, dt: float
    ) -> Velocities:
        """The velocities half a step ahead."""
        middle = move(x, field(x, time_tokens[0]), dt / 2)
        return field(middle, time_tokens[1])


MOST_STEPS = 256
"""More than any flow gains from."""
SOLVERS: dict[str, Solver] = {"euler": Euler(), "midpoint": Midpoint()}


@dataclass(frozen=True)
class Sampler:
    """How the flow is integrated; a static argument of the compiled programs.

    Attributes:
        solver: a key of `SOLVERS`.
        steps: steps from t = 0 to t = 1.
        kernels: see `voxtral_jax.kernels`.
    """

    solver: str = "euler"
    steps: int = 7
    kernels: str = "jnp"

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise RequestError(f"solver {self.solver!r} is unknown; choose from {list(SOLVERS)}")
        if not isinstance(self.steps, int) or not 1 <= self.steps <= MOST_STEPS:
            raise RequestError(f"steps must be from 1 to {MOST_STEPS}, got {self.steps!r}")

    def times(self) -> list[list[float]]:
        """Evaluation times, `[steps][evaluations per step]`."""
        offsets = SOLVERS[self.solver].offsets
        return [[(i + offset) / self.steps for offset in offsets] for i in range(self.steps)]


def time_table(
    params: Any, config: AudioModelConfig, sampler: Sampler, dtype: jnp.dtype
) -> Float[Array, "steps evaluations width"]:
    """Projected times of all evaluations: constant for a model and sampler."""
    times = jnp.asarray(sampler.times(), jnp.float32)
    tokens = apply(FlowHead(config), params, times.reshape(-1), dtype, method="time_tokens")
    return tokens.reshape(*times.shape, -1)


def sample_flow(
    params: Any,
    config: AudioModelConfig,
    sampler: Sampler,
    table: Float[Array, "steps evaluations width"],
    hidden: Float[Array, "B D"],
    noise: Float[Array, "B A"],
    guidance: Float[Array, " B"],
) -> tuple[Float[Array, "B A"], Int[Array, "B A"]]:
    """Integrates the guided flow from `noise` to acoustic codes.

    Args:
        params: of `FlowHead`.
        table: from `time_table`.
        hidden: the decoder's hidden states.
        noise: x at t = 0.
        guidance: a in `a v(h) + (1 - a) v(0)`; 1 is no guidance.

    Returns:
        x at t = 1 (before clamp and rounding; float32), and the codes (no offset).
    """
    head, solver = FlowHead(config), SOLVERS[sampler.solver]
    dt = 1.0 / sampler.steps
    conditional = apply(head, params, hidden, method="condition")
    # Guidance is one more row for each sequence: the weights are read once for both.
    condition = jnp.concatenate([conditional, jnp.zeros_like(conditional)])

    def field(x: Array, time_token: Array) -> Velocities:
        both = apply(
            head,
            params,
            jnp.concatenate([x, x]),
            jnp.broadcast_to(time_token, condition.shape),
            condition,
            method="velocity",
        )
        return both[: x.shape[0]], both[x.shape[0] :]

    def move(x: Array, velocities: Velocities, dt: float) -> Array:
        return ode_step(x, *velocities, guidance, dt, sampler.kernels)

    def step(x: Array, time_tokens: Array) -> tuple[Array, None]:
        return move(x, solver.direction(field, move, x, time_tokens, dt), dt), None

    x, _ = jax.lax.scan(step, noise.astype(jnp.float32), table[:-1])
    last = solver.direction(field, move, x, table[-1], dt)
    levels = config.acoustic_codebook_size
    return ode_last_step(x, *last, guidance, dt, levels, sampler.kernels)
