"""The watermark: streams, what it survives, and how rarely it is seen where it is not."""

from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtral_jax.audio import encode, read_audio, resample, to_mono, write_audio
from voxtral_jax.cli import main
from voxtral_jax.errors import AudioError, RequestError
from voxtral_jax.watermark import Watermark, command, detect, embed
from voxtral_jax.watermark.detection import FALSE_POSITIVES, remainders, scores
from voxtral_jax.watermark.pattern import signs

RATE = 24_000
ASSETS = Path(__file__).parents[1] / "voxtral_jax/assets"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    samples, rate = read_audio(ASSETS / "reader.flac")
    return resample(to_mono(samples), rate, RATE)


@pytest.fixture(scope="module")
def marked(speech: np.ndarray) -> np.ndarray:
    return embed(speech, RATE)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 3 * RATE), max_size=8), rate=st.sampled_from((RATE, 16_000)))
def test_chunks_of_any_size_give_what_one_call_gives(cuts: list[int], rate: int) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    mark = Watermark(rate)
    state, out = mark.begin(), []
    for part in np.split(sound, sorted(cuts)):
        chunk, state = mark.push(part, state)
        assert len(chunk) == len(part), "there is no delay"
        out.append(chunk)
    np.testing.assert_allclose(np.concatenate(out), mark.embed(sound), atol=1e-7)


def test_long_sounds_are_filtered_in_parts_without_a_seam() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 12 * RATE).astype(np.float32)
    mark = Watermark(RATE)
    first, state = mark.push(sound[:100], mark.begin())
    rest, _ = mark.push(sound[100:], state)
    np.testing.assert_allclose(np.concatenate([first, rest]), mark.embed(sound), atol=1e-7)


def test_the_mark_looks_at_no_sample_that_is_to_come(speech: np.ndarray) -> None:
    other = speech.copy()
    other[RATE:] = 0
    np.testing.assert_allclose(embed(other, RATE)[:RATE], embed(speech, RATE)[:RATE], atol=1e-7)


def test_the_mark_is_in_proportion_to_the_sound(speech: np.ndarray, marked: np.ndarray) -> None:
    np.testing.assert_allclose(embed(0.1 * speech, RATE), 0.1 * marked, atol=1e-6)
    assert not embed(np.zeros(RATE, np.float32), RATE).any()
    change = marked - speech
    assert (change**2).sum() < 0.03 * (speech**2).sum()


def test_a_marked_sound_is_recognised_and_an_unmarked_one_is_not(
    speech: np.ndarray, marked: np.ndarray
) -> None:
    found = detect(marked, RATE)
    assert found.present
    assert found.p_value < 1e-12
    for unmarked in (speech, embed(speech, RATE, key="another")):
        found = detect(unmarked, RATE)
        assert not found.present
        assert found.p_value > FALSE_POSITIVES


@pytest.mark.parametrize("format", ["mp3", "opus", "ogg", "flac"])
def test_codecs_leave_it(marked: np.ndarray, format: str, tmp_path: Path) -> None:
    file = tmp_path / f"speech.{format}"
    file.write_bytes(encode(marked, RATE, format))
    assert detect(*read_audio(file)).present


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_resampling_leaves_it(marked: np.ndarray, rate: int) -> None:
    assert detect(resample(marked, RATE, rate), rate).present


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000])
def test_sound_of_other_rates_can_be_marked(speech: np.ndarray, rate: int) -> None:
    assert detect(embed(resample(speech, RATE, rate), rate), rate).present


def test_a_crop_from_anywhere_has_it(marked: np.ndarray) -> None:
    for start in (1, 7_919, 31_337, 60_001):
        assert detect(marked[start : start + 3 * RATE], RATE).present


def test_loudness_and_channels_do_not_matter(marked: np.ndarray) -> None:
    quiet = (marked * 0.05 * 32767).round().astype(np.int16)
    assert detect(quiet, RATE).present
    assert detect(np.stack([marked, marked], axis=1), RATE).present


def test_a_marked_part_of_a_long_recording_is_found(speech: np.ndarray) -> None:
    long = np.tile(speech, 2 + 40 * RATE // len(speech))[: 40 * RATE]
    assert not detect(long, RATE).present
    long[17 * RATE : 27 * RATE] = embed(long[17 * RATE : 27 * RATE], RATE)
    assert detect(long, RATE).present


def test_nothing_is_found_where_there_is_nothing() -> None:
    for sound in (np.zeros(0), np.zeros(RATE), np.zeros(100), np.ones(3 * RATE)):
        found = detect(sound.astype(np.float32), RATE)
        assert not found.present
        assert found.p_value > FALSE_POSITIVES


def test_p_values_of_unmarked_speech_are_no_smaller_than_they_say(speech: np.ndarray) -> None:
    # The bound holds for any sound if the key is drawn at random; so draw keys.
    cells = list(remainders(speech, RATE))
    count = 2_000
    z = np.array(
        [
            scores(cells[number % len(cells)], np.fft.rfft(signs(str(number)), axis=0))
            for number in range(count)
        ]
    )
    for level in (2.0, 3.0, 3.5):
        assert (z > level).mean() < np.exp(-(level**2) / 2)
    assert abs(z.mean()) < 0.02
    assert z.std() == pytest.approx(1, abs=0.05)


def test_mistakes_are_named(speech: np.ndarray) -> None:
    with pytest.raises(AudioError, match=r"multiple of 50 Hz, got 11025; resample to 24000"):
        Watermark(11_025)
    with pytest.raises(RequestError, match="key of a watermark is empty"):
        embed(speech, RATE, key="")
    with pytest.raises(AudioError, match="not finite"):
        detect(np.full(RATE, np.nan, np.float32), RATE)


def test_the_command_prints_a_line_for_each_file_and_tells_by_its_exit_code(
    speech: np.ndarray, marked: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(command.detect)
    good, bad, broken = tmp_path / "good.mp3", tmp_path / "bad.wav", tmp_path / "broken.wav"
    write_audio(good, marked, RATE)
    write_audio(bad, speech, RATE)
    broken.write_bytes(b"RIFF")

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as done:
            main(map(str, arguments), app)
        return int(done.value.code or 0)

    assert run(good) == 0
    assert capsys.readouterr().out.startswith(f"{good}: watermark (score ")
    assert run(good, bad) == 1
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{bad}: no watermark (score ")
    assert run(good, "--key", "another") == 1
    capsys.readouterr()
    assert run(broken, good) == 2
    printed = capsys.readouterr()
    assert str(broken) in printed.err
    assert printed.out.startswith(f"{good}: watermark")
