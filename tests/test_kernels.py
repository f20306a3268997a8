"""Every Pallas kernel equals its plain twin: interpreted here, compiled where there is a GPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_jax.kernels.elementwise import BLOCK, round_half_even
from voxtral_jax.kernels.fsq import code_values, quantize, round_generated
from voxtral_jax.kernels.ode_step import ode_last_step, ode_step

SHAPES = [(1, 1), (1, 36), (7, 36), (8, 32), (2, BLOCK), (3, BLOCK + 1)]
COMPILED = pytest.param("pallas", marks=pytest.mark.gpu)
ULPS = 4e-7
"""A fused multiply-add may round once where the twin rounds twice."""


def arrays(shape: tuple[int, int], count: int) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(shape[0] + shape[1]), count)
    return [2 * jax.random.normal(key, shape) for key in keys]


@pytest.mark.parametrize("kernels", ["interpret", COMPILED])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("levels", [2, 9, 21])
@pytest.mark.parametrize("operation", [quantize, round_generated])
def test_fsq_kernels_equal_their_twins(operation, levels, shape, kernels) -> None:
    (x,) = arrays(shape, 1)
    codes, values = operation(x, levels, "jnp")
    kernel_codes, kernel_values = operation(x, levels, kernels)
    assert codes.dtype == kernel_codes.dtype == jnp.int32
    np.testing.assert_array_equal(kernel_codes, codes)
    np.testing.assert_allclose(kernel_values, values, atol=ULPS)
    assert codes.min() >= 0
    assert codes.max() <= levels - 1
    np.testing.assert_allclose(code_values(codes, levels), values, atol=ULPS)


@pytest.mark.parametrize("kernels", ["interpret", COMPILED])
@pytest.mark.parametrize("shape", SHAPES)
def test_step_kernels_equal_their_twins(shape, kernels) -> None:
    x, conditional, free = arrays(shape, 3)
    guidance = jnp.linspace(0.5, 3, shape[0])
    step = partial(ode_step, x, conditional, free, guidance, 1 / 7)
    np.testing.assert_allclose(step(kernels), step("jnp"), atol=10 * ULPS)
    last = partial(ode_last_step, x, conditional, free, guidance, 1 / 7, 21)
    end, codes = last("jnp")
    kernel_end, kernel_codes = last(kernels)
    np.testing.assert_allclose(kernel_end, end, atol=10 * ULPS)
    np.testing.assert_array_equal(kernel_codes, codes)


def test_the_step_is_guidance_and_euler() -> None:
    x, conditional, free = (np.asarray(a) for a in arrays((5, 36), 3))
    guidance = np.linspace(0, 3, 5, dtype=np.float32)
    a = guidance[:, None].astype(np.float64)
    plain = x + 0.25 * (a * conditional + (1 - a) * free)
    np.testing.assert_allclose(
        ode_step(x, conditional, free, guidance, 0.25, "jnp"), plain, atol=1e-6
    )
    _, codes = ode_last_step(x, conditional, free, guidance, 0.25, 21, "jnp")
    np.testing.assert_array_equal(codes, np.round((np.clip(plain, -1, 1) + 1) / 2 * 20))


@pytest.mark.parametrize("operation", [quantize, round_generated])
def test_extreme_values_stay_within_the_levels(operation) -> None:
    x = jnp.array([[-jnp.inf, -1e30, -1.0, 0.0, 1.0, 1e30, jnp.inf]])
    for kernels in ("jnp", "interpret"):
        codes, values = operation(x, 21, kernels)
        assert codes[0, 0] == codes[0, 1] == 0
        assert codes[0, -1] == codes[0, -2] == 20
        assert codes[0, 3] == 10
        assert jnp.isfinite(values).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 80), min_size=1, max_size=8))
def test_rounding_takes_ties_to_the_even_code(halves: list[int]) -> None:
    x = jnp.array(halves, jnp.float32) / 2
    np.testing.assert_array_equal(round_half_even(x), jnp.round(x))


@pytest.mark.parametrize(
    "program",
    [
        lambda x: quantize(x, 21, "pallas"),
        lambda x: round_generated(x, 21, "pallas"),
        lambda x: ode_step(x, x, x, x[:, 0], 0.1, "pallas"),
        lambda x: ode_last_step(x, x, x, x[:, 0], 0.1, 21, "pallas"),
    ],
)
def test_kernels_lower_to_triton_without_a_gpu(program) -> None:
    x = jnp.zeros((32, 36))
    lowered = jax.jit(program).trace(x).lower(lowering_platforms=("cuda",))
    assert "triton" in lowered.as_text()
