"""The pitch that acoustic latents are taught, and recordings that are to be given back."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file
from small import (
    RATE,
    codec_table,
    hum,
    random_weights,
    run,
    small_config,
    wide_config,
    write_recordings,
)

from voxtral_jax.errors import ConfigError, DataError
from voxtral_jax.training.checkpoints import run_weights
from voxtral_jax.training.codec import rebuild
from voxtral_jax.training.data.audio_shards import write_audio_shards
from voxtral_jax.training.data.batches import CropBatch
from voxtral_jax.training.data.crops import crop_batches, validation_crops
from voxtral_jax.training.data.manifest import read_manifest
from voxtral_jax.training.data.shards import CodeSource
from voxtral_jax.training.distillation import Nothing
from voxtral_jax.training.envelope import EnvelopeSettings, find_components
from voxtral_jax.training.pitch import LATENTS, pitch_latents, pitch_loss
from voxtral_jax.training.quantization import QuantizerSettings
from voxtral_jax.training.recipe import CodecLosses, CodecTraining
from voxtral_jax.training.settings import build_settings
from voxtral_jax.training.stages.codec import codec_task
from voxtral_jax.training.stages.codec_settings import CodecSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "corpus"))
from lock import coloured, lock, main
from noise import steady_noise
from vocoder import FRAME, SPECTRA, beat, cycles_of, minimum_phase, pulses, vocode

CODEC = small_config().codec
LEVELS = 21


def test_pitches_stay_apart_when_their_latents_are_rounded() -> None:
    # Half a cycle in a frame of 80 ms apart, and nearly eight levels of one latent.
    latents = np.asarray(pitch_latents(jnp.array([0, *np.arange(80, 400, 6.25)])))
    assert latents.shape == (53, LATENTS)
    assert np.abs(latents).max() < 1
    rounded = np.round((latents + 1) / 2 * (LEVELS - 1)) / (LEVELS - 1) * 2 - 1
    apart = np.linalg.norm(rounded[:, None] - rounded, axis=-1) + 9 * np.eye(len(latents))
    assert apart.min() > 0.75
    np.testing.assert_array_equal(latents[0, 1:], 0)


def test_a_pitch_that_rises_moves_its_latents_little_by_little() -> None:
    latents = np.asarray(pitch_latents(jnp.arange(87.5, 325, 0.5)))
    assert np.abs(np.diff(latents, axis=0)).max() < 0.1
    assert np.all(np.diff(latents[:, 0]) >= 0)


def test_the_pitch_is_taught_where_latents_are_far_from_it_and_frames_count() -> None:
    pitch = pitch_latents(jnp.array([[100, 150, 0]]))
    mask = jnp.array([[1.0, 1.0, 0.0]])
    loss = partial(pitch_loss, pitch=pitch, mask=mask)
    np.testing.assert_allclose(loss(jnp.arctanh(pitch)), 0, atol=1e-5)
    gradient = np.asarray(jax.grad(loss)(jnp.full(pitch.shape, 30.0)))
    assert np.all(gradient[:, :2] > 0)
    assert np.all(gradient[:, 2] == 0)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four recordings; what two of them are to become is silent but for its first frame."""
    path = write_recordings(tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number in (0, 1):
        samples, _ = soundfile.read(tmp_path / f"{number}.wav")
        samples[FRAME:] = 0
        soundfile.write(tmp_path / f"goal-{number}.wav", samples, RATE)
        lines[number]["goal"] = f"goal-{number}.wav"
        lines[number]["pitch"] = [100.0 + frame for frame in range(-(-len(samples) // FRAME))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_crops_of_a_recording_and_of_its_goal_begin_at_the_same_sample(manifest: Path) -> None:
    read = read_manifest(manifest, need_text=False)
    assert read.has_goals
    (batch,) = validation_crops(
        read, rate=RATE, crop_samples=10 * FRAME, batch_size=4, frame_samples=FRAME
    )
    assert batch.goals is not None
    np.testing.assert_array_equal(batch.pitch[:2], np.tile(np.arange(100, 110), (2, 1)))
    np.testing.assert_array_equal(batch.pitch[2:], 0)
    np.testing.assert_array_equal(batch.goals[:, :FRAME], batch.samples[:, :FRAME])
    np.testing.assert_array_equal(batch.goals[:2, FRAME:], 0)
    np.testing.assert_array_equal(batch.goals[2:], batch.samples[2:])
    np.testing.assert_array_equal(batch.wanted, batch.goals)
    later = crop_batches(
        read, rate=RATE, crop_samples=4 * FRAME, batch_size=4, seed=0, frame_samples=FRAME, epochs=9
    )
    for batch in later:
        for samples, goal, utterance in zip(
            batch.samples, batch.wanted, batch.utterances, strict=True
        ):
            if utterance > 1:
                np.testing.assert_array_equal(goal, samples)
            elif np.any(goal):
                np.testing.assert_array_equal(goal[:FRAME], samples[:FRAME])
                assert not np.any(goal[FRAME:])
        # All crops of goals that sound are the first, and no other begins at 100 Hz.
        sounding = np.any(batch.wanted, axis=1) & (batch.utterances < 2)
        np.testing.assert_array_equal(sounding, batch.pitch[:, 0] == 100)
        np.testing.assert_array_equal(np.diff(batch.pitch[batch.utterances < 2], axis=1)[:, :2], 1)


def test_without_goals_recordings_are_to_be_given_back_themselves(tmp_path: Path) -> None:
    read = read_manifest(write_recordings(tmp_path), need_text=False)
    (batch,) = validation_crops(read, rate=RATE, crop_samples=FRAME, batch_size=4)
    assert not read.has_goals
    assert batch.goals is None
    assert batch.pitch is None
    assert batch.wanted is batch.samples


def test_a_goal_that_is_missing_breaks_its_line_and_shards_hold_none(
    manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"'pitch' of 0.wav"):
        write_audio_shards(read_manifest(manifest, need_text=False), tmp_path / "shards", 2**20)
    (tmp_path / "goal-1.wav").unlink()
    read = read_manifest(manifest, need_text=False, most_broken=0.5)
    assert len(read.utterances) == 3
    assert "goal-1.wav does not exist" in read.broken[0].reason


@pytest.mark.parametrize("pitch", [[100.0, -1.0], [100.0, None], "high", [[100.0]], [float("inf")]])
def test_a_pitch_that_is_none_breaks_its_line(manifest: Path, pitch: object) -> None:
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines[3]["pitch"] = pitch
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_manifest(manifest, need_text=False, most_broken=0.5)
    assert len(read.utterances) == 3
    assert "'pitch' must have Hz for each frame" in read.broken[0].reason


def test_pitch_can_only_be_taught_where_each_frame_has_one(manifest: Path, tmp_path: Path) -> None:
    read = read_manifest(manifest, need_text=False)
    with pytest.raises(DataError, match=r"'pitch' of 2.wav has 0 frames of 2\d: make the manifest"):
        read.need_pitch(CODEC.frame_rate)
    replace(read, utterances=read.utterances[:2]).need_pitch(CODEC.frame_rate)
    wide_config().save(tmp_path / "params.json")
    table = codec_table(tmp_path / "params.json", manifest, tmp_path / "run", 1)
    table["envelope"] = {"weight": 1.0, "pitch": 1.0}
    with pytest.raises(DataError, match=r"'pitch' of 2.wav"):
        codec_task(build_settings(CodecSettings, table, "a test"))


def test_exact_rows_carry_the_pitch_and_the_goal_is_what_counts() -> None:
    codec = replace(CODEC, acoustic_dim=LATENTS + 3)
    training = CodecTraining(
        config=codec,
        losses=CodecLosses(feature_matching=0.0),
        quantizer=QuantizerSettings(acoustic_share=1.0),
        discriminators=None,
        distillation=Nothing(),
        envelope=EnvelopeSettings(weight=1.0, exact_share=1.0, pitch=1.0),
    )
    pitch = np.array([[100, 150, 250, 250], [110, 115, 0, 310]], np.float32)
    samples, goals = (
        np.stack([hum(0.32, 130, seed) for seed in seeds]) for seeds in ((0, 1), (2, 3))
    )
    batch = CropBatch(samples, np.full(2, 4 * FRAME, np.int32), np.arange(2), {}, goals, pitch)
    params = random_weights(training)
    components = find_components([batch], codec, 3)
    make = jax.jit(partial(rebuild, training, keep="all"))
    rebuilt = make(params | {"envelope": components}, batch, jax.random.key(1))
    np.testing.assert_array_equal(rebuilt.real, goals)
    np.testing.assert_allclose(
        rebuilt.quantized.latents[..., -LATENTS:], pitch_latents(pitch), atol=0.051
    )
    assert np.all(components["basis"][-LATENTS:] == 0)


def test_a_codec_with_too_few_latents_cannot_be_taught_pitch(tmp_path: Path) -> None:
    small_config().save(tmp_path / "params.json")
    table = codec_table(
        tmp_path / "params.json", write_recordings(tmp_path / "audio"), tmp_path / "run", 1
    )
    table["envelope"] = {"weight": 1.0, "pitch": 1.0}
    with pytest.raises(ConfigError, match="takes 5 acoustic latents, and the codec has 4"):
        codec_task(build_settings(CodecSettings, table, "a test"))


def test_each_frame_has_whole_cycles_and_pitch_goes_on_from_frame_to_frame() -> None:
    ends = np.array([100.0, 104, 130, 121, 0, 0, 200, 210])
    frames = pulses(*cycles_of(ends)).reshape(len(ends), FRAME)
    np.testing.assert_allclose(np.mean(frames[ends > 0] ** 2, axis=1), 1, rtol=0.1)
    for number, count in ((0, 8), (1, 8), (2, 10), (3, 10), (6, 16), (7, 17)):
        peaks = np.flatnonzero(frames[number] > 0.6 * frames[number].max())
        at = np.split(peaks, np.flatnonzero(np.diff(peaks) > 20) + 1)
        assert len(at) == count
        # The first and the last lie half a cycle from the frame's ends.
        assert 2 * at[0].mean() == pytest.approx(at[1].mean() - at[0].mean(), abs=12)
        assert 2 * (FRAME - at[-1].mean()) == pytest.approx(at[-1].mean() - at[-2].mean(), abs=12)
    # From 104 to 130 Hz the pulses draw together, and go on as they are in the next frame.
    second, third = (np.argmax(frames[number, -150:]) for number in (1, 2))
    first = np.argmax(frames[3, :150])
    assert 150 - third + first == pytest.approx(RATE / 130, abs=10)
    assert 150 - second + np.argmax(frames[2, :150]) == pytest.approx(RATE / 104, abs=10)


def test_a_recording_is_played_at_its_pitch_and_stays_as_loud() -> None:
    pytest.importorskip("pyworld", reason="pyworld is of scripts/corpus alone")
    recording = hum(1.6, 150, 0)
    played, pitch = lock(recording)
    assert played.shape == recording.shape
    assert pitch.shape == (20,)
    np.testing.assert_array_equal(played, lock(recording)[0])
    np.testing.assert_allclose(np.std(played), np.std(recording), rtol=0.05)
    heard = pitch[pitch > 0]
    assert len(heard) > 15
    assert np.all(np.abs(heard / 150 - 1) < 0.12)  # as far as `hum` bends it
    silent = lock(np.zeros(3 * FRAME, np.float32))
    assert not np.any(silent[1])


def test_pulses_sound_as_soon_as_their_envelope_lets_them() -> None:
    hertz = np.arange(513) * RATE / 1024
    power = 1 / (((hertz / 500) ** 2 - 1.2) ** 2 + 0.5) + 1e-3
    pulse = np.fft.irfft(np.sqrt(power) * minimum_phase(power[None])[0])
    np.testing.assert_allclose(np.abs(np.fft.rfft(pulse)) ** 2, power, rtol=1e-6)
    sounded = np.cumsum(pulse**2) / np.sum(pulse**2)
    assert sounded[60] > 0.5
    assert sounded[511] > 0.99  # nothing that would come before


def test_noise_is_white_and_the_same_in_every_frame() -> None:
    pytest.importorskip("pyworld", reason="pyworld is of scripts/corpus alone")
    np.testing.assert_allclose(
        np.abs(np.fft.rfft(steady_noise(FRAME, RATE))) / FRAME**0.5, 1, rtol=1e-9
    )
    assert np.mean(steady_noise(FRAME, RATE) ** 2) == pytest.approx(1)
    whispered = np.random.default_rng(0).standard_normal(8 * FRAME).astype(np.float32)
    played, pitch = lock(0.1 * whispered)
    assert np.sum(pitch > 0) <= 2
    spectra = np.fft.rfft(played.reshape(8, FRAME)[1:-1][pitch[1:-1] == 0])
    # Envelopes of noise have no phase, so that only its own is left.
    assert np.mean(np.abs(np.mean(spectra / np.abs(spectra), axis=0))) > 0.8


def test_noise_is_as_loud_at_all_times_in_thirds_of_octaves() -> None:
    def unsteady(sound: np.ndarray) -> float:
        rows = np.tile(sound, 3)[FRAME : 2 * FRAME + 600]
        windows = np.lib.stride_tricks.sliding_window_view(rows, 600)[::40] * np.hanning(600)
        power = np.abs(np.fft.rfft(windows, axis=1)) ** 2
        edges = np.round(400 * 2 ** (np.arange(15) / 3) * 600 / RATE).astype(int)
        bands = np.add.reduceat(power, edges, axis=1)
        return float(np.mean(np.std(np.log(bands), axis=0)))

    drawn = np.random.default_rng(0).standard_normal(FRAME)
    assert unsteady(steady_noise(FRAME, RATE)) < 0.3 * unsteady(drawn)


def test_high_harmonics_are_noise_that_beats_with_the_pitch() -> None:
    ends = np.array([150.0, 150, 150, 150])
    turns, _ = cycles_of(ends)
    gains = beat(turns)
    assert np.mean(gains**2) == pytest.approx(1, abs=1e-3)
    loudest = pulses(*cycles_of(ends)).argsort()[-20:]
    assert np.all(gains[loudest] > 0.99 * gains.max())
    power = np.ones((4 * SPECTRA + 1, 513))
    played = vocode(power, np.ones(len(power)), ends)
    spectrum = np.fft.rfft(played)
    hertz = np.arange(len(spectrum)) * RATE / len(played)
    for (low, high), like, other in (
        ((0, 900), pulses(*cycles_of(ends)), gains * np.tile(steady_noise(FRAME, RATE), 4)),
        ((2400, 11_000), gains * np.tile(steady_noise(FRAME, RATE), 4), pulses(*cycles_of(ends))),
    ):
        band = (hertz > low) & (hertz < high)
        alike, unlike = (
            np.abs(np.vdot(np.fft.rfft(x)[band], spectrum[band]))
            / np.linalg.norm(np.fft.rfft(x)[band])
            / np.linalg.norm(spectrum[band])
            for x in (like, other)
        )
        assert alike > 0.9
        assert unlike < 0.4


def test_each_speed_is_played_as_other_speakers(tmp_path: Path) -> None:
    pytest.importorskip("pyworld", reason="pyworld is of scripts/corpus alone")
    manifest = write_recordings(tmp_path / "audio", count=2, seconds=1.28)
    main(str(manifest), tmp_path / "locked", speed=[1.0])
    main(str(manifest), tmp_path / "locked", speed=[0.8, 1.0])
    found = read_manifest(
        str(tmp_path / "locked" / "lines-0-of-1.jsonl"), need_text=True
    ).utterances
    seconds = {one.speaker: one.seconds for one in found}
    assert len(found) == 4
    for number in (0, 1):
        own, slow = f"s{number}", f"s{number}@0.8"
        assert seconds[own] == pytest.approx(1.28 + 0.08 * number, abs=1e-3)
        assert seconds[slow] == pytest.approx(seconds[own] / 0.8, abs=1e-3)
    main(str(manifest), tmp_path / "coloured", speed=[0.8], colour=4.0)
    played, plain = (tmp_path / name / found[0].language for name in ("coloured", "locked"))
    for path in played.glob("*.flac"):  # recordings and goals
        assert path.read_bytes() != (plain / path.name).read_bytes()


def test_a_colour_is_one_of_the_speaker_and_shifts_nothing() -> None:
    white = 0.1 * np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    made = coloured(white, 4.0, "a")
    np.testing.assert_array_equal(made, coloured(white, 4.0, "a"))
    np.testing.assert_allclose(np.std(made), np.std(white), rtol=1e-3)
    gains = np.fft.rfft(made) / np.fft.rfft(white)
    # Up to where recordings end, gains are real: no band comes later than another.
    assert np.median(np.abs(gains.imag)) < 0.02 * np.median(gains.real)
    bands = [np.log10(np.median(x.real)) * 20 for x in np.array_split(gains, 24)]
    assert 2 < np.std(bands) < 8
    other = np.fft.rfft(coloured(white, 4.0, "b")) / np.fft.rfft(white)
    assert np.abs(np.log10(np.median(other[:4000].real) / np.median(gains[:4000].real))) > 0.02
    loud = coloured(white / np.abs(white).max(), 4.0, "a")
    assert 0.9 < np.abs(loud).max() <= 0.99


def test_exact_codes_are_those_of_the_recording_on_its_frames(tmp_path: Path) -> None:
    """A codec that was hardly trained has them: they do not depend on its encoder."""
    config = wide_config()
    config.save(tmp_path / "params.json")
    # What is kept of the silence before the voice must begin where a frame does.
    pitch = [0, 0, 112.5, 112.5, 175, 175, 250, 250, 150, 150, 212.5, 212.5]
    sound = np.concatenate([np.zeros(2 * FRAME, np.float32), hum(0.8, 150, 0) + 0.02])
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    line = {"audio": "a.wav", "pitch": pitch, "text": "A.", "language": "en", "speaker": "s"}
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(json.dumps(line))

    table = codec_table(tmp_path / "params.json", manifest, tmp_path / "run", 1)
    table["envelope"] = {"weight": 1.0, "pitch": 1.0, "crops": 4}
    table["data"] |= {"batch_size": 1, "crop_seconds": 0.96, "validation": None}
    run("codec", table)
    tokens = {
        "codec": str(tmp_path / "run"),
        "manifest": str(manifest),
        "out": str(tmp_path / "codes"),
        "batch_size": 2,
        "exact": True,
    }
    run("tokenize", tokens | {"heard": str(tmp_path / "heard")})
    (record,) = CodeSource(tmp_path / "codes")
    # Voice prompts are of the same frames, with the same semantic codes, as the encoder hears them.
    (heard,) = CodeSource(tmp_path / "heard")
    assert heard.key == record.key
    assert np.array_equal(heard.codes[:, 0], record.codes[:, 0])
    assert not np.array_equal(heard.codes, record.codes)
    # What is there is not made again; what only one of both lacks is.
    for file in (tmp_path / "heard").iterdir():
        file.unlink()
    run("tokenize", tokens | {"heard": str(tmp_path / "heard")})
    for name, before in (("codes", record), ("heard", heard)):
        (after,) = CodeSource(tmp_path / name)
        assert np.array_equal(after.codes, before.codes)
    height = (np.array(pitch) - 87.5) / 237.5 * 20
    kept = len(pitch) - len(record.codes)
    assert kept in (0, 1)
    found = record.codes[-10:, 1 + 3]
    np.testing.assert_allclose(found, height[2:], atol=0.51)

    taught = {
        path[1]: leaf
        for path, leaf in run_weights(tmp_path / "run").items()
        if path[0] == "envelope"
    }
    for name, shift in (("same", 0.0), ("other", 1.0)):
        file, out = tmp_path / f"{name}.safetensors", tmp_path / name
        save_file(taught | {"mean": taught["mean"] + np.float32(shift)}, file)
        run("tokenize", tokens | {"components": str(file), "out": str(out)})
        (other,) = CodeSource(out)
        assert np.array_equal(other.codes, record.codes) == (name == "same")

    with pytest.raises(ConfigError, match="leave speeds"):
        run("tokenize", tokens | {"speeds": [1.0, 1.1]})
    with pytest.raises(ConfigError, match="was taught envelopes"):
        run("tokenize", tokens | {"codec": "voxtral_jax/assets/nano"})
    with pytest.raises(ConfigError, match="set exact=true"):
        run("tokenize", tokens | {"components": "any.safetensors", "exact": False})
    with pytest.raises(ConfigError, match="each needs a folder of its own"):
        run("tokenize", tokens | {"heard": tokens["out"]})
    with pytest.raises(ConfigError, match="heard goes with exact codes"):
        run("tokenize", tokens | {"heard": str(tmp_path / "heard"), "exact": False})
