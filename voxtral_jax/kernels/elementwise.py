"""Launches an element-by-element Pallas kernel over arrays of shape `[rows, width]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

KERNELS = ("jnp", "pallas", "interpret")
"""How an operation can be carried out."""

BLOCK = 256
"""Elements of one program: 8 per thread of one warp; the arrays here have a few thousand."""


def default_kernels(mesh: Mesh | None = None) -> str:
    """ "pallas" on a single GPU, else "jnp": the compiler cannot split a Pallas call."""
    single = mesh is None or mesh.size == 1
    return "pallas" if single and jax.default_backend() == "gpu" else "jnp"


def round_half_even(x: jax.Array) -> jax.Array:
    """`jnp.round` from operations that Triton knows."""
    low = jnp.floor(x)
    rest = x - low
    odd = low - 2 * jnp.floor(low / 2)
    return low + jnp.where((rest > 0.5) | ((rest == 0.5) & (odd == 1)), 1.0, 0.0)


def elementwise(
    function: Callable[..., Sequence[jax.Array]],
    elements: Sequence[jax.Array],
    rows: Sequence[jax.Array],
    dtypes: Sequence[jnp.dtype],
    *,
    interpret: bool,
    name: str,
) -> list[jax.Array]:
    """`function(*elements, *rows)` in one kernel.

    Args:
        function: element by element; returns one array for each of `dtypes`.
        elements: arrays of one shape `[..., width]`.
        rows: arrays of shape `[...]`: one value for each row of `elements`.
        dtypes: of the results, which have the shape of `elements`.
        interpret: run it without a GPU.
        name: of the kernel, for profiles.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    shape = elements[0].shape
    width, count = shape[-1], elements[0].size

    def kernel(*refs: Any) -> None:
        index = pl.program_id(0) * BLOCK + jnp.arange(BLOCK)
        mask = index < count
        inputs = [
            triton.load(ref.at[at], mask=mask, other=0)
            for ref, at in zip(
                refs, [index] * len(elements) + [index // width] * len(rows), strict=False
            )
        ]
        outputs = refs[len(inputs) :]
        for ref, value in zip(outputs, function(*inputs), strict=True):
            triton.store(ref.at[index], value.astype(ref.dtype), mask=mask)

    results = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct((count,), dtype) for dtype in dtypes],
        grid=(pl.cdiv(count, BLOCK),),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=1, num_stages=1),
        name=name,
    )(*(x.reshape(-1) for x in (*elements, *rows)))
    return [result.reshape(shape) for result in results]
