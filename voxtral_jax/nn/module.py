"""How our Flax modules declare their weights and are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from voxtral_jax.sharding import Axes


def declare(
    module: nn.Module,
    name: str,
    init: Callable[..., jax.Array],
    shape: Sequence[int],
    axes: Axes | None = None,
) -> jax.Array:
    """A weight of `module`: initialiser, shape and logical axes (None: never split)."""
    if module.has_variable("params", name):
        # `module.param` would trace the initialiser to compare shapes, at each start; loading does.
        weight: Any = nn.meta.unbox(module.get_variable("params", name))
        return weight
    axes = (None,) * len(shape) if axes is None else axes
    weight = module.param(name, nn.with_partitioning(init, axes), tuple(shape))
    return weight


REMAT: dict[str, Callable[..., bool] | None] = {
    "all": None,
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "none": jax.checkpoint_policies.nothing_saveable,
}
"""What the backward pass finds kept of a block: all activations, the products with weights, or
nothing but its input; the rest is computed again."""


def rematerialised(module: nn.Module, keep: str, **fixed: Any) -> Callable[..., Any]:
    """`module` as a function that keeps only this (a key of `REMAT`) for the backward pass.

    `fixed` are arguments that are no arrays.
    """

    def call(module: Any, *arguments: Any) -> Any:
        return module(*arguments, **fixed)

    if keep == "all":
        return partial(call, module)
    return partial(nn.remat(call, policy=REMAT[keep]), module)


def apply(
    module: nn.Module,
    params: Any,
    *arguments: Any,
    method: str | Callable[..., Any] | None = None,
) -> Any:
    """`module.method(*arguments)` with these weights: `module.apply` without its wrapping."""
    return module.apply({"params": params}, *arguments, method=method)


def apply_through(
    module: nn.Module,
    params: Any,
    kind: type[nn.Module],
    *arguments: Any,
    method: str | Callable[..., Any] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """As `apply`, and the first thing that each module of a kind gives, by the names on its way."""
    result, kept = module.apply(
        {"params": params},
        *arguments,
        method=method,
        mutable="intermediates",
        capture_intermediates=lambda part, name: isinstance(part, kind) and name == "__call__",
    )
    calls = flatten_dict(kept["intermediates"])
    return result, unflatten_dict({path[:-1]: call[0][0] for path, call in calls.items()})
