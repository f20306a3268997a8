"""Checkpoints of a run: the whole state and the place in the data, written while training goes on.

A checkpoint appears whole or not at all (orbax renames it when it is complete), so a run that is
killed at any moment continues from the last one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import grain.checkpoint
import jax
import numpy as np
import orbax.checkpoint as ocp

from voxtral_jax.errors import CheckpointError
from voxtral_jax.files import replacing
from voxtral_jax.locking import held
from voxtral_jax.parameters import leaves
from voxtral_jax.training.settings import CheckpointSettings
from voxtral_jax.training.state import TrainState, split

FOLDER = "checkpoints"
STATE, DATA = "state", "data"
"""Items of a checkpoint: the state, and the place in the data."""
ABOUT = "run.json"
"""What a run is of: its stage and sizes; a run with others may not continue it."""
LOCK = "lock"


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
        out: the run directory.
        settings: when they are written, and which are kept.
        left_out: which frozen weights they do not hold.
    """

    def __init__(
        self,
        out: Path,
        settings: CheckpointSettings,
        left_out: Callable[[tuple[str, ...]], bool] = lambda path: False,
    ) -> None:
        self._left_out = left_out
        self._manager = ocp.CheckpointManager(
            (out / FOLDER).resolve(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=settings.keep,
                keep_period=settings.keep_every_steps,
                save_interval_steps=settings.every_steps,
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
            ),
        )

    def latest(self) -> int | None:
        """Step of the latest complete checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, batches: Any, step: int, *, now: bool = False) -> bool:
        """Writes a checkpoint if one is due (or `now`); the arrays are copied before it returns."""
        if now and self._manager.latest_step() == step:
            return False
        state = self._kept(state)
        return self._manager.save(
            step,
            args=ocp.args.Composite(
                **{STATE: ocp.args.StandardSave(state)},
                **{DATA: grain.checkpoint.CheckpointSave(batches)},
            ),
            force=now,
        )

    def restore(self, abstract: TrainState, batches: Any | None = None) -> TrainState:
        """The latest state, without what checkpoints leave out, on the devices of `abstract`.

        Sets `batches` to its place in the data.

        Raises:
            CheckpointError: it cannot be read, or does not fit.
        """
        step = self._manager.latest_step()
        items = {STATE: ocp.args.StandardRestore(self._kept(abstract))}
        if batches is not None:
            items[DATA] = grain.checkpoint.CheckpointRestore(batches)
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, OSError) as error:
            raise CheckpointError(
                f"the checkpoint of step {step} in {self._manager.directory} cannot be read, or is "
                f"of another configuration (choose another run.out): {error}"
            ) from error
        return restored[STATE]

    def finish(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _kept(self, state: TrainState) -> TrainState:
        return dataclasses.replace(state, frozen=split(state.frozen, self._left_out)[1])


def run_weights(out: Path) -> dict[tuple[str, ...], np.ndarray]:
    """All weights in the latest checkpoint of a run, averaged where it has averages, by path.

    Raises:
        CheckpointError: there is no run, or it has no checkpoint yet.
    """
    read_run(out)
    folder = (out / FOLDER).resolve()
    manager = ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(read_only=True))
    step = manager.latest_step()
    manager.close()
    if step is None:
        raise CheckpointError(f"{out} has no complete checkpoint yet; train on")
    path = folder / str(step) / STATE
    with ocp.PyTreeCheckpointer() as reader:
        shapes = reader.metadata(path).item_metadata.tree
        wanted = {name: shapes[name] for name in ("params", "frozen", "average") if shapes[name]}
        to_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        how = ocp.args.PyTreeRestore(wanted, restore_args=to_host, partial_restore=True)
        state = reader.restore(path, args=how)
    trained = state.get("average") or state["params"]
    return dict(leaves(state.get("frozen") or {})) | dict(leaves(trained))


@contextmanager
def taken(out: Path) -> Iterator[None]:
    """Holds a run directory for the processes of this run while the block runs; creates it.

    Raises:
        CheckpointError: another run is at work there.
    """
    out.mkdir(parents=True, exist_ok=True)
    busy = CheckpointError(
        f"another process trains in {out}; wait until it has ended, or choose another run.out"
    )
    # Of several hosts, one holds it for all.
    with held(out / LOCK, busy) if jax.process_index() == 0 else nullcontext():
        yield


def note_run(out: Path, about: dict[str, Any]) -> None:
    """Writes what the run is of into its directory, or checks that it is the same as before.

    Raises:
        CheckpointError: another run is there.
    """
    path = out / ABOUT
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        return
    before = read_run(out)
    # As JSON has it: tuples are lists.
    now = json.loads(json.dumps(about))
    for name in about:
        if before.get(name) != now[name]:
            raise CheckpointError(
                f"{out} holds a run with another {name!r} than this configuration; choose another "
                "run.out, or remove that directory"
            )


def read_run(out: Path) -> dict[str, Any]:
    """What the run in a directory is of.

    Raises:
        CheckpointError: there is none.
    """
    try:
        about = json.loads((out / ABOUT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{out} is no training run: it has no {ABOUT}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{out / ABOUT} cannot be read: {error}") from None
    return about
