"""Joined parts: one loudness, no clicks, and the same samples however they arrive."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_jax.audio import PartJoiner

RATE = 8_000
PAUSES = [0.3, 0.15, 0.0]


def join(parts: Sequence[np.ndarray], pauses: Sequence[float], rate: int) -> np.ndarray:
    """Each part whole."""
    joiner = PartJoiner(len(parts), rate)
    pieces = [
        piece
        for part, pause in zip(parts, pauses, strict=True)
        for piece in (joiner.push(part), joiner.end_part(pause))
    ]
    return np.concatenate(pieces)


def tone(seconds: float, level: float, hertz: float = 220.0) -> np.ndarray:
    """A sine of that peak."""
    time = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def streamed(parts: list[np.ndarray], pauses: list[float], cuts: list[int]) -> np.ndarray:
    """The parts pushed in pieces of the sizes in `cuts`, taken in turns."""
    joiner, out, turn = PartJoiner(len(parts), RATE), [], 0
    for part, pause in zip(parts, pauses, strict=True):
        start = 0
        while start < len(part):
            size = cuts[turn % len(cuts)]
            out.append(joiner.push(part[start : start + size]))
            start, turn = start + size, turn + 1
        out.append(joiner.end_part(pause))
    return np.concatenate(out)


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def speechlike(seed: int) -> list[np.ndarray]:
    """Three parts of bursts and pauses, of random lengths and levels; some parts are silent."""
    random = np.random.default_rng(seed)
    parts = []
    for _ in range(3):
        pieces = []
        for _ in range(random.integers(1, 6)):
            level = random.choice([0.0, 0.0005, 0.05, 0.3, 0.9])
            size = int(random.integers(0, 2 * RATE))
            pieces.append((random.standard_normal(size) * level).astype(np.float32))
        parts.append(np.concatenate(pieces).clip(-1, 1))
    return parts


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 3 * RATE), min_size=1, max_size=6))
def test_any_chunks_give_the_same_samples(seed: int, cuts: list[int]) -> None:
    parts = speechlike(seed)
    whole = join(parts, PAUSES, RATE)
    np.testing.assert_array_equal(streamed(parts, PAUSES, cuts), whole)
    assert np.abs(whole).max(initial=0.0) <= 1


def test_single_samples_give_the_same_samples() -> None:
    parts = [tone(0.31, 0.3), tone(0.27, 0.2)]
    np.testing.assert_array_equal(streamed(parts, PAUSES[:2], [1]), join(parts, PAUSES[:2], RATE))


def test_a_single_part_passes_untouched_and_at_once() -> None:
    part = np.concatenate([silence(0.5), tone(0.5, 1.5), silence(0.5)])
    joiner = PartJoiner(1, RATE)
    assert joiner.push(part) is part
    assert len(joiner.end_part(0.35)) == 0


def test_the_first_part_is_given_back_within_a_block() -> None:
    joiner = PartJoiner(2, RATE)
    part = tone(1.0, 0.3)
    given_back = joiner.push(part)
    assert len(part) - len(given_back) <= 0.02 * RATE
    np.testing.assert_array_equal(given_back, part[: len(given_back)])


@pytest.mark.parametrize("decibels", [-3.0, 3.0])
def test_parts_are_brought_to_one_loudness(decibels: float) -> None:
    parts = [tone(4.0, 0.3), tone(4.0, 0.3 * 10 ** (decibels / 20), 330.0)]
    joined = join(parts, [0.5, 0.0], RATE)
    first, second = joined[RATE : 3 * RATE], joined[-3 * RATE : -RATE]
    assert abs(20 * np.log10(rms(second) / rms(first))) < 1


def test_a_part_that_differs_a_lot_keeps_some_of_the_difference() -> None:
    joined = join([tone(1, 0.4), tone(1, 0.04)], [0.5, 0], RATE)
    assert np.abs(joined[-RATE // 2 :]).max() == pytest.approx(0.04 * 10 ** (4 / 20), rel=0.01)


@pytest.mark.parametrize("odd", [0, 1, 7, 159])
def test_joints_do_not_click(odd: int) -> None:
    # The parts start at a peak, a quarter of a period in: cut hard, they would jump by 0.5.
    part = tone(0.5, 0.5)[9 : round(0.4 * RATE) + odd]
    joined = join([part] * 3, [0.1, 0.0, 0.0], RATE)
    inside = np.abs(np.diff(part)).max()
    assert np.abs(np.diff(joined, prepend=0, append=0)[1:]).max() <= 1.5 * inside


def test_silence_around_joints_becomes_the_pause() -> None:
    sound = tone(1.0, 0.3)
    parts = [np.concatenate([sound, silence(2)]), np.concatenate([silence(2), sound])]
    joined = join(parts, [0.5, 0.0], RATE)
    # The tail of 60 ms, the pause, and the lead of 40 ms.
    assert len(joined) == round((1 + 0.06 + 0.5 + 0.04 + 1) * RATE)


def test_silence_within_a_part_is_kept() -> None:
    part = np.concatenate([tone(0.5, 0.3), silence(1), tone(0.5, 0.3)])
    assert len(join([part, tone(0.5, 0.3)], [0, 0], RATE)) == round(2.5 * RATE)


def test_a_silent_part_leaves_its_pause_only() -> None:
    joined = join([silence(2), tone(1, 0.3), silence(1)], [0.3, 0.2, 0.0], RATE)
    assert len(joined) == round((0.3 + 1 + 0.2) * RATE)
    assert rms(joined[: round(0.3 * RATE)]) == 0


def test_a_louder_part_stays_below_full_scale() -> None:
    peaks = tone(1, 0.95)
    parts = [tone(3, 0.6), np.concatenate([tone(3.5, 0.3), peaks])]
    joined = join(parts, [0.1, 0], RATE)
    assert np.abs(joined).max() < 0.99
    assert np.isfinite(joined).all()
    assert joined.dtype == np.float32


def test_a_loud_first_second_limits_the_gain() -> None:
    parts = [tone(1, 0.9), np.concatenate([tone(1.9, 0.3), tone(0.1, 0.98)])]
    assert np.abs(join(parts, [0, 0], RATE)).max() <= 0.99
