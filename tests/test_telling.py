"""What codes tell of a recording: learned from some, and played without looking ahead."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small import hum, write_recordings

from voxtral_jax import load_model
from voxtral_jax.audio import write_audio
from voxtral_jax.config import VoxtralConfig
from voxtral_jax.errors import CheckpointError, DataError
from voxtral_jax.files import read_lines
from voxtral_jax.training.data.manifest import read_manifest
from voxtral_jax.training.data.utterances import Utterance

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "corpus"))
import detail
import fidelity
import likely
import lock
import telling
from telling import BANDS, COMPONENTS, CONTEXT, MELS, PARAMS, Detail, Teller, with_context
from vocoder import FFT, FRAME, HERTZ, SPECTRA, WINDOW

CODEC = VoxtralConfig.load(PARAMS).codec
LATENTS = CODEC.acoustic_dim


@pytest.fixture(scope="module")
def teller() -> Teller:
    """One that finds something, if nothing that anybody said."""
    params = Detail().init(jax.random.key(0), jnp.zeros((1, CONTEXT, LATENTS)))["params"]
    drawn = np.random.default_rng(0)
    last = params[f"Dense_{telling.HIDDEN}"]
    last["kernel"] = jnp.asarray(0.02 * drawn.standard_normal(last["kernel"].shape), jnp.float32)
    params["plain"]["bias"] = jnp.full_like(params["plain"]["bias"], -1.5)
    return Teller(CODEC, telling.read_components(COMPONENTS, CODEC), params)


def test_what_is_told_depends_on_nothing_that_comes_after(teller: Teller) -> None:
    first, other = hum(0.96, 150, 0), hum(0.96, 190, 1)
    ends = np.full(12, 150.0)
    changed = np.concatenate([first[: 8 * FRAME], other[8 * FRAME :]])
    told, again = teller.tell(first, ends), teller.tell(changed, ends)
    assert told.shape == first.shape
    assert np.std(told) > 0
    # The last window of the eighth frame hears 11 ms of the ninth; noise echoes on both sides.
    before = 7 * FRAME - (FFT - WINDOW) // 2
    assert np.abs(told - again)[:before].max() < 1e-3 * np.std(told)
    assert np.abs(told - again)[8 * FRAME :].max() > 1e-3


def test_a_frame_hears_those_before_it_in_its_own_recording() -> None:
    latents = np.arange(1, 6, dtype=np.float32)[:, None]
    heard = with_context(latents, [3, 2])[..., 0]
    assert heard.shape == (5, CONTEXT)
    np.testing.assert_array_equal(heard[2, -4:], [0, 1, 2, 3])
    np.testing.assert_array_equal(heard[3, -3:], [0, 0, 4])
    np.testing.assert_array_equal(heard[4, -3:], [0, 4, 5])


def test_spectra_are_played_as_they_were_found() -> None:
    # A spectrum that is a straight line between the bands comes back; one under the floor does not.
    logs = np.interp(HERTZ, [0, 12_000], [0, -2.0])
    found = telling.spectra_of(np.stack([10 ** (2 * logs), np.zeros_like(logs)]))
    np.testing.assert_allclose(found[0], np.interp(MELS, HERTZ, logs), atol=1e-6)
    np.testing.assert_allclose(found[1], telling.FLOOR)
    rows = np.arange(3 * SPECTRA + 1)
    told = telling.ahead(rows)
    assert told.shape == (3, SPECTRA)
    np.testing.assert_array_equal(told[0], np.arange(2, 18))
    np.testing.assert_array_equal(told[-1, -2:], rows[-1])
    played = telling.play(
        np.full((3, SPECTRA, BANDS), -1.0), np.ones((3, SPECTRA)), np.full(3, 150)
    )
    assert played.shape == (3 * FRAME,)


def test_sharpening_raises_peaks_and_leaves_what_is_even() -> None:
    even = np.full((2, BANDS), -1.0)
    np.testing.assert_allclose(telling.sharpened(even), even)
    peak = even.copy()
    peak[:, 40] = 0
    made = telling.sharpened(peak)
    np.testing.assert_allclose(made[:, 40], telling.SHARPER * (1 - 1 / telling.SHARP_BANDS))
    assert np.all(made[:, 38] < -1)


def test_the_spectra_of_recordings_are_learned_and_played(tmp_path: Path) -> None:
    pytest.importorskip("pyworld", reason="pyworld is of scripts/corpus alone")
    manifest = write_recordings(tmp_path / "audio", count=3, seconds=1.28)
    locked, out = tmp_path / "locked", tmp_path / "detail.safetensors"
    lock.main(str(manifest), locked)
    lines = str(locked / "lines-*.jsonl")
    config, basis = CODEC, telling.read_components(COMPONENTS, CODEC)
    utterances = read_manifest(lines, need_text=False).utterances
    *every, lengths = detail.gather(utterances, config, basis, 1)
    assert {len(x) for x in every} == {sum(lengths)}
    assert lengths == [16, 17, 18]
    assert every[0].shape[1:] == (CONTEXT, LATENTS)
    assert every[1].shape[1:] == (SPECTRA, BANDS)
    _, first = detail.learn(*every, steps=1)
    detail.main(lines, out, workers=1, steps=40, likely_steps=2)
    learned = Teller.load(out, config)
    found, _ = telling.find(learned.params, every[0].astype(np.float32))
    assert np.mean(np.abs(found - every[1])) < 0.5 * first
    told, pitch = lock.lock(hum(1.28, 150, 0), learned)
    plain, same = lock.lock(hum(1.28, 150, 0))
    np.testing.assert_array_equal(pitch, same)
    assert told.shape == plain.shape
    lock.main(str(manifest), tmp_path / "told", detail=out)
    lines_told = read_lines(tmp_path / "told" / "lines-0-of-1.jsonl")
    assert len(lines_told) == 3
    for name in (line["goal"] for line in lines_told):
        assert (tmp_path / "told" / name).read_bytes() != (locked / name).read_bytes()


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"mean": np.zeros(3, np.float32)}, file)
    with pytest.raises(CheckpointError, match=r"other\.safetensors is no file of env"):
        Teller.load(file, CODEC)
    with pytest.raises(CheckpointError, match="components alone, no network"):
        Teller.load(COMPONENTS, CODEC)
    save_file(load_file(COMPONENTS) | {"network.plain.bias": np.zeros(3, np.float32)}, file)
    with pytest.raises(CheckpointError, match=r"other\.safetensors has a network of other sizes"):
        Teller.load(file, CODEC)
    with pytest.raises(DataError, match=r"\*\.jsonl does not exist"):
        detail.main(str(tmp_path / "*.jsonl"), file)


def test_a_recording_that_is_not_as_long_as_its_pitch_is_named(tmp_path: Path) -> None:
    write_recordings(tmp_path, count=1, seconds=1.28)
    manifest = tmp_path / "lines.jsonl"
    line = {"audio": "0.wav", "language": "en", "speaker": "s", "pitch": [100.0]}
    manifest.write_text(json.dumps(line))
    with pytest.raises(DataError, match=r"'pitch' of 0\.wav"):
        detail.main(str(manifest), tmp_path / "detail.safetensors")


def test_the_linear_part_starts_at_least_squares() -> None:
    drawn = np.random.default_rng(0)
    latents = drawn.uniform(-1, 1, (4000, LATENTS))
    plan, mean = drawn.normal(0, 0.3, (LATENTS, SPECTRA * BANDS)), -1.5
    start = detail.least_squares(latents, (latents @ plan + mean).reshape(-1, SPECTRA, BANDS))
    np.testing.assert_allclose(start["kernel"], plan, atol=0.02)
    np.testing.assert_allclose(start["bias"], mean, atol=0.02)


def test_a_critic_makes_spectra_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    # A peak of 8 dB is at one of two places in each recording; no latent says at which: the median
    # is flat.
    drawn = np.random.default_rng(0)
    count, lengths = 64, [8] * 64
    at = np.repeat(drawn.choice([20, 50], count), 8)
    spectra = np.full((count * 8, SPECTRA, BANDS), -2.0, np.float16)
    for band in range(-3, 4):
        spectra[np.arange(len(at)), :, at + band] = -1.6
    latents = drawn.uniform(-1, 1, (len(at), CONTEXT, LATENTS)).astype(np.float16)
    voiced = np.ones((len(at), SPECTRA), bool)
    params = Detail().init(jax.random.key(0), jnp.zeros((1, CONTEXT, LATENTS)))["params"]
    params["plain"] = detail.least_squares(latents[:, -1], spectra)
    new = drawn.uniform(-1, 1, (32, CONTEXT, LATENTS)).astype(np.float32)

    def peaks(matching: float, fooling: float) -> float:
        """How far they stand out in what is found in new latents."""
        monkeypatch.setattr(likely, "MATCHING", matching)
        monkeypatch.setattr(likely, "FOOLING", fooling)
        made = likely.make_likely(params, latents, spectra, voiced, lengths, steps=40)
        return float(np.ptp(np.asarray(telling.find(made, new)[0]), axis=-1).mean())

    # Few steps of few rows show what a critic wants that counts at once, and much.
    monkeypatch.setattr(likely, "BATCH", 8)
    monkeypatch.setattr(likely, "WARM_UP", 1)
    assert peaks(15.0, 1.0) > 1.03 * peaks(0.0, 0.0)
    with pytest.raises(DataError, match="no recording is 6 frames long"):
        likely.make_likely(params, latents, spectra, voiced, [4] * 128, steps=1)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> fidelity.Played:
    """By the model in the box, of a recording with a voice in 6 of 10 frames."""
    folder = tmp_path_factory.mktemp("told")
    samples, pitch = hum(0.8, 150, 0), (150.0,) * 6 + (0.0,) * 4
    write_audio(folder / "a.wav", samples, 24_000)
    one = Utterance(
        key="a",
        audio="a.wav",
        texts=(),
        language="en",
        speaker="x",
        file=str(folder / "a.wav"),
        goal=str(folder / "a.wav"),
        pitch=pitch,
    )
    components = telling.read_components(COMPONENTS, CODEC)
    return fidelity.play(load_model(), one, components)


def test_a_decoder_is_compared_with_its_goals_by_band(played: fidelity.Played) -> None:
    assert played.exact.shape == played.heard.shape == played.recording.shape
    assert np.std(played.exact) > 0
    np.testing.assert_array_equal(np.flatnonzero(np.diff(played.voiced)), [6 * FRAME - 1])
    quieter = replace(played, goal=2 * played.exact)
    for voiced in (True, False):
        alike, level = fidelity.by_band([quieter], 24_000, voiced=voiced)
        assert alike.shape == (len(fidelity.BANDS) - 1,)
        np.testing.assert_allclose(alike, 1, atol=1e-3)
        np.testing.assert_allclose(level, -6.02, atol=0.01)
    # Only what has no voice is another sound.
    noise = np.random.default_rng(0).standard_normal(played.exact.size) * ~played.voiced
    other = replace(played, goal=played.exact * played.voiced + noise)
    assert fidelity.by_band([other], 24_000, voiced=False)[0].max() < 0.5
    # Windows there do not reach the noise.
    inside = replace(other, voiced=np.arange(other.voiced.size) < 5 * FRAME)
    assert fidelity.by_band([inside], 24_000, voiced=True)[0].min() > 0.99
