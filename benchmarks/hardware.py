"""What this device can do at best: measured copy bandwidth and matmul rate."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Ceilings:
    """Measured limits: bytes read and written per second, and operations per second."""

    bandwidth: float
    matmul: float


def median_seconds(call: Callable[[], Any], repeats: int = 7) -> float:
    """Median wall-clock time of a call that returns device arrays, after one warm-up."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def measure(dtype: jnp.dtype) -> Ceilings:
    """Measures a sweep over a large array and a large product of random matrices of `dtype`."""
    gpu = jax.default_backend() == "gpu"
    # Several times the largest cache, and large enough to fill the chip.
    count, side = (2**31, 8192) if gpu else (2**28, 2048)
    # In place: a fresh result would measure how fast the system hands out pages.
    count_up = jax.jit(lambda x: x + 1, donate_argnums=0)
    buffer = [jax.random.bits(jax.random.key(0), (count // 4,), jnp.uint32)]

    def sweep() -> jax.Array:
        buffer[0] = count_up(buffer[0])
        return buffer[0]

    bandwidth = 2 * count / median_seconds(sweep)
    a, b = (jax.random.normal(jax.random.key(i), (side, side), dtype) for i in (1, 2))
    product = jax.jit(jnp.matmul)
    return Ceilings(bandwidth, 2 * side**3 / median_seconds(lambda: product(a, b)))
