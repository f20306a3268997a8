"""Several hosts as one: found from the environment that SLURM, Kubernetes or a launcher sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import multihost_utils

from voxtral_jax.errors import TrainingError

PORT = 8476
"""Of the coordinator where the environment names none."""


@dataclass(frozen=True)
class Cluster:
    """Where this process stands among all.

    Attributes:
        coordinator: `host:port` of process 0, or None where jax finds it itself (SLURM).
        count: processes in all.
        index: of this one.
    """

    coordinator: str | None
    count: int
    index: int


def find_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster that the environment describes, or None for a single process.

    In this order:
        `COORDINATOR_ADDRESS`, `NUM_PROCESSES` and `PROCESS_ID`, which any launcher can set; in an
        indexed job of Kubernetes, `JOB_COMPLETION_INDEX` stands for the last.
        SLURM: `SLURM_NTASKS`, `SLURM_PROCID` within `srun`.

    Raises:
        TrainingError: it is only half described.
    """
    if address := environment.get("COORDINATOR_ADDRESS"):
        index = environment.get("PROCESS_ID", environment.get("JOB_COMPLETION_INDEX"))
        count = environment.get("NUM_PROCESSES")
        if index is None or count is None:
            raise TrainingError(
                "COORDINATOR_ADDRESS is set, but not NUM_PROCESSES and PROCESS_ID (or Kubernetes' "
                "JOB_COMPLETION_INDEX); set all three"
            )
        address = address if ":" in address else f"{address}:{PORT}"
        return _cluster(address, count, index, "NUM_PROCESSES", "PROCESS_ID")
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_ID" in environment:
        return _cluster(
            None, environment["SLURM_NTASKS"], environment["SLURM_PROCID"], "SLURM_NTASKS", "PROCID"
        )
    return None


def _cluster(address: str | None, count: str, index: str, *names: str) -> Cluster | None:
    try:
        cluster = Cluster(address, int(count), int(index))
    except ValueError:
        raise TrainingError(
            f"{' and '.join(names)} must be integers, got {count!r}, {index!r}"
        ) from None
    if not 0 <= cluster.index < cluster.count:
        raise TrainingError(f"process {cluster.index} of {cluster.count}: there is no such process")
    return cluster if cluster.count > 1 else None


def join_cluster() -> None:
    """Connects this process to the others, if there are any; before anything else touches jax."""
    cluster = find_cluster(os.environ)
    if cluster is None or jax.distributed.is_initialized():
        return
    if cluster.coordinator is None:
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(cluster.coordinator, cluster.count, cluster.index)


def fetch(tree: Any) -> Any:
    """Arrays on the host, whole on every host."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def wait_for_all() -> None:
    """Waits until every host has come this far."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("voxtral_jax")
