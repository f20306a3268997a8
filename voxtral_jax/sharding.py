"""Logical axes of weights and activations, and where each lies on the device mesh.

The mesh has three axes: `data` (batch), `fsdp` (weights split, batch too) and `tensor` (heads and
feed-forward split). A weight names its axes logically where it is declared; `Rules` is the one
table that maps those names to mesh axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from voxtral_jax.config import VoxtralConfig
from voxtral_jax.errors import RequestError

Axes: TypeAlias = tuple[str | None, ...]
"""Logical name of each axis of an array; None is never split."""

MESH_AXES = ("data", "fsdp", "tensor")

LOGICAL_TO_MESH: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "flow_heads": ("tensor",),
    "flow_kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "codec_heads": ("tensor",),
    "codec_kv_heads": ("tensor",),
}
"""Logical axis -> mesh axes. `embed` is the model width of weights; activations keep it whole."""


def make_mesh(
    *, data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of `data * fsdp * tensor` devices.

    Args:
        data: copies of the model, each with its share of the batch.
        fsdp: shards of every weight, each with its share of the batch.
        tensor: shards of heads and feed-forward widths.
        devices: defaults to the first devices of `jax.devices()`.

    Raises:
        RequestError: there are fewer devices than the mesh needs, or a size is not 1 or more.
    """
    if min(data, fsdp, tensor) < 1:
        raise RequestError(f"sizes of a mesh are 1 or more, got {data=}, {fsdp=}, {tensor=}")
    devices = list(jax.devices() if devices is None else devices)
    size = data * fsdp * tensor
    if len(devices) < size:
        raise RequestError(
            f"a mesh of data={data} x fsdp={fsdp} x tensor={tensor} needs {size} devices, "
            f"{len(devices)} are here"
        )
    return jax.make_mesh(
        (data, fsdp, tensor),
        MESH_AXES,
        axis_types=(AxisType.Auto,) * 3,
        devices=devices[:size],
    )


def describe_mesh(*, data: int = 1, fsdp: int = 1, tensor: int = 1) -> AbstractMesh:
    """A mesh of devices that need not exist, for plans: nothing can be computed on it."""
    return AbstractMesh((data, fsdp, tensor), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


@dataclass(frozen=True)
class Rules:
    """Logical to mesh axes for one model on one mesh.

    Heads are split only where `tensor` divides the number of key/value heads: a key/value head
    lies with its queries, and no head is cut.
    """

    mesh: Mesh | AbstractMesh
    table: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def make(cls, config: VoxtralConfig, mesh: Mesh | AbstractMesh) -> Rules:
        """The rules for `config` on `mesh`."""
        groups = {
            "": config.n_kv_heads,
            "flow_": config.flow.n_kv_heads,
            "codec_": config.codec.n_kv_heads,
        }
        whole = {
            prefix + name
            for prefix, kv_heads in groups.items()
            if kv_heads % mesh.shape["tensor"]
            for name in ("heads", "kv_heads")
        }
        table = [(name, () if name in whole else axes) for name, axes in LOGICAL_TO_MESH.items()]
        return cls(mesh, tuple(table))

    def spec(self, axes: Axes, shape: Sequence[int]) -> PartitionSpec:
        """Mesh axes of each dimension; a dimension that does not divide evenly stays whole."""
        table = dict(self.table)
        entries: list[tuple[str, ...] | None] = []
        for name, size in zip(axes, shape, strict=True):
            mesh_axes = table.get(name, ()) if name is not None else ()
            parts = 1
            for axis in mesh_axes:
                parts *= self.mesh.shape[axis]
            entries.append(mesh_axes if mesh_axes and size % parts == 0 else None)
        return PartitionSpec(*entries)

    def sharding(self, axes: Axes, shape: Sequence[int]) -> NamedSharding:
        """Where an array with these logical axes lies."""
        return NamedSharding(self.mesh, self.spec(axes, shape))

    def constrain(self, x: jax.Array, axes: Axes) -> jax.Array:
        """Pins an activation inside `jit` to its place on the mesh."""
        return jax.lax.with_sharding_constraint(x, self.sharding(axes, x.shape))

    def shardings(self, abstract: Any) -> Any:
        """Sharding of every leaf of a tree of `nn.Partitioned` abstract arrays."""
        return jax.tree.map(
            lambda leaf: self.sharding(leaf.names, leaf.value.shape),
            abstract,
            is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned),
        )
