"""How our Flax modules declare their weights and are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from voxtral_jax.sharding import Axes


def declare(
    module: nn.Module,
    name: str,
    init: Callable[..., jax.Array],
    shape: Sequence[int],
    axes: Axes | None = None,
) -> jax.Array:
    """A weight of `module`: initialiser, shape and logical axes (None: never split)."""
    axes = (None,) * len(shape) if axes is None else axes
    weight: Any = module.param(name, nn.with_partitioning(init, axes), tuple(shape))
    return weight


def apply(
    module: nn.Module,
    params: Any,
    *arguments: Any,
    method: str | Callable[..., Any] | None = None,
) -> Any:
    """`module.method(*arguments)` with these weights: `module.apply` without its wrapping."""
    return module.apply({"params": params}, *arguments, method=method)
