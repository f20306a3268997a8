"""Weights in 8 bits: what they stand for, that all else follows from it, and what it changes."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import voxtral_jax as vx
from voxtral_jax import Model, load_model, make_mesh, save_model
from voxtral_jax.eight_bit import STEPS, in_steps, is_heavy
from voxtral_jax.errors import CheckpointError
from voxtral_jax.nn.linear import SCALE, Linear
from voxtral_jax.nn.module import apply
from voxtral_jax.parameters import leaves, unflatten

TEXT = "One two three four five six."


@pytest.fixture(scope="module")
def small(reference: Path) -> Model:
    return load_model(reference, dtype="int8")


def test_a_matrix_is_off_by_half_a_step_at_most() -> None:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6))
    def check(seed: int, size: float) -> None:
        weight = np.random.default_rng(seed).standard_normal((7, 33)).astype(np.float32) * size
        steps, scale = in_steps(weight)
        assert steps.dtype == jnp.int8
        assert np.abs(steps).max() == STEPS
        apart = np.abs(np.asarray(steps, np.float32) * np.asarray(scale)[:, None] - weight)
        assert (apart <= 0.501 * np.asarray(scale)[:, None]).all()

    check()


def test_a_row_of_zeros_stays_zero() -> None:
    steps, scale = in_steps(jnp.zeros((2, 5)))
    assert not steps.any()
    assert np.isfinite(scale).all()


def test_a_linear_map_is_that_of_the_matrix_its_steps_stand_for() -> None:
    weight, x = (jax.random.normal(jax.random.key(i), (n, 32)) for i, n in enumerate((16, 5)))
    steps, scale = in_steps(weight)
    ours = apply(Linear(16), {"weight": steps, SCALE: scale}, x)
    theirs = apply(Linear(16), {"weight": steps * scale[:, None]}, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_matrices_of_decoder_and_flow_are_kept_in_8_bits(small: Model, model: Model) -> None:
    ours, theirs = dict(leaves(small.params)), dict(leaves(model.params))
    assert {path for path in ours if path[-1] != SCALE} == theirs.keys()
    heavy = {path for path in ours if ours[path].dtype == jnp.int8}
    assert heavy == {path for path in theirs if path[0] != "codec" and is_heavy(path)}
    names = {path[-2] for path in heavy}
    attention, feed_forward = {"wq", "wk", "wv", "wo"}, {"w1", "w2", "w3"}
    assert names == attention | feed_forward | {"semantic_codebook_output", "llm_projection"}
    assert {path[0] for path in heavy} == {"decoder", "flow"}


def test_the_model_speaks_as_with_the_weights_its_steps_stand_for(small: Model) -> None:
    flat = dict(leaves(small.params))
    plain = {
        path: leaf * flat[(*path[:-1], SCALE)][:, None] if leaf.dtype == jnp.int8 else leaf
        for path, leaf in flat.items()
        if path[-1] != SCALE
    }
    params = unflatten(plain)
    other = Model(**{**vars(small), "params": params})
    ours, theirs = (vx.synthesize(which, TEXT, seed=4) for which in (small, other))
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_allclose(ours.samples, theirs.samples, atol=1e-5)


def test_a_seed_says_the_same_alone_and_in_a_batch(small: Model) -> None:
    alone = vx.synthesize(small, TEXT, seed=4, max_seconds=1.0)
    both = vx.synthesize(small, ["Another.", TEXT], seed=[1, 4], max_seconds=1.0)
    np.testing.assert_array_equal(alone.codes, both[1].codes)


def test_a_mesh_keeps_them_in_8_bits_too(small: Model, reference: Path) -> None:
    spread = load_model(reference, mesh=make_mesh(tensor=8), dtype="int8")
    weight = spread.params["decoder"]["layers_0"]["feed_forward"]["w1"]["weight"]
    assert weight.dtype == jnp.int8
    assert weight.addressable_shards[0].data.size * 8 == weight.size
    ours, theirs = (vx.synthesize(one, TEXT, seed=4, max_seconds=1.0) for one in (spread, small))
    np.testing.assert_array_equal(ours.codes, theirs.codes)


def test_they_are_not_written_as_a_checkpoint(small: Model, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="8 bits"):
        save_model(small, tmp_path / "model")
    assert not (tmp_path / "model" / "consolidated.safetensors").exists()
