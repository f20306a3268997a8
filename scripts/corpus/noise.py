"""Noise that is the same in every frame and as loud at all times.

Noise that is new in each frame could not be learned, and a decoder has nothing to draw it from.
That which comes and goes would hide what does in speech.
"""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

SEED = 7
"""Of the phases that it begins with."""
STEPS, LEARNING_RATE = 800, 0.1
"""In which it is made steady; the rate falls as a cosine."""
WINDOWS = ((0.0256, 1.0), (1 / 75, 0.5))
"""Seconds in which it is to be as loud as in others, and their weights."""
MOVE = 0.0025
"""Seconds from one window to the next."""
LOWEST, BANDS, LEAST_BINS = 400.0, 15, 3
"""Hz where the lowest third of an octave begins, how many there are, and bins that one must have;
what is above them is one more."""


@cache
def steady_noise(count: int, rate: int) -> Float[np.ndarray, " count"]:
    """Noise of power 1 with all harmonics of `count` samples alike: over and over, it is white.

    It is as loud in all `WINDOWS` in every third of an octave.
    """
    drawn = np.random.default_rng(SEED).uniform(0, 2 * np.pi, count // 2 + 1)
    inner = np.ones(len(drawn))
    inner[[0, -1]] = 0
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, STEPS))
    slope = jax.grad(lambda phases: _unsteady(phases, count, rate))

    def step(
        carry: tuple[Array, optax.OptState], _: None
    ) -> tuple[tuple[Array, optax.OptState], None]:
        phases, state = carry
        change, state = optimizer.update(slope(phases) * inner, state)
        return (jnp.asarray(optax.apply_updates(phases, change)), state), None

    phases = jnp.asarray(drawn * inner)
    run = jax.jit(lambda *start: jax.lax.scan(step, start, None, STEPS)[0][0])
    found = np.asarray(run(phases, optimizer.init(phases)), np.float64)
    return np.fft.irfft(np.exp(1j * found), count) * np.sqrt(count)


def _unsteady(phases: Float[Array, " bins"], count: int, rate: int) -> Array:
    """Variance of the logarithms of its powers in bands and windows."""
    frame = jnp.fft.irfft(jnp.exp(1j * phases), count) * np.sqrt(count)
    sound, total = jnp.tile(frame, 3), jnp.zeros(())
    for seconds, weight in WINDOWS:
        size = round(seconds * rate)
        first = count - size // 2 + np.arange(0, count, round(MOVE * rate))
        windows = sound[first[:, None] + np.arange(size)] * np.hanning(size)
        power = jnp.abs(jnp.fft.rfft(windows, axis=1)) ** 2
        logs = jnp.log(power @ _thirds(size, rate).T + 1e-9)
        total += weight * jnp.mean((logs - logs.mean(axis=0)) ** 2)
    return total


def _thirds(size: int, rate: int) -> Float[np.ndarray, "bands bins"]:
    """Which bins of a window are in which third of an octave."""
    hertz = np.arange(size // 2 + 1) * rate / size
    edges = LOWEST * 2 ** (np.arange(BANDS) / 3)
    edges = np.append(edges[edges < rate / 2], rate / 2)
    inside = (hertz >= edges[:-1, None]) & (hertz < edges[1:, None])
    return inside[inside.sum(axis=1) >= LEAST_BINS].astype(np.float32)
