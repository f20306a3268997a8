"""The loop of every trained stage: batches in, steps, logs, checkpoints, and an orderly end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax

from voxtral_jax.errors import TrainingError
from voxtral_jax.parameters import leaves
from voxtral_jax.sharding import Rules
from voxtral_jax.training.checkpoints import Checkpoints, note_run, taken
from voxtral_jax.training.costs import peak_rate, step_operations
from voxtral_jax.training.interruption import interruption
from voxtral_jax.training.logs import RunLog, quiet_libraries
from voxtral_jax.training.optimizer import learning_rate
from voxtral_jax.training.state import StepSettings, TrainState, join, make_step, split
from voxtral_jax.training.task import (
    StageSettings,
    Task,
    abstract_batch,
    abstract_state,
    first_state,
    first_weights,
    make_rules,
    place_batch,
)


def train(task: Task, settings: StageSettings) -> TrainState:
    """Runs a stage to its end, or until it is asked to stop; continues what `run.out` holds.

    Returns:
        The last state.

    Raises:
        TrainingError: too many steps in a row had to be skipped.
        CheckpointError: `run.out` holds another run, or another process trains there.
    """
    quiet_libraries()
    out = Path(settings.run.out)
    with taken(out):
        return _run(task, settings, out)


def _run(task: Task, settings: StageSettings, out: Path) -> TrainState:
    steps = task.steps(settings)
    rules = make_rules(task.config, settings.mesh, task.batch_size)
    first_host = jax.process_index() == 0
    if first_host:
        note_run(out, task.about)
    checkpoints = Checkpoints(out, settings.checkpoints, task.restarted)
    done = checkpoints.latest() or 0
    batches = iter(task.batches())
    optimizer = task.optimizer(settings)
    state = _open_state(task, settings, optimizer, rules, checkpoints, batches)
    example = abstract_batch(task, rules)
    program = compile_step(task, settings, optimizer, state, example)
    tensorboard = settings.logging.tensorboard
    log = RunLog(out, steps=steps, start=done, tensorboard=tensorboard, writes=first_host)
    meter = _Meter(task, settings, steps, step_operations(task, state, example))
    stop = False
    try:
        for note in task.notes:
            log.say(note)
        log.say(f"{'continuing' if done else 'starting'} {out} at step {done} of {steps}")
        with interruption() as asked:
            while done < steps and not stop:
                local = next(batches)
                state, metrics = program(state, place_batch(local, rules))
                done += 1
                meter.note(local)
                if done % settings.logging.every_steps == 0 or done == steps:
                    log.metrics(done, meter.read(done, metrics))
                stop = asked.at(done)
                checkpoints.save(state, batches, done, now=stop or done == steps)
                due = done % settings.logging.validate_every_steps == 0 or done == steps
                if task.validate is not None and due and not stop:
                    log.validation(done, task.validate(state.weights))
                    meter.pause()
        if stop:
            log.say(f"asked to stop: step {done} is saved, the same command goes on from there")
    finally:
        # Whatever happened: what is being written is finished first.
        checkpoints.finish()
        log.close()
    return state


def compile_step(
    task: Task,
    settings: StageSettings,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """The step as a program for this state and batches like this one; it consumes the state."""
    how = StepSettings(settings.run.seed, settings.guard, settings.optimizer.average_decay)
    step = make_step(task.gradients(settings.run.keep), optimizer, how)
    # The state lies after a step as it did before.
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(places, None))
    return jitted.lower(state, batch).compile()


def _open_state(
    task: Task,
    settings: StageSettings,
    optimizer: optax.GradientTransformation,
    rules: Rules,
    checkpoints: Checkpoints,
    batches: Any,
) -> TrainState:
    abstract = abstract_state(task, settings, optimizer, rules)
    if checkpoints.latest() is None:
        return first_state(task, settings, optimizer, rules, abstract)
    restored = checkpoints.restore(abstract, batches)
    again, _ = split(abstract.frozen, task.restarted)
    if not again:
        return restored
    # Not a whole first state: a second one may not fit beside the first.
    fresh = first_weights(task, settings, dict(leaves(again)), task.start(rules))
    return dataclasses.replace(restored, frozen=join(restored.frozen, fresh))


class _Meter:
    """Metrics of the steps since the last reading, with speed and utilisation."""

    def __init__(
        self, task: Task, settings: StageSettings, steps: int, operations: float | None
    ) -> None:
        self._rate = learning_rate(settings.optimizer, steps)
        self._task, self._settings = task, settings
        self._operations, self._peak = operations, peak_rate()
        self._inspected: dict[str, float] = {}
        self.pause()

    def note(self, batch: Any) -> None:
        """Notes a step on this process's part of a batch."""
        self._steps += 1
        self._audio += self._task.audio_seconds(batch) * jax.process_count()
        if self._task.inspect is not None:
            self._inspected = self._task.inspect(batch)

    def pause(self) -> None:
        """Leaves out the time until now."""
        self._begun, self._steps, self._audio = time.perf_counter(), 0, 0.0

    def read(self, step: int, metrics: dict[str, jax.Array]) -> dict[str, float]:
        """What to log; waits for the step.

        Raises:
            TrainingError: too many steps in a row had to be skipped.
        """
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        streak, most = int(values.pop("skipped_in_a_row")), self._settings.guard.most_skipped
        if streak > most:
            raise TrainingError(
                f"{streak} steps in a row had a loss or gradients that are not finite, or a loss "
                f"over {self._settings.guard.spike} times its mean (last loss {values['loss']:.4g} "
                f"at step {step}); lower optimizer.learning_rate, look at the data, or raise "
                "guard.spike. The last checkpoint is good."
            )
        elapsed = time.perf_counter() - self._begun
        values |= self._inspected
        values["learning_rate"] = float(self._rate(step // self._settings.optimizer.accumulate))
        if self._steps:
            values["steps_per_second"] = self._steps / elapsed
            values["audio_per_second"] = self._audio / elapsed
            if self._peak and self._operations:
                devices = self._peak * jax.device_count()
                values["mfu"] = self._operations * self._steps / elapsed / devices
        self.pause()
        return values
