"""What benchmarks claim: floors from the published sizes, and missed targets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from voxtral_jax import VoxtralConfig
from voxtral_jax.flow import Sampler

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from parts import Cost, Sizes, part_costs  # noqa: E402
from run_gpu import SIZES, TABLE, lines  # noqa: E402


def test_a_frame_of_the_released_model_reads_what_the_architecture_says() -> None:
    config = VoxtralConfig.load(SIZES)
    costs = part_costs(config, Sampler(steps=7), 1, 0, Sizes(weight=2, cache=2))
    assert costs["decode step"].bytes == pytest.approx(6.05e9, rel=0.01)
    assert costs["flow"].bytes == pytest.approx(7 * 0.70e9, rel=0.03)
    assert sum(costs.values(), Cost()).bytes == pytest.approx(11e9, rel=0.01)


def test_a_batch_reads_the_weights_once_and_its_caches_each() -> None:
    config = VoxtralConfig.load(SIZES)
    one, many = (
        part_costs(config, Sampler(), batch, 100, Sizes(weight=1, cache=2)) for batch in (1, 32)
    )
    # Keys and values of 100 tokens: docs/serving.md has 104 KiB each.
    more = many["decode step"].bytes - one["decode step"].bytes
    assert more == pytest.approx(31 * 100 * 104 * 2**10, rel=1e-6)
    assert many["flow"].bytes == one["flow"].bytes
    for name, cost in many.items():
        assert cost.operations == pytest.approx(32 * one[name].operations)


def test_what_was_not_measured_is_not_claimed() -> None:
    rows = lines({})[2:]
    assert len(rows) == len(TABLE)
    assert all("not measured" in row for row in rows)


def test_a_missed_target_says_so() -> None:
    measured = {"stream": {"closed_loop": {"1": {"real_time_factor": 0.5}}}}
    assert "0.5 (missed) | 0.055" in lines(measured)[2]
    measured["stream"]["closed_loop"]["1"]["real_time_factor"] = 0.05
    assert "0.05 | 0.055" in lines(measured)[2]
