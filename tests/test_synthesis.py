"""The API as a user calls it: one text, lists, long texts, streams, voices and mistakes."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import voxtral_jax as vx
from voxtral_jax import Model, Speech, Voice
from voxtral_jax.errors import AudioError, RequestError, TextError, VoiceError
from voxtral_jax.serving.slots import admit, advance
from voxtral_jax.text import clean, frame_limits, split_text

TEXT = "Hello there, this is a test."
LONG = " ".join(f"This is sentence number {i} of a rather long text." for i in range(12))


@pytest.fixture(scope="module")
def voice(model: Model, reference: Path) -> Voice:
    with pytest.warns(UserWarning, match="3 s or more"):
        return vx.make_voice(model, reference / "reference.wav")


@pytest.fixture(scope="module")
def speech(model: Model) -> Speech:
    return vx.synthesize(model, TEXT, seed=3)


def close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-5) -> bool:
    scale = np.abs(theirs).max()
    return ours.shape == theirs.shape and np.abs(ours - theirs).max() <= tolerance * scale


def test_speech_says_what_it_is(model: Model, speech: Speech) -> None:
    frames = len(speech.codes)
    assert speech.sample_rate == model.sample_rate == 24_000
    assert speech.samples.dtype == np.float32
    assert len(speech.samples) == frames * model.config.codec.frame_samples
    assert speech.seconds == pytest.approx(frames / 12.5)
    assert speech.codes.shape == (frames, 37)
    assert 0 < speech.timings.first_audio <= speech.timings.total
    assert speech.real_time_factor == pytest.approx(speech.timings.total / speech.seconds)
    assert close(vx.decode_codes(model, speech.codes), speech.samples)


def test_the_budget_from_the_texts_length_is_kept_and_reported(speech: Speech) -> None:
    # Random weights never end a speech by themselves.
    assert speech.finish_reason == "length"
    assert len(speech.codes) == frame_limits(TEXT, 12.5).maximum


def test_a_seed_gives_the_same_audio_and_another_seed_another(model, speech) -> None:
    again = vx.synthesize(model, TEXT, seed=3)
    np.testing.assert_array_equal(again.samples, speech.samples)
    other = vx.synthesize(model, TEXT, seed=4)
    assert not np.array_equal(other.codes, speech.codes)


@pytest.mark.parametrize("chunk_frames", [1, 8, 13])
def test_streamed_chunks_together_are_the_speech(model, speech, chunk_frames: int) -> None:
    chunks = list(vx.stream(model, TEXT, seed=3, chunk_frames=chunk_frames))
    np.testing.assert_array_equal(np.concatenate([c.codes for c in chunks]), speech.codes)
    assert close(np.concatenate([c.samples for c in chunks]), speech.samples)
    assert [c.finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(c.timings.first_audio == chunks[0].timings.first_audio for c in chunks)


def test_a_list_is_spoken_as_each_text_alone(model, speech, voice: Voice) -> None:
    texts = ["Short.", TEXT, "Something else, of a middling length."]
    voices = ["de_male", "neutral_female", voice]
    together = vx.synthesize(model, texts, voice=voices, seed=[1, 3, 2])
    np.testing.assert_array_equal(together[1].codes, speech.codes)
    assert close(together[1].samples, speech.samples)
    for text, one, seed, ours in zip(texts, voices, [1, 3, 2], together, strict=True):
        alone = vx.synthesize(model, text, voice=one, seed=seed)
        np.testing.assert_array_equal(ours.codes, alone.codes)
        assert close(ours.samples, alone.samples)
    assert isinstance(vx.synthesize(model, [TEXT], max_seconds=0.2), list)


def test_a_long_text_is_spoken_in_parts_and_streams_alike(model: Model, voice: Voice) -> None:
    whole = vx.synthesize(model, LONG, voice=voice, max_seconds=10)
    chunks = list(vx.stream(model, LONG, voice=voice, max_seconds=10))
    assert whole.seconds == 10
    assert whole.finish_reason == chunks[-1].finish_reason == "length"
    assert close(np.concatenate([c.samples for c in chunks]), whole.samples)


def test_parts_that_end_at_different_times_are_all_spoken(model: Model) -> None:
    long = "This sentence goes on for a while, and then it goes on for a little while more. " * 5
    text = f"A short one.\n\n{long}\n\nShort again."
    whole = vx.synthesize(model, text)
    parts = [part.text for part in split_text(clean(text))]
    alone = vx.synthesize(model, parts)
    assert len({len(speech.codes) for speech in alone}) > 2
    np.testing.assert_array_equal(whole.codes, np.concatenate([s.codes for s in alone]))


def test_a_model_that_learned_from_short_texts_speaks_shorter_parts(model: Model) -> None:
    text = "This sentence goes on for a while. " * 6
    short = replace(model, config=replace(model.config, part_seconds=5.0))
    parts = [part.text for part in split_text(clean(text), 5.0)]
    assert len(parts) > len(split_text(clean(text)))
    alone = vx.synthesize(short, parts)
    whole = vx.synthesize(short, text)
    np.testing.assert_array_equal(whole.codes, np.concatenate([s.codes for s in alone]))


def test_a_text_cut_short_does_not_touch_the_next(model: Model) -> None:
    first, second = vx.synthesize(model, [LONG, TEXT], max_seconds=2)
    assert first.seconds == 2
    alone = vx.synthesize(model, TEXT, max_seconds=2)
    np.testing.assert_array_equal(second.codes, alone.codes)
    assert close(second.samples, alone.samples)


def test_nothing_compiles_again_for_texts_in_the_same_buckets(model: Model) -> None:
    list(vx.stream(model, "Here we go.", max_seconds=1))
    before = (admit._cache_size(), advance._cache_size())
    vx.synthesize(model, "Here they go!", max_seconds=1, seed=9, guidance=2.0, noise_scale=0.5)
    vx.synthesize(model, "There it is?", max_seconds=0.9, temperature=0.7, top_p=0.9)
    assert (admit._cache_size(), advance._cache_size()) == before


def test_the_models_own_flow_options_are_the_defaults(model: Model) -> None:
    own = replace(model, config=replace(model.config, guidance=2.0, noise_scale=0.5))
    ours = vx.synthesize(own, TEXT, max_seconds=1)
    theirs = vx.synthesize(model, TEXT, max_seconds=1, guidance=2.0, noise_scale=0.5)
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    asked = vx.synthesize(own, TEXT, max_seconds=1, guidance=1.2, noise_scale=1.0)
    np.testing.assert_array_equal(asked.codes, vx.synthesize(model, TEXT, max_seconds=1).codes)


def test_options_change_what_they_should(model: Model) -> None:
    base = vx.synthesize(model, TEXT, max_seconds=1)
    for options in (
        {"guidance": 3.0},
        {"noise_scale": 0.25},
        {"steps": 3},
        {"solver": "midpoint"},
        {"temperature": 1.0},
        {"voice": "de_male"},
    ):
        assert not np.array_equal(
            vx.synthesize(model, TEXT, max_seconds=1, **options).codes, base.codes
        )
    assert base.seconds == pytest.approx(1, abs=0.05)


def test_a_recording_can_be_given_as_samples(model: Model, reference: Path, voice: Voice) -> None:
    samples, rate = soundfile.read(reference / "reference.wav")
    with pytest.warns(UserWarning, match="3 s or more"):
        ours = vx.synthesize(model, TEXT, ref=(samples, rate), max_seconds=1)
    theirs = vx.synthesize(model, TEXT, voice=voice, max_seconds=1)
    np.testing.assert_array_equal(ours.codes, theirs.codes)


def test_progress_is_reported(model: Model) -> None:
    seconds: list[float] = []
    speech = vx.synthesize(model, TEXT, max_seconds=2, on_progress=seconds.append)
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(speech.seconds)


def test_speech_is_saved_and_plays_in_a_notebook(speech: Speech, tmp_path: Path) -> None:
    speech.save(tmp_path / "hello.wav")
    samples, rate = soundfile.read(tmp_path / "hello.wav")
    assert rate == 24_000
    np.testing.assert_allclose(samples, np.clip(speech.samples, -1, 1), atol=2 / 32768)
    assert "<audio controls" in speech._repr_html_()
    with pytest.raises(AudioError, match="unknown audio format 'xyz'"):
        speech.save(tmp_path / "hello.xyz")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"guidance": -1}, RequestError, "guidance must be from"),
        ({"guidance": "high"}, RequestError, "guidance must be from"),
        ({"guidance": float("nan")}, RequestError, "guidance must be from"),
        ({"noise_scale": -0.1}, RequestError, "noise_scale must be from"),
        ({"noise_scale": 2.1}, RequestError, "noise_scale must be from"),
        ({"temperature": -0.1}, RequestError, "temperature must be from"),
        ({"top_p": 0}, RequestError, "top_p must be from"),
        ({"max_seconds": 0}, RequestError, "max_seconds must be from"),
        ({"steps": 0}, RequestError, "steps must be from 1"),
        ({"steps": 3.5}, RequestError, "steps must be from 1"),
        ({"solver": "rk4"}, RequestError, "solver 'rk4' is unknown"),
        ({"seed": -1}, RequestError, "seed must be"),
        ({"seed": 2**32}, RequestError, "seed must be"),
        ({"seed": 1.5}, RequestError, "seed must be"),
        ({"seed": [1, 2]}, RequestError, "seed: 2 values for 1 texts"),
        ({"voice": "nobody"}, VoiceError, "unknown voice 'nobody'"),
        ({"voice": "de_male", "ref": "x.wav"}, RequestError, "not both"),
        ({"ref": "absent.wav"}, AudioError, "absent.wav does not exist"),
        ({"ref": (np.zeros(24_000),)}, AudioError, "a file's path or \\(samples, sample rate\\)"),
        ({"ref": io.BytesIO()}, AudioError, "got BytesIO"),
        ({"ref": ([[0.0], [0.0, 1.0]], 24_000)}, AudioError, "audio must be"),
        ({"voice": {}}, RequestError, "a preset's name or a Voice"),
    ],
)
def test_bad_options_are_named_before_anything_starts(model, options, error, message) -> None:
    for call in (vx.synthesize, vx.stream):
        with pytest.raises(error, match=message):
            call(model, TEXT, **options)


@pytest.mark.parametrize("text", ["", "   \n", "...!?", "🙂", "x" * 200_000, None, 7])
def test_text_that_cannot_be_spoken_is_refused(model: Model, text) -> None:
    with pytest.raises((TextError, RequestError)):
        vx.stream(model, text)
    with pytest.raises(TextError):
        vx.synthesize(model, [text])
    with pytest.raises(TextError):
        vx.synthesize(model, text)


def test_values_of_each_text_may_be_a_tuple_and_numbers_those_of_numpy(model: Model) -> None:
    how = {"max_seconds": 0.3, "voice": "de_male"}
    ours = vx.synthesize(model, (TEXT, TEXT), seed=(1, 2), guidance=np.float32(1.5), **how)
    theirs = vx.synthesize(model, [TEXT, TEXT], seed=[1, 2], guidance=1.5, **how)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)


def test_codes_that_are_no_matrix_are_refused(model: Model) -> None:
    with pytest.raises(RequestError, match="codes must be"):
        vx.decode_codes(model, [[1, 2], [3]])


def test_an_empty_list_and_a_list_to_stream_are_refused(model: Model) -> None:
    with pytest.raises(TextError, match="the list is empty"):
        vx.synthesize(model, [])
    with pytest.raises(RequestError, match="stream speaks one text"):
        vx.stream(model, [TEXT])
    with pytest.raises(RequestError, match="chunk_frames"):
        vx.stream(model, TEXT, chunk_frames=0)


@pytest.mark.parametrize("seconds", [0.2, 20 * 60])
def test_references_too_short_or_too_long_are_refused(model: Model, seconds: float) -> None:
    noise = np.random.default_rng(0).normal(size=round(seconds * 8000)).astype(np.float32)
    with pytest.raises(AudioError, match="the reference lasts"):
        vx.synthesize(model, TEXT, ref=(0.1 * noise, 8000))
    with pytest.raises(AudioError, match="silent"):
        vx.synthesize(model, TEXT, ref=(0 * noise[:80_000].repeat(20), 8000))


def test_the_public_names_are_all_there() -> None:
    for name in vx.__all__:
        assert getattr(vx, name) is not None
        assert name in dir(vx)
    assert callable(vx.synthesize)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = vx.no_such_name
