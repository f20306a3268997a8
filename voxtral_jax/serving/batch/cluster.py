"""The same run on a Ray cluster: actors hold the model, a shared directory takes the files.

What is done is known from the directory alone (audio appears whole, journals name it), so that a
worker may be killed at any moment: Ray gives its jobs to another, which does those that are
missing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voxtral_jax.errors import ClosedError, EngineError, JobError
from voxtral_jax.serving.batch.interruption import terminated_as_interrupted
from voxtral_jax.serving.batch.jobs import Job
from voxtral_jax.serving.batch.records import Result, read_results
from voxtral_jax.serving.batch.running import AHEAD, ModelFiles, Speaker, engine_settings
from voxtral_jax.serving.engine import Engine

LOCAL = "local"
OBJECT_STORE = 128 * 2**20
"""Bytes of a local cluster's object store: texts go through it, never audio."""
CALLS = 2
"""Batches that an actor works on at once: while one ends, the next keeps the slots full."""
TURNS = 4
"""Batches for each call of each actor at least, so that all actors end at about the same time."""
MOST_DEATHS = 5
"""Times that a batch is tried again after its worker died; a text that kills every time ends it."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where to speak.

    Attributes:
        address: of a running cluster as `ray.init` takes it ("auto", "HOST:PORT"), or "local".
        workers: actors, each with a model.
        gpus: of each actor; the model is spread over them. 0 is a CPU.
        slots: texts that an actor speaks side by side.
        watermark: mark the audio inaudibly.
    """

    address: str
    workers: int = 1
    gpus: int = 0
    slots: int = 8
    watermark: bool = True


class Worker:
    """What an actor holds: a model, its engine, a journal of its own."""

    def __init__(self, files: ModelFiles, out: str, cluster: Cluster) -> None:
        self._out, self._ahead = Path(out), cluster.slots * AHEAD // CALLS
        model = files.load(devices=max(1, cluster.gpus))
        # Never closed: an actor ends with its process.
        self._engine = Engine(model, engine_settings(cluster.slots)).__enter__()
        self._speaker = Speaker(self._engine, self._out, watermark=cluster.watermark)

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Speaks a batch: `jobs`, lists of them as JSON, to `results`, the same of results."""
        jobs = [Job(**job) for row in rows["jobs"] for job in json.loads(row)]
        # The batch of a worker that died comes again; files tell whether it had got anywhere.
        begun = any((self._out / job.file).exists() for job in jobs)
        known = read_results(self._out) if begun else {}
        done = [
            known[job.name]
            for job in jobs
            if job.name in known and known[job.name].settles(job, self._out)
        ]
        names = {result.name for result in done}
        left = [job for job in jobs if job.name not in names]
        try:
            done += self._speaker.speak(left, self._ahead)
        except (EngineError, ClosedError):
            # To raise would end the whole run; a worker that dies is replaced.
            logging.getLogger(__name__).exception("the device fails")
            os._exit(1)
        return {"results": [json.dumps([asdict(result) for result in done])]}


def speak_on_cluster(
    cluster: Cluster, files: ModelFiles, jobs: Sequence[Job], out: Path
) -> Generator[Result]:
    """Speaks jobs on a cluster, and yields results as they come.

    Args:
        cluster: where.
        files: of the model, by names that every machine of the cluster knows.
        jobs: longest first.
        out: directory that all machines share, under the same name.

    Raises:
        JobError: Ray is not installed, or there is no cluster at the address.
        EngineError: a batch failed again and again.
    """
    with _connected(cluster):
        from ray.exceptions import RayError

        try:
            with closing(_rows(cluster, files, jobs, out)) as rows:
                for row in rows:
                    for result in json.loads(row["results"]):
                        yield Result(**result)
        except RayError as error:
            raise EngineError(f"the workers on the Ray cluster failed: {error}") from error


def _rows(
    cluster: Cluster, files: ModelFiles, jobs: Sequence[Job], out: Path
) -> Generator[dict[str, Any]]:
    """The batches' results, in whatever order they come."""
    from ray.data import ActorPoolStrategy, DataContext, from_items

    DataContext.get_current().enable_progress_bars = False
    size = max(1, min(cluster.slots * AHEAD, len(jobs) // (cluster.workers * CALLS * TURNS)))
    # One block for each batch, so that what one call does is what another repeats.
    batches = [
        {"jobs": json.dumps([asdict(job) for job in jobs[start : start + size]])}
        for start in range(0, len(jobs), size)
    ]
    data = from_items(batches, override_num_blocks=len(batches)).map_batches(
        Worker,
        batch_size=1,
        batch_format="numpy",
        compute=ActorPoolStrategy(
            size=cluster.workers,
            max_concurrent_calls_per_actor=CALLS,
            enable_true_multi_threading=True,
        ),
        num_gpus=cluster.gpus or None,
        fn_constructor_kwargs={"files": files, "out": str(out.absolute()), "cluster": cluster},
        max_restarts=MOST_DEATHS,
        max_task_retries=MOST_DEATHS,
    )
    yield from data.iter_rows()


@contextmanager
def _connected(cluster: Cluster) -> Iterator[None]:
    """Joins the cluster while the block runs; a local one ends with it."""
    # Ray reports what it is used for to its makers unless told otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise JobError(
            "--ray needs Ray, which is not installed here: pip install 'voxtral-jax[ray]'"
        ) from None
    own: dict[str, Any] = {}
    if cluster.address == LOCAL:
        # CPUs only count who may start; each worker takes one.
        cpus = max(cluster.workers, os.cpu_count() or 1)
        own = {
            "num_cpus": cpus,
            "include_dashboard": False,
            # Ray executes what any client sends.
            "_node_ip_address": "127.0.0.1",
            "object_store_memory": OBJECT_STORE,
        }
    try:
        ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobError(f"no Ray cluster at {cluster.address!r}: {error}") from None
    try:
        # Ray has put a handler of its own.
        with terminated_as_interrupted():
            yield
    finally:
        ray.shutdown()
