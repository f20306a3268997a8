"""The corpus is planned alike by all workers, and keeps speakers and sentences apart."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voxtral_jax import Model
from voxtral_jax.errors import ConfigError
from voxtral_jax.presets import PRESETS_FILE, read_presets

CORPUS = Path(__file__).parents[1] / "scripts" / "corpus"
sys.path.insert(0, str(CORPUS))

import presets  # noqa: E402
import understood  # noqa: E402
from plan import beyond, make_plan, share  # noqa: E402
from presets import (  # noqa: E402
    ORIGINS,
    SENTENCES,
    Candidate,
    Take,
    describe,
    gender_letter,
    judged,
    pick,
    sentences_of,
    teacher_of,
)
from texts import is_prose, split_of  # noqa: E402
from voices import FAST_VOICES, fast_speakers, make_speakers, only_presets  # noqa: E402

VOICES = re.findall(
    r"\w+",
    "af_alloy af_aoede af_bella af_heart af_jessica af_kore af_nicole af_nova af_river "
    "af_sarah af_sky am_adam am_echo am_eric am_fenrir am_liam am_michael am_onyx am_puck "
    "am_santa bf_alice bf_emma bf_isabella bf_lily bm_daniel bm_fable bm_george bm_lewis "
    "ef_dora em_alex em_santa ff_siwis hf_alpha hf_beta hm_omega hm_psi if_sara im_nicola "
    "jf_alpha jf_gongitsune jf_nezumi jf_tebukuro jm_kumo pf_dora pm_alex pm_santa zf_xiaobei "
    "zf_xiaoni zf_xiaoxiao zf_xiaoyi zm_yunjian zm_yunxi zm_yunxia zm_yunyang",
)
HOURS = {"en": 0.4, "ko": 0.2}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for language in ("en", "ko"):
            for number in range(300):
                text = f"sentence {number} says a few words of {language}"
                line = {
                    "language": language,
                    "text": text,
                    "split": ("train", "validation", "test")[max(0, number % 10 - 7)],
                }
                lines.write(json.dumps(line) + "\n")
    return file


def test_speakers_and_sentences_of_the_splits_differ(texts: Path) -> None:
    lines = make_plan(texts, make_speakers(VOICES), HOURS, 0)
    for part in (lambda line: line.speaker.name, lambda line: line.text):
        seen = {
            split: {part(e) for e in lines if e.split == split}
            for split in ("train", "validation", "test")
        }
        assert all(seen.values())
        assert not seen["train"] & (seen["test"] | seen["validation"])
        assert not seen["test"] & seen["validation"]
    assert all(line.language in line.speaker.languages for line in lines)
    assert len({line.name for line in lines}) == len(lines)


def test_workers_share_one_plan(texts: Path) -> None:
    lines = make_plan(texts, make_speakers(VOICES), HOURS, 0)
    assert lines == make_plan(texts, make_speakers(VOICES), HOURS, 0)
    assert lines != make_plan(texts, make_speakers(VOICES), HOURS, 1)
    shares = [line for worker in range(3) for line in share(lines, worker, 3, set())]
    assert sorted(e.name for e in shares) == sorted(e.name for e in lines)
    done = {lines[0].name}
    assert [e.name for e in share(lines, 0, 1, done)] == [e.name for e in lines[1:]]


def test_a_longer_plan_begins_as_the_shorter_and_goes_beyond_it(texts: Path) -> None:
    speakers = make_speakers(VOICES)
    first, longer = (
        [line for line in make_plan(texts, speakers, hours, 0) if line.split == "train"]
        for hours in ({"en": 0.04, "ko": 0.02}, {"en": 0.08, "ko": 0.06})
    )
    more = beyond(longer, {(line.language, line.text) for line in first})
    assert len(more) > len(first) / 2
    assert {line.name for line in [*first, *more]} == {line.name for line in longer}
    assert not {line.name for line in first} & {line.name for line in more}


def test_speakers_are_many_and_none_twice() -> None:
    speakers = make_speakers(VOICES)
    assert len({s.name for s in speakers}) == len(speakers) > 150
    assert not {"em_santa", "pf_dora", "pm_alex", "hf_alpha"} & {s.name for s in speakers}
    assert all("en" in s.languages for s in speakers)
    apart = [s for s in speakers if s.split != "train"]
    assert all(len(s.languages) == 9 and len(s.parts) == 2 for s in apart)
    pairs = [frozenset(voice for voice, _ in s.parts) for s in speakers]
    for one in apart:
        assert pairs.count(frozenset(voice for voice, _ in one.parts)) == 1
    with pytest.raises(ConfigError, match="4 voices are too few"):
        make_speakers(["af_sky", "af_river", "am_liam", "am_puck"])
    assert all(abs(sum(weight for _, weight in s.parts) - 1) < 1e-9 for s in speakers)


def test_presets_alone_speak_in_their_own_languages(texts: Path, tmp_path: Path) -> None:
    speakers = make_speakers(VOICES)
    blend = next(s for s in speakers if len(s.parts) == 2 and "ko" in s.languages)
    entries = [("af_sky", "en"), (blend.name, "ko"), ("joe086", "en"), ("jf_alpha", "en")]
    lines = [{"speaker": name, "language": language} for name, language in entries]
    (tmp_path / "presets.json").write_text(json.dumps(lines), encoding="utf-8")
    presets = only_presets(speakers, tmp_path)
    assert {(s.name, s.languages) for s in presets} == {
        ("af_sky", ("en",)),
        ("jf_alpha", ("en",)),
        (blend.name, ("ko",)),
    }
    assert {(s.name, s.parts) for s in presets} <= {(s.name, s.parts) for s in speakers}
    planned = {(line.speaker.name, line.language) for line in make_plan(texts, presets, HOURS, 0)}
    assert planned == {("af_sky", "en"), ("jf_alpha", "en"), (blend.name, "ko")}


@pytest.mark.parametrize("teacher", FAST_VOICES)
def test_fast_teachers_speak_only_what_training_reads(texts: Path, teacher: str) -> None:
    speakers = fast_speakers(teacher)
    assert len({s.name for s in speakers}) == len(speakers) == 10 * len(FAST_VOICES[teacher])
    lines = make_plan(texts, speakers, HOURS, 0)
    spoken = set(FAST_VOICES[teacher].values()) & set(HOURS)
    assert {(line.language, line.split) for line in lines} == {(e, "train") for e in spoken}


@pytest.mark.parametrize(
    ("sentence", "language", "prose"),
    [
        ("It was a bright cold day in April.", "en", True),
        ("Run apt-get install foo/bar now and wait.", "en", False),
        ("He was born in 1984 in a small town.", "en", False),
        ("Es ist ein schöner Tag für einen Spaziergang.", "en", False),
        ("Es ist ein schöner Tag für einen Spaziergang.", "de", True),
        ("Short.", "en", False),
    ],
)
def test_only_prose_of_the_language_is_taken(sentence: str, language: str, prose: bool) -> None:
    assert is_prose(sentence, language) is prose


def test_a_split_depends_on_the_letters_alone() -> None:
    assert split_of("Hello, there!") == split_of("hello there")
    splits = [split_of(f"sentence number {'x' * n}") for n in range(2000)]
    assert 0.02 < splits.count("test") / 2000 < 0.06


@pytest.mark.parametrize("files", [True, False])
def test_packed_recordings_are_the_same_utterances(tmp_path: Path, files: bool) -> None:
    import numpy as np
    import soundfile
    from pack import RATE, main

    from voxtral_jax.training.data.manifest import read_manifest
    from voxtral_jax.training.data.recordings import read_utterance

    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE)
    (tmp_path / "corpus" / "en").mkdir(parents=True)
    soundfile.write(tmp_path / "corpus" / "en" / "one.flac", tone, RATE)
    line = {"audio": "en/one.flac", "text": "Oh.", "language": "en", "speaker": "a"}
    line |= {"phonemes": "O.", "phoneme_ends": [0.5, 0.9]}
    manifest = tmp_path / "corpus" / "test.jsonl"
    manifest.write_text(json.dumps(line) + "\n")
    out = tmp_path / "packed" / "test"
    main(manifest, out, files)
    packed = read_manifest(str(out.with_suffix(".jsonl") if files else out), need_text=True)
    (one,) = packed.utterances
    assert (one.texts, one.language, one.speaker, one.phonemes) == (("Oh.",), "en", "a", "O.")
    if not files:
        assert one.phoneme_ends == (0.5, 0.9)
    heard = read_utterance(one, RATE)
    # Opus keeps the sound, not the samples.
    assert abs(len(heard) - len(tone)) <= RATE // 100
    assert np.corrcoef(heard[: len(tone)], tone[: len(heard)])[0, 1] > 0.9


def candidate(
    language: str, speaker: str, pitch: float, errors: float | None = None, *, pace: float = 14.0
) -> Candidate:
    line = {"text": "A text.", "seconds": 4.0}
    take = Take(Path("a.flac"), line, np.array([pitch, 1500.0, pace]))
    return Candidate(language, speaker, [take], errors)


def test_every_speaker_has_a_teacher_and_a_gender() -> None:
    speakers = make_speakers(VOICES) + [one for name in FAST_VOICES for one in fast_speakers(name)]
    assert {teacher_of(one.name) for one in speakers} == ORIGINS.keys()
    known = {"f012": "f", "am_puck": "m", "joe091": "m", "de-DE076": "f", "mei121": "f"}
    assert {name: gender_letter(name) for name in known} == known


def test_presets_are_the_voices_that_are_understood_then_those_that_differ() -> None:
    errors = {"af_heart": 0.3, "af_nova": 0.1, "bf_emma": 0.2, "af_sky": 0.6, "am_puck": 0.4}
    pitches = {"af_heart": 150.0, "af_nova": 200.0, "bf_emma": 210.0, "af_sky": 300.0}
    every = [
        candidate("en", name, pitches.get(name, 110.0), share) for name, share in errors.items()
    ]
    assert [one.speaker for one in pick(every, every)] == ["af_nova", "bf_emma", "am_puck"]
    entries = describe(pick(every, every), every)
    assert [entry["speaker"] for entry in entries if "default_for" in entry] == ["af_nova"]
    unheard = [candidate("en", one.speaker, pitches.get(one.speaker, 110.0)) for one in every]
    # Without a listener the first leads, and the other is as far from it as can be.
    assert [one.speaker for one in pick(unheard, unheard)] == ["af_heart", "af_sky", "am_puck"]


def test_presets_are_named_by_how_they_sound() -> None:
    every = [
        candidate("en", "af_heart", 200),
        candidate("en", "f002", 201),
        candidate("en", "f001", 260),
        candidate("en", "m001", 100, pace=10),
        candidate("fr", "ff_siwis", 160),
    ]
    picked = pick(every, every)
    assert [one.speaker for one in picked] == ["af_heart", "f001", "m001", "ff_siwis"]
    entries = describe(picked, every)
    names = [entry["name"] for entry in entries]
    assert names[1:] == ["en_female_high", "en_male_calm", "fr_female_deep"]
    assert len(set(names)) == 4
    assert [entry.get("default_for") for entry in entries] == ["en", None, None, "fr"]
    assert gender_letter("bm_george") == gender_letter("m003") == "m"


def test_presets_are_picked_from_a_manifest(tmp_path: Path) -> None:
    lines = []
    for number, (speaker, pitch) in enumerate([("f001", 220.0), ("f002", 180.0), ("m001", 110.0)]):
        time = np.arange(4 * 16_000) / 16_000
        sound = sum(0.1 * np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 8))
        soundfile.write(tmp_path / f"{number}.flac", sound, 16_000)
        known = {"audio": f"{number}.flac", "text": "Hm.", "language": "en", "speaker": speaker}
        more = {"phonemes": "hˈəm" * 9, "split": "train", "seconds": 4.0}
        lines.append(json.dumps(known | more))
    (tmp_path / "train.jsonl").write_text("\n".join([*lines, '{"cut off']))
    presets.main(str(tmp_path / "*.jsonl"), tmp_path / "out")
    found = read_presets(tmp_path / "out")
    assert len(found) == 3
    assert {preset.about.gender for preset in found if preset.about} == {"female", "male"}
    entries = json.loads((tmp_path / "out" / PRESETS_FILE).read_text())
    assert sorted(round(entry["pitch_hz"], -1) for entry in entries) == [110, 180, 220]
    assert not any("errors" in entry for entry in entries)  # nobody listened
    with pytest.raises(SystemExit, match="no recordings"):
        presets.main(str(tmp_path / "*.jsonl"), tmp_path / "out", split="test")


def test_the_best_quarter_of_the_candidates_is_heard_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "texts.jsonl"
    lines = [
        {"language": language, "text": f"Sentence {number} is of a fitting length.", "split": split}
        for language in ("en", "de")
        for split in ("train", "validation")
        for number in range(100)
    ]
    lines.append({"language": "en", "text": "Too short.", "split": "validation"})
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sentences = sentences_of(texts, {"en"}, SENTENCES[-1])
    assert sentences.keys() == {"en"}
    assert len(set(sentences["en"])) == SENTENCES[-1]
    assert sentences == sentences_of(texts, {"en"}, SENTENCES[-1])
    assert "Too short." not in sentences_of(texts, {"en"}, 1000)["en"]
    with pytest.raises(SystemExit, match="fr"):
        sentences_of(texts, {"fr"}, 8)

    asked: list[tuple[int, int]] = []

    def errors_in(model, voices, some, *rest):  # type: ignore[no-untyped-def]
        asked.append((len(voices), len(some)))
        # The more is heard of m005, the worse it is.
        worse = {"m005": (len(some) - 8) / 100}
        return {name: worse.get(name, int(name[1:]) / 100) for name in voices}

    monkeypatch.setattr("presets.errors_in", errors_in)
    monkeypatch.setattr("presets.load_model", lambda model: model)
    every = [candidate("en", f"{gender}{n:03d}", 100.0) for gender in "fm" for n in range(20)]
    found = judged(every, "small", sentences, tmp_path / "heard.jsonl")
    # Two of each gender are picked in English, so three stay at least.
    assert asked == [(40, 8), (10, 24), (6, 72)]
    assert {one.speaker for one in found} == {"f000", "f001", "f002", "m000", "m001", "m002"}
    assert {one.errors for one in found} == {0.0, 0.01, 0.02}


def test_a_voice_is_as_clear_as_what_is_heard_of_it_and_nothing_is_heard_twice(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    voices = {name: tmp_path / f"{name}.wav" for name in ("one", "two")}
    for file in voices.values():
        soundfile.write(file, 0.1 * random.standard_normal(76_800), 24_000)
    answers = iter(["Hello there.", "", "Good evening.", "Good morning to all of you and more."])

    class Listener:
        def transcribe(self, samples: np.ndarray, language: str) -> str:
            return next(answers)

    monkeypatch.setattr("voxtral_jax.evaluation._made", lambda name: {"whisper": Listener()}[name])
    texts = ["Good morning.", "Hello there."]
    known = tmp_path / "heard.jsonl"
    asked = (model, voices, texts, "en", known)
    assert understood.errors_in(*asked, "small") == {"one": 0.25, "two": 1.0}
    assert understood.errors_in(*asked, "small") == {"one": 0.25, "two": 1.0}
    with pytest.raises((RuntimeError, StopIteration)):
        understood.errors_in(*asked, "another")
