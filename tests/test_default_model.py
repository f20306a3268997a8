"""The model that comes with the package, its preset voices, and how they are made and chosen."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

import voxtral_jax as vx
from voxtral_jax import Model, Voice
from voxtral_jax.audio.reference import FRAME_SECONDS, HOP_SECONDS, SILENCE_DB, sounding_spans
from voxtral_jax.checkpoint.download import find_own_model
from voxtral_jax.cloning import voice_from_codes
from voxtral_jax.errors import CheckpointError, ConfigError, VoiceError
from voxtral_jax.presets import PRESETS_FILE, Preset, make_presets, read_presets
from voxtral_jax.text.phonemes import LANGUAGES
from voxtral_jax.utterance import Options, prepare
from voxtral_jax.voice import About, default_voice, read_about

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "voxtral_jax" / "assets"
READER = ASSETS / "reader.flac"
MOST_MEGABYTES = 60
TEXTS = {
    "en": "Good morning, how are you today?",
    "de": "Guten Morgen, wie geht es Ihnen heute?",
    "zh": "早上好，你今天好吗？",
}

needs_own = pytest.mark.skipif(
    not (ASSETS / "nano" / "consolidated.safetensors").is_file(),
    reason="voxtral_jax/assets/nano has no weights in this checkout",
)


@pytest.fixture(scope="module")
def own() -> Model:
    return vx.load_model()


@needs_own
def test_the_own_model_is_small_and_whole(own: Model) -> None:
    size = sum(file.stat().st_size for file in ASSETS.rglob("*") if file.is_file())
    assert size < MOST_MEGABYTES * 1e6
    assert own.can_clone
    assert own.config.tokenizer == "phonemes"
    assert own.source == str(find_own_model())


@needs_own
def test_each_language_has_presets_and_one_default(own: Model) -> None:
    assert {about.language for about in own.abouts.values()} == set(LANGUAGES)
    assert sorted(a.default_for for a in own.abouts.values() if a.default_for) == sorted(LANGUAGES)
    for name, about in own.abouts.items():
        assert name.startswith(f"{about.language}_{about.gender}_")
        assert about.character
        assert about.origin
        voice = own.voice(name)
        assert voice.codes is not None
        assert len(voice.embedding) == len(voice.codes) + 1
        assert 2.5 < len(voice.codes) / 12.5 < 10


@needs_own
def test_presets_are_embedded_by_the_weights_that_ship() -> None:
    own = vx.load_model(dtype="float32")
    for name in own.abouts:
        voice = own.voice(name)
        fresh = voice_from_codes(own, voice.codes, name)
        np.testing.assert_allclose(voice.embedding, fresh.embedding, atol=1e-5)


@needs_own
def test_the_texts_language_chooses_the_voice(own: Model) -> None:
    def heard(voice: Voice | None = None) -> list[np.ndarray]:
        options = Options(max_seconds=0.5)
        spoken = prepare(own, list(TEXTS.values()), voice, None, 0, None, options)
        return [utterance.lines[0].voice for utterance in spoken]

    for voice, language in zip(heard(), TEXTS, strict=True):
        expected = own.voice(language=language)
        assert expected.about.default_for == language
        np.testing.assert_array_equal(voice, expected.embedding)
    german = own.voice(language="de").embedding
    assert all(np.array_equal(voice, german) for voice in heard(voice=own.voice(language="de")))


def test_the_text_chooses_also_where_only_others_are_named(model: Model) -> None:
    assert not model.tokenizer.needs_language
    for languages in (None, ["de", None], [None, "en"]):
        spoken = prepare(
            model, [TEXTS["de"], TEXTS["en"]], [None, "de_male"], None, 0, languages, Options()
        )
        for utterance in spoken:
            expected = model.voice("de_male").embedding
            np.testing.assert_array_equal(utterance.lines[0].voice, expected)


@needs_own
def test_a_preset_speaks_another_language(own: Model) -> None:
    name = default_voice(own.abouts, "en")
    english, german = (
        vx.synthesize(own, "Hamburg.", voice=name, language=language, max_seconds=0.5)
        for language in ("en", "de")
    )
    assert np.isfinite(english.samples).all()
    assert not np.array_equal(english.codes, german.codes)


@needs_own
@pytest.mark.parametrize("how", ["preset", "clone"])
def test_a_text_is_all_that_the_command_line_needs(how: str, tmp_path: Path) -> None:
    out = tmp_path / "hello.wav"
    options = ["--ref", str(READER)] if how == "clone" else []
    command = [sys.executable, str(ROOT / "infer.py"), "--text", "Hello.", "--max-seconds", "1"]
    done = subprocess.run(
        [*command, *options, "--out", str(out)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    samples, rate = soundfile.read(out)
    assert rate == 24_000
    assert 0 < len(samples) <= rate
    assert "warning" not in done.stderr


@needs_own
def test_own_voices_are_listed_with_what_is_known_of_them() -> None:
    command = [sys.executable, str(ROOT / "infer.py"), "--list-voices"]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(vx.load_model().voices)
    assert all(line.split()[1] in LANGUAGES and " s  " in line for line in lines)
    assert sum("(default for en)" in line for line in lines) == 1


def test_a_package_without_its_model_says_so(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("voxtral_jax.checkpoint.download.files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match=r"comes without its model.*lacks params\.json"):
        vx.load_model()


def test_a_wheel_carries_the_assets(tmp_path: Path) -> None:
    """Built of a small copy, by the setuptools that is installed."""
    build = pytest.importorskip("setuptools.build_meta", reason="needs setuptools to build a wheel")
    wanted = (
        "assets/nano/voice_embedding/a.safetensors",
        "assets/nano/params.json",
        "serving/page/index.html",
    )
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["voxtral_jax"]
    assert patterns == ["assets/**/*", "serving/page/*"]
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    package = tmp_path / "voxtral_jax"
    for name in wanted:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("x")
    (package / "__init__.py").write_text('__version__ = "0"\n')
    program = f"import {build.__name__} as build; print(build.build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    if done.returncode and "license" in done.stderr:
        pytest.skip("this setuptools is older than pyproject.toml asks for")
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {f"voxtral_jax/{name}" for name in wanted} <= set(names)


def test_a_voices_file_keeps_what_is_known_of_it(model: Model, tmp_path: Path) -> None:
    about = About(language="de", gender="male", character="deep, calm", default_for="de")
    codes = np.arange(74, dtype=np.int32).reshape(2, 37)
    voice = Voice("somebody", model.voice("de_male").embedding, codes, about)
    voice.save(tmp_path / "a.safetensors")
    again = Voice.load(tmp_path / "a.safetensors")
    assert (again.name, again.about) == ("somebody", about)
    assert again.codes is not None
    assert again.codes.dtype == np.int32
    np.testing.assert_array_equal(again.codes, codes)
    assert read_about(tmp_path / "a.safetensors") == about
    replace(voice, about=About()).save(tmp_path / "it_female_high.safetensors")
    assert read_about(tmp_path / "it_female_high.safetensors").language == "it"
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with pytest.raises(VoiceError, match="not a readable voice"):
        read_about(tmp_path / "b.safetensors")


def test_names_of_presets_tell_language_and_gender(model: Model) -> None:
    assert model.abouts["de_male"] == About(language="de", gender="male")
    assert model.abouts["neutral_female"] == About(gender="female", character="neutral")
    assert About.of_name("en_female_warm") == About(
        language="en", gender="female", character="warm"
    )


def test_the_default_voice_is_that_of_the_language_or_english() -> None:
    released = {name: About.of_name(name) for name in ("de_female", "casual_male")}
    released["neutral_female"] = About.of_name("neutral_female")
    assert default_voice(released, "de") == "de_female"
    assert [default_voice(released, name) for name in ("en", "ko", None)] == ["neutral_female"] * 3
    ours = {
        "a": About(language="de"),
        "b": About(language="en"),
        "c": About(language="en", default_for="en"),
        "d": About(language="fr", default_for="de"),
    }
    assert [default_voice(ours, name) for name in ("en", "de", "fr", "ja")] == ["c", "d", "d", "c"]
    assert default_voice({"z": About(), "y": About()}, "en") == "y"


def write_presets(folder: Path, entries: list[dict[str, str]]) -> Path:
    (folder / PRESETS_FILE).write_text(json.dumps(entries), encoding="utf-8")
    return folder


def test_presets_become_voices_of_a_model(model: Model, reference: Path, tmp_path: Path) -> None:
    vx.save_model(replace(model, voices={}), tmp_path / "model")
    entry = {"name": "en_male_deep", "audio": "a.wav", "language": "en", "default_for": "en"}
    (tmp_path / "a.wav").write_bytes((reference / "reference.wav").read_bytes())
    presets = read_presets(write_presets(tmp_path, [entry | {"pitch_hz": "80"}]))
    about = About(language="en", default_for="en")
    assert presets == [Preset("en_male_deep", tmp_path / "a.wav", about)]
    with pytest.warns(UserWarning, match="3 s or more"):
        make_presets(tmp_path / "model", [*presets, Preset("it_female_b", tmp_path / "a.wav")])
    made = vx.load_model(tmp_path / "model")
    assert made.voice().name == "en_male_deep"
    assert made.voice(language="it").about == About(language="it", gender="female", character="b")
    # A model that is written elsewhere takes its voices along.
    vx.save_model(made, tmp_path / "copy")
    assert vx.load_model(tmp_path / "copy").abouts == made.abouts


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"audio": "a.wav"}], "no list of presets"),
        ([{"name": "../a", "audio": "a.wav"}], "is no name for a voice"),
        ([{"name": 1, "audio": "a.wav"}], "1 is no name for a voice"),
        ([{"name": "a", "audio": PRESETS_FILE}] * 2, "names a twice"),
        ([{"name": "a", "audio": "absent.wav"}], r"absent\.wav of a is missing"),
        ({"name": "a"}, "no list of presets"),
    ],
)
def test_presets_that_cannot_be_made_are_named(tmp_path: Path, entries, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_presets(write_presets(tmp_path, entries))
    (tmp_path / PRESETS_FILE).unlink()
    with pytest.raises(ConfigError, match="does not exist"):
        read_presets(tmp_path)


def test_someone_to_clone_comes_along() -> None:
    samples, rate = soundfile.read(READER)
    assert 4 < len(samples) / rate < 8
    assert "CC BY 4.0" in (ASSETS / "README.md").read_text()


@pytest.mark.parametrize("length", [17, 801, 97_280])
def test_sound_is_found_as_librosa_finds_it(length: int) -> None:
    samples, rate = soundfile.read(READER, dtype="float32")
    samples = samples[:length] + np.float32(1e-4)
    theirs = librosa.effects.split(
        samples / np.abs(samples).max(),
        top_db=SILENCE_DB,
        frame_length=round(FRAME_SECONDS * rate),
        hop_length=round(HOP_SECONDS * rate),
    )
    np.testing.assert_array_equal(sounding_spans(samples, rate), theirs)
