"""The corpus is planned alike by all workers, and keeps speakers and sentences apart."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

CORPUS = Path(__file__).parents[1] / "scripts" / "corpus"
sys.path.insert(0, str(CORPUS))

from plan import make_plan, share  # noqa: E402
from texts import is_prose, split_of  # noqa: E402
from voices import FAST_VOICES, fast_speakers, make_speakers  # noqa: E402

VOICES = re.findall(
    r"\w+",
    "af_heart am_fenrir am_puck bf_emma bm_george ef_dora em_alex em_santa ff_siwis hf_alpha "
    "if_sara im_nicola jf_alpha jm_kumo pf_dora pm_alex pm_santa zf_xiaoyi zm_yunxi",
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


def test_speakers_are_many_and_none_twice() -> None:
    speakers = make_speakers(VOICES)
    assert len({s.name for s in speakers}) == len(speakers) > 150
    assert not {"em_santa", "pf_dora", "pm_alex", "hf_alpha"} & {s.name for s in speakers}
    assert all("en" in s.languages for s in speakers)
    apart = [s for s in speakers if s.split != "train"]
    assert all(len(s.languages) == 9 and len(s.parts) == 2 for s in apart)
    assert all(abs(sum(weight for _, weight in s.parts) - 1) < 1e-9 for s in speakers)


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
