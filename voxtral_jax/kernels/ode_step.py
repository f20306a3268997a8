"""The sampler's update: guidance and an explicit step in one pass; the last one rounds as well.

Euler: `x + dt v(x)`. Midpoint uses the same update twice: with `dt / 2` to the midpoint, then from
the old x with `dt` and the velocity found there.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from voxtral_jax.kernels.elementwise import elementwise, round_half_even
from voxtral_jax.kernels.fsq import clamp, scale_and_round


def _step(dt: float, x: Array, conditional: Array, free: Array, guidance: Array) -> Array:
    return x + dt * (guidance * conditional + (1.0 - guidance) * free)


def ode_step(
    x: Float[Array, "B width"],
    conditional: Float[Array, "B width"],
    free: Float[Array, "B width"],
    guidance: Float[Array, " B"],
    dt: float,
    kernels: str,
) -> Float[Array, "B width"]:
    """`x + dt (a v(h) + (1 - a) v(0))`, float32.

    Args:
        x: state.
        conditional, free: velocities v(h) and v(0), of any float type.
        guidance: a, for each sequence.
        dt: step.
        kernels: see `voxtral_jax.kernels`.
    """
    x, conditional, free = (a.astype(jnp.float32) for a in (x, conditional, free))
    if kernels == "jnp":
        return _step(dt, x, conditional, free, guidance[:, None])
    return elementwise(
        lambda *inputs: [_step(dt, *inputs)],
        [x, conditional, free],
        [guidance],
        [jnp.float32],
        interpret=kernels == "interpret",
        name="ode_step",
    )[0]


def ode_last_step(
    x: Float[Array, "B width"],
    conditional: Float[Array, "B width"],
    free: Float[Array, "B width"],
    guidance: Float[Array, " B"],
    dt: float,
    levels: int,
    kernels: str,
) -> tuple[Float[Array, "B width"], Int[Array, "B width"]]:
    """`ode_step`, then clamp to [-1, 1] and round: the end of the flow and its codes."""
    x, conditional, free = (a.astype(jnp.float32) for a in (x, conditional, free))
    if kernels == "jnp":
        end = _step(dt, x, conditional, free, guidance[:, None])
        return end, scale_and_round(clamp(end), levels, jnp.round)[0]

    def function(*inputs: Array) -> tuple[Array, Array]:
        end = _step(dt, *inputs)
        return end, scale_and_round(clamp(end), levels, round_half_even)[0]

    end, codes = elementwise(
        function,
        [x, conditional, free],
        [guidance],
        [jnp.float32, jnp.int32],
        interpret=kernels == "interpret",
        name="ode_last_step",
    )
    return end, codes
