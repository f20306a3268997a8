"""The step that all stages share: guard, accumulation, averages, schedules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from voxtral_jax.errors import TrainingError
from voxtral_jax.training.loop import _Meter
from voxtral_jax.training.optimizer import (
    accumulated,
    learning_rate,
    make_optimizer,
    with_critic,
)
from voxtral_jax.training.settings import GuardSettings, OptimizerSettings, RunSettings
from voxtral_jax.training.state import (
    Gradients,
    StepSettings,
    TrainState,
    gradients_of,
    join,
    make_step,
    new_state,
    split,
)
from voxtral_jax.training.task import Task

GUARD = GuardSettings()
PLAIN = OptimizerSettings(learning_rate=0.1, schedule="constant", clip_norm=1e9)


def loss(params, frozen, batch, key, step):
    """Distance of a weight to the batch's mean; the frozen weight scales it."""
    value = jnp.mean((params["a"]["w"] - batch) ** 2) * frozen["a"]["scale"]
    return value, {"distance": value}


def steps(batches, optimizer, guard=GUARD, average_decay=None) -> list:
    """States and metrics after each batch."""
    params = {"a": {"w": jnp.zeros(3), "scale": jnp.ones(())}}
    state = new_state(
        params, lambda path: path[-1] == "w", optimizer, average=average_decay is not None
    )
    how = StepSettings(0, guard, average_decay)
    step = jax.jit(make_step(gradients_of(loss), optimizer, how))
    found = []
    for batch in batches:
        state, metrics = step(state, jnp.asarray(batch, jnp.float32))
        found.append((state, metrics))
    return found


def test_split_trees_join_again() -> None:
    tree = {"a": {"b": 1, "c": 2}, "d": {"e": 3}}
    first, second = split(tree, lambda path: path[-1] in "be")
    assert first == {"a": {"b": 1}, "d": {"e": 3}}
    assert join(first, second) == tree


def test_frozen_weights_stay_and_have_no_moments() -> None:
    (state, _), *_ = steps([[1, 2, 3]], make_optimizer(PLAIN, 10))
    assert state.frozen == {"a": {"scale": 1}}
    assert state.weights["a"].keys() == {"w", "scale"}
    moments = [leaf.shape for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim]
    assert moments == [(3,), (3,)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e4])
def test_harmful_steps_are_skipped_and_counted(bad: float) -> None:
    guard = GuardSettings(spike=4.0, after_steps=3)
    calm = [[1, 2, 3]] * 4
    found = steps([*calm, [bad] * 3, *calm], make_optimizer(PLAIN, 20), guard)
    before, spoilt, after = (found[i][0] for i in (3, 4, -1))
    jax.tree.map(np.testing.assert_array_equal, spoilt.params, before.params)
    jax.tree.map(np.testing.assert_array_equal, spoilt.optimizer, before.optimizer)
    assert (int(spoilt.step), int(spoilt.guard.skipped), int(spoilt.guard.streak)) == (5, 1, 1)
    assert (int(after.step), int(after.guard.skipped), int(after.guard.streak)) == (9, 1, 0)
    undisturbed = steps([*calm, *calm], make_optimizer(PLAIN, 20), guard)[-1][0]
    np.testing.assert_allclose(after.params["a"]["w"], undisturbed.params["a"]["w"], rtol=1e-6)


@pytest.mark.parametrize("offset", [-1.0, -3.0])
def test_losses_may_be_negative_or_zero(offset: float) -> None:
    def lower(params, frozen, batch, key, step):
        value, metrics = loss(params, frozen, batch, key, step)
        return value + offset, metrics

    guard = GuardSettings(spike=4.0, after_steps=3)
    optimizer = make_optimizer(PLAIN, 20)
    params = {"a": {"w": jnp.zeros(3), "scale": jnp.ones(())}}
    state = new_state(params, lambda path: path[-1] == "w", optimizer, average=False)
    step = jax.jit(make_step(gradients_of(lower), optimizer, StepSettings(0, guard, None)))
    for batch, skipped in ((1.0, 0), (1.0, 0), (1.0, 0), (1.0, 0), (1.0, 0), (30.0, 1), (1.0, 1)):
        state, _ = step(state, jnp.full(3, batch))
        assert int(state.guard.skipped) == skipped
    assert float(state.guard.typical) < 0


def test_a_run_of_harmful_steps_ends_with_advice() -> None:
    class Settings:
        """What the meter asks for."""

        optimizer = PLAIN
        guard = GuardSettings(most_skipped=2)

    state, metrics = steps([[np.nan] * 3] * 3, make_optimizer(PLAIN, 9))[-1]
    assert int(state.guard.streak) == 3
    meter = _Meter(None, Settings, 9, None)
    with pytest.raises(TrainingError, match=r"3 steps in a row.*learning_rate"):
        meter.read(3, metrics)


def test_frozen_weights_that_a_stage_moves_are_kept_from_bad_steps() -> None:
    def gradients(params, frozen, batch, key, step):
        moved = jax.tree.map(lambda leaf: leaf + 1, frozen)
        return Gradients({"a": {"w": batch}}, moved, jnp.mean(batch), {})

    optimizer = make_optimizer(PLAIN, 9)
    params = {"a": {"w": jnp.zeros(3), "scale": jnp.zeros(())}}
    state = new_state(params, lambda path: path[-1] == "w", optimizer, average=False)
    step = make_step(gradients, optimizer, StepSettings(0, GuardSettings(), None))
    for batch, expected in (([1.0] * 3, 1), ([np.nan] * 3, 1), ([1.0] * 3, 2)):
        state, _ = step(state, jnp.asarray(batch))
        assert state.frozen["a"]["scale"] == expected


def test_accumulated_steps_equal_one_on_their_mean() -> None:
    batches = [[1, 2, 3], [3, 2, 4], [0, 5, 1], [2, 2, 2]]
    several = steps(batches, accumulated(make_optimizer(PLAIN, 4), 2))
    pairs = [np.mean(batches[i : i + 2], axis=0) for i in (0, 2)]
    once = steps(pairs, make_optimizer(PLAIN, 2))
    np.testing.assert_array_equal(several[0][0].params["a"]["w"], np.zeros(3))
    for i, j in ((1, 0), (3, 1)):
        np.testing.assert_allclose(
            several[i][0].params["a"]["w"], once[j][0].params["a"]["w"], rtol=1e-5
        )


def test_averages_follow_the_weights() -> None:
    found = steps([[1, 2, 3]] * 3, make_optimizer(PLAIN, 9), average_decay=0.5)
    average = np.zeros(3)
    for step, (state, _) in enumerate(found):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * np.asarray(state.params["a"]["w"])
        np.testing.assert_allclose(state.average["a"]["w"], average, rtol=1e-5)
        np.testing.assert_allclose(state.weights["a"]["w"], average, rtol=1e-5)


def test_the_same_seed_and_step_give_the_same_key() -> None:
    keys = []

    def gradients(params, frozen, batch, key, step):
        keys.append(jax.random.key_data(key).tolist())
        return Gradients(jax.tree.map(jnp.zeros_like, params), frozen, jnp.zeros(()), {})

    optimizer = make_optimizer(PLAIN, 9)
    for seed in (1, 1, 2):
        state = new_state({"a": jnp.zeros(1)}, lambda path: True, optimizer, average=False)
        step = make_step(gradients, optimizer, StepSettings(seed, GuardSettings(), None))
        for _ in range(2):
            state, _ = step(state, None)
    assert keys[:2] == keys[2:4]
    assert len({str(key) for key in keys}) == 4
    assert isinstance(state, TrainState)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 0.25, 3: 1, 4: 1, 50: 1, 99: 1}),
        ("cosine", {0: 0.25, 3: 1, 4: 1, 52: 0.55, 100: 0.1}),
        ("wsd", {0: 0.25, 3: 1, 50: 1, 80: 1, 90: 0.55, 100: 0.1}),
    ],
)
def test_schedules_warm_up_and_end_as_they_say(schedule, expected) -> None:
    settings = OptimizerSettings(
        learning_rate=1.0, schedule=schedule, warmup_steps=4, decay_share=0.2, final_share=0.1
    )
    rate = learning_rate(settings, 100)
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, abs=1e-3), step


def test_a_decay_that_the_warm_up_leaves_no_room_for_still_ends() -> None:
    settings = OptimizerSettings(
        learning_rate=1.0, schedule="wsd", warmup_steps=60, decay_share=0.8, final_share=0.1
    )
    rate = learning_rate(settings, 100)
    assert float(rate(60)) == pytest.approx(1)
    assert float(rate(80)) == pytest.approx(0.55)
    assert float(rate(100)) == pytest.approx(0.1)


def test_the_critics_schedule_counts_updates_as_the_models_does() -> None:
    ours = OptimizerSettings(learning_rate=0.1, accumulate=2)
    params = {"codec": {"v": jnp.ones(1)}, "critic": {"v": jnp.ones(1)}}
    task = Task(
        config=None,
        init=lambda key: params,
        start=lambda rules: {},
        trained=lambda path: True,
        loss=lambda keep: loss,
        gradients=lambda keep: gradients_of(loss),
        batch_size=1,
        batches=lambda: None,
        batches_per_pass=8,
        example=lambda: None,
        audio_seconds=lambda batch: 0.0,
        critic=OptimizerSettings(learning_rate=0.1, schedule="cosine"),
    )

    class Settings:
        """What the task asks for."""

        optimizer = ours
        run = RunSettings(out="")

    optimizer = task.optimizer(Settings)
    state = optimizer.init(params)
    for _ in range(8):
        updates, state = optimizer.update(params, state, params)
        np.testing.assert_allclose(updates["critic"]["v"], updates["codec"]["v"])
    # The fourth and last update is of a quarter's rate.
    assert float(updates["critic"]["v"][0]) == pytest.approx(-0.1 * 0.1464, rel=1e-2)


def test_only_matrices_decay_and_the_critic_has_its_own_optimizer() -> None:
    decay = OptimizerSettings(learning_rate=0.1, schedule="constant", weight_decay=0.5)
    params = {"codec": {"m": jnp.ones((2, 2)), "v": jnp.ones(2)}, "critic": {"m": jnp.ones((2, 2))}}
    optimizer = with_critic(make_optimizer(decay, 9), optax.sgd(1.0), params)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["codec"]["m"], -0.05 * np.ones((2, 2)), rtol=1e-5)
    assert not np.any(updates["codec"]["v"])
    assert not np.any(updates["critic"]["m"])
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["critic"]["m"], -np.ones((2, 2)))
