"""Training data: broken things are named, batches repeat, rows are what inference makes."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_jax import Model
from voxtral_jax.audio import resample
from voxtral_jax.config import END_AUDIO, TOKEN_OFFSET, VoxtralConfig
from voxtral_jax.decoder.model import Decoder
from voxtral_jax.decoder.prompt import batch_prompts, embed_prompt, prompt_ids, voice_tokens
from voxtral_jax.errors import AudioError, DataError
from voxtral_jax.nn.module import apply
from voxtral_jax.text import ByteTokenizer, clean
from voxtral_jax.training.data import plan as plans
from voxtral_jax.training.data.crops import NO_UTTERANCE, crop_batches, validation_crops
from voxtral_jax.training.data.layout import fill_row, lay_out, one_per_row, speech_weights
from voxtral_jax.training.data.manifest import Manifest, read_manifest
from voxtral_jax.training.data.packing import pack
from voxtral_jax.training.data.pairing import NOBODY, Voices
from voxtral_jax.training.data.recordings import at_speed, read_crop, read_utterance
from voxtral_jax.training.data.shards import (
    CodeEntry,
    CodeRecord,
    CodeSource,
    CodeWriter,
    done_keys,
)
from voxtral_jax.training.data.speech import (
    PackedRows,
    PackingSettings,
    empty_rows,
    speech_batches,
    validation_speech,
)
from voxtral_jax.training.data.targets import TargetSource, TargetWriter
from voxtral_jax.training.data.utterances import Utterance
from voxtral_jax.training.speaking import prompts_of

RATE = 24_000
FRAME_RATE = 12.5
TOKENIZER = ByteTokenizer()
PACKING = PackingSettings(row_tokens=400, row_targets=200, prompt_seconds=(1.5, 6.0))


def write_tone(path: Path, seconds: float, rate: int = RATE, channels: int = 1, hz: float = 220):
    """A tone with some noise, so that no two parts of it are alike."""
    time = np.arange(round(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * hz * time)
    noise = 0.05 * np.random.default_rng(round(hz)).standard_normal((len(time), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone[:, None] + noise, rate)


def write_manifest(path: Path, lines: Iterable[dict[str, Any] | str]) -> Path:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def line(audio: str, **more: Any) -> dict[str, Any]:
    return {"audio": audio, "text": "Hello.", "language": "en", "speaker": "anna", **more}


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Seven recordings of 0.4 to 1.6 s, one of which cannot be decoded any more."""
    lines = []
    for i in range(7):
        write_tone(tmp_path / f"{i}.wav", 0.4 + 0.2 * i, hz=200 + 50 * i)
        lines.append(line(f"{i}.wav", text=f"Number {i}."))
    found = read_manifest(write_manifest(tmp_path / "train.jsonl", lines), need_text=True)
    (tmp_path / "5.wav").write_bytes(b"damaged afterwards")
    return found


def assert_same(ours: Any, theirs: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# Manifests


def test_a_manifest_gives_utterances_with_keys_that_know_no_directory(tmp_path: Path) -> None:
    write_tone(tmp_path / "clips" / "a.wav", 2.0)
    lines = [
        line("clips/a.wav", text=["It was 5 p.m.", "It was five p m."]),
        "",
        line(
            str(tmp_path / "clips" / "a.wav"),
            start=0.5,
            end=1.25,
            phonemes="həˈloʊ",
            phoneme_ends=[],
        ),
        line("clips/a.wav", start=1.5),
    ]
    whole, part, rest = read_manifest(
        write_manifest(tmp_path / "train.jsonl", lines), need_text=True
    ).utterances
    assert whole.texts == ("It was 5 p.m.", "It was five p m.")
    assert (whole.key, whole.seconds) == ("clips/a.wav", 2.0)
    assert (part.key, part.seconds) == ("clips/a.wav@0.500-1.250", 0.75)
    assert (part.phonemes, part.phoneme_ends) == ("həˈloʊ", ())
    assert (rest.key, rest.end, rest.seconds) == ("clips/a.wav@1.500-", None, 0.5)


def test_broken_lines_are_skipped_and_named(tmp_path: Path) -> None:
    write_tone(tmp_path / "good.wav", 1.0)
    write_tone(tmp_path / "short.wav", 0.05)
    (tmp_path / "noise.wav").write_bytes(b"no audio at all")
    broken = {
        "{not json": "not JSON",
        "[]": "expected an object",
        json.dumps(line("missing.wav")): "does not exist",
        json.dumps(line("noise.wav")): "cannot be read as audio",
        json.dumps(line("short.wav")): "lasts 0.050 s",
        json.dumps(line("good.wav", text=" ")): "'text' is missing or empty",
        json.dumps(line("good.wav", text=[1])): "list of texts",
        json.dumps(line("good.wav", speaker=3)): "'speaker' must be a text",
        json.dumps({"audio": "good.wav", "text": "x", "speaker": "a"}): "'language' is missing",
        json.dumps(line("good.wav", start=0.6, end=0.5)): "is empty",
        json.dumps(line("good.wav", start=0.5, end=1.2)): "not inside good.wav",
        json.dumps(line("good.wav", start="0")): "'start' must be seconds",
        json.dumps(line("good.wav", phonemes="ab", phoneme_ends=[0.1])): "number for each phoneme",
    }
    lines = [line("good.wav"), *broken, line("good.wav")]
    path = write_manifest(tmp_path / "train.jsonl", lines)
    found = read_manifest(path, need_text=True, most_broken=0.95)
    assert [one.key for one in found.utterances] == ["good.wav"]
    by_place = {one.where: one.reason for one in found.broken}
    for number, reason in enumerate([*broken.values(), "was named before"], 2):
        assert reason in by_place[f"{path}:{number}"]
    assert len(by_place) == len(broken) + 1

    with pytest.raises(DataError, match=r"14 of 15 utterances in .*train.jsonl are broken"):
        read_manifest(path, need_text=True, most_broken=0.9)
    with pytest.raises(DataError, match=r"1 of 1 .*not JSON"):
        read_manifest(write_manifest(tmp_path / "x.jsonl", ["{"]), need_text=False, most_broken=1)
    with pytest.raises(DataError, match="does not exist"):
        read_manifest(tmp_path / "nowhere*.jsonl", need_text=False)


def test_a_pattern_reads_several_manifests_and_keeps_their_recordings_apart(tmp_path: Path) -> None:
    for name in ("en", "de"):
        write_tone(tmp_path / name / "1.wav", 0.5)
        write_manifest(tmp_path / name / "train.jsonl", [line("1.wav")])
    found = read_manifest(tmp_path / "*" / "train.jsonl", need_text=True)
    assert [one.key for one in found.utterances] == ["de/1.wav", "en/1.wav"]


def test_audio_shards_hold_the_same_utterances(tmp_path: Path) -> None:
    write_tone(tmp_path / "long.wav", 3.0, rate=16_000)
    write_tone(tmp_path / "stereo.flac", 1.0, rate=44_100, channels=2)
    lines = [
        line("long.wav", start=0.5, end=1.7, text=["Hi\u2028there.", "hi there"], phonemes="haɪ"),
        line("long.wav", start=2.0),
        line("stereo.flac"),
    ]
    path = write_manifest(tmp_path / "train.jsonl", lines)
    # Smaller than any recording: every utterance gets a shard.
    command = [sys.executable, "scripts/shard_audio.py", path, tmp_path / "out"]
    command += ["--shard-mb", "0.01"]
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"}
    for _ in range(2):
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "3 utterances" in done.stdout
    assert len(list((tmp_path / "out").glob("*.array_record"))) == 3
    before = read_manifest(path, need_text=True).utterances
    after = read_manifest(tmp_path / "out", need_text=True).utterances
    for ours, theirs in zip(after, before, strict=True):
        assert replace(ours, file="", record=None) == replace(theirs, file="")
        np.testing.assert_array_equal(read_utterance(ours, RATE), read_utterance(theirs, RATE))
        np.testing.assert_array_equal(
            read_crop(ours, RATE, 0.3, 0.2), read_crop(theirs, RATE, 0.3, 0.2)
        )


# Recordings


def utterance(path: Path, **more: Any) -> Utterance:
    (found,) = read_manifest(
        write_manifest(path.with_suffix(".jsonl"), [line(path.name, **more)]), need_text=True
    ).utterances
    return found


def test_stereo_of_another_rate_becomes_mono_of_ours(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 1.5, rate=44_100, channels=2)
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    expected = resample(samples.mean(axis=1)[22_050:], 44_100, RATE)
    found = read_utterance(utterance(tmp_path / "a.wav", start=0.5), RATE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_crop_is_a_cut_of_the_whole(tmp_path: Path, rate: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write_tone(path, 4.0, rate=rate)
    one = utterance(path, start=0.3, end=3.9)
    whole = read_utterance(one, RATE)
    for first, count in [(0, 4_800), (7_681, 960), (31_337, 9_600), (len(whole) - 4_000, 9_600)]:
        crop = read_crop(one, RATE, first / RATE, count / RATE)
        np.testing.assert_allclose(crop, whole[first : first + count], atol=2e-6)


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_neighbouring_spans_stay_neighbours_at_any_speed(speed: float) -> None:
    one = Utterance(key="a", audio="a.wav", texts=("A.",), language="en", speaker="s")
    first = at_speed(replace(one, start=1.0, end=3.0, seconds=2.0), speed)
    second = at_speed(replace(one, start=3.0, seconds=4.0), speed)
    assert first.start == pytest.approx(1 / speed)
    assert first.end == pytest.approx(first.start + first.seconds)
    assert second.start == pytest.approx(first.end)
    assert second.end is None


def test_a_recording_that_is_not_what_it_was_is_an_error(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.flac", 2.0)
    one = utterance(tmp_path / "a.flac")
    data = (tmp_path / "a.flac").read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"text"):
        (tmp_path / "a.flac").write_bytes(damaged)
        with pytest.raises(AudioError, match=r"a\.flac"):
            read_utterance(one, RATE)
    soundfile.write(tmp_path / "b.wav", np.full(4_000, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        read_utterance(utterance(tmp_path / "b.wav"), RATE)


# Crops


def crop_targets(one: Utterance, first: int, samples: int, whole: bool) -> dict[str, np.ndarray]:
    return {"seen": np.array([first, samples, whole]), "name": np.array(int(one.audio[0]))}


def crops(manifest: Manifest, **more: Any) -> Any:
    return crop_batches(
        manifest,
        rate=RATE,
        crop_samples=19_200,
        frame_samples=1_920,
        **{"batch_size": 4, "seed": 3, "targets": crop_targets, **more},
    )


def test_every_epoch_has_every_utterance_in_another_order_and_from_elsewhere(
    manifest: Manifest,
) -> None:
    batches = list(crops(manifest, epochs=4))
    assert len(batches) == 7
    order = np.concatenate([batch.utterances for batch in batches]).reshape(4, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in order)
    assert len({tuple(epoch) for epoch in order}) == 4
    firsts: dict[int, set[int]] = {n: set() for n in range(7)}
    for batch in batches:
        assert batch.samples.shape == (4, 19_200)
        for row, number in enumerate(batch.utterances):
            first, samples, whole = batch.targets["seen"][row]
            one = manifest.utterances[number]
            assert batch.targets["name"][row] == number
            assert samples == batch.lengths[row]
            assert whole == (one.seconds <= 0.8)
            assert first % 1_920 == 0
            firsts[number].add(first)
            if number == 5:
                assert batch.lengths[row] == 0
                assert not batch.samples[row].any()
                continue
            assert batch.lengths[row] == min(19_200, round(one.seconds * RATE))
            expected = read_utterance(one, RATE)[first : first + 19_200]
            np.testing.assert_allclose(batch.samples[row, :samples], expected, atol=1e-6)
            assert not batch.samples[row, samples:].any()
    assert firsts[0] == {0}
    assert len(firsts[6]) > 1


def test_two_processes_have_the_rows_of_one(manifest: Manifest) -> None:
    whole = list(crops(manifest, epochs=2))
    halves = [list(crops(manifest, epochs=2, process=(i, 2))) for i in range(2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert_same(batch, jax.tree.map(lambda *rows: np.concatenate(rows), *parts))
    with pytest.raises(DataError, match="shared evenly by 3 processes"):
        crops(manifest, process=(0, 3))


def test_crops_go_on_where_they_stopped(manifest: Manifest) -> None:
    straight = list(islice(crops(manifest), 7))
    iterator = iter(crops(manifest))
    for _ in range(3):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    again = iter(crops(manifest))
    next(again)
    again.set_state(state)
    assert_same(list(islice(again, 4)), straight[3:])


def test_worker_processes_make_the_same_batches(manifest: Manifest) -> None:
    expected = list(crops(manifest, epochs=3))
    made = iter(crops(manifest, epochs=3, workers=2))
    # The state of a run with threads is good for one with processes.
    made.set_state({"next_batch": 1})
    found = [jax.tree.map(np.array, batch) for batch in made]
    made.close()
    assert_same(found, expected[1:])


def test_validation_sees_every_utterance_once_from_its_beginning(manifest: Manifest) -> None:
    batches = list(validation_crops(manifest, rate=RATE, crop_samples=24_000, batch_size=4))
    numbers = np.concatenate([batch.utterances for batch in batches])
    assert numbers.tolist() == [0, 1, 2, 3, 4, 5, 6, NO_UTTERANCE]
    assert [batch.samples.shape for batch in batches] == [(4, 24_000)] * 2
    assert batches[1].lengths.tolist() == [24_000 * 6 // 5 - 4_800, 0, 24_000, 0]
    np.testing.assert_allclose(
        batches[1].samples[2], read_utterance(manifest.utterances[6], RATE)[:24_000], atol=1e-6
    )


def test_too_few_utterances_for_a_batch_are_an_error(manifest: Manifest) -> None:
    with pytest.raises(DataError, match="do not fill a batch of 8"):
        crops(manifest, epochs=1, batch_size=8)


# Shards


def record(number: int, frames: int, books: int = 37, **more: Any) -> CodeRecord:
    chance = np.random.default_rng(number)
    about = {
        "key": f"{number}.wav",
        "codes": chance.integers(0, 21, (frames, books)),
        "speech": chance.random(frames) < 0.8,
        "texts": (f"Sentence number {number}.", f"sentence {number}"),
        "language": "en",
        "speaker": f"speaker {number % 3}",
        "audio": f"{number}.wav",
        "start": 0.0,
        "end": frames / FRAME_RATE,
    }
    return CodeRecord(**{**about, **more})


def write_codes(directory: Path, records: Iterable[CodeRecord], shard_frames: int = 150) -> Path:
    with CodeWriter(directory, shard_frames) as writer:
        for one in records:
            writer.write(one)
    return directory


def test_codes_come_back_as_they_went(tmp_path: Path) -> None:
    records = [record(i, 20 + 7 * i) for i in range(9)]
    records[4] = replace(records[4], texts=("one\u2028two\nthree",), end=None)
    source = CodeSource(write_codes(tmp_path, records))
    assert len({entry.shard for entry in source.entries}) > 2
    # Workers get the source by pickling.
    for found in (source, cloudpickle.loads(cloudpickle.dumps(source))):
        for number, one in enumerate(records):
            again = found[number]
            for name in ("key", "texts", "language", "speaker", "audio", "start", "end"):
                assert getattr(again, name) == getattr(one, name)
                assert getattr(found.entries[number], name) == getattr(one, name)
            assert found.entries[number].frames == len(one.codes)
            np.testing.assert_array_equal(again.codes, one.codes)
            np.testing.assert_array_equal(again.speech, one.speech)


KILLED = """
import os, sys
sys.path.insert(0, "tests")
from test_training_data import CodeWriter, record
writer = CodeWriter(sys.argv[1], 50)
for number in range(5):
    writer.write(record(number, 30))
os._exit(1)
"""


def test_a_kill_loses_the_open_shard_alone(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=root, env=environment, check=False)
    assert len(list(tmp_path.glob("*.open"))) == 1
    assert done_keys(tmp_path) == {"0.wav", "1.wav", "2.wav", "3.wav"}
    assert len(CodeSource(tmp_path)) == 4
    # A kill may also come between a shard and its index.
    (tmp_path / "codes-00001.jsonl").unlink()
    assert done_keys(tmp_path) == {"0.wav", "1.wav"}
    with CodeWriter(tmp_path, 50) as writer:
        for number in range(6):
            if f"{number}.wav" not in writer.done:
                writer.write(record(number, 30))
        with pytest.raises(DataError, match=r"already"):
            writer.write(record(0, 30))
    source = CodeSource(tmp_path)
    assert [entry.key for entry in source.entries] == [f"{i}.wav" for i in range(6)]
    for number in range(6):
        np.testing.assert_array_equal(source[number].codes, record(number, 30).codes)
    assert not list(tmp_path.glob("*.open"))


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    def make(name: str) -> Path:
        return write_codes(tmp_path / name, [record(i, 200) for i in range(4)], 400)

    def change(path: Path, edit: Callable[[bytes], bytes]) -> None:
        path.write_bytes(edit(path.read_bytes()))

    change(make("cut") / "codes-00001.array_record", lambda data: data[: len(data) // 2])
    with pytest.raises(DataError, match=r"codes-00001\.array_record is missing or corrupt"):
        CodeSource(tmp_path / "cut")
    (make("gone") / "codes-00000.array_record").unlink()
    with pytest.raises(DataError, match=r"codes-00000\.array_record is missing"):
        CodeSource(tmp_path / "gone")
    (make("no index") / "codes-00001.jsonl").unlink()
    with pytest.raises(DataError, match=r"codes-00001\.jsonl is missing"):
        CodeSource(tmp_path / "no index")
    change(make("short") / "codes-00001.jsonl", lambda data: data.splitlines()[0])
    with pytest.raises(DataError, match=r"codes-00001.* holds 2 records, its index says 1"):
        CodeSource(tmp_path / "short")
    change(make("json") / "codes-00000.jsonl", lambda data: b"{" + data)
    with pytest.raises(DataError, match=r"codes-00000\.jsonl cannot be read"):
        CodeSource(tmp_path / "json")
    change(make("swapped") / "codes-00000.jsonl", lambda data: data.replace(b'"0.wav"', b'"9.wav"'))
    with pytest.raises(DataError, match="not what its index says"):
        CodeSource(tmp_path / "swapped")[0]
    change(
        make("zeroed") / "codes-00000.array_record",
        lambda data: data[:5_000] + bytes(2_000) + data[7_000:],
    )
    source = CodeSource(tmp_path / "zeroed")
    with pytest.raises(DataError, match=r"record \d of .*codes-00000\.array_record is corrupt"):
        [source[i] for i in range(2)]
    with pytest.raises(DataError, match="is it the right directory"):
        CodeSource(tmp_path / "nowhere")


def test_prompts_say_each_text_once_in_a_voice_of_its_speaker(tmp_path: Path) -> None:
    def one(number: int, text: str, language: str, speaker: str) -> CodeRecord:
        texts = (text,) if text else ()
        return record(number, 20, texts=texts, language=language, speaker=speaker)

    records = [
        one(0, "alone", "en", "nobody else"),
        one(1, "hello", "en", "anna"),
        one(2, "hallo", "de", "anna"),
        one(3, "hello", "en", "ben"),
        one(4, "", "en", "ben"),
        *(one(5 + i, f"number {i}", "en", "ben") for i in range(6)),
    ]
    source = CodeSource(write_codes(tmp_path, records))
    every = prompts_of(source, None)
    assert [prompt.text for prompt in every] == [
        "hello",
        "hallo",
        *(f"number {i}" for i in range(6)),
    ]
    np.testing.assert_array_equal(every[0].codes, records[2].codes)
    np.testing.assert_array_equal(every[1].codes, records[1].codes)
    assert [prompt.text for prompt in prompts_of(source, 2)] == ["hello", "number 2"]
    some = prompts_of(source, {"de": 5, "en": 2})
    assert [prompt.text for prompt in some] == ["hallo", "hello", "number 2"]
    with pytest.raises(DataError, match="'ko'"):
        prompts_of(source, {"de": 1, "ko": 1})


def test_codes_that_are_none_are_refused(tmp_path: Path) -> None:
    with CodeWriter(tmp_path) as writer:
        for codes, speech in [
            (np.zeros((3, 37)), np.ones(3, bool)),
            (np.zeros((3, 37), int), np.ones(4, bool)),
            (np.full((3, 37), -1), np.ones(3, bool)),
            (np.zeros((0, 37), int), np.ones(0, bool)),
        ]:
            with pytest.raises(DataError, match=r"0\.wav"):
                writer.write(record(0, 3, codes=codes, speech=speech))


def test_targets_come_back_as_float16_had_them(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    made = {
        f"{i}.wav": (chance.standard_normal((i, 8)), chance.random((i, 10 + i))) for i in range(6)
    }
    for part in (range(3), range(6)):
        with TargetWriter(tmp_path, shard_bytes=200) as writer:
            for i in part:
                if f"{i}.wav" not in writer.done:
                    writer.write(f"{i}.wav", *made[f"{i}.wav"])
    source = cloudpickle.loads(cloudpickle.dumps(TargetSource(tmp_path)))
    assert (len(source), source.width) == (6, 8)
    for key, arrays in made.items():
        for found, array in zip(source.get(key), arrays, strict=True):
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, array.astype(np.float16))
    assert source.get("another.wav") is None
    with TargetWriter(tmp_path) as writer:
        with pytest.raises(DataError, match="not finite"):
            writer.write("x", np.full((1, 8), 1e6), np.zeros((1, 3)))
        with pytest.raises(DataError, match=r"\[2, 8\] and \[1, 3\]"):
            writer.write("x", np.zeros((2, 8)), np.zeros((1, 3)))
        writer.write("x", np.zeros((1, 9)), np.zeros((1, 3)))
    with pytest.raises(DataError, match="different widths"):
        TargetSource(tmp_path)


# Pairs of voice prompt and target


def entry(number: int, speaker: int, audio: int, start: float, frames: int) -> CodeEntry:
    return CodeEntry(
        key=str(number),
        shard="",
        record=number,
        frames=frames,
        texts=("x",),
        language="en",
        speaker=str(speaker),
        audio=str(audio),
        start=start,
        end=None if number % 5 == 0 else start + frames / FRAME_RATE,
    )


excerpts = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 3), st.integers(0, 12).map(float), st.integers(5, 60)
    ),
    min_size=1,
    max_size=24,
)


@settings(deadline=None)
@given(excerpts, st.integers(0, 1000))
def test_a_voice_prompt_is_of_the_speaker_and_never_overlaps(
    drawn: list[tuple[int, int, float, int]], seed: int
) -> None:
    entries = [entry(i, *one) for i, one in enumerate(drawn)]

    def usable(voice: CodeEntry, target: CodeEntry) -> bool:
        ends = [np.inf if one.end is None else one.end for one in (voice, target)]
        apart = voice.audio != target.audio or voice.start >= ends[1] or target.start >= ends[0]
        same = voice.key == target.key
        return not same and apart and voice.speaker == target.speaker and voice.frames >= 13

    everyone = np.arange(len(entries))
    voices = Voices(entries, 13).draw(everyone, np.random.default_rng(seed))
    for target, voice in zip(entries, voices, strict=True):
        if voice == NOBODY:
            assert not any(usable(one, target) for one in entries)
        else:
            assert usable(entries[voice], target)


def test_every_other_excerpt_is_drawn_as_often() -> None:
    entries = [entry(i + 1, 0, i, 0.0, 20) for i in range(4)]
    draw = Voices(entries, 13).draw
    chance = np.random.default_rng(0)
    counts = Counter(int(draw(np.array([0]), chance)[0]) for _ in range(3000))
    assert sorted(counts) == [1, 2, 3]
    assert all(900 < count < 1100 for count in counts.values())


# Packing


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(1, 60)), min_size=1, max_size=80),
)
def test_rows_hold_every_sequence_once_and_no_more_than_fits(sizes: list[tuple[int, int]]) -> None:
    tokens, targets = np.array(sizes).T
    order, bounds = pack(tokens, targets, 100, 60)
    assert sorted(order) == list(range(len(sizes)))
    assert bounds[0] == 0
    assert bounds[-1] == len(sizes)
    for first, stop in pairwise(bounds):
        row = order[first:stop]
        assert len(row)
        assert tokens[row].sum() <= 100
        assert targets[row].sum() <= 60


def test_little_of_the_rows_is_padding() -> None:
    chance = np.random.default_rng(0)
    frames = np.clip(chance.lognormal(np.log(80), 0.6, 4000), 13, 375).astype(int)
    tokens = frames + chance.integers(38, 376, 4000) + chance.integers(10, 90, 4000)
    for row_tokens, row_targets in [(2048, 2048), (4096, 4096), (4096, 2048)]:
        _, bounds = pack(tokens, frames + 1, row_tokens, row_targets)
        assert 1 - tokens.sum() / ((len(bounds) - 1) * row_tokens) < 0.02


# Rows


@pytest.fixture
def config(reference: Path) -> VoxtralConfig:
    return VoxtralConfig.load(reference)


@pytest.fixture
def source(tmp_path: Path) -> CodeSource:
    """Forty utterances of three speakers, 16 to 60 frames long."""
    return CodeSource(write_codes(tmp_path / "codes", [record(i, 16 + i) for i in range(44)], 400))


def test_a_row_is_what_inference_makes(model: Model) -> None:
    config, decoder = model.config, model.params["decoder"]
    text, voice, spoken = "Hello there.", record(0, 20), record(1, 30)
    ids = prompt_ids(config, TOKENIZER, text, 21)
    embedding = apply(
        Decoder(config), decoder, jnp.asarray(voice_tokens(voice.codes)), method="embed_audio"
    )
    prompt = batch_prompts([ids], [np.asarray(embedding)])
    expected = embed_prompt(decoder, config, prompt)[0, : len(ids)]

    laid = lay_out(config, TOKENIZER, text, voice.codes, spoken.codes)
    row = fill_row([laid, laid], config, 200, 70)
    assert row.ids[: len(ids)].tolist() == ids
    x = apply(
        Decoder(config),
        decoder,
        jnp.asarray(row.ids),
        jnp.asarray(row.tokens.astype(np.int32)),
        jnp.asarray(row.audio),
        method="embed_packed",
    )
    np.testing.assert_allclose(x[: len(ids)], expected, atol=1e-6)
    frames = apply(
        Decoder(config), decoder, jnp.asarray(spoken.codes + TOKEN_OFFSET), method="embed_audio"
    )
    length = len(ids) + 30
    np.testing.assert_allclose(x[len(ids) : length], frames, atol=1e-6)
    np.testing.assert_array_equal(x[length : 2 * length], x[:length])


def test_a_row_says_where_everything_is(config: VoxtralConfig) -> None:
    one = lay_out(config, TOKENIZER, "One.", record(0, 20).codes, record(1, 30).codes)
    two = lay_out(config, TOKENIZER, "Two!!", record(2, 13).codes, record(3, 14).codes)
    row = fill_row([one, two], config, 140, 60)
    first, second = len(one.ids), len(two.ids)
    assert (first, second) == (20 + 30 + 4 + 6, 13 + 14 + 5 + 6)
    padding = 140 - first - second
    assert row.segments.tolist() == [1] * first + [2] * second + [0] * padding
    assert row.positions.tolist() == [*range(first), *range(second)] + [0] * padding
    assert row.audio.sum() == 21 + 30 + 14 + 14
    # Place m is the token before frame m, and that of the last frame for [END_AUDIO].
    assert row.places[:31].tolist() == [*range(first - 31, first)]
    assert row.places[31:46].tolist() == [*range(first + second - 15, first + second)]
    np.testing.assert_array_equal(row.targets[:30], record(1, 30).codes + TOKEN_OFFSET)
    np.testing.assert_array_equal(row.tokens[row.places[1:31]], row.targets[:30])
    assert row.targets[30].tolist() == [END_AUDIO] + [0] * 36
    assert row.semantic_weights.tolist() == [1] * 46 + [0] * 14
    assert row.flow_weights.tolist() == [1] * 30 + [0] + [1] * 14 + [0] * 15
    for values in (row.ids, row.audio, row.tokens):
        assert not values[first + second :].any()
    assert not row.targets[46:].any()
    assert not row.places[46:].any()

    batch = one_per_row([one, two], config, 140, 60)
    alone = fill_row([two], config, 140, 60)
    assert_same(jax.tree.map(lambda rows: rows[1], batch), alone)
    with pytest.raises(DataError, match="60 tokens and 31 targets do not fit a row of 60"):
        fill_row([one], config, 60, 30)


@pytest.mark.parametrize(
    ("speech", "weights"),
    [
        ("1110000001", "1111111111"),
        ("11100000001", "11111101111"),
        ("0000000000", "1110000111"),
        ("1000000000", "1111000111"),
        ("1" * 10, "1" * 10),
        ("", ""),
    ],
)
def test_long_silence_does_not_count(speech: str, weights: str) -> None:
    found = speech_weights(np.array([c == "1" for c in speech], bool), 0.5 * FRAME_RATE)
    assert found.tolist() == [float(c) for c in weights]


def sequences_of(row: Any) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Tokens and target places of each sequence of a row."""
    for segment in range(1, row.segments.max() + 1):
        tokens = np.flatnonzero(row.segments == segment)
        yield tokens, np.flatnonzero(np.isin(row.places, tokens) & row.targets.any(axis=1))


def test_every_record_is_spoken_once_an_epoch(source: CodeSource, config: VoxtralConfig) -> None:
    rows = PackedRows(source, TOKENIZER, config, PACKING, seed=1)
    by_codes = {one.codes.tobytes(): one for one in (source[i] for i in range(len(source)))}
    orders, texts = [], set()
    for epoch in range(2):
        spoken = []
        for number in range(rows.end(epoch - 1) if epoch else 0, rows.end(epoch)):
            row = rows[number]
            for tokens, places in sequences_of(row):
                codes = row.targets[places[:-1]].astype(np.int32) - TOKEN_OFFSET
                target = by_codes[codes.tobytes()]
                spoken.append(target.key)
                ids = row.ids[tokens]
                voice_length = int(np.argmax(ids == TOKENIZER.begin_text)) - 2
                text = [i for i in target.texts if bytes_of(i) in ids.tobytes()]
                assert len(text) == 1
                texts.add(target.texts.index(text[0]))
                prompt = prompt_ids(config, TOKENIZER, clean(text[0]), voice_length)
                assert ids[: len(prompt)].tolist() == prompt
                check_voice(row.tokens[tokens][2 : 1 + voice_length], target, by_codes.values())
                weights = speech_weights(target.speech, 0.5 * FRAME_RATE)
                assert row.flow_weights[places].tolist() == [*weights, 0]
                assert row.semantic_weights[places].tolist() == [*weights, 1]
        assert sorted(spoken) == sorted(entry.key for entry in source.entries)
        orders.append(spoken)
    assert orders[0] != orders[1]
    assert texts == {0, 1}


def test_voice_prompts_are_what_an_encoder_heard_where_that_is_known(
    tmp_path: Path, source: CodeSource, config: VoxtralConfig
) -> None:
    records = [source[i] for i in range(len(source))]
    heard = [replace(one, codes=(one.codes + 1) % 3) for one in records[::2]]
    prompts = CodeSource(write_codes(tmp_path / "prompts", heard))
    known = {one.key for one in heard}
    exact = PackedRows(source, TOKENIZER, config, PACKING, seed=1)
    rows = PackedRows(source, TOKENIZER, config, PACKING, seed=1, prompts=prompts)
    plan, changed = exact.plan(0), 0
    for number in range(plan.rows):
        before, after = exact[number], rows[number]
        np.testing.assert_array_equal(before.targets, after.targets)
        for segment, i in enumerate(range(plan.bounds[number], plan.bounds[number + 1]), 1):
            voice = after.segments == segment
            voice &= np.cumsum(after.ids == TOKENIZER.begin_text) < segment
            voice &= after.audio & (after.tokens[:, 1] >= TOKEN_OFFSET)
            assert voice.any()
            ours = before.tokens[voice].astype(np.int32) - TOKEN_OFFSET
            if source.entries[plan.voices[i]].key in known:
                ours, changed = (ours + 1) % 3, changed + 1
            np.testing.assert_array_equal(after.tokens[voice] - TOKEN_OFFSET, ours)
    assert 0 < changed < len(records)

    made = speech_batches(source, TOKENIZER, config, PACKING, batch_size=1, seed=1, prompts=prompts)
    assert f"voice prompts of {len(heard)} records" in made.notes[-1]

    one = records[0]
    longer = replace(one, codes=np.tile(one.codes, (2, 1)), speech=np.tile(one.speech, 2))
    for name, wrong, reason in (
        ("longer", longer, f"{one.key} has 16 frames, and 32 as a voice prompt"),
        ("other", replace(one, key="another"), "none of 1 voice prompts is of a record"),
    ):
        other = CodeSource(write_codes(tmp_path / name, [wrong]))
        with pytest.raises(DataError, match=reason):
            PackedRows(source, TOKENIZER, config, PACKING, seed=1, prompts=other)


def bytes_of(text: str) -> bytes:
    ids = [TOKENIZER.begin_text, *TOKENIZER.encode(clean(text)), TOKENIZER.end_text]
    return np.array(ids, np.int32).tobytes()


def check_voice(tokens: np.ndarray, target: CodeRecord, records: Iterable[CodeRecord]) -> None:
    """The voice prompt is an excerpt of another record of the speaker, as long as it may be."""
    codes = (tokens.astype(np.int32) - TOKEN_OFFSET).tobytes()
    (voice,) = [one for one in records if codes in one.codes.tobytes()]
    assert voice.speaker == target.speaker
    assert voice.key != target.key
    assert min(len(voice.codes), 19) <= len(tokens) <= 75


def test_rows_come_in_random_order_with_little_padding(
    tmp_path: Path, config: VoxtralConfig
) -> None:
    chance = np.random.default_rng(0)
    frames = np.clip(chance.lognormal(np.log(80), 0.6, 600), 13, 375).astype(int)
    records = [record(i, n) for i, n in enumerate(frames)]
    source = CodeSource(write_codes(tmp_path, records, 100_000))
    packing = PackingSettings(row_tokens=4096, row_targets=3000)
    rows = PackedRows(source, TOKENIZER, config, packing, 0)
    plan = rows.plan(0)
    assert 0 < plan.padding < 0.05
    segments = [rows[i].segments for i in range(plan.rows)]
    used = sum((row > 0).sum() for row in segments)
    assert plan.padding == pytest.approx(1 - used / (4096 * plan.rows))
    # Packing puts the longest first: so would the rows be, had they not been shuffled.
    longest = [(row == 1).sum() for row in segments]
    assert longest != sorted(longest, reverse=True)


def test_speech_is_repeated_shared_and_continued_exactly(
    source: CodeSource, config: VoxtralConfig
) -> None:
    def batches(**more: Any) -> Any:
        return speech_batches(
            source, TOKENIZER, config, PACKING, batch_size=4, seed=2, **more
        ).dataset

    straight = list(islice(batches(), 14))
    iterator = iter(batches())
    for _ in range(9):
        next(iterator)
    again = iter(batches())
    again.set_state(json.loads(json.dumps(iterator.get_state())))
    assert_same(list(islice(again, 5)), straight[9:])

    halves = [list(islice(batches(process=(i, 2)), 14)) for i in range(2)]
    for batch, *parts in zip(straight, *halves, strict=True):
        assert_same(batch, jax.tree.map(lambda *rows: np.concatenate(rows), *parts))

    finite = list(batches(epochs=2))
    assert_same(finite, straight[: len(finite)])
    assert not np.array_equal(straight[0].ids, finite[len(finite) // 2].ids)


def test_worker_processes_make_the_same_rows(source: CodeSource, config: VoxtralConfig) -> None:
    options = {"batch_size": 4, "seed": 2, "epochs": 2}
    made = speech_batches(source, TOKENIZER, config, PACKING, **options)
    assert "44 of 44 records" in made.notes[0]
    iterator = iter(
        speech_batches(source, TOKENIZER, config, PACKING, workers=2, **options).dataset
    )
    found = [jax.tree.map(np.array, batch) for batch in iterator]
    iterator.close()
    assert_same(found, list(made.dataset))
    assert len(found) >= 2 * made.per_pass


def test_validation_has_every_record_once_and_fills_up(
    source: CodeSource, config: VoxtralConfig
) -> None:
    used = PackedRows(source, TOKENIZER, config, PACKING, seed=0).end(0)

    def batches(**more: Any) -> list[Any]:
        size = 2 * (used - 2)
        return list(validation_speech(source, TOKENIZER, config, PACKING, batch_size=size, **more))

    (batch,) = batches()
    assert_same(batch, batches()[0])
    assert batch.segments.max(axis=1).sum() == len(source)
    assert batch.segments[:used].any(axis=1).all()
    padding = jax.tree.map(lambda rows: rows[used:], batch)
    assert_same(padding, empty_rows(config, PACKING, used - 4))
    halves = [batches(process=(i, 2))[0] for i in range(2)]
    assert_same(batch, jax.tree.map(lambda *rows: np.concatenate(rows), *halves))


def test_records_that_cannot_be_used_are_listed(tmp_path: Path, config: VoxtralConfig) -> None:
    records = [
        record(0, 40, speaker="a"),
        record(1, 50, speaker="a", texts=("***", "Fine.")),
        record(2, 40, speaker="a", texts=("***", " ")),
        record(3, 40, speaker="alone"),
        record(4, 300, speaker="a"),
        record(5, 12, speaker="b"),
        record(6, 40, speaker="b"),
        record(7, 40, speaker="c", audio="c.wav", start=1.0, end=4.2),
        record(8, 40, speaker="c", audio="c.wav", start=3.0, end=6.2),
    ]
    rows = PackedRows(CodeSource(write_codes(tmp_path, records)), TOKENIZER, config, PACKING, 0)
    for epoch in range(3):
        assert rows.plan(epoch).left_out == {
            plans.NO_TEXT: ("2.wav",),
            plans.NO_VOICE: ("3.wav", "6.wav", "7.wav", "8.wav"),
            plans.TOO_LONG: ("4.wav",),
        }
        # Record 5 is too short to lend its voice, not too short to be spoken.
        assert sorted(rows.plan(epoch).targets) == [0, 1, 5]
        assert set(rows.plan(epoch).variants[rows.plan(epoch).targets == 1]) == {1}
    alone = CodeSource(write_codes(tmp_path / "alone", [record(3, 40)]))
    with pytest.raises(DataError, match=r"none of 1 records can be used: 1: .* no other excerpt"):
        PackedRows(alone, TOKENIZER, config, PACKING, 0).plan(0)


def test_voice_prompts_become_shorter_where_time_or_room_is_short(
    tmp_path: Path, config: VoxtralConfig
) -> None:
    records = [record(i, 100, speaker="a") for i in range(12)]
    source = CodeSource(write_codes(tmp_path, records))
    quick = replace(PACKING, max_seconds=10.0)
    plan = PackedRows(source, TOKENIZER, config, quick, 0).plan(0)
    assert len(plan.targets) == 12
    assert (plan.voice_frames >= 19).all()
    assert (plan.voice_frames <= 25).all()
    tight = replace(PACKING, row_tokens=100 + 19 + 6 + 20 + 4)
    rows = PackedRows(source, TOKENIZER, config, tight, 0)
    assert len(rows.plan(0).targets) == rows.end(0) == 12
    assert (rows.plan(0).voice_frames >= 19).all()
    # The shorter text leaves room for a longer voice prompt: none may be too long for the row.
    assert len({(rows[i].segments > 0).sum() for i in range(12)}) > 1
    # No whole number of frames lasts 3 s.
    same = PackedRows(source, TOKENIZER, config, replace(PACKING, prompt_seconds=(3.0, 3.0)), 0)
    assert set(same.plan(0).voice_frames) == {38}
    with pytest.raises(DataError, match="prompt_seconds"):
        PackedRows(source, TOKENIZER, config, replace(PACKING, prompt_seconds=(5.0, 3.0)), 0)


def test_codes_of_another_codec_are_refused(tmp_path: Path, config: VoxtralConfig) -> None:
    for books, most in ((36, 20), (37, 5_000)):
        records = [record(i, 30, books, speaker="a") for i in range(3)]
        for one in records:
            one.codes[0, 0] = most
        source = CodeSource(write_codes(tmp_path / str(books), records))
        with pytest.raises(DataError, match="make the codes with this model's codec"):
            PackedRows(source, TOKENIZER, config, PACKING, 0)[0]
