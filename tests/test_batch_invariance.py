"""A batch-invariant model: bit for bit the same, whoever else speaks."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import voxtral_jax as vx
from voxtral_jax import Model, Speech, load_model
from voxtral_jax.errors import RequestError, TextError
from voxtral_jax.serving.engine import Engine
from voxtral_jax.serving.room import LONGEST_LINE, LONGEST_PROMPT, Room
from voxtral_jax.serving.settings import EngineSettings
from voxtral_jax.synthesis import CHUNK_FRAMES

TEXTS = ["One text.", "Another text, and it is longer than the first.", "Why not?"]
SEEDS = [3, 4, 5]
ROWS = 4


@pytest.fixture(scope="module")
def steady(reference: Path) -> Model:
    return load_model(reference, dtype="float32", batch_invariant=ROWS)


@pytest.fixture(scope="module")
def alone(steady: Model) -> list[Speech]:
    return [vx.synthesize(steady, text, seed=seed) for text, seed in zip(TEXTS, SEEDS, strict=True)]


def same(ours: Speech, theirs: Speech) -> None:
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_array_equal(ours.samples, theirs.samples)


def test_a_seed_says_the_same_alone_and_in_a_batch(steady: Model, alone: list[Speech]) -> None:
    for ours, theirs in zip(vx.synthesize(steady, TEXTS, seed=SEEDS), alone, strict=True):
        same(ours, theirs)


def test_more_texts_than_rows_take_turns(steady: Model, alone: list[Speech]) -> None:
    spoken = vx.synthesize(steady, TEXTS * 2, seed=SEEDS * 2)
    for ours, theirs in zip(spoken, alone * 2, strict=True):
        same(ours, theirs)


def test_a_stream_says_the_same(steady: Model, alone: list[Speech]) -> None:
    chunks = list(vx.stream(steady, TEXTS[1], seed=SEEDS[1]))
    np.testing.assert_array_equal(np.concatenate([c.codes for c in chunks]), alone[1].codes)
    np.testing.assert_array_equal(np.concatenate([c.samples for c in chunks]), alone[1].samples)


def test_an_engine_says_the_same(steady: Model, alone: list[Speech]) -> None:
    settings = EngineSettings(slots=ROWS, chunk_frames=(CHUNK_FRAMES,))
    with Engine(steady, settings) as engine, ThreadPoolExecutor(len(TEXTS)) as pool:
        talks = pool.map(lambda text, seed: engine.speak(text, seed=seed).result(), TEXTS, SEEDS)
        for ours, theirs in zip(talks, alone, strict=True):
            same(ours, theirs)


def test_what_it_says_is_what_other_models_say(model: Model, alone: list[Speech]) -> None:
    for text, seed, theirs in zip(TEXTS, SEEDS, alone, strict=True):
        ours = vx.synthesize(model, text, seed=seed)
        np.testing.assert_array_equal(ours.codes, theirs.codes)


def test_its_shapes_do_not_depend_on_what_is_asked_for(steady: Model) -> None:
    room = Room.invariant_of(ROWS, CHUNK_FRAMES)
    assert room.spans == [LONGEST_PROMPT + LONGEST_LINE]


def test_what_does_not_fit_its_shapes_is_refused(steady: Model) -> None:
    with pytest.raises(RequestError, match="4 slots, not 8"):
        Engine(steady, EngineSettings(slots=8))
    with pytest.raises(RequestError, match="longest_prompt and longest_part as they are"):
        Engine(steady, EngineSettings(slots=ROWS, longest_prompt=2048))
    voice = dataclasses.replace(
        steady.voice("de_male"),
        embedding=np.zeros((LONGEST_PROMPT + 1, steady.config.dim), np.float32),
    )
    for speak in (vx.synthesize, vx.stream):
        with pytest.raises(TextError, match="shorter reference"):
            speak(steady, TEXTS[0], voice=voice)
    with pytest.raises(RequestError, match="batch_invariant"):
        load_model(steady.source, batch_invariant=0)
