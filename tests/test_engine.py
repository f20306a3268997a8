"""The engine: many requests in few slots, each as if it were alone."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import until

import voxtral_jax as vx
from voxtral_jax import Model, Speech
from voxtral_jax.errors import (
    BusyError,
    ClosedError,
    EngineError,
    RequestError,
    TextError,
    VoiceError,
)
from voxtral_jax.serving import scheduler
from voxtral_jax.serving.engine import Engine
from voxtral_jax.serving.room import chunk_size
from voxtral_jax.serving.settings import EngineSettings
from voxtral_jax.serving.talk import Talk

SETTINGS = EngineSettings(
    slots=3, chunk_frames=(2, 4), most_waiting=4, longest_prompt=192, longest_part=40.0, steps=(3,)
)
TEXTS = [
    "Hello there.",
    "One two three four five six.",
    "Yes!",
    "A somewhat longer text, so that it ends last. It has two sentences.",
    "Good morning to you all.",
    "Why not?",
    "Seven.",
]


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    with Engine(model, SETTINGS) as engine:
        yield engine


def same(ours: Speech, theirs: Speech) -> None:
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    np.testing.assert_allclose(
        ours.samples, theirs.samples, atol=1e-5 * np.abs(theirs.samples).max()
    )
    assert ours.finish_reason == theirs.finish_reason


def endless(engine: Engine, seed: int = 0) -> Talk:
    """A talk that goes on for long."""
    return engine.speak(("word " * 50 + ". ") * 20, seed=seed)


def test_requests_in_shared_slots_equal_those_alone(engine: Engine, model: Model) -> None:
    options = [
        {
            "seed": i,
            "guidance": 1.0 + i / 4,
            "noise_scale": 1.0 - i / 8,
            "temperature": 0.5 * (i % 2),
            "max_seconds": 0.4 + i / 5,
        }
        for i in range(len(TEXTS))
    ]
    options[1]["steps"] = 3
    options[2]["voice"] = "de_male"
    with ThreadPoolExecutor(len(TEXTS)) as pool:

        def ask(text: str, how: dict) -> Speech:
            while True:
                try:
                    return engine.speak(text, **how).result()
                except BusyError as busy:
                    time.sleep(busy.retry_after / 10)

        spoken = list(pool.map(ask, TEXTS, options))
    for text, how, speech in zip(TEXTS, options, spoken, strict=True):
        same(speech, vx.synthesize(model, text, **how))
    assert engine.status.busy == engine.status.waiting == 0


def test_a_long_text_is_joined_as_synthesize_joins_it(engine: Engine, model: Model) -> None:
    text = " ".join(f"This is sentence number {i} of a rather long text." for i in range(8))
    same(engine.speak(text, seed=2).result(), vx.synthesize(model, text, seed=2))


def test_nothing_compiles_after_the_warm_up(engine: Engine, reference: object) -> None:
    compiled: list[str] = []

    def note(event: str, seconds: float, **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        talks = [
            engine.speak("Short.", max_seconds=0.5),
            engine.speak("A text of another length, and at a temperature.", temperature=0.7),
            engine.speak("Three steps. " * 3, steps=3, max_seconds=3.0),
        ]
        for talk in talks:
            talk.result()
        sound = 0.1 * np.sin(np.arange(30_000) / 9).astype(np.float32)
        with pytest.warns(UserWarning, match="3 s or more"):
            engine.speak("With a voice.", ref=(sound, 24_000), max_seconds=0.5).result()
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert not compiled


def test_chunks_come_as_they_are_made_in_threads_and_in_asyncio(engine: Engine) -> None:
    chunks = list(engine.speak(TEXTS[1], max_seconds=1.0))
    assert len(chunks) > 2
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)

    async def listen() -> list[Speech]:
        return [chunk async for chunk in engine.speak(TEXTS[1], max_seconds=1.0)]

    heard = asyncio.run(listen())
    for ours, theirs in zip([heard, chunks], [chunks, heard], strict=True):
        codes = np.concatenate([chunk.codes for chunk in ours])
        np.testing.assert_array_equal(codes, np.concatenate([chunk.codes for chunk in theirs]))


@given(
    sizes=st.lists(st.integers(1, 64), min_size=1, max_size=4, unique=True).map(sorted),
    loads=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    youngest=st.integers(0, 100),
)
def test_chunks_grow_with_the_load_and_no_listener_waits(
    sizes: list[int], loads: list[float], youngest: int
) -> None:
    few, many = (chunk_size(sizes, load, youngest) for load in loads)
    assert few in sizes
    assert few <= many
    # What is made next takes no longer to play than what the youngest has, after its first chunk.
    assert many <= max(youngest, sizes[0])
    assert chunk_size(sizes, 1.0, max(sizes)) == max(sizes)
    assert chunk_size(sizes, 0.0, max(sizes)) == sizes[0]


def test_a_cancelled_talk_leaves_its_slot_to_others(engine: Engine, model: Model) -> None:
    talks = [endless(engine, seed) for seed in range(3)]
    for talk in talks:
        next(iter(talk))
    waiting = engine.speak(TEXTS[0], max_seconds=0.5)
    assert waiting.waited is None
    talks[1].cancel()
    talks[1].cancel()
    same(waiting.result(), vx.synthesize(model, TEXTS[0], max_seconds=0.5))
    assert list(talks[1])[-1].finish_reason == "cancelled"
    assert not talks[0].over
    for talk in talks:
        talk.cancel()


def test_nothing_is_kept_of_talks_that_are_over(engine: Engine) -> None:
    talks = [engine.speak(TEXTS[6], seed=seed) for seed in range(3)]
    assert "stop" in {talk.result().finish_reason for talk in talks}
    kept = [weakref.ref(talk) for talk in talks]
    talks.clear()
    until(lambda: gc.collect() >= 0 and not any(talk() for talk in kept), seconds=5, every=0.1)


def test_a_full_queue_refuses_more_and_cancelled_ones_make_room(engine: Engine) -> None:
    talks = [endless(engine, seed) for seed in range(3)]
    for talk in talks:
        next(iter(talk))
    waiting = [endless(engine) for _ in range(SETTINGS.most_waiting)]
    with pytest.raises(BusyError, match="4 requests are waiting") as raised:
        engine.speak(TEXTS[0])
    assert raised.value.retry_after >= 1
    waiting[2].cancel()
    waiting[2] = engine.speak(TEXTS[0])
    for talk in [*talks, *waiting]:
        talk.cancel()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"text": ""}, TextError, "empty"),
        ({"text": "a" * 10_001}, TextError, "10001 characters, 10000 are allowed"),
        ({"text": ["a", "b"]}, TextError, "one text at a time"),
        ({"text": "Hello.", "voice": "nobody"}, VoiceError, "unknown voice 'nobody'"),
        ({"text": "Hello.", "steps": 9}, RequestError, "started for 3, "),
        ({"text": "Hello.", "guidance": 99.0}, RequestError, "guidance"),
    ],
)
def test_wrong_requests_are_refused_at_once(
    engine: Engine, arguments: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        engine.speak(**arguments)


def test_a_failing_device_ends_its_talks_and_no_others(
    engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = threading.Event()
    real = scheduler.advance

    def broken(*arguments: object, **options: object) -> object:
        if failing.is_set():
            failing.clear()
            raise RuntimeError("out of memory")
        return real(*arguments, **options)

    monkeypatch.setattr(scheduler, "advance", broken)
    talk = endless(engine)
    next(iter(talk))
    failing.set()
    with pytest.raises(EngineError, match="out of memory"):
        talk.result()
    assert engine.status.alive
    assert engine.status.failures == 1
    same(
        engine.speak(TEXTS[0], max_seconds=0.5).result(),
        vx.synthesize(model, TEXTS[0], max_seconds=0.5),
    )


def test_an_engine_without_slots_keeps_nobody_waiting(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = threading.Event()
    real = scheduler.advance

    def broken(*arguments: object, **options: object) -> object:
        if failing.is_set():
            raise RuntimeError("the device is lost")
        return real(*arguments, **options)

    def no_slots(*arguments: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(scheduler, "advance", broken)
    with Engine(model, replace(SETTINGS, slots=1)) as engine:
        talk = endless(engine)
        next(iter(talk))
        waiting = endless(engine)
        monkeypatch.setattr("voxtral_jax.serving.engine.Scheduler.__init__", no_slots)
        failing.set()
        with pytest.raises(EngineError, match="the device is lost"):
            talk.result()
        with pytest.raises(EngineError, match="out of memory"):
            waiting.result()
        assert engine.status.broken
        assert not engine.status.alive
        with pytest.raises(EngineError, match="for good"):
            engine.speak(TEXTS[0])


@pytest.mark.parametrize(
    "sizes", [{"admit_tokens": 0}, {"longest_prompt": 0}, {"longest_part": float("nan")}]
)
def test_sizes_that_nothing_fits_in_are_refused(sizes: dict) -> None:
    with pytest.raises(RequestError, match="must be"):
        replace(SETTINGS, **sizes)


def test_closing_drains_and_then_cancels(model: Model) -> None:
    with Engine(model, SETTINGS) as engine:
        short, long = engine.speak(TEXTS[0], max_seconds=0.3), endless(engine)
        engine.close(drain=2.0)
        assert short.result().finish_reason == "length"
        assert long.over
        assert not engine.status.alive
        with pytest.raises(ClosedError):
            engine.speak(TEXTS[0])
